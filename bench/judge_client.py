"""The judge client against a server that misbehaves: 2,000 requests at 200 ms, a fault on 30% of all calls.

    python bench/judge_client.py          # about five minutes; writes results/bench/judge_client.json

Reports answers lost, answers delivered twice, calls that a server may bill although no answer arrived (silence, a cut
connection: free only where it honours the Idempotency-Key), and the time an answer takes with 32 in flight and one by one.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, Field

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from decoupled_esc.experiments.run import surroundings  # noqa: E402
from decoupled_esc.files import write_atomically  # noqa: E402
from decoupled_esc.generate.client import Client, Endpoint, Request  # noqa: E402
from decoupled_esc.generate.record import Record  # noqa: E402
from tests.misbehaving_server import OF_THE_WAY, serving  # noqa: E402

CONTENT = ("truncated content", "wrong schema", "twice")
SHARES = dict.fromkeys((*OF_THE_WAY, *CONTENT), 0.03)
"""30% in all.  ``twice``, two answers in one, is no harm."""
UNDELIVERED = ("hang", "drip", "cut", "not json", "no choices")
"""Faults after which a server has done the work, and its answer has not arrived."""
LATENCY, TIMEOUT, PAUSE = 0.2, 2.0, "0.5"  # seconds


class Score(BaseModel):
    score: int = Field(ge=0, le=5)


def measure(count: int, max_concurrency: int, faults: dict[str, float], seed: int) -> dict:
    """Ask ``count`` questions and account for every answer."""
    asked = [Request(f"turn/{i:04d}", (("user", f"reply {i}"),), Score, max_new_tokens=20) for i in range(count)]

    def right(body: dict) -> str:
        return json.dumps({"score": int(body["messages"][0]["content"].split()[-1]) % 6})

    with (
        tempfile.TemporaryDirectory() as folder,
        serving(say=right, latency=LATENCY, faults=faults, seed=seed, hang=2 * TIMEOUT, retry_after=PAUSE) as server,
    ):
        record = Record(Path(folder) / "record.db")
        client = Client(
            Endpoint(model="judge", base_url=server.url, timeout_seconds=TIMEOUT, max_concurrency=max_concurrency),
            record,
        )
        started = time.perf_counter()
        answers = client.ask(asked)
        seconds = time.perf_counter() - started
        missing = [i for i, answer in enumerate(answers) if answer.parsed is None]
        return {
            "requests": count,
            "in_flight": max_concurrency,
            "faults": sum(faults.values()),
            "seconds": round(seconds, 2),
            "seconds_per_answer": round(seconds / count, 5),
            "calls": sum(server.asked.values()),
            "faults_met": sum(times for fault, times in server.met.items() if fault),
            "lost": sum(answer is None for answer in answers) + count - len(answers),
            "wrong": sum(a.parsed is not None and a.parsed.score != i % 6 for i, a in enumerate(answers)),
            "unreadable_three_times": len(missing),
            "delivered_twice": sum(times > 1 for times in server.billed.values()),
            "worked_for_nothing": sum(server.met[fault] for fault in UNDELIVERED),
            "stored": len(record),
            "delivered": sum(server.billed.values()),
        }


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--one-by-one", type=int, default=300, help="requests to ask one by one, with the same faults")
    options = parser.parse_args()
    rows = []
    for count, max_concurrency, faults in (
        (options.requests, 32, SHARES), (options.one_by_one, 1, SHARES), (options.requests, 32, {}), (min(100, options.one_by_one), 1, {}),
    ):  # fmt: skip
        rows.append(measure(count, max_concurrency, faults, seed=7))
        print(json.dumps(rows[-1]), flush=True)
    ratios = {
        "with faults": rows[1]["seconds_per_answer"] / rows[0]["seconds_per_answer"],
        "without": rows[3]["seconds_per_answer"] / rows[2]["seconds_per_answer"],
    }
    print("times faster than one by one: " + ", ".join(f"{ratio:.1f} {name}" for name, ratio in ratios.items()))
    found = {"provenance": surroundings(), "latency_seconds": LATENCY, "timeout_seconds": TIMEOUT, "measurements": rows}
    write_atomically(ROOT / "results" / "bench" / "judge_client.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

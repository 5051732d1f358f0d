"""How long a search takes when answers are slow, and whether a killed one comes back the same.

    python bench/search.py schedule    # 32 trees at 200 ms a call: all at once against one call after the other
    python bench/search.py resume      # SIGKILL at 20 random moments
    python bench/search.py at-once     # several simulations of one tree under way: how much faster, and how other the tree

The world is made up, and answers the same to the same question; only the waiting is real.  Results are in
results/bench/search.json.
"""

import argparse
import asyncio
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message
from decoupled_esc.experiments.run import ROOT, surroundings
from decoupled_esc.files import Rows, write_atomically
from decoupled_esc.search.grow import from_row, grow
from decoupled_esc.search.tree import Constants, Quality, SeekerTurn, Task, Tree

OUT = ROOT / "results" / "bench" / "search.json"
LATENCY = 0.2  # seconds
TREES = 32
ROUNDS = 7  # of a gold dialogue, as in ESC-Pro
CSO = {
    "exploration": 1.0, "prior_temperature": 5.0, "strategy_weight": 7.0, "bias": -3.0, "rollout": 4, "own_turn": False, "gold_value": 1.0, "gold_visits": 100,
    "max_terminal_nodes": 25, "max_depth": 40, "parallel_simulations": 1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("schedule", "resume", "at-once", "grow"))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--logs", type=Path, help="of `grow`, which the other two call")
    options = parser.parse_args()
    if options.part == "grow":
        trees = forest(TREES, options.iterations)
        grow(trees, slow(LATENCY / 20), logs(trees, options.logs))
        return
    found = {"schedule": schedule, "resume": resume, "at-once": at_once}[options.part](options.iterations)
    lines = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    where = surroundings()
    lines[options.part] = found | {"hardware": where["hardware"], "date": where["date"], "commit": where["commit"]}
    write_atomically(OUT, json.dumps(lines, indent=1) + "\n")
    print(json.dumps(lines[options.part], indent=1))


def forest(count: int, iterations: int, **changes) -> dict[str, Tree]:
    constants = Constants(**CSO | changes, min_iterations=iterations, max_iterations=iterations)
    gold = [
        message
        for k in range(ROUNDS)
        for message in (Message("seeker", f"gold {k}"), Message("supporter", f"gold {k}", taxonomy.STRATEGIES[k]))
    ]
    return {f"tree/{k:02d}": Tree(gold, taxonomy.STRATEGIES, constants) for k in range(count)}


def chance(*what) -> float:
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big") / 2**48


def answer(name: str, task: Task):
    draw = chance(name, task)
    if task.kind == "supporter":
        return f"{task.strategy} {draw:.9f}"
    if task.kind == "seeker":
        return SeekerTurn(None, True) if draw < 0.05 else SeekerTurn(f"well {draw:.9f}", False)
    if task.kind == "strategies":
        return [10 * chance(draw, k) for k in range(len(taxonomy.STRATEGIES))]
    return Quality(*(4 * chance(draw, k) for k in range(4)))


def slow(seconds: float):
    async def role(name: str, task: Task, attempt: int):
        await asyncio.sleep(seconds)
        return answer(name, task)

    return role


def logs(trees, folder: Path | None = None) -> dict:
    if folder is not None:
        return {name: Rows(folder / f"{name.replace('/', '-')}.jsonl") for name in trees}
    return {name: SimpleNamespace(by_id={}, path="memory", append=lambda rows: list(rows)) for name in trees}


def seen(trees) -> list:
    return [
        (name, node.id, node.value, node.visits, node.said()) for name, tree in trees.items() for node in tree.nodes()
    ]


def schedule(iterations: int) -> dict:
    """All calls that can be made at once, against one after the other, each really waiting."""
    with tempfile.TemporaryDirectory() as folder:
        trees = forest(TREES, iterations)
        started = time.perf_counter()
        grow(trees, slow(LATENCY), logs(trees, Path(folder)))
        at_once = time.perf_counter() - started
    calls, alone, started = 0, forest(TREES, iterations), time.perf_counter()
    for name, tree in alone.items():
        while not tree.finished:
            task = tree.ask()[0]
            time.sleep(LATENCY)
            tree.tell(task.id, answer(name, task))
            calls += 1
    one_by_one = time.perf_counter() - started
    return {
        "trees": TREES, "iterations": iterations, "latency_seconds": LATENCY, "calls": calls, "seconds": round(at_once, 2),
        "seconds_one_by_one": round(one_by_one, 1), "times": round(one_by_one / at_once, 1), "identical": seen(trees) == seen(alone),
    }  # fmt: skip


def resume(iterations: int, kills: int = 20) -> dict:
    """A search killed at ``kills`` random moments of its run, each time gone on with and compared with the unbroken one."""
    whole = forest(TREES, iterations)
    grow(whole, slow(0), logs(whole))
    draw, same, broken = random.Random(0), 0, 0
    command = [sys.executable, __file__, "grow", "--iterations", str(iterations), "--logs"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([*command, folder], check=True, capture_output=True)
        takes = time.perf_counter() - started
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.Popen([*command, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0.1, 0.95) * takes)
            broken += run.poll() is None
            run.send_signal(signal.SIGKILL)
            run.wait()
            subprocess.run([*command, folder], check=True, capture_output=True)
            again = forest(TREES, iterations)
            for name, log in logs(again, Path(folder)).items():
                for row in log.by_id.values():
                    again[name].tell(row["id"], from_row(row))
            same += seen(again) == seen(whole)
    return {
        "kills": kills,
        "while_running": broken,
        "identical": same,
        "trees": TREES,
        "iterations": iterations,
        "seconds_unbroken": round(takes, 1),
    }


def at_once(iterations: int) -> dict:
    """The same trees with 1 to 8 simulations of each under way: seconds, and what became of the trees."""
    found, plain = {}, {}
    for number in (1, 2, 4, 8):
        trees = forest(8, iterations, parallel_simulations=number)
        started = time.perf_counter()
        grow(trees, slow(LATENCY / 4), logs(trees))
        seconds = time.perf_counter() - started
        spoken = {name: {node.id for node in tree.nodes() if node.reply is not None} for name, tree in trees.items()}
        plain = plain or spoken
        overlap = [len(spoken[name] & plain[name]) / len(spoken[name] | plain[name]) for name in trees]
        found[str(number)] = {
            "seconds": round(seconds, 1), "iterations": sum(tree.iterations for tree in trees.values()),
            "nodes_shared_with_one_at_a_time": round(sum(overlap) / len(overlap), 3),
            "deepest": max(len(node.path()) - 1 for tree in trees.values() for node in tree.nodes() if node.reply is not None and not node.gold),
            "root_value": round(sum(tree.root.value for tree in trees.values()) / len(trees), 4),
        }  # fmt: skip
    return {"trees": 8, "latency_seconds": LATENCY / 4, "by_simulations_at_once": found}


if __name__ == "__main__":
    main()

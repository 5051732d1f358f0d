"""What only a GPU can show, in the minutes that one can be had: the most valuable first, one JSON file for each part.

    python bench/gpu.py --minutes 8 --out build/gpu          # a GPU box with this repository's environment
    python bench/gpu.py --tiny --out build/gpu-tiny          # the rehearsal: tiny shapes, CPU, under a minute

machine.json         what the machine lacks, each with the line that fetches it (bench/gpu.sh carries it in parts)
correctness-*.json   packed loss and gradients by FlexAttention against one pass per turn: SFT and DPO, float32 and bf16,
                     dropout off, a median and the longest dialogue, peak memory; random Qwen2, Llama and Gemma-2 (soft cap)
training-*.json      ours and trl's trainers per turn at 0.5B and 7B shapes of Qwen2.5 (random weights, LoRA r 16): seconds,
                     useful (target) tokens/s, peak memory, share of the measured bf16 matrix rate; three repeats, side by side
vllm.json            generation through one vLLM server with two adapters, where vllm is installed
pipeline.json        DecoupledESC end to end for one seed (SmolLM2, or else esc-base) in the time that is left; its state
                     is in OUT/pipeline, and the same command goes on from there

Each part is a process of its own: it writes after each measurement, stops in time, and its errors end no other part.
Operations are those of the linear layers: 4 per weight and token read (LoRA: forward pass, gradient of what is read), 2
more where a reference reads too; recomputation and attention are not counted, nor is padding's share taken off.
On a machine without a network: `bash bench/gpu.sh pack` here, then the command that it prints there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
from gpu_measure import SEED, correctness, last_line, training  # the file beside this one

from decoupled_esc import corpus, models, packaged, prompts
from decoupled_esc.experiments.run import Book, surroundings
from decoupled_esc.files import write_atomically
from decoupled_esc.generate import Sampling
from decoupled_esc.generate import vllm as serving

ROOT = Path(__file__).parents[1]
LIMITS = {  # seconds at most, in the order of value; the time that is left where that is less
    "correctness-qwen2": 90, "training-0.5B": 120, "training-7B": 150, "correctness-gemma2": 60, "correctness-llama": 45,
    "vllm": 90, "pipeline": 10**6,
}  # fmt: skip
TINY = {"correctness-qwen2": 90, "training-tiny": 90, "vllm": 90, "pipeline": 90}
TARGETS = ("replies-decoupled-dpo", "replies-decoupled-sft", "replies-vanilla-dpo", "replies-vanilla-sft")


class Part:
    """The JSON file of one part: rewritten whole after each measurement."""

    def __init__(self, name: str, out: Path, until: float):
        self.name, self.out, self.until, self.begun = name, out, until, time.time()
        asked = sys.argv[5:] if "--part" in sys.argv else sys.argv[1:]
        self.found: dict = {"part": name, "command": " ".join(["python", "bench/gpu.py", *asked]), "rows": []}

    @property
    def left(self) -> float:
        return self.until - time.time()

    def save(self, **more) -> None:
        self.found |= more | {"seconds": round(time.time() - self.begun, 1)}
        write_atomically(self.out / f"{self.name}.json", json.dumps(self.found, indent=1) + "\n")

    @contextmanager
    def row(self, **row):
        """A measurement: what goes wrong is written into it, and the next one is made."""
        started = time.perf_counter()
        try:
            yield row
        except Exception as error:
            row["error"] = last_line(error)
            traceback.clear_frames(error.__traceback__)  # which hold models
        row["wall_seconds"] = round(time.perf_counter() - started, 2)
        self.found["rows"].append(row)
        self.save()
        print(self.name, json.dumps(row), flush=True)


# What is here --------------------------------------------------------------------------------------------------------


def machine() -> list[dict]:
    def there(ask) -> bool:
        try:
            return bool(ask())
        except Exception:
            return False

    return [{"what": what, "here": there(ask), "fetch": line} for what, ask, line in (
        ("CUDA", torch.cuda.is_available, "a GPU box, with a torch built for CUDA: pip install torch"),
        ("trl", lambda: importlib.util.find_spec("trl"), "bash bench/gpu.sh pack (its wheels are pure Python, under 64 MiB)"),
        ("flash_attn", lambda: importlib.util.find_spec("flash_attn"), "pip install flash-attn --no-build-isolation, on a box with a compiler; too large to carry"),
        ("vllm", serving.executable, "pip install 'vllm==0.32.*' in an environment of its own, DECOUPLED_ESC_VLLM=.../bin/vllm; too large to carry"),
        ("ESConv", lambda: corpus.load("esconv", download=False).name == "esconv", "decoupled-esc data fetch esconv, or DECOUPLED_ESC_DATA; bash bench/gpu.sh pack carries it"),
        ("SmolLM2", lambda: packaged.folder("smollm2-135m"), "decoupled-esc data fetch smollm2-135m; bash bench/gpu.sh parts FILE cuts it into what can be carried"),
        ("esc-base", lambda: (ROOT / "data/esc-base/model.safetensors").exists(), "git checkout data/esc-base"),
    )]  # fmt: skip


# The pipeline, vLLM ----------------------------------------------------------------------------------------------


def smollm() -> bool:
    return next(one["here"] for one in machine() if one["what"] == "SmolLM2")


def pipeline(part: Part, _: str, tiny: bool) -> None:
    """What `decoupled-esc run` does, with its results in OUT/pipeline and none of the published ones taken."""
    real = corpus.load("esconv", download=False).name == "esconv"
    book = Book("smoke" if tiny or not real else "smollm2-135m" if smollm() else "laptop", runs=part.out / "pipeline")
    wanted = ("data",) if tiny else TARGETS
    part.save(profile=book.profile.name, targets=wanted, finished=False)
    try:
        book.run(wanted, runs_only=True)
        part.found["finished"] = True
    finally:
        for name, step in book.steps.items():
            if (stored := book.runs.read(step)) is not None:
                part.found["rows"].append({"step": name, "wall_seconds": stored.provenance.get("wall_seconds")})
        part.save()


def vllm(part: Part, _: str, tiny: bool) -> None:
    from peft import LoraConfig, get_peft_model

    folder = models.EMBEDDED / "esc-nano" if tiny else packaged.folder("smollm2-135m") if smollm() else models.EMBEDDED / "esc-base"
    base, tokenizer, adapters = models.Weights(folder, dtype="bfloat16"), models.load_tokenizer(folder), {}
    asked = [prompts.vanilla(t) for d in corpus.load("esconv", download=False).split("test")[: 2 if tiny else 30] for t in corpus.turns(d)]
    sampling, how = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=64), serving.Serving(patience_seconds=max(10, part.left - 20))
    with tempfile.TemporaryDirectory() as scratch:
        for seed, name in enumerate(("one", "two")):
            torch.manual_seed(seed)
            config = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
            get_peft_model(models.load(base), config).save_pretrained(adapters.setdefault(name, Path(scratch) / name))
        torch.cuda.empty_cache()
        with serving.Server(base, part.out / "vllm-server.log", adapters=adapters, max_length=2048, seed=SEED, serving=how) as server:
            fitting = [prompt for prompt in asked if len(serving.VLLMEngine([server.url], "base", tokenizer, how).encode(prompt)) < 1900]
            for name in ("one", "two"):
                with part.row(adapter=name, prompts=len(fitting)) as row:
                    started = time.perf_counter()
                    engine = serving.VLLMEngine([server.url], name, tokenizer, how)
                    row["tokens"] = sum(one.tokens for batch in engine.complete(fitting, sampling, seed=SEED) for one in batch)
                    row["tokens_per_second"] = row["tokens"] / (time.perf_counter() - started)


# All of it -------------------------------------------------------------------------------------------------------------


def child(part: Part, tiny: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as decoupled-esc does: what was finished is kept
    kind, _, which = part.name.partition("-")
    try:
        run = {"correctness": correctness, "training": training, "pipeline": pipeline, "vllm": vllm}[kind]
        run(part, which, tiny)
    except BaseException as error:
        part.save(error=last_line(error))
        raise
    finally:
        part.save(surroundings=surroundings())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; also what is done without a GPU")
    parser.add_argument("--only", default="", help="parts with this word in their name")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return child(Part(options.part, options.out, options.until), options.tiny)
    end, listed = time.time() + 60 * options.minutes, Part("machine", options.out, 0)
    listed.save(rows=machine())
    here = {one["what"]: one["here"] for one in listed.found["rows"]}
    for one in listed.found["rows"]:
        print(f"{one['what']:10} {'here' if one['here'] else 'MISSING: ' + one['fetch']}", flush=True)
    tiny = options.tiny or not here["CUDA"]
    for name, limit in (TINY if tiny else LIMITS).items():
        left = end - time.time()
        if options.only not in name:
            continue
        if left < 15 or (name == "vllm" and not here["vllm"]):
            Part(name, options.out, 0).save(missing="no time was left" if left < 15 else "vllm is not installed")
            continue
        until = time.time() + min(limit, left - 5)
        command = [sys.executable, __file__, "--part", name, "--until", str(until), *sys.argv[1:]]
        with (options.out / f"{name}.log").open("wb") as log:
            run = subprocess.Popen(command + ["--tiny"] * (tiny and not options.tiny), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        for patience, then in ((until - time.time(), signal.SIGTERM), (10, signal.SIGKILL), (None, None)):
            try:
                run.wait(patience)
                break
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, then)
        print(f"{name}: status {run.returncode}, {end - time.time():.0f} s left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

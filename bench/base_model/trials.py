"""Short trials behind the recipes of the base models: one choice changed at a time, judged by held-out bits per byte.

    python -m bench.base_model.trials      # those that results/pretraining/trials.json lacks; about five minutes each

Needs the sources of chapter 16 and `pip install -e .[pretrain]`.  Each trial runs on one thread, two at a time on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from bench.base_model import make
from bench.base_model.text import make_text, split
from decoupled_esc import models
from decoupled_esc.experiments.run import PUBLISHED, ROOT, surroundings
from decoupled_esc.files import write_atomically
from decoupled_esc.train.held_out import perplexity

TOKENS = 800_000
BASE = {
    "batch_size": 4,
    "learning_rate": 2e-3,
    "repeats": {"esconv": 2, "annomi": 1, "counsel_chat": 1, "dailydialog": 1},
}
HELD_OUT = {"esconv": 40, "annomi": 30, "counsel_chat": 30, "dailydialog": 30}
"""Passages a trial is judged on."""

# name: (what differs from the first, changes to the recipe, changes to its shape, tokens read)
TRIALS = {
    "start": ("–", {}, {}, TOKENS),
    "double rate": ("learning rate 4e-3", {"learning_rate": 4e-3}, {}, TOKENS),
    "six layers": ("6 layers", {}, {"layers": 6}, TOKENS),
    "small vocabulary": ("2,048 entries, about as much text", {}, {"vocabulary": 2048}, 920_000),
    "half batch": ("2 blocks a step", {"batch_size": 2}, {}, TOKENS),
    "half batch, half rate": ("2 blocks a step, 1e-3", {"batch_size": 2, "learning_rate": 1e-3}, {}, TOKENS),
    "half batch, wide": ("2 blocks a step, hidden 320", {"batch_size": 2}, {"hidden": 320, "heads": 5, "feed_forward": 896}, TOKENS),
    "half batch, large vocabulary": ("2 blocks a step, 8,192 entries, about as much text", {"batch_size": 2}, {"vocabulary": 8192}, 720_000),
}  # fmt: skip
TARGET = PUBLISHED / "pretraining" / "trials.json"


def measure(name: str) -> dict:
    """One trial, in this process."""
    import torch

    torch.set_num_threads(1)
    differs, changes, shape, tokens = TRIALS[name]
    recipe = make.load_recipe("esc-base")
    recipe = recipe.model_copy(update={**BASE, **changes, "shape": recipe.shape.model_copy(update=shape)})
    train, held = split(make.made(make_text(), "text").rows)
    tokenizer = make.base_tokenizer(train, recipe.shape.vocabulary)
    model = models.create(recipe.shape, tokenizer, recipe.seed)
    sequences = make.blocks(make.mixed(train, recipe.repeats, recipe.seed), tokenizer, recipe.block)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log = make.pretrain(model, tokenizer, sequences[: tokens // recipe.block], recipe, Path(folder) / name)
    seconds = time.perf_counter() - started
    bits = {
        source: perplexity(model, tokenizer, [p.messages for p in held[source][:count]], 2048)["bits_per_byte"]
        for source, count in HELD_OUT.items()
    }
    return {
        "name": name,
        "differs": differs,
        "parameters": log["parameters"],
        "tokens": log["tokens"],
        "seconds": round(seconds),
        "bits_per_byte": {source: round(value, 4) for source, value in bits.items()},
    }


def speed(precision: str, steps: int = 6) -> float:
    """Tokens per second of an optimiser step of ``esc-base``'s shape, the fastest of ``steps``, with all threads to itself."""
    import torch

    torch.set_num_threads(make.THREADS)
    recipe = make.load_recipe("esc-base")
    shape = recipe.shape
    model = models.create(shape, models.load_tokenizer(models.EMBEDDED / "esc-base"), recipe.seed)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(shape.vocabulary, (recipe.batch_size, recipe.block))
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - started)
    return tokens.numel() / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    make.made(make_text(), "text")  # cleaned once, before two trials ask for it
    found = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {"trials": []}
    known = {row["name"]: row for row in found["trials"]}
    lock = Lock()

    def run(name: str) -> None:
        command = [sys.executable, "-m", "bench.base_model.trials", "--one", name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        with lock:
            known[name] = json.loads(done.stdout.splitlines()[-1])
            write(known, found.get("tokens_per_second"))
            print(json.dumps(known[name]), flush=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [name for name in TRIALS if name not in known]))
    write(known, {precision: round(speed(precision)) for precision in ("float32", "bfloat16")})


def write(known: dict[str, dict], rates: dict | None) -> None:
    """Store what is known so far; a run that is stopped loses the trial it was in."""
    rows = [known[name] for name in TRIALS if name in known]
    found = {"trials": rows, "tokens_per_second": rates, "provenance": surroundings()}
    write_atomically(TARGET, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

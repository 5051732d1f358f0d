"""Short trials behind the recipes of the base models: one choice changed at a time, judged by held-out bits per byte.

    python bench/base_models.py            # those that results/pretraining/trials.json lacks; about five minutes each

Needs the sources of chapter 16 and `pip install -e .[pretrain]`.  Each trial runs on one thread, two at a time on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from decoupled_esc.experiments import pretraining
from decoupled_esc.experiments.run import surroundings
from decoupled_esc.files import write_atomically

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
TARGET = pretraining.PUBLISHED / "pretraining" / "trials.json"


def measure(name: str) -> dict:
    """One trial, in this process."""
    import torch

    from decoupled_esc import models
    from decoupled_esc.train import pretrain

    torch.set_num_threads(1)
    differs, changes, shape, tokens = TRIALS[name]
    recipe = pretraining.load_recipe("esc-base")
    recipe = recipe.model_copy(update={**BASE, **changes, "shape": recipe.shape.model_copy(update=shape)})
    train, held = pretraining.split(pretraining.text()[0])
    tokenizer = pretrain.base_tokenizer(train, recipe.shape.vocabulary)
    model = models.create(recipe.shape, tokenizer, recipe.seed)
    sequences = pretrain.blocks(pretrain.mixed(train, recipe.repeats, recipe.seed), tokenizer, recipe.block)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log = pretrain.pretrain(model, tokenizer, sequences[: tokens // recipe.block], recipe, Path(folder) / name)
    seconds = time.perf_counter() - started
    return {
        "name": name,
        "differs": differs,
        "parameters": log.parameters,
        "tokens": log.tokens,
        "seconds": round(seconds),
        "bits_per_byte": {
            source: round(pretrain.perplexity(model, tokenizer, held[source][:count], 2048)["bits_per_byte"], 4)
            for source, count in HELD_OUT.items()
        },
    }


def speed(precision: str, steps: int = 6) -> float:
    """Tokens per second of an optimiser step of ``esc-base``'s shape, the fastest of ``steps``, with all threads to itself."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(pretraining.THREADS)
    recipe = pretraining.load_recipe("esc-base")
    shape = recipe.shape
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, intermediate_size=shape.feed_forward, tie_word_embeddings=True,
    ))  # fmt: skip
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
    pretraining.text()  # cleaned once, before two trials ask for it at the same time
    found = pretraining.record("trials") if TARGET.exists() else {"trials": []}
    known = {row["name"]: row for row in found["trials"]}
    lock = Lock()

    def run(name: str) -> None:
        done = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
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

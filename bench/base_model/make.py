"""Makes a base model of data/ anew: text, tokenizer, weights, and what is measured on them.

    python -m bench.base_model.make esc-nano              # or esc-base: follows data/<name>/recipe.yaml
    python -m bench.base_model.make esc-nano --publish    # weights to data/<name>, the record to results/pretraining

Interrupted, it goes on.  Nothing else in the book runs this: profiles start from the shipped weights.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from bench.base_model.text import SOURCES, MakeText, Passage, make_text, split, text_digest
from decoupled_esc import models, taxonomy
from decoupled_esc.experiments.run import PUBLISHED, RUNS, surroundings
from decoupled_esc.files import write_atomically
from decoupled_esc.pipeline import Step, Work
from decoupled_esc.pipeline.store import Store, Stores
from decoupled_esc.pipeline.workers import perform
from decoupled_esc.train import TrainingError, checkpoints
from decoupled_esc.train.config import STRICT, Share
from decoupled_esc.train.held_out import conversation_ids, perplexity

THREADS = 2
"""Fixed, because sums in another order give other weights."""

OPENERS = (
    "Hi, I could use someone to talk to.",
    "My best friend moved away last month and I feel lonely.",
    "I can't sleep because I worry about my exams.",
    "What did you do on the weekend?",
)
"""What the samples of the record answer; written for this project."""


class Recipe(BaseModel):
    """How a base model is made: shape, text and schedule."""

    model_config = STRICT | ConfigDict(strict=True)

    description: str
    shape: models.Shape
    seed: int
    repeats: dict[str, PositiveInt]
    """How often each source is read."""
    block: PositiveInt
    """Tokens per sequence."""
    batch_size: PositiveInt
    """Sequences per optimiser step."""
    learning_rate: PositiveFloat
    """The highest; it rises from 0 over ``warmup_ratio`` of the steps and falls to 0 along a cosine."""
    warmup_ratio: Share
    weight_decay: NonNegativeFloat
    precision: Literal["float32", "bfloat16"]
    """bfloat16: forward and backward pass under autocast, float32 weights and optimiser."""
    checkpoint_every: PositiveInt
    """Optimiser steps between checkpoints."""


def names() -> list[str]:
    """The base models that have a recipe."""
    return sorted(path.parent.name for path in models.EMBEDDED.glob("*/recipe.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of base model ``name``.  Raises pydantic's ValidationError, which names the key."""
    return Recipe.model_validate(yaml.safe_load((models.EMBEDDED / name / "recipe.yaml").read_bytes()))


def base_tokenizer(passages: Iterable[Passage], vocabulary: int):
    """A byte-level BPE tokenizer from the text of ``passages``.

    The strategies' names are words of the vocabulary, as for any large model, but no passage shows them as tags.
    """
    words = [f" {word}" for name in taxonomy.STRATEGIES for word in name.split()]
    texts = [message.text for passage in passages for message in passage.messages]
    return models.train_tokenizer(texts + [*taxonomy.STRATEGIES, *words] * 100, vocabulary)


def mixed(passages: Sequence[Passage], repeats: Mapping[str, int], seed: int) -> list[Passage]:
    """``passages`` as often as ``repeats`` says, each source spread evenly, in an order sampled from ``seed``.

    Raises TrainingError for a source that ``repeats`` does not name, or that no passage has.
    """
    found = {passage.source for passage in passages}
    if found != set(repeats):
        raise TrainingError(f"repeats names {sorted(repeats)}, and the text has {sorted(found)}")
    generator = random.Random(seed)
    placed = [
        ((time + generator.random()) / repeats[passage.source], number)
        for number, passage in enumerate(passages)
        for time in range(repeats[passage.source])
    ]
    return [passages[number] for _, number in sorted(placed)]


def blocks(passages: Sequence[Passage], tokenizer, block: int) -> list[list[int]]:
    """The passages in the chat template, one after the other with a separator before each, cut into ``block`` tokens.

    What is left at the end, less than a block, is dropped.
    """
    stream: list[int] = []
    known: dict[str, list[int]] = {}  # a repeated passage is tokenised once
    for passage in passages:
        if passage.id not in known:
            known[passage.id] = conversation_ids(passage.messages, tokenizer)
        stream += known[passage.id]
    return [stream[i : i + block] for i in range(0, len(stream) - block + 1, block)]


def pretrain(model, tokenizer, sequences: Sequence[Sequence[int]], recipe: Recipe, folder: Path) -> dict:
    """Train all weights of ``model`` on ``sequences``, once and in order; the model is saved to ``folder/policy``.

    ``{"steps", "tokens", "parameters"}``: about a hundred entries of step, loss (nats per token, mean since the entry or the
    restart before), learning_rate, grad_norm and tokens read so far; tokens read in all, repeats included; trained parameters,
    of which a shared embedding counts once.  An interrupted run goes on from its last checkpoint under ``folder/checkpoints``
    and ends with the same weights.  The name of ``folder`` stands for text and recipe.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    steps = -(-len(sequences) // recipe.batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup_ratio * steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        include_num_input_tokens_seen="all",
        logging_steps=max(1, steps // 100),
        save_steps=recipe.checkpoint_every,
        save_total_limit=checkpoints.KEPT,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=sequences,
        data_collator=lambda rows: dict.fromkeys(("input_ids", "labels"), torch.tensor(rows)),  # the model shifts the labels
        callbacks=[checkpoints.callback(folder.name, steps, folder.name)],
    )
    trainer.remove_callback(PrinterCallback)
    with checkpoints.no_space_is_said(folder):
        trainer.train(resume_from_checkpoint=checkpoints.last_checkpoint(folder / "checkpoints", folder.name))
        trainer.model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = ("step", "loss", "learning_rate", "grad_norm")
    return {
        "steps": [{key: entry[key] for key in keys} | {"tokens": int(entry["num_input_tokens_seen"])} for entry in logged],
        "tokens": sum(map(len, sequences)),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


@dataclass(frozen=True)
class Made:
    """The record of a base model, but for its name and provenance."""

    weights: str
    bytes: int
    recipe: dict
    text: dict
    esconv_dialogues: list[str]
    held_out: dict[str, dict[str, int | float]]
    samples: list[dict]
    steps: list[dict]
    tokens: int
    parameters: int
    seconds: float
    """Of the training; of an interrupted one since it went on."""


@dataclass(frozen=True, eq=False)
class MakeBase(Step):
    """A base model: trained, stored in bfloat16 as it is shipped, and measured as it is shipped."""

    leaves = ("shipped",)

    name: str
    recipe: Recipe
    text: MakeText

    def run(self, work: Work) -> Made:
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar for each checkpoint
        if not torch.cuda.is_available():
            torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True, warn_only=True)
        recipe, text = self.recipe, work[self.text]
        train, held = split(text.rows)
        tokenizer = base_tokenizer(train, recipe.shape.vocabulary)
        sequences = blocks(mixed(train, recipe.repeats, recipe.seed), tokenizer, recipe.block)
        started = time.perf_counter()
        log = pretrain(models.create(recipe.shape, tokenizer, recipe.seed), tokenizer, sequences, recipe, work.folder)
        seconds = round(time.perf_counter() - started, 1)
        shipped = work.folder / "shipped"
        models.load(models.Weights(work.folder / "policy", dtype="bfloat16")).save_pretrained(shipped)
        models.load_tokenizer(work.folder / "policy").save_pretrained(shipped)
        measured = models.load(shipped)
        tokens = {s: sum(len(conversation_ids(p.messages, tokenizer)) for p in train if p.source == s) for s in SOURCES}
        return Made(
            models.weights_digest(shipped),
            sum(path.stat().st_size for path in shipped.glob("*.safetensors")),
            recipe.model_dump(),
            {"digest": text_digest(text.rows), "counts": text.counts, "tokens": tokens},
            sorted({p.id.partition(".")[0] for p in train if p.source == "esconv"}),
            {
                source: {"conversations": len({p.group for p in unseen})}
                | perplexity(measured, tokenizer, [p.messages for p in unseen], recipe.shape.context)
                for source, unseen in held.items()
            },
            _samples(measured, tokenizer, recipe.seed),
            seconds=seconds,
            **log,
        )


def _samples(model, tokenizer, seed: int) -> list[dict]:
    """Answers to ``OPENERS``, sampled as DecoupledESC samples its replies."""
    from decoupled_esc.generate.engine import Sampling
    from decoupled_esc.generate.local import TransformersEngine
    from decoupled_esc.prompts import Prompt

    engine = TransformersEngine(model, tokenizer, batch_tokens=4096)
    asked = [Prompt(f"sample/{n:02d}", (("user", opener),), "") for n, opener in enumerate(OPENERS)]
    sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=60)
    answers = (one for batch in engine.complete(asked, sampling, seed=seed, purpose="openers") for one in batch)
    texts = [" ".join(one.text.split()) for one in answers]
    return [{"opener": opener, "reply": reply} for opener, reply in zip(OPENERS, texts, strict=True)]


def made(step: Step, name: str):
    """The result of ``step``, which is run where there is none that holds.  What goes wrong ends this program with a line."""
    stores = Stores(Store(RUNS / "pretraining"))
    outcome = perform(step, name, stores, surroundings)
    if outcome.error:
        sys.exit(outcome.traceback or f"error: {outcome.error}")
    return stores.result(step)


def publish(name: str, step: MakeBase) -> list[str]:
    """Copy weights and record of ``step`` to where they are committed; returns what was written."""
    store = Store(RUNS / "pretraining")
    stored, target = store.read(step), models.EMBEDDED / name
    if stored is None:
        sys.exit(f"error: {name} has not been made here under this recipe: python -m bench.base_model.make {name}")
    written = []
    for path in sorted(Stores(store).path(step, "shipped").iterdir()):
        coming = target / f".{path.name}"
        shutil.copyfile(path, coming)
        coming.replace(target / path.name)
        written.append(f"data/{name}/{path.name}")
    found = asdict(stored.result)
    provenance = stored.provenance | {"wall_seconds": found.pop("seconds")}
    record = json.dumps({"name": name, **found, "provenance": provenance}, indent=1, ensure_ascii=False)
    write_atomically(PUBLISHED / "pretraining" / f"{name}.json", record + "\n")
    return [*written, f"results/pretraining/{name}.json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=names())
    parser.add_argument("--publish", action="store_true", help="put weights and record where they are committed")
    options = parser.parse_args()
    step = MakeBase(options.name, load_recipe(options.name), make_text())
    if options.publish:
        print("published: " + ", ".join(publish(options.name, step)))
        return
    made(step.text, "text")
    found = made(step, options.name)
    print(f"{options.name}: {found.parameters:,} parameters, {found.tokens:,} tokens in {found.seconds:.0f} seconds")
    for source, held in found.held_out.items():
        print(f"  {source}, held out: perplexity {held['perplexity']:.1f}, {held['bits_per_byte']:.2f} bits per byte")


if __name__ == "__main__":
    main()

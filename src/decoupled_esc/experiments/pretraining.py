"""Making the base models that are shipped with this repository: text, tokenizer, weights, and what is measured on them.

    decoupled-esc pretrain esc-base              follows data/esc-base/recipe.yaml; interrupted, it goes on
    decoupled-esc pretrain esc-base --publish    copies weights to data/esc-base, the record to results/pretraining

Nothing else in the book runs this: profiles start from the shipped weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from filelock import FileLock
from pydantic import ValidationError

from decoupled_esc import corpus, models
from decoupled_esc.corpus import open_text
from decoupled_esc.corpus.open_text import Passage
from decoupled_esc.experiments.profiles import ProfileError, nearest
from decoupled_esc.experiments.run import PUBLISHED, RUNS, surroundings
from decoupled_esc.files import digest, write_atomically
from decoupled_esc.train import pretrain
from decoupled_esc.train.pretrain import Recipe

VERSION = 1
"""Raised by hand when the cleaning or the training changes: kept text and unfinished runs are then made anew."""
THREADS = 2
"""Fixed, because sums in another order give other weights."""

OPENERS = (
    "Hi, I could use someone to talk to.",
    "My best friend moved away last month and I feel lonely.",
    "I can't sleep because I worry about my exams.",
    "What did you do on the weekend?",
)
"""What the samples of the record answer; written for this project."""


def names() -> list[str]:
    """The base models that have a recipe."""
    return sorted(path.parent.name for path in models.EMBEDDED.glob("*/recipe.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of base model ``name``.  Raises ProfileError naming the file, the key and what is wrong."""
    if name not in names():
        raise ProfileError(f"no base model {name!r}{nearest(name, names())}. Base models: {', '.join(names())}")
    where = f"data/{name}/recipe.yaml"
    try:
        recipe = Recipe.model_validate(
            yaml.safe_load((models.EMBEDDED / name / "recipe.yaml").read_bytes()), strict=True
        )
    except yaml.YAMLError as error:
        raise ProfileError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg'].lower()}" for p in error.errors())
        raise ProfileError(f"{where}: {problems}") from None
    if set(recipe.repeats) != set(open_text.SOURCES):
        raise ProfileError(f"{where}: repeats names {sorted(recipe.repeats)}; sources: {', '.join(open_text.SOURCES)}")
    return recipe


def record(name: str) -> dict:
    """What was measured on base model ``name``, as committed; ``trials``: the trials that the recipes come from."""
    path = PUBLISHED / "pretraining" / f"{name}.json"
    if not path.exists():
        remedy = "bench/base_models.py" if name == "trials" else f"decoupled-esc pretrain {name}, and with --publish"
        raise ProfileError(f"results/pretraining/{path.name} is missing; run {remedy}")
    return json.loads(path.read_text(encoding="utf-8"))


def text() -> tuple[list[Passage], dict]:
    """All passages, cleaned, and the counts of the cleaning.  Kept under ``runs/pretraining``.

    Raises CorpusError where a source is missing: a model on part of the text would be another model.
    """
    from decoupled_esc.corpus import cleaning

    esconv = corpus.load("esconv", download=False)
    if esconv.name != "esconv":
        raise corpus.CorpusError("base models are made from the real ESConv", remedy="decoupled-esc data fetch esconv")
    sources = [*open_text.from_dialogues(esconv.split("train")), *open_text.read_open_text()]
    folder = RUNS / "pretraining"
    path, kept, key = folder / "text.jsonl", folder / "text.json", digest([_plain(sources), esconv.digest, VERSION])
    if not path.exists() or not kept.exists() or json.loads(kept.read_text())["key"] != key:
        unseen = [*esconv.split("validation"), *esconv.split("test")]
        cleaned = cleaning.clean(sources, open_text.from_dialogues(unseen))
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _plain(cleaned.passages)))
        write_atomically(kept, json.dumps({"key": key, "counts": cleaned.counts}, indent=1))
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    passages = [Passage(row["id"], tuple(corpus.Message(*said) for said in row["messages"])) for row in rows]
    return passages, json.loads(kept.read_text())["counts"]


def split(passages: list[Passage]) -> tuple[list[Passage], dict[str, list[Passage]]]:
    """(what is trained on, what is held out by source); of ESConv that is its validation split, uncleaned."""
    kept_back = open_text.held_out_groups(passages)
    held = {
        source: [p for p in passages if p.source == source and p.group in kept_back] for source in open_text.SOURCES
    }
    held["esconv"] = open_text.from_dialogues(corpus.load("esconv", download=False).split("validation"))
    return [p for p in passages if p.group not in kept_back], held


def run(name: str) -> dict:
    """Make base model ``name`` under ``runs/pretraining/<name>`` and return its record, also kept there.

    An interrupted run goes on from its last checkpoint; a finished one holds while recipe and text are the same.
    """
    recipe = load_recipe(name)
    passages, counts = text()
    folder = RUNS / "pretraining" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # two runs must not write the same checkpoints
        key = digest([recipe.model_dump(exclude={"description", "checkpoint_every"}), text_digest(passages), VERSION])
        if not (folder / ".key").exists() or (folder / ".key").read_text() != key:
            for old in folder.iterdir():  # what belongs to another recipe or text
                if old.name != ".lock":
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
            (folder / ".key").write_text(key)
        path = folder / "record.json"
        if not path.exists():
            made = _make(name, recipe, passages, counts, folder)
            write_atomically(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


def _make(name: str, recipe: Recipe, passages: list[Passage], counts: dict, folder: Path) -> dict:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for each checkpoint
    if not torch.cuda.is_available():
        torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    train, held = split(passages)
    tokenizer = pretrain.base_tokenizer(train, recipe.shape.vocabulary)
    model = models.create(recipe.shape, tokenizer, recipe.seed)
    sequences = pretrain.blocks(pretrain.mixed(train, recipe.repeats, recipe.seed), tokenizer, recipe.block)
    with _timed(folder / "seconds") as seconds:
        log = pretrain.pretrain(model, tokenizer, sequences, recipe, folder)
    shipped = folder / "shipped"
    models.load(folder / "policy", dtype="bfloat16").save_pretrained(shipped)
    models.load_tokenizer(folder / "policy").save_pretrained(shipped)
    measured = models.load(shipped)  # what is shipped is what is measured
    tokens = {
        source: sum(1 + len(pretrain.passage_ids(p, tokenizer)) for p in train if p.source == source)
        for source in open_text.SOURCES
    }
    return {
        "name": name,
        "weights": models.weights_digest(shipped),
        "bytes": sum(path.stat().st_size for path in shipped.glob("*.safetensors")),
        "recipe": recipe.model_dump(),
        "text": {"digest": text_digest(passages), "counts": counts, "tokens": tokens},
        "esconv_dialogues": sorted({p.id.partition(".")[0] for p in train if p.source == "esconv"}),
        "held_out": {
            source: {
                "conversations": len({p.group for p in unseen}),
                **pretrain.perplexity(measured, tokenizer, unseen, recipe.shape.context),
            }
            for source, unseen in held.items()
        },
        "samples": _samples(measured, tokenizer, recipe.seed),
        **asdict(log),
        "provenance": {"wall_seconds": round(seconds[0], 1), **surroundings()},
    }


def publish(name: str) -> list[str]:
    """Copy the weights and the record of a finished run to where they are committed; returns what was written.

    Raises ProfileError where the run is not finished, or followed another recipe than the present one.
    """
    recipe, folder, target = load_recipe(name), RUNS / "pretraining" / name, models.EMBEDDED / name
    if not (folder / "record.json").exists():
        raise ProfileError(f"{name} has not been made here; run decoupled-esc pretrain {name} first")
    found = (folder / "record.json").read_text(encoding="utf-8")
    if json.loads(found)["recipe"] != json.loads(json.dumps(recipe.model_dump())):
        raise ProfileError(f"data/{name}/recipe.yaml has changed since; run decoupled-esc pretrain {name} again")
    written = []
    for path in sorted((folder / "shipped").iterdir()):
        coming = target / f".{path.name}"
        shutil.copyfile(path, coming)
        coming.replace(target / path.name)
        written.append(f"data/{name}/{path.name}")
    write_atomically(PUBLISHED / "pretraining" / f"{name}.json", found)
    return [*written, f"results/pretraining/{name}.json"]


def text_digest(passages: list[Passage]) -> str:
    """sha256 (hex, 16 digits) over ids and messages: the identity of the text a base model was made from."""
    return hashlib.sha256(json.dumps(_plain(passages), ensure_ascii=False).encode()).hexdigest()[:16]


@contextmanager
def _timed(path: Path) -> Iterator[list[float]]:
    """A list whose one number becomes the seconds of work over all runs, interrupted ones too; kept in ``path``."""
    seconds, started = [float(path.read_text()) if path.exists() else 0.0], time.perf_counter()
    try:
        yield seconds
    finally:
        seconds[0] += time.perf_counter() - started
        write_atomically(path, str(seconds[0]))


def _samples(model, tokenizer, seed: int) -> list[dict]:
    """Answers to ``OPENERS``, sampled as DecoupledESC samples its replies."""
    from decoupled_esc.generate.engine import Sampling
    from decoupled_esc.generate.local import TransformersEngine
    from decoupled_esc.prompts import Prompt

    engine = TransformersEngine(model, tokenizer, batch_tokens=4096)
    asked = [Prompt(f"sample/{n:02d}", (("user", opener),), "") for n, opener in enumerate(OPENERS)]
    sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=60)
    texts = [" ".join(one.text.split()) for batch in engine.complete(asked, sampling, seed=seed) for one in batch]
    return [{"opener": opener, "reply": reply} for opener, reply in zip(OPENERS, texts, strict=True)]


def _plain(passages) -> list[dict]:
    return [{"id": p.id, "messages": [[m.role, m.text] for m in p.messages]} for p in passages]

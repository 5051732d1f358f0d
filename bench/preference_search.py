"""Which learning rate and loss constants preference optimisation takes, tried on ESConv's validation dialogues.

    python bench/preference_search.py planner dpo 3e-5 1e-4 3e-4 --profile laptop
    python bench/preference_search.py generator simpo 1e-5 3e-5
    python bench/preference_search.py cso dpo 1e-5 3e-5 1e-4    # the coupled model on the search's pairs (CSO)
    python bench/preference_search.py cso-lora dpo 1e-4 3e-4 1e-3    # the same with adapters

Trains from the profile's fine-tuned policy on its mined pairs, as the stage does, and writes down a line for each rate:
what the policy then does on validation turns beside what the fine-tuned one did.  Finished lines are kept and not run
again.  The search is in results/bench/preference_search.json (of another profile than laptop, in a file with its name);
nothing in it was measured on test dialogues.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from filelock import FileLock
from pydantic_core import to_jsonable_python

from decoupled_esc import corpus, models, prompts, taxonomy
from decoupled_esc.evaluate import EvaluatedTurn, decoding, evaluate_systems, strategy
from decoupled_esc.experiments.cso import TrainCSO
from decoupled_esc.experiments.inputs import weights_of
from decoupled_esc.experiments.labels import error_judge
from decoupled_esc.experiments.preferences import KINDS
from decoupled_esc.experiments.run import ROOT, Book
from decoupled_esc.experiments.sampling import fitted
from decoupled_esc.files import write_atomically
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.pipeline.store import Stores

OUT = ROOT / "results" / "bench"
CSO = ("cso", "cso-lora")
DIALOGUES = 40  # of the validation split; replies are written to their turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=(*KINDS, *CSO))
    parser.add_argument("loss", choices=("dpo", "ipo", "simpo", "kto", "orpo"))
    parser.add_argument("rates", nargs="+", type=float)
    parser.add_argument("--profile", default="laptop")
    options = parser.parse_args()
    book, role = Book(options.profile), options.role
    pairs = "esc-pro" if role in CSO else "pairs"
    book.run([pairs, "sft-vanilla" if role in CSO else f"sft-{role}"], runs_only=True)
    mined = book.runs.read(book.steps[pairs]).result
    out = OUT / f"preference_search{'' if options.profile == 'laptop' else f'-{options.profile}'}.json"
    lines = _found(out)
    for rate in options.rates:
        step = _tried(book, role, options.loss, rate)
        what = {
            "profile": options.profile,
            "role": role,
            "learning_rate": rate,
            "loss": step.preference.model_dump(),
            "pairs": mined.digest if role in CSO else mined.digests,
        }
        if any(line.items() >= what.items() for line in lines):
            continue
        name = f"{role}-{options.loss}-{rate:g}"
        book.steps[name], book.names[step.key] = step, name
        started = time.perf_counter()
        book.run([name], runs_only=True)
        seconds = time.perf_counter() - started
        if not any(line.get("before") and line["role"] == role for line in lines):
            what["before"] = _validation(book, role, step, step.start)
        what["after"] = _validation(book, role, step, step)
        trained = book.runs.read(step).result
        what |= {
            "train_seconds": round(seconds),
            "held_out_loss": [trained.held_out_loss_before, trained.held_out_loss],
            "divergence": trained.divergence,
            "last_step": to_jsonable_python(trained.steps[-1]),
        }
        with FileLock(ROOT / "runs" / "preference_search.lock"):  # one search a role may run at a time
            lines = [*_found(out), what]
            write_atomically(out, json.dumps(lines, indent=1) + "\n")
        print(json.dumps(what), flush=True)


def _found(out: Path) -> list[dict]:
    return json.loads(out.read_text(encoding="utf-8")) if out.exists() else []


def _tried(book: Book, role: str, loss: str, rate: float):
    """The step of the profile that trains ``role``, with another loss and learning rate."""
    profile = book.profile
    if role in CSO:
        tuning = profile.cso.lora if role == "cso-lora" else profile.cso
        step = next(step for step in book.steps.values() if isinstance(step, TrainCSO))
        start = book.steps["sft-vanilla"] if profile.cso.start == "sft-vanilla" else None
        fixed = {"start": start, "pairs": book.steps["esc-pro"], "share": 1.0}
        used, training = getattr(tuning.losses, loss).loss, tuning.training
    else:
        step, fixed = book.steps[f"dpo-{role}"], {}
        own = getattr(profile.preference, role)
        used = own.loss if loss == "dpo" else getattr(profile.preference.alternatives, loss).loss
        training = own.training
    training = training.model_copy(update={"learning_rate": rate})
    return replace(step, **fixed, preference=used, training=training)


def _validation(book: Book, role: str, step, policy) -> dict:
    """What ``policy``, of which or from which ``step`` trained (None: the base model), does on validation turns."""
    profile = book.profile
    models.be_repeatable()
    weights = weights_of(Stores(book.runs), step.base, policy)
    model, tokenizer = models.load(weights), models.load_tokenizer(weights)
    engine = TransformersEngine(model, tokenizer, batch_tokens=profile.generation.batch_tokens)
    split = book.steps["pairs"].turns.esconv.read().split("validation")
    some = split if role == "planner" else split[:DIALOGUES]
    turns = [turn for dialogue in some for turn in corpus.turns(dialogue)]
    if role == "planner":
        return _planned(book, engine, turns)
    layout = prompts.LAYOUTS[book.steps["sft-vanilla" if role in CSO else f"sft-{role}"].layout]
    sampling = profile.generation.reply
    asked = fitted(engine, turns, layout, sampling, step.max_length)
    batches = engine.complete(asked, sampling, seed=profile.seed, purpose="preference_search")
    texts = {one.id: one.text for batch in batches for one in batch}
    rows = []
    for turn in turns:
        said, reply = (
            prompts.parse_tagged(texts[turn.id])
            if role in ("vanilla", *CSO)
            else (turn.strategy, " ".join(texts[turn.id].split()))
        )
        rows.append(EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, said, reply))
    scores = evaluate_systems({"x": rows}, contrasts=[], replicates=10, seed=0).systems["x"]["paper"]
    keys = ("D-1", "B-1", "F1", "R-L") + (("Q_W", "Q", "B") if role in ("vanilla", *CSO) else ())
    mined = book.steps["pairs"]
    _, label = error_judge(SimpleNamespace(shared=book.runs.folder), mined.judge, mined.labels)
    seen = label(turns, {row.id: (row.predicted_strategy, row.reply) for row in rows})
    faults = [rejected for _, rejected in seen.values()]
    return {
        **{key: round(scores[key].value, 2) for key in keys},
        "words": round(float(np.mean([len(row.reply.split()) for row in rows])), 1),
        "filtered errors, %": round(100 * float(np.mean([fault in ("Lack of Empathy", "Early Emotion Shift", "Template Response") for fault in faults])), 1),
        "none, %": round(100 * float(np.mean([fault == "None" for fault in faults])), 1),
    }  # fmt: skip


def _planned(book: Book, engine, turns) -> dict:
    """Of the planner's probabilities over the eight strategies: how good they are, drawn (in expectation) and by argmax."""
    asked = fitted(engine, turns, prompts.planner, book.profile.generation.plan, book.steps["sft-planner"].max_length)
    scores = {
        id: row
        for ids, rows in engine.score_choices(asked, taxonomy.STRATEGIES)
        for id, row in zip(ids, rows, strict=True)
    }
    logits = np.array([scores[turn.id] for turn in turns], dtype=float)
    gold = np.array([taxonomy.STRATEGIES.index(turn.strategy) for turn in turns])
    plan = book.profile.generation.plan
    p = decoding.probabilities(logits, 1.0, 1.0)
    as_decoded = decoding.probabilities(logits, plan.temperature, plan.top_p)
    counts = decoding.counts(as_decoded, np.random.default_rng(0).random((len(turns), 50)))
    sampled = strategy.shuffled(counts, 0)
    found = {"nats": round(float(-np.log(p[np.arange(len(gold)), gold]).mean()), 4)}
    for name, plans in (("argmax", [p.argmax(axis=1)]), ("drawn", sampled)):
        rows = [_strategy_scores(plan, gold) for plan in plans]
        found |= {f"{key}, {name}": round(float(np.mean([row[key] for row in rows])), 2) for key in rows[0]}
    return found


def _strategy_scores(plan: np.ndarray, gold: np.ndarray) -> dict:
    from sklearn.metrics import f1_score

    table = np.zeros((8, 8), dtype=int)
    np.add.at(table, (plan, gold), 1)
    return {
        "Q_W": 100 * f1_score(gold, plan, labels=range(8), average="weighted", zero_division=0),
        "Q": 100 * f1_score(gold, plan, labels=range(8), average="macro", zero_division=0),
        "B": float(strategy.bias(table[None], "paper")[0]),
    }


if __name__ == "__main__":
    main()

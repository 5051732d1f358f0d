"""Which learning rate and loss constants preference optimisation takes, tried on ESConv's validation dialogues.

    python bench/preference_search.py planner dpo 3e-5 1e-4 3e-4 --profile laptop
    python bench/preference_search.py generator simpo 1e-5 3e-5
    python bench/preference_search.py cso dpo 1e-5 3e-5 1e-4    # the coupled model on the search's pairs (CSO)
    python bench/preference_search.py cso-lora dpo 1e-4 3e-4 1e-3    # the same with adapters

Trains from the profile's fine-tuned policy on its mined pairs, as the stage does, and writes down a line for each rate:
what the policy then does on validation turns beside what the fine-tuned one did.  Finished lines are kept and not run
again.  The search is in results/bench/preference_search.json; nothing in it was measured on test dialogues.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
from filelock import FileLock

from decoupled_esc import corpus, prompts, taxonomy
from decoupled_esc.evaluate import EvaluatedTurn, evaluate_systems, strategy
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.workflow import stages
from decoupled_esc.workflow.session import Context, Session
from decoupled_esc.workflow.store import ROOT, write_atomically

OUT = ROOT / "results" / "bench" / "preference_search.json"
CSO = ("cso", "cso-lora")
DIALOGUES = 40  # of the validation split; replies are written to their turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=(*stages.ROLES, *CSO))
    parser.add_argument("loss", choices=("dpo", "ipo", "simpo", "kto", "orpo"))
    parser.add_argument("rates", nargs="+", type=float)
    parser.add_argument("--profile", default="laptop")
    options = parser.parse_args()
    session = Session(options.profile, runs_only=True)
    lines = _found()
    for rate in options.rates:
        context, loss = _context(session, options.role, options.loss, rate)
        what = {"profile": options.profile, "role": options.role, "learning_rate": rate, "loss": loss,
                "pairs": context.needs["esc-pro"].payload["digest"] if options.role in CSO else context.needs["pairs"].payload["digests"]}  # fmt: skip
        if any(line.items() >= what.items() for line in lines):
            continue
        started = time.perf_counter()
        if options.role in CSO:
            trained = stages.chain(context, options.loss, lora=options.role == "cso-lora")
        else:
            trained = stages.prefer(context, options.role, None if options.loss == "dpo" else options.loss)
        seconds = time.perf_counter() - started
        for name, policy in (("before", "sft-vanilla" if options.role in CSO else f"sft-{options.role}"), ("after", "trained")):
            if name == "after" or not any(line.get("before") and line["role"] == options.role for line in lines):
                what = {**what, name: _validation(context, options.role, policy)}
        last = trained["steps"][-1]
        what |= {"train_seconds": round(seconds), "held_out_loss": [trained["held_out_loss_before"], trained["held_out_loss"]],
                 "divergence": trained["divergence"], "last_step": last}  # fmt: skip
        with FileLock(ROOT / "runs" / "preference_search.lock"):  # one search a role may run at a time
            lines = [*_found(), what]
            write_atomically(OUT, json.dumps(lines, indent=1) + "\n")
        print(json.dumps(what), flush=True)


def _found() -> list[dict]:
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else []


def _context(session: Session, role: str, loss: str, rate: float) -> tuple[Context, dict]:
    profile = session.profile
    if role in CSO:
        how = profile.cso.lora if role == "cso-lora" else profile.cso
        own = how.losses[loss].model_copy(update={"learning_rate": rate})
        how = how.model_copy(update={"losses": how.losses | {loss: own}})
        profile = profile.model_copy(update={"cso": profile.cso.model_copy(update={"lora": how}) if role == "cso-lora" else how})
        return _folders(session, profile, ("base-model", "sft-vanilla", "esc-pro"), f"{role}-{loss}-{rate:g}", "cso-trained"), own.loss.model_dump()
    own = getattr(profile.preference, role)
    if loss == "dpo":
        own = own.model_copy(update={"training": own.training.model_copy(update={"learning_rate": rate})})
        used = own.loss
    else:
        used = profile.preference.alternatives[loss].loss
    others = {name: other.model_copy(update={"learning_rate": rate}) for name, other in profile.preference.alternatives.items()}
    profile = profile.model_copy(update={"preference": profile.preference.model_copy(update={role: own, "alternatives": others})})
    constants = "-".join(f"{value:g}" for value in (used.beta, used.gamma))
    name = f"{role}-{loss}-{constants}-{rate:g}"
    return _folders(session, profile, ("base-model", f"sft-{role}", "pairs"), name, f"trained-{role}"), used.model_dump()


def _folders(session: Session, profile, needed: tuple[str, ...], name: str, trained: str) -> Context:
    """The context of a training that is tried, as its stage would have it, in a folder of its own."""
    folder = session.runs.folder / "tuning" / name
    folder.mkdir(parents=True, exist_ok=True)
    needs = {need: session.runs.read(need) for need in needed}
    folders = {need: session.runs.folder / need for need in needed} | {trained: folder}
    return Context(profile=profile, folder=folder, needs=needs, folders=folders, corpora=session.corpora, files={},
                   answers=session.runs.folder.parent / "answers.sqlite")  # fmt: skip


def _validation(context: Context, role: str, policy: str) -> dict:
    """What a policy does on validation turns."""
    adapter = policy if policy.startswith("sft") else "cso-trained" if role in CSO else f"trained-{role}"
    model, tokenizer = stages._load(context, adapter)
    engine = TransformersEngine(model, tokenizer, batch_tokens=context.profile.generation.batch_tokens)
    split = context.corpus.split("validation")
    turns = [turn for dialogue in (split if role == "planner" else split[:DIALOGUES]) for turn in corpus.turns(dialogue)]
    if role == "planner":
        return _planned(context, engine, turns)
    layout = prompts.LAYOUTS[stages._layout(context.profile, "vanilla" if role in CSO else role)]
    sampling = context.profile.generation.reply
    asked = stages._fit(context, engine, turns, layout, sampling)
    texts = {c.id: c.text for batch in engine.complete(asked, sampling, seed=context.profile.seed) for c in batch}
    rows = []
    for turn in turns:
        said, reply = prompts.parse_tagged(texts[turn.id]) if role in ("vanilla", *CSO) else (turn.strategy, " ".join(texts[turn.id].split()))
        rows.append(EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, said, reply))
    scores = evaluate_systems({"x": rows}, contrasts=[], replicates=10, seed=0).systems["x"]["paper"]
    keys = ("D-1", "B-1", "F1", "R-L") + (("Q_W", "Q", "B") if role in ("vanilla", *CSO) else ())
    _, label = stages._error_judge(replace(context, files=Session(context.profile).files))
    seen = label(turns, {row.id: (row.predicted_strategy, row.reply) for row in rows})
    faults = [rejected for _, rejected in seen.values()]
    return {
        **{key: round(scores[key].value, 2) for key in keys},
        "words": round(float(np.mean([len(row.reply.split()) for row in rows])), 1),
        "filtered errors, %": round(100 * float(np.mean([fault in ("Lack of Empathy", "Early Emotion Shift", "Template Response") for fault in faults])), 1),
        "none, %": round(100 * float(np.mean([fault == "None" for fault in faults])), 1),
    }  # fmt: skip


def _planned(context: Context, engine, turns) -> dict:
    """Of the planner's probabilities over the eight strategies: how good they are, drawn (in expectation) and by argmax."""
    asked = stages._fit(context, engine, turns, prompts.planner, context.profile.generation.plan)
    scores = {id: row for ids, rows in engine.score_choices(asked, taxonomy.STRATEGIES) for id, row in zip(ids, rows, strict=True)}
    logits = np.array([scores[turn.id] for turn in turns], dtype=float)
    gold = np.array([taxonomy.STRATEGIES.index(turn.strategy) for turn in turns])
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    sharp = p ** (1 / context.profile.generation.plan.temperature)
    sharp /= sharp.sum(axis=1, keepdims=True)
    draws = np.random.default_rng(0).random((20, len(turns)))
    sampled = [np.minimum((sharp.cumsum(axis=1) < draw[:, None]).sum(axis=1), 7) for draw in draws]
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

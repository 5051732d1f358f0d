"""Asking an engine for completions, written down as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from decoupled_esc import models, progress, prompts
from decoupled_esc.corpus import Turn
from decoupled_esc.experiments.inputs import Base, Decoding, Policy, weights_of
from decoupled_esc.generate.engine import Engine, Sampling, open_engine
from decoupled_esc.pipeline import Work
from decoupled_esc.prompts import Prompt


@contextmanager
def engine_of(
    work: Work, base: Base, policy: Policy | None, decoding: Decoding, seed: int, others: Sequence[Policy | None] = ()
) -> Iterator[Engine]:
    """The engine of what ``policy`` left (None: the base model); ``others`` are asked by the same step, and may share a server."""
    models.be_repeatable()
    policies = {
        f"{type(one).__name__}-{one.key}": weights_of(work, base, one) for one in (policy, *others) if one is not None
    }
    with open_engine(
        weights_of(work, base, policy),
        serving=decoding.serving,
        batch_tokens=decoding.batch_tokens,
        max_length=decoding.max_length,
        seed=seed,
        folder=work.folder,
        policies=policies,
    ) as engine:
        yield engine


def fitted(
    engine: Engine, turns: Sequence[Turn], layout: prompts.Layout, sampling: Sampling, max_length: int
) -> list[Prompt]:
    """Prompts with room for the answer: as in training, both share ``max_length`` tokens."""
    return [prompts.fit(turn, layout, engine.count, max_length - sampling.max_new_tokens)[0] for turn in turns]


def complete(
    work: Work, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, what: str, seed: int, *, number: int = 0,
    choices: Sequence[str] | None = None,
) -> dict[str, dict]:  # fmt: skip
    """Completions by id, written down batch by batch in ``what``; another ``number`` has other random numbers."""
    from dataclasses import asdict

    written, seed = work.rows(what), seed + 1000 * number
    with progress.bar(len(asked), f"{work.name}: {what}", initial=len(written.by_id)) as bar:
        for batch in engine.complete(asked, sampling, seed=seed, done=frozenset(written.by_id), choices=choices):
            written.append(asdict(completion) for completion in batch)
            bar.update(len(written.by_id) - bar.n)
    return written.by_id


def greedy(sampling: Sampling) -> Sampling:
    """The same, taking the most probable token each time."""
    return sampling.model_copy(update={"temperature": 0.0})


def replies_under(
    work: Work, engine: Engine, turns: Sequence[Turn], planned: Mapping[str, str | None], layout: prompts.Layout, sampling: Sampling,
    decoding: Decoding, seed: int,
) -> dict[str, dict]:  # fmt: skip
    """By turn id: the completion of a generator under the planned strategy, white space folded in ``reply``."""
    from dataclasses import replace

    # A plan that names no strategy still needs a reply: it is written under "Others", and the plan counts as invalid.
    under = [replace(turn, strategy=planned[turn.id] or "Others") for turn in turns]
    asked = fitted(engine, under, layout, sampling, decoding.max_length)
    written = complete(work, engine, asked, sampling, "replies", seed)
    return {id: row | {"reply": " ".join(row["text"].split())} for id, row in written.items()}

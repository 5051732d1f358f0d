"""Asking an engine for completions, written down as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

from decoupled_esc import models, progress, prompts, taxonomy
from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate import strategy
from decoupled_esc.experiments.inputs import Base, Decoding, Policy, weights_of
from decoupled_esc.generate.engine import Engine, Sampling, open_engine
from decoupled_esc.pipeline import Work
from decoupled_esc.prompts import Prompt

TAG_SAMPLES = 8
"""Further samples of a coupled model's strategy at each turn: one alone moves Q by about a point."""


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


def purpose(work: Work, what: str) -> str:
    """What the last part of ``what`` is sampled for by a step (`stream`).

    The step's class is in it, and neither its name nor its key.  So systems of one class share their random numbers at a
    turn, which pairs them, and none changes with its name.
    """
    return f"{type(work.step).__name__}/{what.rpartition('/')[2]}"


def complete(
    work: Work, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, what: str, seed: int
) -> dict[str, dict]:
    """Completions by id, written down batch by batch in ``what``, whose name has random numbers of its own (`purpose`).

    Their tokens are added to the step's.
    """
    written = work.rows(what)
    more = {"seed": seed, "purpose": purpose(work, what), "done": frozenset(written.by_id)}
    with progress.bar(len(asked), f"{work.name}: {what}", initial=len(written.by_id)) as bar:
        for batch in engine.complete(asked, sampling, **more):
            written.append(asdict(completion) for completion in batch)
            bar.update(len(written.by_id) - bar.n)
    work.tokens = (work.tokens or 0) + sum(row["tokens"] for row in written.by_id.values())
    return written.by_id


def tags(
    work: Work, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, what: str, seed: int
) -> dict[str, str]:
    """By turn id: the strategies of ``TAG_SAMPLES`` more answers of a coupled model, as `strategy.signs`.

    Only the tag of each answer is generated.  The samples of a turn read one prompt, which packing and prefix caches
    read once.  Greedy decoding has nothing to sample: no signs.
    """
    if sampling.temperature == 0:
        return {prompt.id: "" for prompt in asked}

    def read(text: str) -> int:
        return engine.count(Prompt("", (("user", text),), ""))

    longest = max(read(f"[{name}]") for name in taxonomy.STRATEGIES) - read("")
    short = sampling.model_copy(update={"max_new_tokens": min(longest + 2, sampling.max_new_tokens)})
    copies = [replace(prompt, id=f"{prompt.id}+{n}") for prompt in asked for n in range(TAG_SAMPLES)]
    written = complete(work, engine, copies, short, what, seed)
    said = [prompts.parse_tagged(written[copy.id]["text"])[0] for copy in copies]
    return {prompt.id: strategy.signs(said[k * TAG_SAMPLES : (k + 1) * TAG_SAMPLES]) for k, prompt in enumerate(asked)}


def greedy(sampling: Sampling) -> Sampling:
    """The same, taking the most probable token each time."""
    return sampling.model_copy(update={"temperature": 0.0})


def replies_under(
    work: Work, engine: Engine, turns: Sequence[Turn], planned: Mapping[str, str | None], layout: prompts.Layout, sampling: Sampling,
    decoding: Decoding, seed: int,
) -> dict[str, dict]:  # fmt: skip
    """By turn id: the completion of a generator under the planned strategy, white space folded in ``reply``."""
    # A plan that names no strategy still needs a reply: it is written under "Others", and the plan counts as invalid.
    under = [replace(turn, strategy=planned[turn.id] or "Others") for turn in turns]
    asked = fitted(engine, under, layout, sampling, decoding.max_length)
    written = complete(work, engine, asked, sampling, "replies", seed)
    return {id: row | {"reply": " ".join(row["text"].split())} for id, row in written.items()}

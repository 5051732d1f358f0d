"""A human evaluation of two systems of a profile: forms out, answers in (``decoupled-esc people``).

The forms quote the corpus, so they belong in a folder that is not committed, such as one under ``runs/``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from decoupled_esc import corpus
from decoupled_esc.evaluate import people
from decoupled_esc.present.replication import written
from decoupled_esc.workflow.profiles import nearest
from decoupled_esc.workflow.session import Session
from decoupled_esc.workflow.stages import SYSTEMS
from decoupled_esc.workflow.store import write_atomically

ATTENTION = 2
"""Attention items in each form: one in ten of DecoupledESC's twenty."""


def export(session: Session, folder: Path, systems: Sequence[str], *, samples: int, raters: int, scores: bool) -> list[Path]:
    """Forms for ``raters`` people, each judging the replies of ``systems`` to ``samples`` test turns; the files written.

    Turns are drawn from different dialogues as long as there are any, leaving out those after which the seeker has said
    nothing and those to which the systems say the same.  Raises PeopleError for an unknown system or too few turns, and says what to do.
    """
    for name in systems:
        if name not in SYSTEMS:
            raise people.PeopleError(f"no system {name!r}{nearest(name, list(SYSTEMS))}. Systems: {', '.join(SYSTEMS)}")
    replies = {name: _replies(session, name) for name in systems}
    draw = random.Random(session.profile.seed)
    asked: list[corpus.Turn] = []
    for dialogue in session.corpora["esconv"].split("test"):
        fit = [
            turn
            for turn in corpus.turns(dialogue)
            if all(replies[name].get(turn.id) for name in systems) and turn.context[-1].text.strip()
            and (len(systems) == 1 or len({replies[name][turn.id] for name in systems}) > 1)
        ]  # fmt: skip
        asked += draw.sample(fit, min(1, len(fit)))
    if len(asked) < samples:
        problem = f"{len(asked)} dialogues have a turn to judge, and {samples} samples were asked for"
        remedy = "ask for fewer, or take a profile with more test dialogues"
        if not asked and session.corpora["esconv"].name == "miniature":
            remedy = "the replies belong to the real ESConv, which is not here; get it with: decoupled-esc data fetch"
        raise people.PeopleError(f"{problem}; {remedy}")
    chosen = [
        people.Sample(turn.id, turn.dialogue, turn.context, {name: replies[name][turn.id] for name in systems})
        for turn in sorted(draw.sample(asked, samples), key=lambda turn: turn.id)
    ]
    study = people.make_study(
        chosen, people.DECOUPLED_ESC, kind="scores" if scores else "pairs", raters=raters,
        items_per_rater=samples * (len(systems) if scores else 1), attention=ATTENTION, seed=session.profile.seed,
    )  # fmt: skip
    return people.write_forms(study, folder)


def _replies(session: Session, system: str) -> dict[str, str]:
    """Turn -> what ``system`` said there; from this machine's run where the replies were published as numbers alone."""
    stage = f"replies-{system}"
    result = session.result(stage)
    if result.rows_left_out:
        if session.state(stage, session.runs).word != "fresh":
            remedy = f"write them with: decoupled-esc run --profile {session.profile.name} {stage}"
            raise people.PeopleError(f"the replies of {system} are not among the published ones; {remedy}")
        result = session.runs.read(stage)
    return {row["id"]: row["reply"] for row in result.rows}


def report(folder: Path, *, exclude: Sequence[str], replicates: int, seed: int) -> str:
    """What the raters of the study in ``folder`` said, as text; the same stands in ``folder/outcome.json`` in full."""
    study = people.read_key(folder / "key.json")
    answers = people.read_answers(folder / "answers", study)
    lines = []
    for rater, found in people.quality(study, answers).items():
        state = "left out" if rater in exclude else "; ".join(found.flags) or "no flag"
        lines.append(f"{rater}: {found.answered} of {found.shown} items, {state}")
    summarise = people.win_rates if study.kind == "pairs" else people.mean_scores
    outcome = summarise(study, answers, exclude=exclude, replicates=replicates, seed=seed)
    write_atomically(folder / "outcome.json", outcome.to_json() + "\n")
    lines.append(f"{' against '.join(outcome.systems)}: {outcome.items} items of {outcome.dialogues} dialogues, {len(outcome.raters)} raters")
    for criterion, found in outcome.criteria.items():
        lines.append(f"{criterion}: {_said(found)}")
    return "\n".join(lines)


def _said(found: people.Preference | people.Scores) -> str:
    if isinstance(found, people.Preference):
        shares = {"win": found.win, "tie": found.tie, "lose": found.lose}
        return ", ".join(f"{word} {written(share, 0)}%" for word, share in shares.items())
    return ", ".join(f"{system} {written(mean, 2)}" for system, mean in found.means.items())


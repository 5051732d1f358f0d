"""Mined pairs as files with a data card, by id: what a person said is in the corpus, and is not copied."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from decoupled_esc.corpus import Message, Turn, tagged
from decoupled_esc.errors import KnownError
from decoupled_esc.files import read_rows, write_atomically
from decoupled_esc.mining.pairs import Mined

if TYPE_CHECKING:
    from decoupled_esc.generate.engine import Sampling

_FORM = TypeAdapter(Mined)


class PairsError(KnownError, ValueError):
    """A file that holds no preference pairs, or other ones than `write` writes."""


def write(path: Path, pairs: Iterable[Mined], **said) -> None:
    """One JSON line per pair, each with ``said`` (judge, sampling) besides its own fields."""
    write_atomically(path, "".join(json.dumps({**asdict(pair), **said}, ensure_ascii=False) + "\n" for pair in pairs))


def read(path: Path) -> list[Mined]:
    """The pairs in a file of `write`.  Raises RowsError or PairsError, naming file, line and field."""
    found = []
    for number, row in enumerate(read_rows(path, "preference pairs"), start=1):
        try:
            found.append(_FORM.validate_python(row))
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
            remedy = "remove the file and mine again: decoupled-esc run pairs"
            raise PairsError(f"{path}, line {number}, {problem}; {remedy}") from None
    return found


def with_text(pairs: Iterable[Mined], turns: Iterable[Turn]) -> list[dict]:
    """Pairs with their text, for any trainer: ``context`` (role, text), ``chosen`` and ``rejected`` targets, and ids.

    ``datasets.Dataset.from_list`` takes them as they are.
    """
    by_id, rows = {turn.id: turn for turn in turns}, []
    for pair in pairs:
        turn = by_id[pair.turn]
        whole = tagged(Message("supporter", turn.reply, turn.strategy))
        chosen = {"strategy": turn.strategy, "response": turn.reply, "vanilla": whole}[pair.kind]
        context = [{"role": m.role, "text": m.text} for m in turn.context]
        row = {"id": pair.id, "strategy": turn.strategy, "context": context}
        rows.append(row | {"chosen": chosen, "rejected": pair.rejected})
    return rows


@dataclass(frozen=True)
class Example:
    """A pair with its words."""

    id: str
    error: str
    seeker: str
    chosen_strategy: str
    chosen: str
    rejected_strategy: str
    rejected: str


def examples(found: Mapping[str, Sequence[Mined]], by_id: Mapping[str, Turn]) -> tuple[Example, ...]:
    """Per error the pair with the fewest words in all, of those with 8 to 25 on every side (Figures 11-14).

    ``found``: pairs by their kind; ``by_id``: turns.
    """

    def words(pair: Mined) -> list[int]:
        turn = by_id[pair.turn]
        return [len(text.split()) for text in (turn.context[-1].text, turn.reply, pair.reply or "")]

    chosen = []
    for error in ("Strategy Mismatch", "Lack of Empathy", "Early Emotion Shift", "Template Response"):
        fitting = [
            pair for pair in found["vanilla" if error == "Strategy Mismatch" else "response"] if pair.error == error
        ]
        if error == "Strategy Mismatch":
            fitting = [pair for pair in fitting if pair.strategy != by_id[pair.turn].strategy]
        if fitting := [pair for pair in fitting if all(8 <= number <= 25 for number in words(pair))]:
            pair = min(fitting, key=lambda pair: (sum(words(pair)), pair.id))
            turn = by_id[pair.turn]
            said = (turn.context[-1].text, turn.strategy, turn.reply, pair.strategy, pair.reply)
            chosen.append(Example(pair.id, error, *said))
    return tuple(chosen)


def data_card(
    *, profile: str, backbone: str, plan: Sampling, reply: Sampling, seed: int, judge: str, counts: Mapping[str, int]
) -> str:
    """The data card of mined pairs, to stand beside them.  ``counts``: pairs by kind."""
    listed = "\n".join(f"* `{kind}.jsonl`: {count:,} pairs" for kind, count in counts.items())
    return f"""# Preference pairs mined under profile {profile}

{listed}

**Made by** sampling from models fine-tuned on ESConv's training dialogues (base: {backbone}) at every training
turn: strategies at T = {plan.temperature}, top-p {plan.top_p}; replies at T = {reply.temperature},
top-p {reply.top_p}; seed {seed}. Rejected is what the model sampled; chosen is what a person did at that
turn. Errors were judged by: {judge}.

**A row** has `id` (turn and sample), `turn`, `kind`, the rejected `strategy` and `reply`, the judge's labels `error`
(rejected) and `chosen_error`, for vanilla pairs the `quadrant` (P or N: positive or negative; s, r: strategy,
response), and `judge`, `temperature`, `top_p`. The chosen side is not copied: it stands in ESConv at `turn`, and
`decoupled_esc.mining.with_text` joins the two. `datasets.load_dataset("json", data_files="response.jsonl")` reads it.

**For** studying preference optimisation. Rejected replies are a small model's and can be wrong or hurtful; chosen ones
are unreviewed. Nothing here is counselling, nor fit for training a system that people in distress would talk to.
ESConv is under CC BY-NC 4.0; treat what is derived from it alike.
"""

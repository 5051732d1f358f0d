"""Inferential Preference Mining (DecoupledESC, section 4): a model's own mistakes become preference pairs.

The chosen side of a pair is what a person did at that turn; the rejected side is what the fine-tuned model did there.

* *strategy pairs*, for the planner: a drawn strategy that is not the gold one.  As in the authors' code, no judge is asked.
* *response pairs*, for the generator: a reply drawn under the gold strategy in which the judge sees a lack of empathy, an
  early emotion shift or a template, where it sees none of these in the gold reply.
* *vanilla pairs*, for the coupled model: a drawn ``[Strategy] reply``, sorted by what is wrong with it (Figure 1).

Pairs are written by id: what a person said is in the corpus, and is not copied.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message, Turn, fold, tagged
from decoupled_esc.evaluate.judges import FILTERED, kept

Kind = Literal["strategy", "response", "vanilla"]

ROUTES: dict[str, str | None] = {
    "Strategy Mismatch": "planner",
    **dict.fromkeys(FILTERED, "generator"),
    "Emotion Misread": None,
    taxonomy.NO_ERROR: None,
}
"""Which of the two models learns from a reply with this error (dynamic data routing, section 4.1); None: neither."""

QUADRANTS = ("PsNr", "NsPr", "NsNr")
"""What a rejected turn has wrong: P or N, positive or negative; s its strategy, r its response.  The chosen one is PsPr."""


class PairsError(ValueError):
    """A file that holds no preference pairs, or other ones than `write` writes."""


@dataclass(frozen=True)
class Mined:
    """A preference pair by reference: the chosen side is what stands in the corpus at ``turn``."""

    id: str
    """``<turn>#<draw>``."""
    turn: str
    kind: Kind
    strategy: str
    """The rejected side's."""
    reply: str | None
    """The rejected side's; None for a pair of strategies."""
    error: str | None
    """What the judge saw in the rejected reply; None where no judge was asked."""
    chosen_error: str | None
    quadrant: str | None = None
    """One of ``QUADRANTS``, for a vanilla pair."""

    @property
    def rejected(self) -> str:
        """The rejected side as its layout's target."""
        if self.kind == "vanilla":
            return tagged(Message("supporter", self.reply, self.strategy))
        return self.strategy if self.kind == "strategy" else self.reply


def quadrant(turn: Turn, strategy: str, error: str) -> str | None:
    """What a drawn turn has wrong, or None where nothing is: the strategy if it is not gold, the reply by its error."""
    wrong = ("N" if strategy != turn.strategy else "P") + "s" + ("N" if error in FILTERED else "P") + "r"
    return None if wrong == "PsPr" else wrong


def strategy_pairs(turns: Sequence[Turn], draws: Sequence[Mapping[str, str | None]]) -> tuple[list[Mined], Counter]:
    """Pairs for the planner, and why other draws gave none.  ``draws``: turn id -> drawn strategy, None if invalid."""
    found, left = {}, Counter()
    for number, drawn in enumerate(draws):
        for turn in turns:
            strategy = drawn[turn.id]
            why = "no strategy" if strategy is None else "as gold" if strategy == turn.strategy else None
            if why is None and (turn.id, strategy) in found:
                why = "drawn before"
            if why:
                left[why] += 1
                continue
            pair = Mined(f"{turn.id}#{number}", turn.id, "strategy", strategy, None, None, None)
            found[turn.id, strategy] = pair
    return _in_order(found.values(), turns), left


def response_pairs(
    turns: Sequence[Turn], draws: Sequence[Mapping[str, str]], labels: Sequence[Mapping[str, tuple[str | None, str | None]]]
) -> tuple[list[Mined], Counter]:
    """Pairs for the generator, and why other draws gave none.

    ``draws``: turn id -> reply under the gold strategy.  ``labels``, draw by draw: turn id -> what the judge saw in (the
    gold reply, the drawn one), None for an answer that could not be read.
    """
    found, left = {}, Counter()
    for number, (drawn, seen) in enumerate(zip(draws, labels, strict=True)):
        for turn in turns:
            reply, (chosen, rejected) = drawn[turn.id], seen[turn.id]
            why = unusable(turn, reply) or _filtered(chosen, rejected) or _again(found, turn, reply)
            if why:
                left[why] += 1
                continue
            found[turn.id, reply] = Mined(f"{turn.id}#{number}", turn.id, "response", turn.strategy, reply, rejected, chosen)
    return _in_order(found.values(), turns), left


def vanilla_pairs(
    turns: Sequence[Turn],
    draws: Sequence[Mapping[str, tuple[str | None, str]]],
    labels: Sequence[Mapping[str, tuple[str | None, str | None]]],
) -> tuple[list[Mined], Counter]:
    """Pairs for the coupled model, in all three quadrants, and why other draws gave none.

    ``draws``: turn id -> (drawn strategy or None, reply); ``labels`` as in `response_pairs`.  The chosen side must be
    PsPr, so the judge must see none of the three errors in the gold reply.
    """
    found, left = {}, Counter()
    for number, (drawn, seen) in enumerate(zip(draws, labels, strict=True)):
        for turn in turns:
            (strategy, reply), (chosen, rejected) = drawn[turn.id], seen[turn.id]
            why = "no strategy" if strategy is None else unusable(turn, reply)
            if why is None:
                if chosen is None or rejected is None:
                    why = "not read by the judge"
                elif chosen in FILTERED:
                    why = "gold reply has an error"
                elif quadrant(turn, strategy, rejected) is None:
                    why = "nothing wrong"
                else:
                    why = _again(found, turn, reply, strategy)
            if why:
                left[why] += 1
                continue
            pair = Mined(
                f"{turn.id}#{number}", turn.id, "vanilla", strategy, reply, rejected, chosen, quadrant(turn, strategy, rejected)
            )
            found[turn.id, reply, strategy] = pair
    return _in_order(found.values(), turns), left


def unusable(turn: Turn, reply: str) -> str | None:
    """Why nothing can be learned from preferring the gold reply to ``reply``; None where something can."""
    if not reply.strip():
        return "empty"
    return "as gold" if fold(reply).lower() == fold(turn.reply).lower() else None


def _filtered(chosen: str | None, rejected: str | None) -> str | None:
    if chosen is None or rejected is None:
        return "not read by the judge"
    if kept(chosen, rejected):
        return None
    return "gold reply has an error" if chosen in FILTERED else "nothing wrong for the generator"


def _again(found: Mapping, turn: Turn, *said: str) -> str | None:
    return "drawn before" if (turn.id, *said) in found else None


def _in_order(pairs: Iterable[Mined], turns: Sequence[Turn]) -> list[Mined]:
    """By turn, then by draw: the turns of a dialogue stand together, as packing wants them."""
    place = {turn.id: number for number, turn in enumerate(turns)}
    return sorted(pairs, key=lambda pair: (place[pair.turn], int(pair.id.rpartition("#")[2])))


# Files --------------------------------------------------------------------------------------------------------------


def write(path: Path, pairs: Iterable[Mined], **said) -> None:
    """One JSON line a pair, each with ``said`` (judge, sampling) besides its own fields."""
    path.write_text("".join(json.dumps({**asdict(pair), **said}, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")


def read(path: Path) -> list[Mined]:
    """The pairs in a file of `write`.  Raises PairsError naming file, line and field for one that is not."""
    found = []
    # Of bytes: text would also be split at U+2028 and its like, which JSON leaves as they are.
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            found.append(Mined(**{name: row[name] for name in Mined.__dataclass_fields__}))
        except (ValueError, TypeError) as error:
            raise PairsError(f"{path.name}, line {number}: not a pair ({error}); remove its folder and mine again: decoupled-esc run pairs") from None
        except KeyError as error:
            raise PairsError(f"{path.name}, line {number}: no field {error}; remove its folder and mine again: decoupled-esc run pairs") from None
    return found


def with_text(pairs: Iterable[Mined], turns: Iterable[Turn]) -> list[dict]:
    """Pairs with what was said, for any trainer: ``context`` (role, text), ``chosen`` and ``rejected`` targets, and ids.

    ``datasets.Dataset.from_list`` takes them as they are.
    """
    by_id = {turn.id: turn for turn in turns}
    rows = []
    for pair in pairs:
        turn = by_id[pair.turn]
        said = {"strategy": turn.strategy, "response": turn.reply, "vanilla": tagged(Message("supporter", turn.reply, turn.strategy))}
        context = [{"role": m.role, "text": m.text} for m in turn.context]
        rows.append({"id": pair.id, "strategy": turn.strategy, "context": context, "chosen": said[pair.kind], "rejected": pair.rejected})
    return rows

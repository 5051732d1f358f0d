"""Inferential Preference Mining (DecoupledESC, section 4): a model's own mistakes become preference pairs.

The chosen side of a pair is what a person did at that turn; the rejected side is what the fine-tuned model did there.

* *strategy pairs*, for the planner: a sampled strategy that is not the gold one.  As in the authors' code, no judge.
* *response pairs*, for the generator: a reply sampled under the gold strategy in which the judge sees a lack of
  empathy, an early emotion shift or a template, where it sees none of these in the gold reply.
* *vanilla pairs*, for the coupled model: a sampled ``[Strategy] reply``, sorted by what is wrong with it (Figure 1).

Pairs are stored by id, with a data card: what a person said is in the corpus, and is not copied.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message, Turn, fold, tagged
from decoupled_esc.evaluate.judges import FILTERED, kept
from decoupled_esc.files import read_as, write_rows

if TYPE_CHECKING:
    from decoupled_esc.generate.engine import Sampling

Kind = Literal["strategy", "response", "vanilla"]
Labels = Mapping[str, tuple[str | None, str | None]]
"""Turn id -> what the judge saw in (the gold reply, the sampled one), None for an answer that could not be read."""

ROUTES: dict[str, str | None] = {
    "Strategy Mismatch": "planner",
    **dict.fromkeys(FILTERED, "generator"),
    "Emotion Misread": None,
    taxonomy.NO_ERROR: None,
}
"""Which of the two models learns from a reply with this error (dynamic data routing, section 4.1); None: neither."""

QUADRANTS = ("PsNr", "NsPr", "NsNr")
"""What a rejected turn has wrong: P or N, positive or negative; s strategy, r response.  The chosen one is PsPr."""

SECTION_4_1 = "four errors (section 4.1)"
FILTERS: dict[str, tuple[str, ...]] = {
    "this book": (*ROUTES,),
    SECTION_4_1: ("Strategy Mismatch", *FILTERED),
    "three errors (authors' code)": FILTERED,
}
"""Which labels of the rejected reply let a vanilla pair pass; the gold reply must have none of ``FILTERED`` in each.

Ours asks for a fault of strategy or reply and compares the strategy with the gold one, so that the label decides
nothing where the strategy is wrong.  The paper routes pairs by four errors, which drops a wrong strategy in whose reply
the judge saw none of them.  The authors' code passes coupled pairs by the filter of response pairs, which leaves no NsPr.
"""


@dataclass(frozen=True)
class Mined:
    """A preference pair by reference: the chosen side is what stands in the corpus at ``turn``."""

    id: str  # <turn>#<sample>
    turn: str
    kind: Kind
    strategy: str  # the rejected side's
    reply: str | None  # the rejected side's; None for a pair of strategies
    error: str | None  # what the judge saw in the rejected reply; None where no judge was asked
    chosen_error: str | None
    quadrant: str | None  # one of ``QUADRANTS``, for a vanilla pair

    @property
    def rejected(self) -> str:
        """The rejected side as its layout's target."""
        if self.kind == "vanilla":
            return tagged(Message("supporter", self.reply, self.strategy))
        return self.strategy if self.kind == "strategy" else self.reply


def quadrant(turn: Turn, strategy: str, error: str) -> str | None:
    """What a sampled turn has wrong, None where nothing is: the strategy if it is not gold, the reply by its error."""
    wrong = ("N" if strategy != turn.strategy else "P") + "s" + ("N" if error in FILTERED else "P") + "r"
    return None if wrong == "PsPr" else wrong


def strategy_pairs(
    turns: Sequence[Turn], samples: Sequence[Mapping[str, str | None]]
) -> tuple[list[Mined], Counter[str]]:
    """Pairs for the planner, and why other samples gave none.  ``samples``: turn id -> strategy, None if invalid."""

    def judged(turn: Turn, number: int) -> Mined | str:
        strategy = samples[number][turn.id]
        if strategy is None:
            return "no strategy"
        if strategy == turn.strategy:
            return "as gold"
        return Mined(f"{turn.id}#{number}", turn.id, "strategy", strategy, None, None, None, None)

    return _sorted_out(turns, len(samples), judged)


def response_pairs(
    turns: Sequence[Turn], samples: Sequence[Mapping[str, str]], labels: Sequence[Labels]
) -> tuple[list[Mined], Counter[str]]:
    """Pairs for the generator, and why other samples gave none.

    ``samples``: turn id -> reply under the gold strategy; ``labels``, sample by sample.
    """

    def judged(turn: Turn, number: int) -> Mined | str:
        reply, (chosen, rejected) = samples[number][turn.id], labels[number][turn.id]
        if why := unusable(turn, reply) or _unread(chosen, rejected):
            return why
        if not kept(chosen, rejected):
            return "nothing wrong for the generator"
        return Mined(f"{turn.id}#{number}", turn.id, "response", turn.strategy, reply, rejected, chosen, None)

    return _sorted_out(turns, len(samples), judged)


def vanilla_pairs(
    turns: Sequence[Turn], samples: Sequence[Mapping[str, tuple[str | None, str]]], labels: Sequence[Labels]
) -> tuple[list[Mined], Counter[str]]:
    """Pairs for the coupled model, in all three quadrants, and why other samples gave none.

    ``samples``: turn id -> (strategy or None, reply); ``labels``, sample by sample.  The chosen side must be PsPr, so
    the judge must see none of the three errors in the gold reply.
    """

    def judged(turn: Turn, number: int) -> Mined | str:
        (strategy, reply), (chosen, rejected) = samples[number][turn.id], labels[number][turn.id]
        why = "no strategy" if strategy is None else unusable(turn, reply) or _unread(chosen, rejected)
        if why:
            return why
        if (wrong := quadrant(turn, strategy, rejected)) is None:
            return "nothing wrong"
        return Mined(f"{turn.id}#{number}", turn.id, "vanilla", strategy, reply, rejected, chosen, wrong)

    return _sorted_out(turns, len(samples), judged)


def unusable(turn: Turn, reply: str) -> str | None:
    """Why nothing can be learned from preferring the gold reply to ``reply``; None where something can."""
    if not reply.strip():
        return "empty"
    return "as gold" if fold(reply).lower() == fold(turn.reply).lower() else None


def _unread(chosen: str | None, rejected: str | None) -> str | None:
    if chosen is None or rejected is None:
        return "not read by the judge"
    return "gold reply has an error" if chosen in FILTERED else None


def _sorted_out(
    turns: Sequence[Turn], samples: int, judged: Callable[[Turn, int], Mined | str]
) -> tuple[list[Mined], Counter[str]]:
    """Each pair once, by turn and then by sample: the turns of a dialogue stand together, as packing wants them."""
    found, left = {}, Counter()
    for number in range(samples):
        for turn in turns:
            pair = judged(turn, number)
            if isinstance(pair, Mined) and (turn.id, pair.rejected) in found:
                pair = "sampled before"
            if isinstance(pair, Mined):
                found[turn.id, pair.rejected] = pair
            else:
                left[pair] += 1
    place = {turn.id: number for number, turn in enumerate(turns)}
    return sorted(found.values(), key=lambda pair: (place[pair.turn], int(pair.id.rpartition("#")[2]))), left


def by_filter(pairs: Sequence[Mined], *, judge_names_mismatch: bool) -> dict[str, dict[str, dict[str, int]]]:
    """Filter of ``FILTERS`` -> quadrant -> label of the rejected reply -> how many vanilla ``pairs`` pass.

    That of ``SECTION_4_1`` is left out where the judge was asked for the three errors alone, as an LLM is (Figure 15).
    """
    counts = Counter((pair.quadrant, pair.error) for pair in pairs)
    return {
        name: {q: {label: counts[q, label] for label in passed if counts[q, label]} for q in QUADRANTS}
        for name, passed in FILTERS.items()
        if judge_names_mismatch or name != SECTION_4_1
    }


def of_quadrant(pairs: Sequence[Mined], quadrant: str, seed: int) -> list[Mined]:
    """Vanilla pairs of one quadrant, as many as the smallest quadrant has, so that only their kind differs."""
    own = [pair for pair in pairs if pair.quadrant == quadrant]
    most = min(Counter(pair.quadrant for pair in pairs).values(), default=0)
    kept = set(random.Random(seed).sample(range(len(own)), min(most, len(own))))
    return [pair for number, pair in enumerate(own) if number in kept]


def balanced(sides: Sequence[tuple[Hashable, Hashable]], seed: int) -> list[int]:
    """Which of ``sides``, (kind of the chosen side, kind of the rejected side), to keep so that no kind is preferred.

    As many pairs prefer a to b as b to a, taken at random, so each kind is chosen as often as it is rejected.
    """
    places: dict[tuple, list[int]] = {}
    for place, pair in enumerate(sides):
        places.setdefault(pair, []).append(place)
    sample, kept = random.Random(seed).sample, []
    for (chosen, rejected), own in places.items():
        kept += sample(own, min(len(own), len(places.get((rejected, chosen), ()))))
    return sorted(kept)


def write(path: Path, pairs: Iterable[Mined], **said) -> None:
    """One JSON line per pair, each with ``said`` (judge, sampling) besides its own fields."""
    write_rows(path, ({**asdict(pair), **said} for pair in pairs))


def read(path: Path) -> list[Mined]:
    """The pairs in a file of `write`.  Raises RowsError, naming file, line and field."""
    return read_as(path, "preference pairs", Mined, "pairs")


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

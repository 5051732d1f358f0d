"""From turns and preference pairs to packed sequences.

A sequence is a whole dialogue, every turn of which is a tail on the dialogue's one trunk; or a single turn, for a
layout whose turns share nothing.  Contexts are cut to ``max_length`` turn by turn and before packing, so that packed
and unpacked training see the same tokens.  A sequence is read in one pass, or where it is long (the turns of a dialogue
that were cut share nothing) in several, so that memory is bounded by ``max_length`` and not by the dialogue.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from turn_trees import Example, Packed, pack, split

from decoupled_esc.corpus import Turn
from decoupled_esc.prompts import Layout, Prompt, fit, ids, render
from decoupled_esc.train.config import TrainingError

Unit = Literal["dialogue", "turn"]

PASS = 2
"""Tokens of a forward pass, in times ``max_length``: whole dialogues but for those whose turns were cut."""


@dataclass(frozen=True)
class Pair:
    """A turn, whose own answer is the chosen one, and the answer that it is preferred to."""

    id: str
    """A turn may stand in several pairs, so this says more than the turn's id."""
    turn: Turn
    rejected: str
    """In the form of the layout's target: a strategy, a reply, or ``[Strategy] reply``."""


@dataclass(frozen=True)
class Sequences:
    """What a training reads: packed sequences, and what they hold."""

    packed: tuple[Packed, ...]
    ids: tuple[tuple[str, ...], ...]
    """The turns or pairs of each sequence; every one has ``answers_each`` answers, in the order of ``losses``."""
    answers_each: int
    cut: int
    """Turns or pairs that lost their oldest messages to ``max_length``."""
    unpacked_tokens: int
    """Tokens that one sequence for every answer would take: what is read where nothing is shared."""
    pass_tokens: int
    """Tokens of a sequence that are read at once; a single turn or pair is never divided."""

    @property
    def passes(self) -> list[list[Packed]]:
        """Each of ``packed`` as what is read of it at once, one after the other."""
        return [split(packed, self.pass_tokens) for packed in self.packed]

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return sum(len(packed) for passes in self.passes for packed in passes)

    @property
    def target_tokens(self) -> int:
        """Tokens that are learned, end of turn included."""
        return sum(len(packed.targets) for packed in self.packed)

    def __len__(self) -> int:
        return len(self.packed)


def encode(turns: Iterable[Turn], layout: Layout, tokenizer, max_length: int, unit: Unit = "dialogue") -> Sequences:
    """Turns for supervised fine-tuning: prompt and target of each within ``max_length`` tokens."""
    return _encode(((turn.id, turn, ()) for turn in turns), layout, tokenizer, max_length, unit)


def encode_pairs(
    pairs: Iterable[Pair],
    layout: Layout,
    tokenizer,
    max_length: int,
    unit: Unit = "dialogue",
    *,
    mismatched: int | None = None,
) -> Sequences:
    """Pairs for preference optimisation, two answers each: chosen, rejected.

    With ``mismatched``, a seed, each gets a third: the chosen answer of another turn, sampled at random, which is what
    KTO estimates its reference point from.
    """
    pairs = list(pairs)
    others: list[tuple[str, ...]] = [()] * len(pairs)
    if mismatched is not None:
        shuffled = random.Random(mismatched).sample(range(len(pairs)), len(pairs))
        for place, n in enumerate(shuffled):
            following = (pairs[shuffled[(place + step) % len(pairs)]].turn for step in range(1, len(pairs)))
            other = next((turn for turn in following if turn.id != pairs[n].turn.id), None)
            if other is None:
                raise TrainingError(f"{pairs[n].id}: KTO compares with the answer to another prompt, and there is none")
            others[n] = (layout(other).target,)
    items = ((pair.id, pair.turn, (pair.rejected, *other)) for pair, other in zip(pairs, others, strict=True))
    return _encode(items, layout, tokenizer, max_length, unit)


def _encode(
    items: Iterable[tuple[str, Turn, tuple[str, ...]]], layout: Layout, tokenizer, max_length: int, unit: Unit
) -> Sequences:
    packed, names, cut, unpacked, answers_each = [], [], 0, 0, 1

    @lru_cache(maxsize=4)
    def tokens(prompt: Prompt) -> tuple[list[int], list[int]]:
        question, answer = render(prompt, tokenizer)
        return ids(question, tokenizer), ids(answer, tokenizer)

    for _, group in itertools.groupby(items, key=lambda item: item[1].dialogue if unit == "dialogue" else item[1].id):
        examples = []
        for id, turn, others in group:
            example, dropped = _fitted(id, turn, others, layout, tokens, max_length)
            cut += dropped > 0
            examples.append(example)
            answers_each = len(example.answers)
        packed.append(pack(examples))
        names.append(tuple(example.id for example in examples))
        # As in ``pack``, nothing is predicted from an answer's last token.
        unpacked += sum(len(example.prompt) + len(answer) - 1 for example in examples for answer in example.answers)
    return Sequences(tuple(packed), tuple(names), answers_each, cut, unpacked, PASS * max_length)


def _fitted(
    id: str, turn: Turn, others: Sequence[str], layout: Layout, tokens: Callable[[Prompt], tuple], max_length: int
) -> tuple[Example, int]:
    """The example for ``turn`` with its context cut until prompt and longest answer fit; and how many messages went."""

    def answers(prompt: Prompt) -> list[list[int]]:
        return [tokens(prompt)[1], *(tokens(replace(prompt, target=other))[1] for other in others)]

    prompt, dropped = fit(turn, layout, lambda p: len(tokens(p)[0]) + max(map(len, answers(p))), max_length)
    return Example(id, tokens(prompt)[0], answers(prompt)), dropped

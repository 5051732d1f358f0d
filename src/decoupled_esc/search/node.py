"""The numbers of a search, what it asks and is told, and the nodes of its tree (CSO, sections 3.1.1 and 3.1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pydantic
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from decoupled_esc.corpus import Message

Kind = Literal["supporter", "seeker", "strategies", "reward"]


class Constants(BaseModel):
    """The numbers of the search, where CSO fixes them with its values in brackets; none may be infinite or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    exploration: NonNegativeFloat  # c of PUCB, Eq. 1 (1)
    prior_temperature: PositiveFloat  # divides scores before their softmax gives the priors (5, in the released code)
    strategy_weight: PositiveFloat  # alpha of Eq. 2, of the strategy's score; the other three weigh 1 (7)
    bias: float  # b of Eq. 2 (-3)
    rollout: NonNegativeInt  # rounds of the greedy simulation (4)
    own_turn: bool  # judge every turn, those of the gold dialogue and of a leaf too (CSO: what follows a leaf)
    # Q of the gold dialogue's nodes (1, the best reward, in the released code); None: what its own turns earn, as if a
    # simulation had gone through them.  And their N (100, in the released code).
    gold_value: float | None
    gold_visits: PositiveInt
    # A search goes on for min_iterations (100), and then until there is a terminal node: the gold dialogue has one, so
    # this is its length, unless max_iterations (200) is less, or max_terminal_nodes (25, the gold one too) come first.
    min_iterations: PositiveInt
    max_iterations: PositiveInt
    max_terminal_nodes: PositiveInt
    max_depth: PositiveInt  # rounds of a branch, where the gold dialogue has not more (CSO: no bound)
    parallel_simulations: PositiveInt  # of one tree under way at the same time (1), counted where they pass (WU-UCT)

    @pydantic.model_validator(mode="after")
    def _paid(self) -> Constants:
        if self.gold_value is None and not self.own_turn:
            raise ValueError("gold_value: the gold dialogue's own turns are judged under own_turn alone")
        return self


class SeekerTurn(NamedTuple):
    """What a seeker does after the supporter has spoken: say something, or end the conversation."""

    text: str | None
    is_terminal: bool


class Quality(NamedTuple):
    """The four scores of a supporter's turn, each 0 to 4 (CSO, appendix B); None where a judge does not give it."""

    empathy: float | None
    information: float | None
    humanoid: float | None
    strategy: float | None


class Failed(NamedTuple):
    """Nothing usable came, after all attempts; and why."""

    why: str


@dataclass(frozen=True)
class Task:
    """One thing that the tree wants to be told.

    ``supporter``: a reply to ``history`` under ``strategy`` (str).  ``seeker``: what the seeker does (`SeekerTurn`).
    ``strategies``: a score for each strategy after ``history`` (floats).  ``reward``: how good the last supporter's
    turn of ``history`` is (`Quality`).  Any may be answered by `Failed`.
    """

    id: str
    kind: Kind
    history: tuple[Message, ...]  # seeker and supporter by turns, the seeker first; it ends on whoever spoke last
    strategy: str | None = None


@dataclass
class Node:
    """A round of the dialogue: what the supporter says under a strategy, and what the seeker does then."""

    id: str
    strategy: str | None
    prior: float
    score: float | None = None  # as the strategy role gave it
    reply: str | None = None
    seeker: str | None = None
    is_terminal: bool = False
    gold: bool = False
    value: float = 0.0  # Q: the mean reward of the simulations that went through here
    visits: int = 0  # N
    own: float | None = None  # the reward of its own turn, once that was judged
    closed: str | None = None  # why nothing more is tried here
    children: list[Node] = field(default_factory=list)
    parent: Node | None = field(default=None, repr=False, compare=False)
    passing: int = field(default=0, repr=False, compare=False)  # simulations on their way through here

    @property
    def kind(self) -> Literal["root", "unexpanded", "expanded", "terminal"]:
        """CSO, section 3.1.1."""
        if self.parent is None:
            return "root"
        return "unexpanded" if self.reply is None else "terminal" if self.is_terminal else "expanded"

    def path(self) -> list[Node]:
        """From the root to this node."""
        return [*(self.parent.path() if self.parent else []), self]

    def history(self) -> tuple[Message, ...]:
        """All that was said up to and with this node."""
        return tuple(message for node in self.path() for message in node.said())

    def said(self) -> list[Message]:
        """What was said in this round."""
        own = [] if self.reply is None else [Message("supporter", self.reply, self.strategy)]
        return own + ([] if self.seeker is None else [Message("seeker", self.seeker)])


def pucb(node: Node, constants: Constants) -> float:
    """Q + c P sqrt(N of the parent) / (1 + N) (CSO, Eq. 1); simulations under way count as visits (Liu et al. 2020)."""
    above = node.parent.visits + node.parent.passing
    return node.value + constants.exploration * node.prior * math.sqrt(above) / (1 + node.visits + node.passing)


def priors(scores: Sequence[float], constants: Constants) -> list[float]:
    """Softmax over siblings of score / temperature."""
    highest = max(scores)
    weights = [math.exp((score - highest) / constants.prior_temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def reward(quality: Quality, constants: Constants) -> float | None:
    """(E + I + H + alpha S) / (3 + alpha) + b (CSO, Eq. 2: alpha is 7 and the sum divided by 10).

    Scores that the judge does not give are left out of both sums; None if it gives none.
    """
    weights = Quality(1.0, 1.0, 1.0, constants.strategy_weight)
    given = [(weight, score) for weight, score in zip(weights, quality, strict=True) if score is not None]
    total = sum(weight for weight, _ in given)
    return sum(weight * score for weight, score in given) / total + constants.bias if given else None

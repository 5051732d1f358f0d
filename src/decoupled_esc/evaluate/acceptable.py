"""Strategies that would have been accepted beside the one that a person chose, and scores that accept them.

Gold is one person's choice at one moment.  A definition of *acceptable* is a set of strategies at each turn, the gold
one always among them; a prediction in the set counts as if it were gold.  A larger set forgives chance as well as
skill, so scores of one definition are to be read against what a planner without knowledge scores under it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate import strategy
from decoupled_esc.evaluate.bias_sources import expected_counts, scores_of
from decoupled_esc.evaluate.bootstrap import Resampled
from decoupled_esc.evaluate.crossed import Rows

GOLD, RUN, NEAR, MOMENT = "gold alone", "same run of messages", "similar contexts", "same moment of the talk"
NEIGHBOURS = 10
CHOSEN_BY = 2
"""Of the nearest training turns, so many must have used a strategy for it to be acceptable."""
MOMENT_SHARE = 1 / 8
"""Of the training turns at the same stage after the same strategy; an eighth is what an even choice would give."""


def only_gold(turns: Sequence[Turn]) -> np.ndarray:
    """bool [turns, 8]: what the person chose."""
    return np.eye(8, dtype=bool)[strategy.strategy_indices([turn.strategy for turn in turns])]


def in_the_same_run(turns: Sequence[Turn]) -> np.ndarray:
    """bool [turns, 8]: all that the supporter used in messages sent one after the other, whose order is nearly free.

    A turn whose context ends on a blank message goes on where the turn before it stopped; ``turns`` in dialogue order.
    """
    gold, start = only_gold(turns), 0
    found = gold.copy()
    for end in range(1, len(turns) + 1):
        goes_on = (
            end < len(turns)
            and turns[end].dialogue == turns[start].dialogue
            and not turns[end].context[-1].text.strip()
        )
        if not goes_on:
            found[start:end] = gold[start:end].any(axis=0)
            start = end
    return found


def _words(turns: Sequence[Turn]) -> list[str]:
    return [" ".join(message.text for message in turn.context[-3:]) for turn in turns]


def neighbours(train: Sequence[Turn], turns: Sequence[Turn]) -> np.ndarray:
    """int [turns, 10]: ``train`` turns whose last three messages are most similar (TF-IDF, cosine), nearest first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words=None)
    known, asked = vectorizer.fit_transform(_words(train)), vectorizer.transform(_words(turns))
    found = []
    for begin in range(0, len(turns), 200):
        similar = (asked[begin : begin + 200] @ known.T).toarray()
        found.append(np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBOURS])
    return np.concatenate(found)


def in_similar_contexts(train: Sequence[Turn], turns: Sequence[Turn], near: np.ndarray) -> np.ndarray:
    """bool [turns, 8]: gold, and what at least `CHOSEN_BY` of the training turns ``near`` (`neighbours`) used."""
    chosen = only_gold(train)[near].sum(axis=1)
    return only_gold(turns) | (chosen >= CHOSEN_BY)


def at_the_same_moment(train: Sequence[Turn], turns: Sequence[Turn], lengths: Mapping[str, int]) -> np.ndarray:
    """bool [turns, 8]: gold, and what `MOMENT_SHARE` of training turns at that stage, after that strategy, used.

    ``lengths``: utterances of each dialogue, which the stage is relative to.
    """

    def moment(turn: Turn) -> tuple[int, str | None]:
        before = next((message.strategy for message in reversed(turn.context) if message.strategy), None)
        return taxonomy.stage(int(turn.id.rpartition("/")[2]), lengths[turn.dialogue]), before

    used: dict[tuple[int, str | None], np.ndarray] = {}
    for turn, chosen in zip(train, only_gold(train), strict=True):
        used[moment(turn)] = used.get(moment(turn), np.zeros(8)) + chosen
    none = np.zeros(8)
    shares = np.array([used.get(moment(turn), none) / max(1, used.get(moment(turn), none).sum()) for turn in turns])
    return only_gold(turns) | (shares >= MOMENT_SHARE)


def accepted_counts(
    p: np.ndarray, accepted: np.ndarray, truth: np.ndarray, group: np.ndarray, groups: int
) -> np.ndarray:
    """Float [groups, 8, 8]: expected counts of predictions ``p`` [turns, 8], an accepted one as if it were gold."""
    counts = expected_counts(np.where(accepted, 0, p), truth, group, groups)
    right = np.zeros((groups, 8))
    np.add.at(right, group, np.where(accepted, p, 0))
    counts[:, np.arange(8), np.arange(8)] += right
    return counts


def scored(
    systems: Mapping[str, np.ndarray], definitions: Mapping[str, np.ndarray], gold: Sequence[str], group: np.ndarray,
    weights: np.ndarray,
) -> dict[str, Rows]:  # fmt: skip
    """Definition -> system -> `bias_sources.METRICS`; ``systems``: name -> how probable each strategy is [turns, 8]."""
    truth, groups = strategy.strategy_indices(gold), weights.shape[1]
    return {
        name: {
            system: scores_of(accepted_counts(p, accepted, truth, group, groups), weights)
            for system, p in systems.items()
        }
        for name, accepted in definitions.items()
    }


@dataclass(frozen=True)
class Order:
    """How a definition orders systems, against gold alone."""

    pairs: int  # Of systems
    apart: int  # Told apart under this definition: the interval of their difference excludes 0
    swapped: int  # In the other order than under gold alone
    reversed: tuple[str, ...]  # Swapped, and told apart under both: "a over b" as under gold alone


def order(rows: Rows, under_gold: Rows, metric: str) -> Order:
    """How ``rows`` order systems by ``metric``, against ``under_gold``."""
    found = {
        (a, b): [_sign(table[a][metric] - table[b][metric]) for table in (rows, under_gold)]
        for a, b in itertools.combinations(rows, 2)
    }
    turned = [pair if there[1] > 0 else pair[::-1] for pair, (here, there) in found.items() if here[1] * there[1] < 0]
    return Order(
        pairs=len(found),
        apart=sum(here[1] != 0 for here, _ in found.values()),
        swapped=sum(here[0] * there[0] < 0 for here, there in found.values()),
        reversed=tuple(" over ".join(pair) for pair in turned),
    )


def _sign(difference: Resampled) -> tuple[float, float]:
    """(sign of the difference, the same if its interval excludes 0, else 0)."""
    own, sign = difference.estimate(), float(np.sign(difference.value))
    return sign, sign if own.low > 0 or own.high < 0 else 0.0

"""Two factors crossed: how much of a difference between systems each of them carries, turn by turn.

Each system chooses a strategy, the plan, and words a reply under it.  With either system's plans under either's words,
the difference between two systems is the sum of two main effects, and nothing is left over.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from decoupled_esc.evaluate import text
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, bootstrap, ratio_of_sums, together

Rows = dict[str, dict[str, Resampled]]
"""Row -> column -> score."""


def effects(old: np.ndarray, first: np.ndarray, second: np.ndarray, both: np.ndarray) -> dict[str, np.ndarray]:
    """What changing two factors does: ``total``, the main effects ``first`` and ``second``, and ``interaction``.

    Arguments are scores of one shape: of the old system, with the first factor changed, with the second, with both.
    Main effects are means over the other factor's two levels, so that total = first + second; the interaction is how
    much more the first does once the second is changed.
    """
    return {
        "total": both - old,
        "first": ((first - old) + (both - second)) / 2,
        "second": ((second - old) + (both - first)) / 2,
        "interaction": (both - second) - (first - old),
    }


def overlaps(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Float [turns, 6]: `text.METRICS`, variant ``paper``, of each reply, x100."""
    return np.array([text.reply_scores(*pair)["paper"] for pair in zip(replies, references, strict=True)])


def cut_alike(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both replies to each turn, the longer one cut to as many words as the shorter one has."""
    words = [(a.split(), b.split()) for a, b in zip(first, second, strict=True)]
    cut = [[" ".join(own[: min(map(len, both))]) for own in both] for both in words]
    return [a for a, _ in cut], [b for _, b in cut]


def strategy_reader(replies: Sequence[str], strategies: Sequence[str]):
    """Reads a reply's strategy from its words alone: TF-IDF and logistic regression; its ``predict`` takes replies."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, min_df=1 if len(replies) < 500 else 2, ngram_range=(1, 2))
    return make_pipeline(words, LogisticRegression(C=3, max_iter=400)).fit(list(replies), list(strategies))


def means(values: Mapping[str, np.ndarray], columns: Sequence[str], group: np.ndarray, weights: np.ndarray) -> Rows:
    """Means over turns of each row of ``values`` (row -> float [turns, columns]), nan where a turn does not count.

    ``group`` int [turns] numbers the dialogues, ``weights`` [R, D] resamples them.  A column without values is absent.
    """
    found: Rows = {}
    for row, table in values.items():
        found[row] = {}
        for column, own in zip(columns, table.T, strict=True):
            there = ~np.isnan(own)
            if there.any():
                sums = np.bincount(group[there], own[there], weights.shape[1])
                counts = np.bincount(group[there], minlength=weights.shape[1])
                found[row][column] = bootstrap(weights, partial(ratio_of_sums, sums=sums, counts=counts))
    return found


def over_seeds(by_seed: Sequence[Rows]) -> dict[str, dict[str, Estimate]]:
    """Means over the trainings of ``by_seed`` with 95% intervals, of what all of them have."""
    first, *others = by_seed
    return {
        row: {
            column: together([score, *(one[row][column] for one in others)])
            for column, score in columns.items()
            if all(column in one.get(row, {}) for one in others)
        }
        for row, columns in first.items()
    }

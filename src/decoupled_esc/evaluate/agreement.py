"""Agreement between judges, between repeats or orders of one judge, and between raters.

Every coefficient comes with a 95% percentile interval from a bootstrap that samples whole clusters of items (dialogues)
with replacement (``resampling``: see `bootstrap`); the raters stay as they are, so the interval says how the agreement of
*these* raters would vary over other dialogues.

Where chance agreement is perfect, as when every rating is the same, a coefficient is 0/0, which raises `Undefined`.  Such
replicates are left out; if they are more than `MOST_UNDEFINED` of all, and with one cluster, there is no interval.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import krippendorff
import numpy as np

from decoupled_esc.evaluate.bootstrap import Estimate, cluster_weights, percentile_interval

MOST_UNDEFINED = 0.05
"""Percentiles of fewer replicates than 95% would describe the dialogues on which ratings happen to vary."""


class Undefined(ValueError):
    """The ratings are well formed, but the coefficient is 0/0 on them; the message says why."""


def weighted_kappa(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    groups: Sequence[Hashable],
    *,
    labels: Sequence[Hashable],
    weights: Literal["quadratic"] | None = "quadratic",
    **resampling: int,
) -> Estimate:
    """Cohen's kappa (1960, weighted 1968) of two ratings per item, from -1 to 1: 1 - observed / expected disagreement.

    ``a``, ``b`` [items] hold ``labels``, the whole scale in order, used or not: the weight of two labels i and j is
    (i - j)^2, or with ``None`` just i != j, so a level that nobody used must keep its place.  ``groups`` [items] names
    each item's dialogue.  Equal to scikit-learn's ``cohen_kappa_score``, which is too slow to resample.

    Raises ValueError on unequal lengths, no items, or a rating outside ``labels`` (leave out pairs with a missing
    rating, and report how many, or use `krippendorff_alpha`); Undefined if both hold one and the same label only.
    """
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError(f"labels must be at least two different ones, not {list(labels)}")
    _same_length(a, b, groups)
    position = {label: index for index, label in enumerate(labels)}
    for rating in (*a, *b):
        if rating not in position:
            raise ValueError(f"the rating {rating!r} is not one of the labels {list(labels)}")
    k = len(labels)
    cell = np.array([position[x] * k + position[y] for x, y in zip(a, b)])
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    cost = apart**2 if weights else apart > 0

    def kappa(times: np.ndarray) -> float:
        table = np.bincount(cell, times, k * k).reshape(k, k)
        expected = (cost * np.outer(table.sum(1), table.sum(0))).sum() / table.sum()
        return 1 - (cost * table).sum() / expected if expected > 0 else np.nan

    return _estimate(kappa, groups, resampling, "both raters gave every item one and the same label")


def agreed(kappa: float, a: int, b: int, items: int) -> float:
    """How many of ``items`` both raters marked, from Cohen's unweighted ``kappa`` of marked or not, and how many each marked, ``a`` and ``b``."""
    by_chance = (a * b + (items - a) * (items - b)) / items**2
    equal = by_chance + kappa * (1 - by_chance)
    return (items * (equal - 1) + a + b) / 2


def spearman(a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable], **resampling: int) -> Estimate:
    """Spearman's rank correlation of two ratings per item, ties sharing their mean rank; equals scipy's ``spearmanr``.

    ``a``, ``b`` float [items]; ``groups`` [items] names each item's dialogue.  Ranks are taken anew in every replicate.

    Raises ValueError on unequal lengths, no items or a nan; Undefined if one rater gave every item the same value.
    """
    _same_length(a, b, groups)
    if np.isnan(np.asarray([a, b], dtype=float)).any():
        raise ValueError("a rating is nan; leave out pairs with a missing rating, and report how many")
    levels = [np.unique(np.asarray(x, dtype=float), return_inverse=True)[1] for x in (a, b)]

    def correlation(times: np.ndarray) -> float:
        centred = []
        for level in levels:
            count = np.bincount(level, times)
            if np.count_nonzero(count) < 2:
                return np.nan
            middle = (np.cumsum(count) - count / 2)[level]  # the mean rank of each tie, up to a constant
            centred.append(middle - np.average(middle, weights=times))
        x, y = centred
        return (times * x * y).sum() / np.sqrt((times * x * x).sum() * (times * y * y).sum())

    return _estimate(correlation, groups, resampling, "one rater gave every item the same value")


def krippendorff_alpha(
    ratings: np.ndarray,
    groups: Sequence[Hashable],
    *,
    level: Literal["nominal", "ordinal", "interval"],
    **resampling: int,
) -> Estimate:
    """Krippendorff's alpha (2004, chapter 11) of any number of raters, by the ``krippendorff`` package; 1 at the most.

    ``ratings`` float [raters, items], nan where a rater did not rate; ``groups`` [items].  Items with one rating count
    for nothing, as alpha is defined on pairs within an item.  About 6 s for 2,000 replicates of 6,000 items.

    Raises ValueError on another shape, fewer than two raters, or no item with two ratings; Undefined if all ratings
    that can be paired are equal.
    """
    counts, values = _counts(ratings, groups)
    if not (counts.sum(1) >= 2).any():
        raise ValueError("no item has two ratings: agreement needs two raters on the same item")

    def alpha(times: np.ndarray) -> float:
        table = np.repeat(counts, times, axis=0)
        if np.count_nonzero(table[table.sum(1) >= 2].sum(0)) < 2:
            return np.nan
        return float(krippendorff.alpha(value_counts=table, value_domain=values, level_of_measurement=level))

    return _estimate(alpha, groups, resampling, "all ratings that can be paired are equal")


def fleiss_kappa(ratings: np.ndarray, groups: Sequence[Hashable], **resampling: int) -> Estimate:
    """Fleiss' kappa (1971) for nominal ratings, by statsmodels; who rated an item may differ, how many may not.

    ``ratings`` float [raters, items], nan where a rater did not rate; ``groups`` [items].

    Raises ValueError on another shape, fewer than two ratings of an item, or items with unequal numbers of ratings
    (`krippendorff_alpha` takes these); Undefined if all ratings are equal.
    """
    from statsmodels.stats import inter_rater  # a second to import, and wanted by few

    counts, _ = _counts(ratings, groups)
    numbers = sorted(set(counts.sum(1).tolist()))
    if len(numbers) > 1 or numbers[0] < 2:
        raise ValueError(f"items have {numbers} ratings; Fleiss' kappa needs one number, at least 2, on every item")

    def kappa(times: np.ndarray) -> float:
        table = np.repeat(counts, times, axis=0)
        return float(inter_rater.fleiss_kappa(table)) if np.count_nonzero(table.sum(0)) > 1 else np.nan

    return _estimate(kappa, groups, resampling, "all ratings are equal")


def _same_length(*columns: Sequence) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"need ratings and groups of one length, at least 1, not {lengths}")


def _counts(ratings: np.ndarray, groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """How often each value was given to each item: (int [items, values], the values in order)."""
    ratings = np.asarray(ratings, dtype=float)
    if ratings.ndim != 2 or len(ratings) < 2 or ratings.shape[1] != len(groups) or not len(groups):
        raise ValueError(
            f"ratings must be [raters, items] of at least two raters and of the {len(groups)} items in groups, "
            f"not of shape {list(ratings.shape)}"
        )
    values = np.unique(ratings[~np.isnan(ratings)])
    return (ratings.T[:, :, None] == values).sum(1), values


def _estimate(
    coefficient: Callable[[np.ndarray], float], groups: Sequence[Hashable], resampling: dict[str, int], why: str
) -> Estimate:
    """``coefficient`` (int [items], how often each is sampled -> value or nan) on all items and each replicate."""
    numbers = {group: number for number, group in enumerate(sorted(set(groups), key=str))}
    of_item = np.array([numbers[group] for group in groups])
    value = coefficient(np.ones(len(of_item), dtype=int))
    if np.isnan(value):
        raise Undefined(f"agreement is undefined: {why}; report the share of equal ratings instead")
    copies = np.array([coefficient(times[of_item]) for times in cluster_weights(len(numbers), **resampling)])
    defined = copies[~np.isnan(copies)]
    if len(numbers) == 1 or len(defined) < (1 - MOST_UNDEFINED) * len(copies):
        return Estimate(float(value))
    return percentile_interval(value, defined)

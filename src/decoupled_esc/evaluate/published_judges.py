"""What published judges are worth: agreement with experts by dimension, and how far simple rules predict people's preferences.

All raters of a sample are resampled together, by conversation or by person, so means and medians over dimensions and pairs of
raters have intervals of their own.  With quadratic weights kappa is a function of the ratings' first two moments::

    kappa = 1 - E[(a - b)^2] / (E[a^2] + E[b^2] - 2 E[a] E[b])

so a crowd's mean needs no rounding; on the points of a scale it equals `agreement.weighted_kappa` over the whole scale.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.corpus.judgements import EXPERTS, Chat, Rating
from decoupled_esc.evaluate.agreement import MOST_UNDEFINED
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, numbered, percentile_interval
from decoupled_esc.evaluate.bootstrap import ratio_of_sums as ratio

EXPERT_PAIRS = tuple(itertools.combinations(EXPERTS, 2))


class Crossed:
    """Two raters' ratings of the same replies, counted by cluster: [clusters, levels of a * levels of b]."""

    def __init__(self, a: Sequence[float], b: Sequence[float], cluster: Sequence[int], clusters: int):
        """``a``, ``b`` [items]; ``cluster`` int [items]: the number of each item's conversation among ``clusters``."""
        (self.a, first), (self.b, second) = (np.unique(x, return_inverse=True) for x in (a, b))
        self.items = len(a)
        self._cells = np.zeros((clusters, len(self.a) * len(self.b)))
        np.add.at(self._cells, (np.asarray(cluster), first * len(self.b) + second), 1)

    def _tables(self, weights: np.ndarray) -> np.ndarray:
        tables = (weights @ self._cells).reshape(-1, len(self.a), len(self.b))
        return tables / np.maximum(tables.sum((1, 2), keepdims=True), 1)

    def kappa(self, weights: np.ndarray) -> np.ndarray:
        """Quadratic weighted kappa, [R]; nan where both raters gave one and the same value.  ``weights`` [R, clusters]."""
        tables = self._tables(weights)
        p, q = tables.sum(2), tables.sum(1)
        observed = (tables * np.subtract.outer(self.a, self.b) ** 2).sum((1, 2))
        expected = p @ self.a**2 + q @ self.b**2 - 2 * (p @ self.a) * (q @ self.b)
        return 1 - _ratio(observed, expected)

    def rank_correlation(self, weights: np.ndarray) -> np.ndarray:
        """Spearman's rank correlation, ties sharing their mean rank, [R]; nan where a rater gave one value alone."""
        tables = self._tables(weights)
        p, q = tables.sum(2), tables.sum(1)
        x, y = (np.cumsum(share, 1) - share / 2 - 0.5 for share in (p, q))  # mean ranks, as shares, around their mean
        spread = np.sqrt((p * x**2).sum(1) * (q * y**2).sum(1))
        return _ratio(np.einsum("rij,ri,rj->r", tables, x, y), spread)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 1e-12, above / np.where(below > 1e-12, below, 1), np.nan)


@dataclass(frozen=True)
class Agreement:
    """How well one group of raters agrees with experts on one dimension, or in the median over several."""

    sample: str
    dimension: str
    """Or how many dimensions the median is over."""
    raters: str
    items: int
    kappa: Estimate | None
    """Quadratic kappa with the experts' median, as published; between experts the mean over their pairs.  None: undefined."""
    rank: Estimate | None
    """Spearman's rank correlation with the same."""
    each: Estimate | None
    """Mean kappa with each expert alone, the like of the agreement between experts.  None: no single experts are published."""


@dataclass(frozen=True)
class AgreementTable:
    """Agreement with experts: a row per dimension and group of raters, medians over dimensions, what was left out."""

    rows: tuple[Agreement, ...]
    medians: tuple[Agreement, ...]
    left_out: dict[str, int]


def expert_agreement(
    ratings: Sequence[Rating], left_out: Mapping[str, int], *, replicates: int, seed: int
) -> AgreementTable:
    """Agreement of every rater with ``experts``, and of the single experts with one another, by bootstrap over conversations."""
    found, copies = [], {}
    for sample in dict.fromkeys(row.sample for row in ratings):
        rows = [row for row in ratings if row.sample == sample]
        number, clusters = numbered([row.conversation for row in rows])
        sampled = cluster_weights(clusters, replicates, zlib.crc32(f"{seed}/{sample}".encode()))
        weights = np.concatenate([np.ones((1, clusters)), sampled])
        given: dict[str, dict[str, dict]] = {}
        for row, cluster in zip(rows, number):
            of = given.setdefault(row.dimension, {}).setdefault(row.rater, {})
            if (what := (row.conversation, row.writer)) in of:
                raise ValueError(f"{row.rater} rated {' '.join(what)} twice on {row.dimension}; keep one")
            of[what] = (cluster, row.value)
        for dimension, raters in given.items():
            for name, (items, values) in _against_experts(raters, clusters, weights).items():
                copies.setdefault(name, []).append(values)
                found.append(Agreement(sample, dimension, name, items, *map(_estimate, values)))
    medians = []
    for name, all_values in copies.items():
        middle = [_median(measure) for measure in zip(*all_values)]
        own = [row for row in found if row.raters == name]
        samples, items = dict.fromkeys(row.sample for row in own), sum(row.items for row in own)
        undefined = sum(row.kappa is None for row in own)
        over = f"median of {len(own) - undefined}" + (f", {undefined} undefined" if undefined else "")
        medians.append(Agreement(", ".join(samples), over, name, items, *map(_estimate, middle)))
    return AgreementTable(tuple(found), tuple(medians), dict(left_out))


def _against_experts(raters: dict[str, dict], clusters: int, weights: np.ndarray) -> dict[str, tuple[int, tuple]]:
    """Group of raters -> (items, (kappa, rank correlation, kappa with each expert)), each [1 + R], the data as they are first."""

    def crossed(one: str, other: str) -> Crossed:
        both = [key for key in raters[one] if key in raters[other]]
        if not both:
            raise ValueError(f"{one} and {other} rated nothing in common; leave one of them out")
        a, b = ([raters[who][key][1] for key in both] for who in (one, other))
        return Crossed(a, b, [raters[one][key][0] for key in both], clusters)

    def mean(pairs: Sequence[tuple[str, str]], measure: Callable) -> np.ndarray:
        return np.mean([measure(crossed(*pair), weights) for pair in pairs], axis=0)

    found = {}
    if single := {*EXPERTS} <= raters.keys():
        kappa = mean(EXPERT_PAIRS, Crossed.kappa)
        items = crossed(*EXPERT_PAIRS[0]).items
        found["expert–expert"] = (items, (kappa, mean(EXPERT_PAIRS, Crossed.rank_correlation), kappa))
    for rater in [name for name in raters if name not in (*EXPERTS, "experts")]:
        pair = crossed(rater, "experts")
        each = mean([(rater, expert) for expert in EXPERTS], Crossed.kappa) if single else None
        found[f"{rater}–expert"] = (pair.items, (pair.kappa(weights), pair.rank_correlation(weights), each))
    return found


def _median(measures: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The median over dimensions in each replicate, of those whose value is defined on the data; None where none is."""
    defined = [values for values in measures if values is not None and not np.isnan(values[0])]
    return np.ma.median(np.ma.masked_invalid(defined), axis=0).filled(np.nan) if defined else None


def _estimate(values: np.ndarray | None) -> Estimate | None:
    """``values`` [1 + R]; no interval where too many replicates are undefined, as in `agreement`."""
    if values is None or np.isnan(values[0]):
        return None
    defined = values[1:][~np.isnan(values[1:])]
    few = len(defined) < (1 - MOST_UNDEFINED) * (len(values) - 1)
    return Estimate(float(values[0])) if few else percentile_interval(values[0], defined)


def _words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


LONGER, FIRST, WHICH_BOT = "more words by the bot", "earlier in the file", "the bot that others prefer"
RULES: dict[str, Callable[[Chat], float]] = {
    LONGER: lambda chat: _words(chat.replies),
    "more letters by the bot": lambda chat: sum(len(re.findall(r"\w", text)) for text in chat.replies),
    "more words by the person": lambda chat: _words(chat.said[::2]),
}
"""Rule -> a score of a chat; of two chats the one with the higher score is picked."""

FOLDS = 10


@dataclass(frozen=True)
class RuleAccuracy:
    """How often a rule picks, of two chats of one person, the one that this person preferred; in per cent, ties half."""

    rule: str
    ties: int
    accuracy: Estimate
    without_best: Estimate
    """Of the pairs without the bot that is preferred most."""
    new_bot: Estimate | None
    """Mean over bots of the accuracy on pairs with this bot, as if it were new; None for a rule that has to know the bots."""


@dataclass(frozen=True)
class PairAccuracy:
    """The baselines of pairwise preference on iEval."""

    people: int
    pairs: int
    untied: int
    best: str
    rules: tuple[RuleAccuracy, ...]


def untied_pairs(chats: Sequence[Chat]) -> tuple[int, list[tuple[int, int]]]:
    """(how many pairs of chats share a person and a situation; of those that the person ranked apart, the places of the better and the other)."""
    groups: dict[tuple, list[int]] = {}
    for index, chat in enumerate(chats):
        groups.setdefault((chat.person, chat.situation), []).append(index)
    every = [pair for indices in groups.values() for pair in itertools.combinations(indices, 2)]
    pairs = [(i, j) if chats[i].rank > chats[j].rank else (j, i) for i, j in every if chats[i].rank != chats[j].rank]
    return len(every), pairs


def pair_accuracy(chats: Sequence[Chat], **resampling: int) -> PairAccuracy:
    """Rules against ranks within one person and situation, with intervals by bootstrap over people.

    The rule that knows the bots has learned their mean ranks from other people (`FOLDS` folds).  Every person's chats lie in
    one order of bots, so a position bias can't be told from the bots themselves.  Raises ValueError without an untied pair.
    """
    person, people = numbered([chat.person for chat in chats])
    means = [
        {bot: np.mean([c.rank for c, p in zip(chats, person) if c.bot == bot and p % FOLDS != fold] or [0]) for bot in {c.bot for c in chats}}
        for fold in range(FOLDS)
    ]  # fmt: skip
    scores = {name: [rule(chat) for chat in chats] for name, rule in RULES.items()}
    scores[FIRST] = [-index for index in range(len(chats))]
    scores[WHICH_BOT] = [means[p % FOLDS][chat.bot] for chat, p in zip(chats, person)]
    every, pairs = untied_pairs(chats)
    if not pairs:
        raise ValueError("no pair of chats with different ranks: nothing to predict; read the whole file")
    names = sorted({chat.bot for chat in chats})
    best = max(names, key=lambda bot: np.mean([chat.rank for chat in chats if chat.bot == bot]))
    holds = {bot: np.array([bot in (chats[i].bot, chats[j].bot) for i, j in pairs]) for bot in names}
    owner, weights = np.array([person[i] for i, _ in pairs]), cluster_weights(people, **resampling)

    def share(right: np.ndarray, subsets: Sequence[np.ndarray]) -> Estimate:
        sums = [[np.bincount(owner[some], x[some], people) for x in (right, np.ones(len(right)))] for some in subsets]
        return bootstrap(weights, lambda w: 100 * np.mean([ratio(w, *one) for one in sums], axis=0)).estimate()

    rules = []
    for name, given in scores.items():
        right = np.array([(np.sign(given[i] - given[j]) + 1) / 2 for i, j in pairs])
        new = None if name == WHICH_BOT else share(right, list(holds.values()))
        every_pair, others = share(right, [np.ones(len(right), dtype=bool)]), share(right, [~holds[best]])
        rules.append(RuleAccuracy(name, int((right == 0.5).sum()), every_pair, others, new))
    return PairAccuracy(people, every, len(pairs), best, tuple(rules))

"""Judges of replies that learn from people: which of two chats a person preferred, and how experts rate a conversation.

Features come in groups, from a reply's length to its sentence embedding; which groups a judge reads, and how strongly it is
held to simplicity, is chosen by cross-validation inside what it learns from, never by what it is tested on.  The preference judge is
a Bradley-Terry model (1952), logistic regression on the difference between two chats; the rating judge is a kernel ridge regression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.corpus.judgements import Chat, Rating
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, numbered
from decoupled_esc.evaluate.bootstrap import ratio_of_sums as ratio
from decoupled_esc.evaluate.published_judges import untied_pairs

GROUPS = ("words", "different words", "relevance", "surface", "empathy", "embedding")
CANDIDATES = (GROUPS[:1], GROUPS[1:2], *(GROUPS[1:last] for last in range(3, 7)))
"""Groups of features that a judge may read, the simplest first."""

STRENGTHS = (0.1, 1.0, 10.0)
"""Inverse of the penalty on a group's weights, each group scaled to variance 1 as a whole."""

FOLDS, INNER = 5, 3
JUDGE, LENGTH = "learned judge", "length alone"
_FEELING = frozenset("sorry feel feels feeling feelings understand hard difficult tough sounds".split())

Features = Mapping[str, np.ndarray]
"""Group -> float [conversations, its features]."""


def features(
    conversations: Sequence[Sequence[str]],
    encode: Callable[[Sequence[str]], np.ndarray],
    levels: Callable[[Sequence[str]], np.ndarray],
) -> Features:
    """Features of the replies in ``conversations``: messages in turn, the person's first, means over replies.

    ``encode``: texts -> sentence embeddings of unit length; ``levels``: texts -> levels of the mechanisms of empathy.
    """
    replies = [said[1::2] for said in conversations]
    before = [said[: 2 * len(own) : 2] for said, own in zip(conversations, replies, strict=True)]
    place = np.repeat(np.arange(len(replies)), [len(own) for own in replies])
    texts, asked = ([text for own in some for text in own] for some in (replies, before))
    vectors, questions = np.split(encode([*texts, *asked]), 2)

    def means(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(replies), values.shape[1]))
        np.add.at(sums, place, values)
        return sums / np.bincount(place)[:, None]

    words = [[_words(text) for text in own] for own in replies]
    length = [np.log1p(sum(len(said) for said in own)) for own in words]
    different = [np.log1p(len({word for said in own for word in said})) for own in words]
    return {
        "words": np.array(length)[:, None],
        "different words": np.array(different)[:, None],
        "relevance": means((vectors * questions).sum(axis=1, keepdims=True)),
        "surface": means(np.array([_surface(*both) for both in zip(texts, asked, strict=True)])),
        "empathy": means(levels(texts)),
        "embedding": means(vectors),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _surface(reply: str, asked: str) -> tuple[float, ...]:
    own, theirs = set(_words(reply)), set(_words(asked))
    return (
        float("?" in reply), float("!" in reply), float(bool(own & {"you", "your", "you're"})), float(bool(own & {"i", "my", "me", "i'm"})),
        len(own & _FEELING), len(own & theirs) / (1 + len(own)),
    )  # fmt: skip


def _scales(found: Features) -> dict[str, float]:
    """What each group is divided by, to have variance 1 in all."""
    return {name: max(float(np.sqrt(values.var(axis=0).sum())), 1e-9) for name, values in found.items()}


def _blocks(found: Features, groups: Sequence[str], scales: Mapping[str, float]) -> np.ndarray:
    """The scaled features of ``groups`` side by side."""
    return np.hstack([found[name] / scales[name] for name in groups])


class PreferenceJudge:
    """How good a chat is, as far as people's preferences between chats tell: Bradley-Terry on differences of features."""

    def __init__(self, groups: Sequence[str], strength: float):
        self.groups, self.strength = tuple(groups), strength

    @property
    def described(self) -> str:
        """What it reads, in words."""
        return f"{', '.join(self.groups)}; C = {self.strength:g}"

    def fit(self, found: Features, pairs: np.ndarray) -> PreferenceJudge:
        """Learn from ``pairs`` int [pairs, 2]: the chat that was preferred, and the other."""
        from sklearn.linear_model import LogisticRegression

        self._scales = _scales(found)
        gaps = _blocks(found, self.groups, self._scales)[pairs]
        # Without an intercept the two orders of a pair say the same: every other pair is turned round to have both classes.
        sign = np.where(np.arange(len(pairs)) % 2, -1.0, 1.0)
        model = LogisticRegression(C=self.strength, fit_intercept=False, max_iter=300)
        self._weights = model.fit(sign[:, None] * (gaps[:, 0] - gaps[:, 1]), sign > 0).coef_[0]
        return self

    def scores(self, found: Features) -> np.ndarray:
        """float [chats]: of two chats the one with the higher score is preferred."""
        return _blocks(found, self.groups, self._scales) @ self._weights

    def right(self, found: Features, pairs: np.ndarray) -> np.ndarray:
        """float [pairs]: 1 where it prefers the chat that was preferred, half where it can't tell."""
        return _right(self.scores(found), pairs)


def _right(scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return (np.sign(np.round(scores[pairs[:, 0]] - scores[pairs[:, 1]], 12)) + 1) / 2


def choose(found: Features, pairs: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> PreferenceJudge:
    """The judge that is best on the test parts of ``splits`` (learned from, tested on; bool [pairs]), the simplest of equals; fitted to all."""
    judges = [PreferenceJudge(groups, strength) for groups in CANDIDATES for strength in STRENGTHS]
    worth = [
        np.mean([judge.fit(found, pairs[some]).right(found, pairs[others]).mean() for some, others in splits])
        for judge in judges
    ]
    return judges[int(np.argmax(np.round(worth, 12)))].fit(found, pairs)


@dataclass(frozen=True)
class LearnedAccuracy:
    """How often a judge picks, of two chats of one person, the one that this person preferred; in per cent, ties half."""

    judge: str
    by_person: Estimate
    """It learned from other people."""
    over_length: Estimate
    """The same minus length alone, in points."""
    new_writer: Estimate
    """Mean over bots: of the pairs with a bot from whose chats it learned nothing."""
    new_over_length: Estimate
    longer: Estimate
    """How often it picks the chat with more words; people do as often as length alone is right."""
    first: Estimate
    """How often it picks the chat that stands first in the file."""


@dataclass(frozen=True)
class LearnedPreferences:
    """What the preference judge is worth beside length, and what it reads, by the bot that was left out."""

    people: int
    pairs: int
    rows: tuple[LearnedAccuracy, ...]
    chosen: dict[str, str]


def learned_preferences(chats: Sequence[Chat], found: Features, **resampling: int) -> LearnedPreferences:
    """The preference judge on people, and on writers, that it has not learned from; intervals by person."""
    person, people = numbered([chat.person for chat in chats])
    _, listed = untied_pairs(chats)
    pairs, bots = np.array(listed), np.array([chat.bot for chat in chats])
    owner, names = person[pairs[:, 0]], sorted({chat.bot for chat in chats})
    by_person, chosen, new = np.zeros(len(pairs)), {}, {}
    for fold in range(FOLDS):
        held_out = owner % FOLDS == fold
        known, own = pairs[~held_out], owner[~held_out] // FOLDS
        splits = [(own % INNER != part, own % INNER == part) for part in range(INNER)]
        by_person[held_out] = choose(found, known, splits).right(found, pairs[held_out])
    for bot in names:
        held_out = (bots[pairs] == bot).any(axis=1)
        known = pairs[~held_out]
        with_bot = [(bots[known] == other).any(axis=1) for other in names if other != bot]
        judge = choose(found, known, [(~some, some) for some in with_bot])
        new[bot] = (held_out, judge.right(found, pairs[held_out]))
        chosen[bot] = judge.described
    length = _right(found["words"][:, 0], pairs)
    weights, every = cluster_weights(people, **resampling), np.ones(len(pairs), dtype=bool)

    def share(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
        """Mean over ``parts`` (which pairs, values of these) of the mean over pairs, in per cent."""
        sums = [[np.bincount(owner[some], x, people) for x in (values, np.ones(len(values)))] for some, values in parts]
        return bootstrap(weights, lambda w: 100 * np.mean([ratio(w, *one) for one in sums], axis=0)).estimate()

    alone = {bot: (some, length[some]) for bot, (some, _) in new.items()}
    longer = _right(found["words"][:, 0], pairs)
    first = (pairs[:, 0] < pairs[:, 1]).astype(float)
    rows = []
    for name, right, strange in ((JUDGE, by_person, new), (LENGTH, length, alone)):
        gaps = [(some, values - length[some]) for some, values in strange.values()]
        # It picks the chat with the property where it is right and the preferred one has it, or wrong and the other has.
        agrees = [right * has + (1 - right) * (1 - has) for has in (longer, first)]
        shares = [
            [(every, right)],
            [(every, right - length)],
            list(strange.values()),
            gaps,
            *([(every, x)] for x in agrees),
        ]
        rows.append(LearnedAccuracy(name, *map(share, shares)))
    return LearnedPreferences(people, len(pairs), tuple(rows), chosen)


def predicted_ratings(
    ratings: Sequence[Rating], conversations: Sequence[tuple[str, str]], found: Features, seed: int
) -> list[Rating]:
    """Ratings by `JUDGE`, and by `LENGTH`, of every dimension that ``experts`` rated, each from other conversations.

    ``conversations``: (sample, id) of each row of ``found``.  Predictions are stretched to the spread of the ratings that were
    learned from: kappa punishes a rater that keeps to the middle.
    """
    place, wanted, made = {key: number for number, key in enumerate(conversations)}, {}, []
    for row in ratings:
        if row.rater == "experts" and (row.sample, row.conversation) in place:
            wanted.setdefault((row.sample, row.dimension), []).append(row)
    for (sample, dimension), rows in wanted.items():
        own = [place[sample, row.conversation] for row in rows]
        mine = {name: values[own] for name, values in found.items()}
        told = np.array([row.value for row in rows])
        fold = np.random.default_rng(seed).permutation(len(rows)) % (2 * FOLDS)
        for name, candidates in ((JUDGE, CANDIDATES), (LENGTH, CANDIDATES[:1])):
            kernels = [(b := _centred(_blocks(mine, groups, _scales(mine)))) @ b.T for groups in candidates]
            for part in np.unique(fold):
                known = fold != part
                strange = np.flatnonzero(~known)
                for number, value in zip(strange, _rated(kernels, told, known, strange, fold), strict=True):
                    made.append(Rating(sample, rows[number].conversation, "", dimension, name, float(value)))
    return made


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0)


def _ridge(kernel: np.ndarray, told: np.ndarray, known: np.ndarray, wanted: np.ndarray, strength: float) -> np.ndarray:
    """Predictions at ``wanted`` from the ratings ``told`` at ``known`` (indices)."""
    mean = told[known].mean()
    inverse = np.linalg.solve(kernel[np.ix_(known, known)] + np.eye(len(known)) / strength, told[known] - mean)
    return mean + kernel[np.ix_(wanted, known)] @ inverse


def _rated(
    kernels: Sequence[np.ndarray], told: np.ndarray, known: np.ndarray, wanted: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Ratings at ``wanted``, kernel and strength chosen by cross-validation among ``known``; stretched and cut to the scale in use."""
    inside, parts = np.flatnonzero(known), np.unique(fold[known])
    best, chosen = np.inf, None
    for kernel in kernels:
        for strength in STRENGTHS:
            guess = np.zeros(len(told))
            for part in parts:
                learned, held_out = np.flatnonzero(known & (fold != part)), np.flatnonzero(known & (fold == part))
                guess[held_out] = _ridge(kernel, told, learned, held_out, strength)
            error = float(np.square(guess[inside] - told[inside]).sum())
            if error < best - 1e-9:
                best, chosen = error, (kernel, strength, guess[inside].std())
    kernel, strength, spread = chosen
    mean, values = told[inside].mean(), _ridge(kernel, told, inside, wanted, strength)
    stretched = mean + (values - mean) * (told[inside].std() / spread if spread > 1e-6 else 1.0)
    return np.clip(stretched, told[inside].min(), told[inside].max())

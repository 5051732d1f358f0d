"""Judges of replies that learn from people: which of two chats a person preferred, and how experts rate a conversation.

Features come in groups, from a reply's length to its sentence embedding.  Which groups a judge reads, and how strongly it is held
to simplicity, is chosen by cross-validation inside what it learns from, or on ratings of other writers' replies (`groups_for_ratings`);
never by what it is tested on.  The preference judge is a Bradley-Terry model (1952), logistic regression on the difference between
two chats; the rating judge is a kernel ridge regression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from decoupled_esc.corpus.judgements import Chat, Rating
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, numbered
from decoupled_esc.evaluate.bootstrap import ratio_of_sums as ratio
from decoupled_esc.evaluate.published_judges import untied_pairs

GROUPS = ("words", "different words", "relevance", "empathy", "surface", "embedding")
CANDIDATES = (GROUPS[:1], GROUPS[1:2], *(GROUPS[1:last] for last in range(3, 7)))
"""Groups of features that a judge may read, the simplest first."""

MODEL_GROUPS = ("likelihood", "hidden states")
"""What a language model adds (`read_by_model`): how likely it finds the replies, and its hidden states over them."""

MODEL_CANDIDATES = (
    (*GROUPS[1:3], "likelihood"), (*GROUPS[1:], "likelihood"), (*GROUPS[1:5], *MODEL_GROUPS), (*GROUPS[1:], *MODEL_GROUPS),
)  # fmt: skip
"""What a judge may read beside `CANDIDATES` where a language model has read the conversations."""

STRENGTHS = (0.1, 1.0)
"""Inverse of the penalty on a group's weights, each group scaled to variance 1 as a whole."""

FOLDS, INNER = 5, 3
JUDGE, LENGTH, TRANSFERRED = "learned judge", "length alone", "learned judge, groups chosen on experts' ratings"
WITH_MODEL = "learned judge that may read with SmolLM2"
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


def is_read_by_a_model(found: Features) -> bool:
    """Whether ``found`` has what a language model adds."""
    return set(MODEL_GROUPS) <= found.keys()


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


def choose(
    found: Features,
    pairs: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    candidates: Sequence[tuple[str, ...]],
) -> PreferenceJudge:
    """The judge that is best on the test parts of ``splits`` (learned from, tested on; bool [pairs]), the simplest of equals; fitted to all."""
    judges = [PreferenceJudge(groups, strength) for groups in candidates for strength in STRENGTHS]
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
    """Mean over bots: of the pairs with a bot from whose chats it learned nothing; and from other people's."""
    new_over_length: Estimate
    by_writer: dict[str, Estimate]
    """Bot -> the accuracy whose mean is ``new_writer``."""
    by_writer_over_length: dict[str, Estimate]
    longer: Estimate
    """How often it picks the chat with more words; people do as often as length alone is right."""
    first: Estimate
    """How often it picks the chat that stands first in the file; asked the other way round it picks the same one."""

    def over_writers(self) -> Estimate:
        """``new_over_length`` with the interval over bots, as samples of writers, by Student's t: what it says of another writer."""
        gaps = np.array([gap.value for gap in self.by_writer_over_length.values()])
        half = student.isf(0.025, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
        return Estimate(float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half))


@dataclass(frozen=True)
class LearnedPreferences:
    """What the preference judge is worth beside length."""

    people: int
    pairs: int
    rows: tuple[LearnedAccuracy, ...]
    chosen: dict[str, str]
    """What `JUDGE` reads, by the bot that was left out; and the other judges, under their names."""


Chooser = Callable[[np.ndarray, list[tuple[np.ndarray, np.ndarray]]], PreferenceJudge]
"""From pairs [pairs, 2] and splits of them to a judge that has learned from these pairs."""


class _Tested:
    """iEval's pairs, and how a judge does on those of people, and of bots, from which it has not learned."""

    def __init__(self, chats: Sequence[Chat], found: Features):
        self.person, self.people = numbered([chat.person for chat in chats])
        self.found, self.pairs = found, np.array(untied_pairs(chats)[1])
        self.bots, self.names = np.array([chat.bot for chat in chats]), sorted({chat.bot for chat in chats})
        self.owner = self.person[self.pairs[:, 0]]

    def with_bot(self, bot: str) -> np.ndarray:
        """bool [pairs]."""
        return (self.bots[self.pairs] == bot).any(axis=1)

    def by_person(self, chooser: Chooser) -> np.ndarray:
        """float [pairs]: whether it was right, having learned from other people."""
        right = np.zeros(len(self.pairs))
        for fold in range(FOLDS):
            held_out = self.owner % FOLDS == fold
            own = self.owner[~held_out] // FOLDS
            splits = [(own % INNER != part, own % INNER == part) for part in range(INNER)]
            right[held_out] = chooser(self.pairs[~held_out], splits).right(self.found, self.pairs[held_out])
        return right

    def by_bot(self, chooser: Chooser) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
        """(bot -> whether it was right on the pairs with this bot, having learned from others of other people; bot -> what it read).

        Of other people, since a pair with the new bot holds a known one's chat, whose rank among its person's would be known.
        """
        right, reads = {}, {}
        for bot in self.names:
            own, others = self.with_bot(bot), [name for name in self.names if name != bot]
            right[bot], reads[bot] = np.zeros(own.sum()), []
            for fold in range(INNER):
                mine = self.owner % INNER == fold
                known, held_out = ~own & ~mine, own & mine
                part = self.owner[known] // INNER % len(others)
                with_other = [self.with_bot(other)[known] for other in others]
                splits = [(~some & (part != k), some & (part == k)) for k, some in enumerate(with_other)]
                judge = chooser(self.pairs[known], splits)
                right[bot][mine[own]] = judge.right(self.found, self.pairs[held_out])
                reads[bot].append(judge.described)
        return right, reads


def learned_preferences(
    chats: Sequence[Chat], found: Features, outside: Sequence[str], **resampling: int
) -> LearnedPreferences:
    """The preference judge on people, and on writers, that it has not learned from; intervals by person.

    ``outside``: the groups of features that were chosen on other judgements (`groups_for_ratings`).
    """
    tested = _Tested(chats, found)
    pairs, owner, weights = tested.pairs, tested.owner, cluster_weights(tested.people, **resampling)
    every = np.ones(len(pairs), dtype=bool)

    def share(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
        """Mean over ``parts`` (which pairs, values of these) of the mean over pairs, in per cent."""
        sums = [
            [np.bincount(owner[some], x, tested.people) for x in (values, np.ones(len(values)))]
            for some, values in parts
        ]
        return bootstrap(weights, lambda w: 100 * np.mean([ratio(w, *one) for one in sums], axis=0)).estimate()

    length = _right(found["words"][:, 0], pairs)
    place = (pairs[:, 0] < pairs[:, 1]).astype(float)

    def row(name: str, right: np.ndarray, strange: Mapping[str, np.ndarray]) -> LearnedAccuracy:
        new = {bot: (tested.with_bot(bot), values) for bot, values in strange.items()}
        gaps = {bot: (some, values - length[some]) for bot, (some, values) in new.items()}
        # It picks the chat with a property where it is right and the preferred one has it, or wrong and the other has.
        longer, first = ([(every, right * has + (1 - right) * (1 - has))] for has in (length, place))
        return LearnedAccuracy(
            judge=name,
            by_person=share([(every, right)]),
            over_length=share([(every, right - length)]),
            new_writer=share(list(new.values())),
            new_over_length=share(list(gaps.values())),
            by_writer={bot: share([part]) for bot, part in new.items()},
            by_writer_over_length={bot: share([part]) for bot, part in gaps.items()},
            longer=share(longer),
            first=share(first),
        )

    choosers: dict[str, Chooser] = {
        JUDGE: lambda known, splits: choose(found, known, splits, CANDIDATES),
        TRANSFERRED: lambda known, splits: PreferenceJudge(outside, 1.0).fit(found, known),
    }
    if is_read_by_a_model(found):
        choosers[WITH_MODEL] = lambda known, splits: choose(found, known, splits, CANDIDATES + MODEL_CANDIDATES)
    rows, chosen = [], {}
    for name, chooser in choosers.items():
        strange, reads = tested.by_bot(chooser)
        told = {bot: " / ".join(dict.fromkeys(own)) for bot, own in reads.items()}
        chosen |= told if name == JUDGE else {name: " / ".join(dict.fromkeys(told.values()))}
        rows.append(row(name, tested.by_person(chooser), strange))
    rows.append(row(LENGTH, length, {bot: length[tested.with_bot(bot)] for bot in tested.names}))
    return LearnedPreferences(tested.people, len(pairs), tuple(rows), chosen)


def _by_dimension(
    ratings: Sequence[Rating], conversations: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[list[int], np.ndarray]]:
    """(sample, dimension) -> (the conversations that ``experts`` rated, by place; their ratings)."""
    place, found = {key: number for number, key in enumerate(conversations)}, {}
    for row in ratings:
        if row.rater == "experts" and (row.sample, row.conversation) in place:
            found.setdefault((row.sample, row.dimension), []).append((place[row.sample, row.conversation], row.value))
    return {key: ([one for one, _ in rows], np.array([value for _, value in rows])) for key, rows in found.items()}


def _parts(rows: int, seed: int) -> np.ndarray:
    """int [rows]: a part of ten for each, at random."""
    return np.random.default_rng(seed).permutation(rows) % (2 * FOLDS)


def _kernel(found: Features, groups: Sequence[str]) -> np.ndarray:
    """Products [rows, rows] of the scaled and centred features of ``groups``."""
    values = _blocks(found, groups, _scales(found))
    values = values - values.mean(axis=0)
    return values @ values.T


def groups_for_ratings(
    ratings: Sequence[Rating], conversations: Sequence[tuple[str, str]], found: Features, seed: int
) -> tuple[str, ...]:
    """The groups of features that predict experts' ratings best: mean correlation over dimensions, out of fold, the simplest of equals."""
    worth = np.zeros((len(CANDIDATES), len(STRENGTHS)))
    for own, told in _by_dimension(ratings, conversations).values():
        fold, mine = _parts(len(own), seed), {name: values[own] for name, values in found.items()}
        for k, groups in enumerate(CANDIDATES):
            kernel = _kernel(mine, groups)
            for m, strength in enumerate(STRENGTHS):
                guess = _out_of_fold(kernel, told, np.ones(len(told), dtype=bool), fold, strength)
                both = guess.std() > 1e-9 and told.std() > 1e-9
                worth[k, m] += np.corrcoef(guess, told)[0, 1] if both else 0.0
    return CANDIDATES[int(np.argmax(np.round(worth.max(axis=1), 12)))]


def predicted_ratings(
    ratings: Sequence[Rating], conversations: Sequence[tuple[str, str]], found: Features, seed: int
) -> list[Rating]:
    """Ratings by `JUDGE`, `LENGTH` and `WITH_MODEL` of every dimension that ``experts`` rated, each from other conversations.

    ``conversations``: (sample, id) of each row of ``found``.  Predictions are stretched to the spread of the ratings that were
    learned from: kappa punishes a rater that keeps to the middle.
    """
    made, raters = [], {JUDGE: CANDIDATES, LENGTH: CANDIDATES[:1]}
    if is_read_by_a_model(found):
        raters[WITH_MODEL] = CANDIDATES + MODEL_CANDIDATES
    for (sample, dimension), (own, told) in _by_dimension(ratings, conversations).items():
        fold, mine = _parts(len(own), seed), {name: values[own] for name, values in found.items()}
        for rater, candidates in raters.items():
            kernels = [_kernel(mine, groups) for groups in candidates]
            for part in np.unique(fold):
                values = _rated(kernels, told, fold != part, fold)
                for number, value in zip(np.flatnonzero(fold == part), values, strict=True):
                    made.append(Rating(sample, conversations[own[number]][1], "", dimension, rater, float(value)))
    return made


def _ridge(kernel: np.ndarray, told: np.ndarray, known: np.ndarray, wanted: np.ndarray, strength: float) -> np.ndarray:
    """Predictions at ``wanted`` from the ratings ``told`` at ``known`` (bool)."""
    mean = told[known].mean()
    inverse = np.linalg.solve(kernel[np.ix_(known, known)] + np.eye(known.sum()) / strength, told[known] - mean)
    return mean + kernel[np.ix_(wanted, known)] @ inverse


def _out_of_fold(
    kernel: np.ndarray, told: np.ndarray, known: np.ndarray, fold: np.ndarray, strength: float
) -> np.ndarray:
    """Predictions of the ratings at ``known``, each from the other parts of it."""
    guess = np.zeros(len(told))
    for part in np.unique(fold[known]):
        held_out = known & (fold == part)
        guess[held_out] = _ridge(kernel, told, known & ~held_out, held_out, strength)
    return guess[known]


def _rated(kernels: Sequence[np.ndarray], told: np.ndarray, known: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Ratings where they are not ``known``, kernel and strength chosen by cross-validation; stretched, and cut to the scale in use."""
    guesses = [(kernel, s, _out_of_fold(kernel, told, known, fold, s)) for kernel in kernels for s in STRENGTHS]
    errors = [float(np.round(np.square(guess - told[known]).sum(), 9)) for *_, guess in guesses]
    kernel, strength, guess = guesses[int(np.argmin(errors))]
    mean, values = told[known].mean(), _ridge(kernel, told, known, ~known, strength)
    stretch = told[known].std() / guess.std() if guess.std() > 1e-6 else 1.0
    return np.clip(mean + (values - mean) * stretch, told[known].min(), told[known].max())

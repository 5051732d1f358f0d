"""Judges that need no server: an error classifier and an empathy scale, trained on public labels in seconds.

Neither is the LLM judge, and no number of theirs stands under its name.  What each is worth is measured where it was
not trained: the classifier on dialogues, and on writers, that it has not seen (`error_validity`), or on another source
(`out_of_source_validity`); the scale on other posts, and on what the seekers of ESConv said of their supporters (`against_seekers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, compress

import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Dialogue
from decoupled_esc.corpus.empathy import MECHANISMS, RatedReply, by_mechanism
from decoupled_esc.evaluate.agreement import Undefined, spearman, weighted_kappa
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, numbered, percentile_interval
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Means, Reply
from decoupled_esc.evaluate.judges import FILTERED

FOLDS = 5


class ErrorClassifier:
    """Which psychological error GPT would see in a reply: logistic regression on its words and what surrounds them."""

    id = "error classifier"

    def fit(self, replies: Sequence[Reply], labels: Sequence[str]) -> ErrorClassifier:
        """Learn from ``labels`` (of ``errors.LABELS``).  Raises ValueError if they are all the same."""
        # scikit-learn takes a second to import: not for readers of results
        from sklearn.compose import ColumnTransformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        few = _rare(len(replies))
        features = ColumnTransformer(
            [
                ("words", _tfidf(few, (1, 2)), "reply"),
                ("spelling", _tfidf(few + 1, (2, 5), analyzer="char_wb"), "reply"),
                ("asked", _tfidf(few, (1, 2)), "seeker"),
                # The same words are welcome under one strategy and an error under another.
                ("under strategy", _tfidf(few, token_pattern=r"\S+"), "under"),
                ("strategy", OneHotEncoder(handle_unknown="ignore"), ["strategy"]),
                ("surface", StandardScaler(), _SURFACE),
            ],
            transformer_weights={"surface": 0.3},
        )
        self._model = make_pipeline(features, LogisticRegression(max_iter=400)).fit(_table(replies), list(labels))
        return self

    def probabilities(self, replies: Sequence[Reply]) -> np.ndarray:
        """float [replies, 6], columns as ``errors.LABELS``; a label that was not learned has 0."""
        found = np.zeros((len(replies), len(LABELS)))
        if len(replies):
            learned = [LABELS.index(label) for label in self._model.classes_]
            found[:, learned] = self._model.predict_proba(_table(replies))
        return found

    def errors(self, replies: Sequence[Reply]) -> list[str]:
        """The most probable label of each reply."""
        return [LABELS[i] for i in self.probabilities(replies).argmax(axis=1)]


class EmpathyScale:
    """How strongly a reply shows each of three mechanisms of empathy: the expected level, 0 to 2, of a human rating."""

    id = "empathy scale"

    def fit(self, rated: Sequence[RatedReply]) -> EmpathyScale:
        """Learn one model per mechanism."""
        self._models = [
            _mechanism(len(rows)).fit([row.reply for row in rows], [row.level for row in rows])
            for rows in by_mechanism(rated).values()
        ]
        return self

    def levels(self, texts: Sequence[str]) -> np.ndarray:
        """float [texts, 3], columns as ``corpus.empathy.MECHANISMS``."""
        if not len(texts):
            return np.zeros((0, len(MECHANISMS)))
        return np.stack([model.predict_proba(texts) @ model.classes_ for model in self._models], axis=1)


def _rare(texts: int) -> int:
    """In how many texts a word must occur to be learned: of the miniature, every word counts."""
    return 1 if texts < 500 else 2


def _tfidf(min_df: int, ngram_range: tuple[int, int] = (1, 1), **how):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, min_df=min_df, ngram_range=ngram_range, **how)


def _mechanism(texts: int):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    few = _rare(texts)
    words, spelling = _tfidf(few, (1, 2)), _tfidf(few + 1, (2, 4), analyzer="char_wb")
    return make_pipeline(make_union(words, spelling), LogisticRegression(C=3, max_iter=500))


def _folds(count: int, seed: int):
    """A split by group in ``count`` parts, at random."""
    from sklearn.model_selection import GroupKFold

    return GroupKFold(count, shuffle=True, random_state=seed)


_FEELING = frozenset("sorry feel feels feeling feelings understand hard difficult tough sounds".split())
_SURFACE = [
    "length", "asks", "ends asking", "questions", "exclamations", "echoes seeker", "seeker silent", "seeker length",
    "opening", "turn", "late", "said before", "much said before", "speaks of self", "addresses", "feeling words",
    "lower case",
]  # fmt: skip


def _table(replies: Sequence[Reply]) -> pd.DataFrame:
    """What the classifier sees of each reply, one row per reply."""
    rows = []
    for reply in replies:
        text, asked, turns = reply.text, reply.turn.context[-1].text, len(reply.turn.context)
        words = text.lower().split()
        own, theirs = set(words), set(asked.lower().split())
        before = [m.text.lower() for m in reply.turn.context if m.role == "supporter"]
        shared = [len(own & set(said.split())) / (1 + len(own | set(said.split()))) for said in before]
        strategy = reply.strategy or "none"
        surface = (
            np.log1p(len(words)), "?" in text, text.rstrip().endswith("?"), text.count("?"), text.count("!"),
            len(own & theirs) / (1 + len(own)), not asked.strip(), np.log1p(len(asked.split())), turns == 1,
            min(turns, 40) / 20, np.log1p(turns), text.lower() in before, max(shared, default=0.0),
            bool(own & {"i", "my", "me", "i'm"}), len(own & {"you", "your", "you're"}), len(own & _FEELING),
            text[:1].islower(),
        )  # fmt: skip
        under = " ".join(f"{strategy[:4]}_{word}" for word in words)
        rows.append((text, asked, under, strategy, *map(float, surface)))
    return pd.DataFrame(rows, columns=["reply", "seeker", "under", "strategy", *_SURFACE])


def out_of_fold(replies: Sequence[Reply], labels: Sequence[str], targets: Sequence[Reply], *, seed: int) -> np.ndarray:
    """Probabilities [targets, 6], each target's from a classifier that learned from none of its dialogue.

    Dialogues, labelled or not, are split in five.  Raises ValueError with fewer than two labelled dialogues.
    """
    dialogues, wanted = ([reply.turn.dialogue for reply in some] for some in (replies, targets))
    if len(set(dialogues)) < 2:
        raise ValueError("to learn from other dialogues there must be labels of at least two")
    names = sorted({*dialogues, *wanted})
    found = np.zeros((len(targets), len(LABELS)))
    for _, held_out in _folds(min(FOLDS, len(names)), seed).split(names, groups=names):
        apart = {names[i] for i in held_out}
        if here := [i for i, name in enumerate(wanted) if name in apart]:
            learned = [i for i, name in enumerate(dialogues) if name not in apart]
            classifier = ErrorClassifier().fit([replies[i] for i in learned], [labels[i] for i in learned])
            found[here] = classifier.probabilities([targets[i] for i in here])
    return found


def of_unseen_writers(replies: Sequence[Reply], labels: Sequence[str], sources: Sequence[str], *, seed: int) -> np.ndarray:  # fmt: skip
    """Probabilities [replies, 6], each from a classifier that learned neither from its dialogue nor from its writer (``sources``)."""
    found = np.zeros((len(replies), len(LABELS)))
    for source in dict.fromkeys(sources):
        own = [one == source for one in sources]
        others = [[one for one, mine in zip(column, own, strict=True) if not mine] for column in (replies, labels)]
        found[own] = out_of_fold(*others, list(compress(replies, own)), seed=seed)
    return found


@dataclass(frozen=True)
class LabelValidity:
    """Accuracy and macro-F1 (x100) and Cohen's kappa of guessed labels, with 95% intervals by dialogue."""

    replies: int
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class MajorityValidity(LabelValidity):
    """What guessing the most frequent label alone is worth."""

    label: str


@dataclass(frozen=True)
class LabelShare:
    """A label's share of a writer's replies in per cent, by the labels and by mean predicted probability."""

    labelled: float
    predicted: float  # The classifier has not learned from this writer
    known: float  # It has, in other dialogues


@dataclass(frozen=True)
class ErrorValidity:
    """What the classifier is worth against the labels it learns from, on dialogues it has not seen."""

    majority: MajorityValidity
    unseen_dialogues: dict[str, LabelValidity]
    """Of ``all`` replies, by source, and of those whose dialogue is ``sure`` or ``guessed``."""
    unseen_writers: dict[str, LabelValidity]
    """The harder test, which counts for a new model: neither the dialogue nor that writer was learned from."""
    shares: dict[str, dict[str, LabelShare]]  # Source -> label
    differences: dict[str, dict[str, LabelShare]]  # ``"a - b"`` of two sources -> label

    def share_errors(self) -> dict[str, float]:
        """Label -> by how many points the predicted share of a writer that was not learned from is off, at most."""
        return _largest(self.shares)

    def difference_errors(self) -> dict[str, float]:
        """Label -> the same of a difference between two writers: what a difference between systems has to exceed."""
        return _largest(self.differences)


def _largest(found: Mapping[str, Mapping[str, LabelShare]]) -> dict[str, float]:
    return {label: max(abs(of[label].predicted - of[label].labelled) for of in found.values()) for label in LABELS}


@dataclass(frozen=True)
class FoundError:
    """How well a judge finds one error, or any of several."""

    labelled: int  # Replies that have it by the labels
    guessed: int  # Replies that have it by the judge
    kappa: Estimate  # Cohen's, of having it or not


@dataclass(frozen=True)
class OutOfSourceValidity:
    """What a judge is worth on replies of a source, dialogues and writers, from which it learned nothing."""

    by_source: dict[str, LabelValidity]  # And of ``all``
    errors: dict[str, FoundError]  # Each error; ``any`` of them; and ``any of three``, by which pairs are filtered


def label_validity(
    truth: Sequence[str], guess: Sequence[str], dialogues: Sequence[str], *, labels: Sequence = LABELS, **resampling: int
) -> LabelValidity:  # fmt: skip
    """The validity of ``guess`` [replies] against ``truth``.

    A label that occurs on neither side counts in macro-F1 with 0, as in scikit-learn with ``labels=`` given.
    """
    (place, groups), size = numbered(dialogues), len(labels)
    tables = np.zeros((groups, size, size))
    np.add.at(tables, (place, [labels.index(x) for x in truth], [labels.index(x) for x in guess]), 1)
    weights = cluster_weights(groups, **resampling)

    def of(score: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        return bootstrap(weights, lambda times: score(np.einsum("rd,dij->rij", times, tables))).estimate()

    return LabelValidity(
        replies=len(place),
        accuracy=of(lambda t: 100 * np.trace(t, axis1=1, axis2=2) / t.sum((1, 2))),
        macro_f1=of(lambda t: 100 * _f1(t).mean(axis=1)),
        kappa=of(_kappa),
    )


def _f1(tables: np.ndarray) -> np.ndarray:
    """[R, labels, labels] (truth, guess) -> [R, labels]."""
    hits, both = np.diagonal(tables, axis1=1, axis2=2), tables.sum(axis=1) + tables.sum(axis=2)
    return 2 * hits / np.where(both > 0, both, 1)


def _kappa(tables: np.ndarray) -> np.ndarray:
    total = tables.sum((1, 2))
    agreed = np.trace(tables, axis1=1, axis2=2) / total
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
    return np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def error_validity(
    replies: Sequence[Reply], labels: Sequence[str], sources: Sequence[str], sure: Sequence[bool], **resampling: int
) -> ErrorValidity:
    """The classifier's worth; ``sources``: who wrote each reply; ``sure``: its dialogue is known and not guessed."""
    dialogues, everyone = [reply.turn.dialogue for reply in replies], list(range(len(labels)))
    by_source = {source: [i for i in everyone if sources[i] == source] for source in dict.fromkeys(sources)}
    known = out_of_fold(replies, labels, replies, seed=resampling["seed"])
    unseen = of_unseen_writers(replies, labels, sources, seed=resampling["seed"])

    def validity(guess: Sequence[str], where: Sequence[int]) -> LabelValidity:
        truth, groups = [labels[i] for i in where], [dialogues[i] for i in where]
        return label_validity(truth, [guess[i] for i in where], groups, **resampling)

    def validities(probabilities: np.ndarray, parts: Mapping[str, list[int]]) -> dict[str, LabelValidity]:
        guess = [LABELS[i] for i in probabilities.argmax(axis=1)]
        return {name: validity(guess, where) for name, where in parts.items() if where}

    def shares(where: list[int]) -> np.ndarray:
        """[3, labels] in per cent: labelled, predicted for an unseen writer, predicted for a known one."""
        told = [np.mean([labels[i] == label for i in where]) for label in LABELS]
        return 100 * np.stack([told, unseen[where].mean(axis=0), known[where].mean(axis=0)])

    def named(rows: np.ndarray) -> dict[str, LabelShare]:
        return {label: LabelShare(*rows[:, k].tolist()) for k, label in enumerate(LABELS)}

    majority, of = max(LABELS, key=list(labels).count), {source: shares(where) for source, where in by_source.items()}
    by_certainty = {"sure": [i for i in everyone if sure[i]], "guessed": [i for i in everyone if not sure[i]]}
    return ErrorValidity(
        majority=MajorityValidity(**vars(validity([majority] * len(labels), everyone)), label=majority),
        unseen_dialogues=validities(known, {"all": everyone, **by_source, **by_certainty}),
        unseen_writers=validities(unseen, {"all": everyone, **by_source}),
        shares={source: named(rows) for source, rows in of.items()},
        differences={f"{a} - {b}": named(of[a] - of[b]) for a, b in combinations(of, 2)},
    )


def out_of_source_validity(
    replies: Sequence[Reply], labels: Sequence[str], sources: Sequence[str], guess: Sequence[str], **resampling: int
) -> OutOfSourceValidity:
    """The validity of ``guess`` [replies] by a judge that learned from none of these dialogues and writers."""
    dialogues = [reply.turn.dialogue for reply in replies]
    parts = {"all": [True] * len(labels)} | {name: [one == name for one in sources] for name in dict.fromkeys(sources)}
    kinds = {name: (name,) for name in taxonomy.ERRORS} | {"any": taxonomy.ERRORS, "any of three": FILTERED}
    found = {}
    for name, kind in kinds.items():
        has = [label in kind for label in labels], [label in kind for label in guess]
        kappa = label_validity(*has, dialogues, labels=(False, True), **resampling).kappa
        found[name] = FoundError(sum(has[0]), sum(has[1]), kappa)
    return OutOfSourceValidity(
        by_source={
            name: label_validity(*(list(compress(column, kept)) for column in (labels, guess, dialogues)), **resampling)
            for name, kept in parts.items()
        },
        errors=found,
    )


@dataclass(frozen=True)
class MechanismValidity:
    """What the scale of one mechanism is worth on posts it has not seen, against human ratings; intervals by post."""

    ratings: tuple[int, ...]  # How often each level was given
    accuracy: Estimate  # Of the most probable level, in per cent
    majority: float  # Share of the most frequent level, in per cent
    kappa: Estimate  # Quadratically weighted
    rank_correlation: Estimate  # Spearman's, of the expected level


def empathy_validity(rated: Sequence[RatedReply], **resampling: int) -> dict[str, MechanismValidity]:
    """Mechanism -> its validity, by cross-validation over posts."""
    from sklearn.model_selection import cross_val_predict

    found = {}
    for mechanism, rows in by_mechanism(rated).items():
        posts, levels = [row.post for row in rows], np.array([row.level for row in rows])
        texts, folds = [row.reply for row in rows], _folds(FOLDS, resampling["seed"])
        model = _mechanism(len(rows))
        probabilities = cross_val_predict(model, texts, levels, groups=posts, cv=folds, method="predict_proba")
        guess, ratings = probabilities.argmax(axis=1), np.bincount(levels, minlength=3)
        found[mechanism] = MechanismValidity(
            ratings=tuple(ratings.tolist()),
            accuracy=Means(posts, **resampling).of(100.0 * (guess == levels)),
            majority=100 * float(ratings.max()) / len(levels),
            kappa=weighted_kappa(guess.tolist(), levels.tolist(), posts, labels=[0, 1, 2], **resampling),
            rank_correlation=spearman(probabilities @ np.arange(3), levels, posts, **resampling),
        )
    return found


MEASURES = (*MECHANISMS, "all three", "words")
"""What `against_seekers` compares: mechanisms, their sum, and the length of a reply, which any scale has to beat."""


@dataclass(frozen=True)
class RatingCorrelations:
    """How often each rating from 1 to 5 was given, and Spearman's correlation of each measure with the ratings."""

    ratings: tuple[int, ...]
    correlations: dict[str, Estimate | None]  # None: without ratings, or where it is 0/0


@dataclass(frozen=True)
class SeekerValidity:
    """The scale on human replies, against what the seekers whom they were meant for said of them."""

    means: dict[str, dict[str, Estimate]]  # Corpus -> measure -> mean over supporters' utterances
    dialogues: dict[str, RatingCorrelations]
    """Corpus -> a dialogue's mean against the seeker's rating of empathy after the conversation."""
    feedback: dict[str, RatingCorrelations]
    """Corpus -> the same for the utterances before each rating during the conversation, where a corpus has these."""
    higher: dict[str, Estimate]
    """Measure -> how often, in per cent, a dialogue of the first corpus is above one of the second (50: chance)."""


def against_seekers(
    scale: EmpathyScale, corpora: Mapping[str, Sequence[Dialogue]], **resampling: int
) -> SeekerValidity:
    """The validity of ``scale`` on two ``corpora`` (name -> dialogues)."""
    means, after, during, by_dialogue = {}, {}, {}, []
    for name, dialogues in corpora.items():
        said = [u for d in dialogues for u in d.utterances if u.role == "supporter"]
        levels = scale.levels([u.text for u in said])
        words = np.array([[len(u.text.split())] for u in said], dtype=float)
        table = np.hstack([levels, levels.sum(1, keepdims=True), words])
        measured = dict(zip((u.id for u in said), table, strict=True))
        own = []
        for dialogue in dialogues:
            if rows := [measured[u.id] for u in dialogue.utterances if u.id in measured]:
                own.append((np.mean(rows, axis=0), dialogue.survey.empathy, dialogue.id))
        by_dialogue.append(np.array([mean for mean, *_ in own]))
        every = Means([u.id.rsplit("/", 1)[0] for u in said], **resampling)
        means[name] = {measure: every.of(table[:, k]) for k, measure in enumerate(MEASURES)}
        after[name] = _correlations([row for row in own if row[1] is not None], **resampling)
        during[name] = _correlations(list(_rated_during(dialogues, measured)), **resampling)
    first, second = by_dialogue
    higher = {measure: _higher(first[:, k], second[:, k], **resampling) for k, measure in enumerate(MEASURES)}
    return SeekerValidity(means, after, during, higher)


def _rated_during(
    dialogues: Sequence[Dialogue], measured: Mapping[str, np.ndarray]
) -> Iterator[tuple[np.ndarray, int, str]]:
    for dialogue in dialogues:
        since: list[np.ndarray] = []
        for utterance in dialogue.utterances:
            if utterance.id in measured:
                since.append(measured[utterance.id])
            elif utterance.feedback is not None and since:
                yield np.mean(since, axis=0), utterance.feedback, dialogue.id
                since = []


def _correlations(rated: Sequence[tuple[np.ndarray, int, str]], **resampling: int) -> RatingCorrelations:
    """``rated``: (measures, rating, dialogue) of each."""
    found: dict[str, Estimate | None] = dict.fromkeys(MEASURES)
    for k, measure in enumerate(MEASURES if rated else ()):
        scores, ratings, dialogues = zip(*[(row[k], rating, id) for row, rating, id in rated], strict=True)
        with suppress(Undefined):
            found[measure] = spearman(scores, ratings, dialogues, **resampling)
    counts = np.bincount([rating for _, rating, _ in rated], minlength=6)[1:]
    return RatingCorrelations(tuple(counts.tolist()), found)


def _higher(first: np.ndarray, second: np.ndarray, *, replicates: int, seed: int) -> Estimate:
    """How often, in per cent, one of ``first`` [n] lies above one of ``second`` [m]: 100 x area under the ROC curve."""
    above = (first[:, None] > second[None, :]) + 0.5 * (first[:, None] == second[None, :])
    one, other = (cluster_weights(len(side), replicates, seed + k) for k, side in enumerate((first, second)))
    copies = ((one @ above) * other).sum(axis=1) / above.size
    return percentile_interval(100 * above.mean(), 100 * copies)

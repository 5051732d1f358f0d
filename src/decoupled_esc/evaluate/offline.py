"""Judges that need no server: an error classifier and an empathy scale, trained on public labels in seconds.

Neither is the LLM judge, and no number of theirs stands under its name.  What each is worth is measured where it was not
trained: the classifier on dialogues, and on writers, that it has not seen (`error_validity`); the scale on other posts, and
on what the seekers of ESConv said of their supporters (`against_seekers`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from decoupled_esc.corpus import Dialogue
from decoupled_esc.corpus.empathy import MECHANISMS, RatedReply, by_mechanism
from decoupled_esc.evaluate.agreement import Undefined, spearman, weighted_kappa
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, percentile_interval
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Means, Reply

FOLDS = 5


class ErrorClassifier:
    """Which psychological error GPT would see in a reply: logistic regression on its words and what surrounds them."""

    id = "error classifier"

    def fit(self, replies: Sequence[Reply], labels: Sequence[str]) -> ErrorClassifier:
        """Learn from ``labels`` (of ``errors.LABELS``).  Raises ValueError if they are all the same."""
        few = 1 if len(replies) < 500 else 2  # of the miniature, every word counts
        words = {"sublinear_tf": True, "min_df": few}
        features = ColumnTransformer(
            [
                ("words", TfidfVectorizer(**words, ngram_range=(1, 2)), "reply"),
                ("spelling", TfidfVectorizer(sublinear_tf=True, min_df=few + 1, analyzer="char_wb", ngram_range=(2, 5)), "reply"),
                ("asked", TfidfVectorizer(**words, ngram_range=(1, 2)), "seeker"),
                # The same words are welcome under one strategy and an error under another.
                ("under strategy", TfidfVectorizer(**words, token_pattern=r"\S+"), "under"),
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
            found[:, [LABELS.index(label) for label in self._model.classes_]] = self._model.predict_proba(_table(replies))
        return found

    def errors(self, replies: Sequence[Reply]) -> list[str]:
        """The most probable label of each reply."""
        return [LABELS[i] for i in self.probabilities(replies).argmax(axis=1)]


class EmpathyScale:
    """How strongly a reply shows each of three mechanisms of empathy: the level, 0 to 2, expected of people's ratings."""

    id = "empathy scale"

    def fit(self, rated: Sequence[RatedReply]) -> EmpathyScale:
        """Learn one model a mechanism."""
        self._models = {}
        for mechanism, rows in by_mechanism(rated).items():
            self._models[mechanism] = _mechanism(len(rows)).fit([row.reply for row in rows], [row.level for row in rows])
        return self

    def levels(self, texts: Sequence[str]) -> np.ndarray:
        """float [texts, 3], columns as ``corpus.empathy.MECHANISMS``."""
        if not len(texts):
            return np.zeros((0, len(MECHANISMS)))
        found = [model.predict_proba(texts) @ model.classes_ for model in self._models.values()]
        return np.stack(found, axis=1)


def _mechanism(rows: int):
    few = 1 if rows < 500 else 2
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=few)
    spelling = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), min_df=few + 1)
    return make_pipeline(make_union(words, spelling), LogisticRegression(C=3, max_iter=500))


_FEELING = frozenset("sorry feel feels feeling feelings understand hard difficult tough sounds".split())
_SURFACE = [
    "length", "asks", "ends asking", "questions", "exclamations", "echoes seeker", "seeker silent", "seeker length", "opening",
    "turn", "late", "said before", "much said before", "speaks of self", "addresses", "feeling words", "lower case",
]  # fmt: skip


def _table(replies: Sequence[Reply]) -> pd.DataFrame:
    """What the classifier sees of each reply, a row each."""
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
            bool(own & {"i", "my", "me", "i'm"}), len(own & {"you", "your", "you're"}), len(own & _FEELING), text[:1].islower(),
        )  # fmt: skip
        under = " ".join(f"{strategy[:4]}_{word}" for word in words)
        rows.append((text, asked, under, strategy, *map(float, surface)))
    return pd.DataFrame(rows, columns=["reply", "seeker", "under", "strategy", *_SURFACE])


def out_of_fold(replies: Sequence[Reply], labels: Sequence[str], dialogues: Sequence[str], targets: Sequence[Reply],
                target_dialogues: Sequence[str], *, seed: int) -> np.ndarray:  # fmt: skip
    """Probabilities [targets, 6], each target's from a classifier that learned from none of its dialogue.

    Dialogues, labelled or not, are split in five.  Raises ValueError with fewer than two labelled dialogues.
    """
    if len(set(dialogues)) < 2:
        raise ValueError("to learn from other dialogues there must be labels of at least two")
    names = sorted(set(dialogues) | set(target_dialogues))
    fold_of = {}
    spread = GroupKFold(min(FOLDS, len(names)), shuffle=True, random_state=seed).split(names, groups=names)
    for fold, (_, held_out) in enumerate(spread):
        fold_of |= {names[i]: fold for i in held_out}
    found = np.zeros((len(targets), len(LABELS)))
    for fold in sorted(set(fold_of.values())):
        wanted = [i for i, name in enumerate(target_dialogues) if fold_of[name] == fold]
        if wanted:
            learned = [i for i, name in enumerate(dialogues) if fold_of[name] != fold]
            classifier = ErrorClassifier().fit([replies[i] for i in learned], [labels[i] for i in learned])
            found[wanted] = classifier.probabilities([targets[i] for i in wanted])
    return found


def label_validity(truth: Sequence[str], guess: Sequence[str], dialogues: Sequence[str], *, replicates: int, seed: int) -> dict:
    """Accuracy and macro-F1 (x100) and Cohen's kappa of ``guess`` against ``truth``, with 95% intervals by dialogue.

    A label that occurs on neither side counts in macro-F1 with 0, as in scikit-learn with ``labels=`` given.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(dialogues))}
    place, size = [names[name] for name in dialogues], len(LABELS)
    tables = np.zeros((len(names), size, size))
    np.add.at(tables, (place, [LABELS.index(x) for x in truth], [LABELS.index(x) for x in guess]), 1)
    weights = cluster_weights(len(names), replicates, seed)

    def of(score) -> dict:
        return asdict(bootstrap(weights, lambda draws: score(np.einsum("rd,dij->rij", draws, tables))).estimate())

    return {
        "replies": len(place),
        "accuracy": of(lambda t: 100 * np.trace(t, axis1=1, axis2=2) / t.sum((1, 2))),
        "macro_f1": of(lambda t: 100 * _f1(t).mean(axis=1)),
        "kappa": of(_kappa),
    }


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
    replies: Sequence[Reply], labels: Sequence[str], sources: Sequence[str], sure: Sequence[bool], *, replicates: int, seed: int
) -> dict:
    """What the classifier is worth against the labels it learns from, on dialogues it has not seen.

    ``sources`` names who wrote each reply.  ``unseen writers`` is the harder test, and the one that counts for replies of
    a new model: the classifier has learned neither from the dialogue nor from that writer.  ``sure`` says whether a
    reply's dialogue is known and not guessed; ``sure`` and ``guessed`` are the unseen dialogues' two parts.  ``shares``
    compares, a writer at a time, the mean of the predicted probabilities with the share of the label, and
    ``differences`` does so for each two writers, for an unseen writer each (``predicted``) and for one judge who knows
    them all (``known``).
    """
    dialogues = [reply.turn.dialogue for reply in replies]
    chosen = {"replicates": replicates, "seed": seed}

    def subset(where: list[int]) -> tuple[list, list, list]:
        return [replies[i] for i in where], [labels[i] for i in where], [dialogues[i] for i in where]

    known = out_of_fold(replies, labels, dialogues, replies, dialogues, seed=seed)
    unseen = np.zeros_like(known)
    for source in dict.fromkeys(sources):
        theirs = [i for i, s in enumerate(sources) if s == source]
        others = [i for i, s in enumerate(sources) if s != source]
        own = subset(theirs)
        unseen[theirs] = out_of_fold(*subset(others), own[0], own[2], seed=seed)
    majority = max(LABELS, key=list(labels).count)

    def validity(probabilities: np.ndarray, where: Sequence[int]) -> dict:
        guess = [LABELS[i] for i in probabilities[where].argmax(axis=1)]
        return label_validity([labels[i] for i in where], guess, [dialogues[i] for i in where], **chosen)

    everyone = list(range(len(labels)))
    by_source = {source: [i for i in everyone if sources[i] == source] for source in dict.fromkeys(sources)}
    parts = {"sure": [i for i in everyone if sure[i]], "guessed": [i for i in everyone if not sure[i]]}

    def shares(where: list[int]) -> np.ndarray:
        """[3, labels] in per cent: labelled, predicted for an unseen writer, predicted for a known one."""
        told = [np.mean([labels[i] == label for i in where]) for label in LABELS]
        return 100 * np.stack([told, unseen[where].mean(axis=0), known[where].mean(axis=0)])

    def named(rows: np.ndarray) -> dict:
        return {label: dict(zip(("labelled", "predicted", "known"), rows[:, k].tolist(), strict=True)) for k, label in enumerate(LABELS)}

    of = {source: shares(where) for source, where in by_source.items()}
    return {
        "majority": {"label": majority, **label_validity(labels, [majority] * len(labels), dialogues, **chosen)},
        "unseen dialogues": {"all": validity(known, everyone), **{s: validity(known, where) for s, where in by_source.items()},
                             **{name: validity(known, where) for name, where in parts.items() if where}},
        "unseen writers": {"all": validity(unseen, everyone), **{s: validity(unseen, where) for s, where in by_source.items()}},
        "shares": {source: named(rows) for source, rows in of.items()},
        "differences": {f"{a} - {b}": named(of[a] - of[b]) for a, b in itertools.combinations(of, 2)},
    }  # fmt: skip


def empathy_validity(rated: Sequence[RatedReply], *, replicates: int, seed: int) -> dict[str, dict]:
    """Per mechanism, on posts that the scale has not seen, against people's ratings; intervals by post.

    ``accuracy`` in per cent of the most probable level beside that of the ``majority`` level, quadratically weighted
    ``kappa``, and Spearman's ``rank correlation`` of the expected level.
    """
    found = {}
    for mechanism, rows in by_mechanism(rated).items():
        posts, levels = [row.post for row in rows], np.array([row.level for row in rows])
        folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
        probabilities = cross_val_predict(
            _mechanism(len(rows)), [row.reply for row in rows], levels, groups=posts, cv=folds, method="predict_proba"
        )
        guess, chosen = probabilities.argmax(axis=1), {"replicates": replicates, "seed": seed}
        found[mechanism] = {
            "ratings": np.bincount(levels, minlength=3).tolist(),
            "accuracy": Means(posts, **chosen).of(100.0 * (guess == levels)),
            "majority": 100 * float(np.bincount(levels).max()) / len(levels),
            "kappa": asdict(weighted_kappa(guess.tolist(), levels.tolist(), posts, labels=[0, 1, 2], **chosen)),
            "rank correlation": asdict(spearman(probabilities @ np.arange(3), levels, posts, **chosen)),
        }
    return found


MEASURES = (*MECHANISMS, "all three", "words")
"""What `against_seekers` compares: the mechanisms, their sum, and the length of a reply, which any scale has to beat."""


def against_seekers(scale: EmpathyScale, corpora: Mapping[str, Sequence[Dialogue]], *, replicates: int, seed: int) -> dict:
    """The scale on people's replies, against what the people whom they were meant for said of them.

    ``means``: corpus -> measure -> mean over supporters' utterances; ``dialogues``: corpus -> Spearman's correlation of a
    dialogue's mean with the seeker's rating of empathy after the talk; ``feedback``: the same for the utterances before
    each rating during the talk, where a corpus has these.  ``higher``: how often, in per cent, a dialogue of the first
    corpus has a higher mean than one of the second (50 is chance).
    """
    chosen, means, talks, during = {"replicates": replicates, "seed": seed}, {}, {}, {}
    by_dialogue: dict[str, np.ndarray] = {}
    for name, dialogues in corpora.items():
        said = [u for d in dialogues for u in d.utterances if u.role == "supporter"]
        levels = scale.levels([u.text for u in said])
        words = np.array([[len(u.text.split())] for u in said], dtype=float)
        measured = dict(zip((u.id for u in said), np.hstack([levels, levels.sum(1, keepdims=True), words]), strict=True))
        own = [(d, np.mean(rows, axis=0)) for d in dialogues if (rows := [measured[u.id] for u in d.utterances if u.id in measured])]
        by_dialogue[name] = np.array([mean for _, mean in own])
        every = Means([u.id.rsplit("/", 1)[0] for u in said], **chosen)
        table = np.array(list(measured.values()))
        means[name] = {measure: every.of(table[:, k]) for k, measure in enumerate(MEASURES)}
        talks[name] = _correlations([(mean, d.survey.empathy, d.id) for d, mean in own if d.survey.empathy is not None], **chosen)
        during[name] = _correlations(list(_rated_during(dialogues, measured)), **chosen)
    first, second = by_dialogue.values()
    return {
        "means": means,
        "dialogues": talks,
        "feedback": during,
        "higher": {measure: asdict(_higher(first[:, k], second[:, k], **chosen)) for k, measure in enumerate(MEASURES)},
    }


def _rated_during(dialogues: Sequence[Dialogue], measured: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, int, str]]:
    for dialogue in dialogues:
        since: list[np.ndarray] = []
        for utterance in dialogue.utterances:
            if utterance.id in measured:
                since.append(measured[utterance.id])
            elif utterance.feedback is not None and since:
                yield np.mean(since, axis=0), utterance.feedback, dialogue.id
                since = []


def _correlations(rated: Sequence[tuple[np.ndarray, int, str]], *, replicates: int, seed: int) -> dict:
    """How often each rating from 1 to 5 was given, and the correlation of each measure with them; None where it is 0/0."""
    found: dict = {"ratings": np.bincount([rating for _, rating, _ in rated], minlength=6)[1:].tolist()}
    for k, measure in enumerate(MEASURES):
        found[measure] = None
        if rated:
            scores, ratings, dialogues = zip(*[(row[k], rating, id) for row, rating, id in rated], strict=True)
            with suppress(Undefined):
                found[measure] = asdict(spearman(scores, ratings, dialogues, replicates=replicates, seed=seed))
    return found


def _higher(first: np.ndarray, second: np.ndarray, *, replicates: int, seed: int) -> Estimate:
    """How often, in per cent, one of ``first`` [n] lies above one of ``second`` [m], ties half: 100 x area under the ROC curve."""
    above = (first[:, None] > second[None, :]) + 0.5 * (first[:, None] == second[None, :])
    draws = [cluster_weights(len(side), replicates, seed + k) for k, side in enumerate((first, second))]
    copies = ((draws[0] @ above) * draws[1]).sum(axis=1) / above.size
    return percentile_interval(100 * above.mean(), 100 * copies)

"""Which labels a judge may learn from: none of a test dialogue before training, none of the dialogue that it judges."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from decoupled_esc import corpus
from decoupled_esc.corpus import Corpus, Dialogue, Utterance, invented, released
from decoupled_esc.evaluate import Estimate, offline
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.evaluate.judges import FILTERED
from decoupled_esc.evaluate.offline import LabelShare
from decoupled_esc.experiments.inputs import ABSENT, Files
from decoupled_esc.experiments.judging import ErrorClassifierWorth, MeasureErrorClassifier, error_shares
from decoupled_esc.experiments.labels import ErrorLabels, LabelledReplies, RewardModels, TrainingLabels, error_judge
from decoupled_esc.pipeline import Missing, UpstreamMissing
from decoupled_esc.present import judge_tables

KINDS = {  # label -> (what the release calls it, words)
    "Strategy Mismatch": ("Mismatched Strategy", "have you tried a list"),
    "Lack of Empathy": ("Lack of Empathetic Content", "whatever it is late"),
    "None": ("None", "I am sorry that hurts"),
}


def dialogue(id, split=None):
    lines = [(f"seeker {id} {n}", f"answer {id} {n}") for n in range(3)]
    said = [text for pair in lines for text in pair]
    return Dialogue(id, tuple(
        Utterance(f"{id}/{n:02d}", "supporter" if n % 2 else "seeker", text, "Question" if n % 2 else None)
        for n, text in enumerate(said)
    ), split=split)  # fmt: skip


TEST = [dialogue(f"esconv/00{n}", "test") for n in range(6)]
FAILED = [dialogue(f"failed_esconv/00{n}") for n in range(4)]
OWN = [dialogue(f"esconv/10{n}", "train") for n in range(3)]


def rows(dialogues, words, shift=0):
    found, names = [], list(KINDS)
    for number, turn in enumerate(turn for d in dialogues for turn in corpus.turns(d)):
        kind, _ = KINDS[names[(number + shift) % 3]]
        reply = turn.reply if words is None else f"{KINDS[names[number % 3]][1]} {number}"
        said = "No" if kind == "None" else "Yes"
        found.append({"user_input": turn.context[-1].text, "strategy": "Question", "response": reply,
                      "Contains Empathy Error": said, "Error Type": kind})  # fmt: skip
    return found


class Release:
    """The authors' files on small dialogues; ``shift`` exchanges the labels."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, "decoupledesc_release"
        for source in released.FILES:
            self.write(source)

    def write(self, source: str, shift: int = 0) -> None:
        found = rows(FAILED, None, shift) if source == "failed" else rows(TEST, "own", shift)
        (self.folder / released.FILES[source]).write_text(json.dumps(found), encoding="utf-8")

    def paths(self):
        return [self.folder / name for name in released.FILES.values()]


def source(name, dialogues):
    return SimpleNamespace(read=lambda: Corpus(name, tuple(dialogues)))


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path)


def labels_in(release) -> ErrorLabels:
    return ErrorLabels(source("esconv", [*TEST, *OWN]), source("failed_esconv", FAILED), release, "small")


def test_training_labels_hold_no_reply_at_a_test_or_validation_dialogue(release, monkeypatch):
    every = labels_in(release)
    one = TrainingLabels(every)
    assert set(every.read().sources) == {"failed", "qwen-sft", "llama-sft"}
    assert set(one.read().sources) == {"failed"} and one.read().described == "12 labels by GPT on FailedESConv"
    others = one.read(held_out=True)
    assert set(others.sources) == {"qwen-sft", "llama-sft"} and len(others.replies) == 36
    # Should labels of validation replies ever be released, they are kept out as well.
    parts = [replace(d, split="validation") if n < 3 else d for n, d in enumerate(TEST)]
    found = released.read(release.folder, TEST, FAILED)
    monkeypatch.setattr(released, "read", lambda *_: found)
    esconv = source("esconv", [*parts, *OWN])
    assert set(TrainingLabels(replace(every, esconv=esconv)).read().sources) == {"failed"}


def judged_by(labels) -> tuple:
    """What the judges that mine and that reward say of replies at training turns."""
    turns = [turn for d in OWN for turn in corpus.turns(d)]
    sampled = {turn.id: ("Question", f"{list(KINDS.values())[n % 3][1]} answer") for n, turn in enumerate(turns)}
    _, label = error_judge(None, None, labels)
    ratings = SimpleNamespace(read=lambda: invented.read()[1])
    reward = RewardModels(labels, ratings, SimpleNamespace(read=lambda: turns), 1).fit()
    written = [Reply(turn.id, turn, *sampled[turn.id]) for turn in turns]
    return label(turns, sampled), reward.classifier.probabilities(written)


def test_no_label_of_a_test_reply_reaches_the_judge_that_mines_or_rewards(release):
    every = labels_in(release)
    labels, probabilities = judged_by(TrainingLabels(every))
    _, leaking = judged_by(every)
    for one in ("qwen-sft", "llama-sft"):
        release.write(one, shift=1)
    again, same = judged_by(TrainingLabels(every))
    assert again == labels and (same == probabilities).all()
    assert not np.allclose(judged_by(every)[1], leaking), "all labels together would have leaked"
    release.write("failed", shift=1)
    assert not np.allclose(judged_by(TrainingLabels(every))[1], probabilities), "those of FailedESConv are learned from"


def test_the_judge_that_mines_says_what_it_learned_from(release):
    said, _ = error_judge(None, None, TrainingLabels(labels_in(release)))
    assert said == "error classifier (12 labels by GPT on FailedESConv)"


def test_labels_at_a_dialogue_do_not_change_what_rq4s_judge_says_there(release):
    found = labels_in(release).read()
    turns = [turn for d in TEST for turn in corpus.turns(d)]
    written = [Reply(f"own/{turn.id}", turn, "Question", f"whatever {n % 4} hurts") for n, turn in enumerate(turns)]
    before, _ = error_shares(found, written, seed=5)
    for d in TEST:
        here = np.array([reply.turn.dialogue == d.id for reply in written])
        own = [reply.turn.dialogue == d.id for reply in found.replies]
        changed = ["Emotion Misread" if one else label for one, label in zip(own, found.labels, strict=True)]
        after, _ = error_shares(replace(found, labels=changed), written, seed=5)
        assert (after[here] == before[here]).all() and not np.allclose(after[~here], before[~here])


def test_the_fair_test_is_on_replies_at_test_dialogues_and_its_kappas_are_scikit_learns(release):
    every = labels_in(release)
    training = TrainingLabels(every)
    found = MeasureErrorClassifier(every, training, replicates=20, seed=3).run(None)
    replies = {name: part.replies for name, part in found.training.by_source.items()}
    assert replies == {"all": 36, "qwen-sft": 18, "llama-sft": 18}
    assert found.learned_from == "12 labels by GPT on FailedESConv"
    learned, others = training.read(), training.read(held_out=True)
    guess = offline.ErrorClassifier().fit(learned.replies, learned.labels).errors(others.replies)
    kinds = {"any": LABELS[:-1], "any of three": FILTERED, "Lack of Empathy": ("Lack of Empathy",)}
    assert set(found.training.errors) == {*LABELS[:-1], "any", "any of three"}
    for name, kind in kinds.items():
        has = [[label in kind for label in side] for side in (others.labels, guess)]
        one = found.training.errors[name]
        assert [one.labelled, one.guessed] == [sum(side) for side in has]
        expected = cohen_kappa_score(*has) if len({*has[0], *has[1]}) > 1 else 0.0
        assert one.kappa.value == pytest.approx(expected, nan_ok=False)
    expected = cohen_kappa_score(others.labels, guess, labels=LABELS)
    assert found.training.by_source["all"].kappa.value == pytest.approx(expected)


def test_labels_of_no_source_are_none(release):
    release.paths = Files("decoupledesc_release", ABSENT).paths
    with pytest.raises(UpstreamMissing, match="decoupledesc_release is not on this machine; .*data fetch"):
        TrainingLabels(labels_in(release)).read()
    assert replace(labels_in(release), scale="smoke").read().are_invented
    two = LabelledReplies(["a", "b"], ["None", "Emotion Misread"], ["x", "y"], [True, False])
    assert two.where([False, True]) == LabelledReplies(["b"], ["Emotion Misread"], ["y"], [False])


# --- What RQ4 has to exceed ---


def worth(**off):
    """A judge that is off by ``off`` (for unknown writers, for known ones) in a difference of None."""
    shares = {"a": dict.fromkeys(LABELS, LabelShare(10, 12, 11)), "b": dict.fromkeys(LABELS, LabelShare(10, 5, 10))}
    none = {"None": LabelShare(0, off["unknown"], off["known"])}
    differences = {"a - b": dict.fromkeys(LABELS, LabelShare(0, 1, off["known"])) | none}
    return ErrorClassifierWorth(None, {}, {}, shares, differences, training=None, learned_from="")


def over_seeds(*none):
    row = dict.fromkeys(LABELS, Estimate(0, -1, 1)) | {"None": Estimate(*none)}
    single = {seed: {"x - y": dict.fromkeys(LABELS, none[0])} for seed in (13, 14, 15)}
    return SimpleNamespace(systems={"x": row, "y": row}, contrasts={"x - y": row}, by_seed=single)


@pytest.mark.parametrize(("none", "says"), [
    ((15, 14, 16), "supported"),
    ((-15, -16, -14), "contradicted"),
    ((14, 12, 16), "not decided"),  # it exceeds the error for known writers alone
    ((-14, -20, -12), "not decided"),
    ((14, None, None), "not decided"),
    ((15, 14, 16, 0.2), "not decided"),
    ((15, 14, 16, 0.01), "supported"),
    ((14, 12, 16, 0.01), "not decided"),
])  # fmt: skip
def test_rq4_is_decided_beyond_the_judges_error_for_unknown_writers(none, says):
    found = over_seeds(*none)
    assert judge_tables.answer_errors(found, worth(unknown=13, known=9), "x - y", "None", 1) == says
    assert judge_tables.answer_errors(found, Missing("no labels"), "x - y", "None", 1) == "not decided"


def test_the_judges_error_stands_beside_each_share_in_the_same_statistic():
    one = worth(unknown=-13, known=9)
    shares = judge_tables.offline_errors(over_seeds(15, 14, 16), one, {"ours": "x", "theirs": "y"})
    assert list(shares.index) == ["ours", "theirs", judge_tables.JUDGES_ERROR]
    assert set(shares.iloc[-1]) == {"5.0"}, "the larger of 2 and 5 points, whichever writer"
    differences = judge_tables.offline_errors(over_seeds(15, 14, 16), one, {"ours minus theirs": "x - y"})
    assert differences.iloc[-1].to_dict() == {label: "13.0" if label == "None" else "1.0" for label in LABELS}
    unmeasured = judge_tables.offline_errors(over_seeds(15, 14, 16), Missing("no"), {"x": "x"})
    assert (unmeasured.iloc[-1] == "not measured").all()
    assert judge_tables.offline_errors(Missing("no"), one, {}) == Missing("no")

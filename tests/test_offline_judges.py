"""The offline judges: what they learn, that validity is measured on what they have not seen, and their scores."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from decoupled_esc.corpus import CorpusError, Dialogue, Message, Survey, Turn, Utterance, empathy, invented
from decoupled_esc.evaluate import offline
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.taxonomy import STRATEGIES

FEW = {"replicates": 50, "seed": 2}
labels = st.lists(
    st.tuples(st.sampled_from(LABELS[:4]), st.sampled_from(LABELS), st.integers(0, 5)), min_size=2, max_size=40
)


def written(number, text, dialogue=None, strategy="Question"):
    dialogue = dialogue or f"d{number % 10}"
    turn = Turn(f"{dialogue}/{number:02d}", dialogue, (Message("seeker", "I feel low."),), strategy, "gold")
    return Reply(f"s/{number}", turn, strategy, text)


@pytest.fixture(scope="module")
def examples():
    labelled, rated = invented.read()
    return (
        [Reply(row.turn.id, row.turn, row.strategy, row.reply) for row in labelled],
        [row.error for row in labelled],
        rated,
    )


def test_the_invented_examples_cover_every_label_strategy_and_level(examples):
    replies, errors, rated = examples
    assert set(errors) == set(LABELS) and {r.strategy for r in replies} == set(STRATEGIES)
    assert {(row.mechanism, row.level) for row in rated} == {
        (m, level) for m in empathy.MECHANISMS for level in (0, 1, 2)
    }
    assert len({r.text for r in replies}) == len(replies) == len({r.turn.id for r in replies})


def test_it_learns_what_it_is_shown(examples):
    replies, errors, _ = examples
    classifier = offline.ErrorClassifier().fit(replies, errors)
    probabilities = classifier.probabilities(replies)
    assert probabilities.shape == (len(replies), 6) and probabilities.sum(axis=1) == pytest.approx(1)
    assert np.mean(np.array(classifier.errors(replies)) == errors) > 0.9
    again = offline.ErrorClassifier().fit(replies, errors)
    assert (again.probabilities(replies) == probabilities).all(), "the same labels give the same judge"
    assert classifier.probabilities([]).shape == (0, 6)


def test_the_same_words_are_judged_by_their_strategy():
    replies = [
        written(n, "you could try to call them", strategy=s)
        for n in range(12)
        for s in ("Question", "Providing Suggestions")
    ]
    known = ["Strategy Mismatch" if r.strategy == "Question" else "None" for r in replies]
    classifier = offline.ErrorClassifier().fit(replies, known)
    assert classifier.errors(replies[:2]) == ["Strategy Mismatch", "None"]
    unlearned = [LABELS.index(label) for label in LABELS if label not in known]
    assert (classifier.probabilities(replies)[:, unlearned] == 0).all()


def test_a_reply_without_words_strategy_or_history_is_judged_all_the_same(examples):
    replies, errors, _ = examples
    classifier = offline.ErrorClassifier().fit(replies, errors)
    blank = Turn("x", "x", (Message("seeker", " "),), "Others", "gold")
    assert classifier.errors([Reply("x", blank, None, "")])[0] in LABELS


def test_nothing_of_a_targets_dialogue_is_learned_from(monkeypatch):
    seen = []

    class Spy(offline.ErrorClassifier):
        def fit(self, replies, known):
            self.learned = {r.turn.dialogue for r in replies}
            return self

        def probabilities(self, replies):
            seen.append((self.learned, {r.turn.dialogue for r in replies}))
            return np.full((len(replies), 6), float(len(seen)))

    monkeypatch.setattr(offline, "ErrorClassifier", Spy)
    replies = [written(n, "hm") for n in range(40)]
    targets = [written(n, "hm", f"d{n}") for n in range(12)]  # d10 and d11 have no labels
    wanted = {r.turn.dialogue for r in targets}
    found = offline.out_of_fold(replies, ["None"] * 40, targets, seed=0)
    assert all(not learned & judged and learned for learned, judged in seen)
    assert set().union(*(judged for _, judged in seen)) == wanted
    assert (found > 0).all(), "every target was judged"


@settings(max_examples=40, deadline=None)
@given(labels)
def test_validity_is_scikit_learns(rows):
    truth, guess, dialogues = ([str(x) for x in column] for column in zip(*rows, strict=True))
    found = offline.label_validity(truth, guess, dialogues, **FEW)
    assert found.accuracy.value == pytest.approx(100 * accuracy_score(truth, guess))
    assert found.macro_f1.value == pytest.approx(
        100 * f1_score(truth, guess, labels=LABELS, average="macro", zero_division=0)
    )
    expected = cohen_kappa_score(truth, guess, labels=LABELS) if len({*truth, *guess}) > 1 else 0.0
    assert found.kappa.value == pytest.approx(expected)
    assert found.replies == len(rows)


def test_validity_on_learnable_labels_is_high_and_the_majority_is_worth_nothing():
    words = {
        "None": "that sounds hard for you",
        "Template Response": "i am here for you always",
        "Strategy Mismatch": "what time is it",
    }
    pick = np.random.default_rng(0).integers(0, 3, 120)
    known = [list(words)[k] for k in pick]
    replies = [written(n, f"{words[label]} {n % 7}", f"d{n // 4}") for n, label in enumerate(known)]
    sure = [n % 3 > 0 for n in range(120)]
    found = offline.error_validity(replies, known, ["a" if n % 2 else "b" for n in range(120)], sure, **FEW)
    assert found.majority.kappa.value == 0 and found.majority.label == max(set(known), key=known.count)
    for kind in (found.unseen_dialogues, found.unseen_writers):
        assert {"all", "a", "b"} <= set(kind) and kind["all"].kappa.value > 0.95
    assert [found.unseen_dialogues[part].replies for part in ("sure", "guessed")] == [80, 40]
    for share in found.shares.values():
        for by in ("labelled", "predicted", "known"):
            assert sum(getattr(s, by) for s in share.values()) == pytest.approx(100)
    (pair,) = found.differences.values()
    a, b = (found.shares[name]["None"].labelled for name in "ba")
    assert pair["None"].labelled == pytest.approx(a - b)


def test_one_labelled_dialogue_teaches_nothing_about_others():
    with pytest.raises(ValueError, match="at least two"):
        offline.out_of_fold([written(1, "hm")], ["None"], [written(2, "hm")], seed=0)


def test_the_scale_gives_levels_between_none_and_strong(examples):
    replies, _, rated = examples
    scale = offline.EmpathyScale().fit(rated)
    levels = scale.levels([r.text for r in replies])
    assert levels.shape == (len(replies), 3) and (levels >= 0).all() and (levels <= 2).all()
    for k, rows in enumerate(empathy.by_mechanism(rated).values()):
        assert spearmanr(levels[:, k], [row.level for row in rows])[0] > 0.6, "it has learned them"
    assert scale.levels([]).shape == (0, 3)


def test_validity_on_posts(examples):
    _, _, rated = examples
    found = offline.empathy_validity(rated, **FEW)
    assert set(found) == set(empathy.MECHANISMS)
    for row in found.values():
        assert sum(row.ratings) == 48 and row.majority == pytest.approx(100 * max(row.ratings) / 48)
        assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high


class Counting:
    """A scale whose levels are numbers of letters: what comes out can be worked out by hand."""

    def levels(self, texts):
        return np.array([[text.count("a"), text.count("b"), 0] for text in texts], dtype=float)


def talk(number, said, rating, kind="es", feedback=()):
    lines = []
    for k, text in enumerate(said):
        lines.append(Utterance(f"{kind}/{number}/{2 * k:02d}", "supporter", text, "Question"))
        mark = feedback[k] if k < len(feedback) else None
        lines.append(Utterance(f"{kind}/{number}/{2 * k + 1:02d}", "seeker", "hm", feedback=mark))
    return Dialogue(f"{kind}/{number}", tuple(lines), survey=Survey(empathy=rating))


def test_the_scale_is_held_against_the_seekers_own_ratings():
    good = [talk(n, ["a" * (n % 5), "a b"], 1 + n % 4, feedback=(None, 1 + n % 3)) for n in range(12)]
    bad = [talk(n, ["b" * (n % 3)], None, "failed", feedback=(2 + n % 2,)) for n in range(9)]
    found = offline.against_seekers(Counting(), {"esconv": good, "failed": bad}, **FEW)
    means = [np.mean([n % 5, 1]) for n in range(12)]
    assert found.dialogues["esconv"].ratings == (3, 3, 3, 3, 0) and sum(found.dialogues["failed"].ratings) == 0
    assert found.dialogues["esconv"].correlations["emotional reactions"].value == pytest.approx(
        spearmanr(means, [1 + n % 4 for n in range(12)])[0]
    )
    assert found.dialogues["esconv"].correlations["explorations"] is None, (
        "a measure that never varies goes with nothing"
    )
    assert sum(found.feedback["esconv"].ratings) == 12 and found.feedback["failed"].ratings == (0, 5, 4, 0, 0)
    during = spearmanr([n % 3 for n in range(9)], [2 + n % 2 for n in range(9)])[0]
    assert found.feedback["failed"].correlations["interpretations"].value == pytest.approx(during)
    auc = roc_auc_score([1] * 12 + [0] * 9, [*means, *[0.0] * 9])
    assert found.higher["emotional reactions"].value == pytest.approx(100 * auc)
    assert found.means["esconv"]["words"].value == pytest.approx(
        np.mean([len(t.split()) for n in range(12) for t in ("a" * (n % 5), "a b")])
    )


def test_feedback_is_about_what_was_said_since_the_last():
    one = talk(0, ["aaaa", "aa", "a"], 3, feedback=(5, None, 1))
    two = talk(1, ["", "aaa"], 3, feedback=(None, 4))
    found = offline.against_seekers(Counting(), {"es": [one, two], "other": [one]}, **FEW).feedback["es"]
    assert found.ratings == (1, 0, 0, 1, 1)
    # The means before each rating: 4 before 5, 1.5 before 1, 1.5 before 4.
    assert found.correlations["emotional reactions"].value == pytest.approx(spearmanr([4, 1.5, 1.5], [5, 1, 4])[0])


def files(folder, **changes):
    for name in empathy.FILES.values():
        text = 'sp_id,rp_id,seeker_post,response_post,level,rationales\np1,r1,Help,"I am sorry, truly",2,\n'
        (folder / name).write_text(changes.get(name.split("-")[0], text), encoding="utf-8")
    return folder


def test_ratings_are_read_as_published(tmp_path):
    found = empathy.read(files(tmp_path))
    assert [(row.mechanism, row.post, row.reply, row.level) for row in found] == [
        (mechanism, "p1", "I am sorry, truly", 2) for mechanism in empathy.MECHANISMS
    ]


@pytest.mark.parametrize(("text", "says"), [
    ("sp_id,response_post,level\np,hm,3\n", "row 1, level"),
    ("sp_id,level\np,1\n", "row 1"),
    ("sp_id,response_post,level\np,hm\n", "row 1"),
])  # fmt: skip
def test_other_ratings_are_refused_with_file_and_field(tmp_path, text, says):
    with pytest.raises(CorpusError, match=re.escape(says)) as error:
        empathy.read(files(tmp_path, explorations=text))
    assert "explorations-reddit.csv" in str(error.value) and "decoupled-esc data fetch" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match="emotional-reactions-reddit.csv"):
        empathy.read(tmp_path)

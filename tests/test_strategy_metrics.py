"""Strategy metrics against scikit-learn and choix, their limits by name, and their symmetries."""

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from decoupled_esc.evaluate import strategy
from decoupled_esc.taxonomy import STRATEGIES

quick = settings(max_examples=60, deadline=None)
BOTH = pytest.mark.parametrize("variant", ["paper", "standard"])
SQRT7 = 7**0.5

connected = arrays(np.int64, (8, 8), elements=st.integers(1, 60))
# Mostly zeros, so that strategies go unpredicted, undefeated or unseen.
sparse = arrays(np.int64, (8, 8), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 20]))
labels = st.lists(st.tuples(st.sampled_from([*STRATEGIES, None]), st.sampled_from(STRATEGIES)), min_size=1, max_size=40)


def published_iteration(w, sweeps=20):
    """Eq. 7 in plain loops, as the papers run it; no care for zeros."""
    p = [1.0] * 8
    for _ in range(sweeps):
        for i in range(8):
            others = [j for j in range(8) if j != i]
            won = sum(w[i][j] * p[j] / (p[i] + p[j]) for j in others)
            lost = sum(w[j][i] / (p[i] + p[j]) for j in others)
            p[i] = won / lost
        mean = np.exp(np.mean(np.log(p)))
        p = [x / mean for x in p]
    return np.array(p) * 8 / sum(p)


def confusion(predicted, gold):
    """Counts of all turns in one group: (w [8, 8], invalid [8])."""
    return tuple(x[0] for x in strategy.grouped_confusion(predicted, gold, np.zeros(len(gold), dtype=int), 1))


def dense():
    """A connected confusion matrix without symmetries."""
    return np.random.default_rng(1).integers(1, 40, size=(8, 8))


def test_confusion_rows_are_predictions():
    predicted, gold = ["Question", "Question", None, "Others"], ["Others", "Others", "Question", "Others"]
    w, invalid = confusion(predicted, gold)
    assert w[0, 7] == 2 and w[7, 7] == 1 and w.sum() == 3
    assert invalid.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_confusion_refuses_bad_input():
    with pytest.raises(ValueError, match="question"):
        confusion(["question"], ["Question"])
    with pytest.raises(ValueError, match="2 predictions for 1"):
        confusion(["Question", "Others"], ["Question"])
    with pytest.raises(ValueError, match="gold strategy is None"):
        confusion(["Question"], [None])


@quick
@given(labels)
def test_f1_equals_scikit_learn(pairs):
    predicted, gold = zip(*pairs)
    w, invalid = confusion(predicted, gold)
    for policy in ("wrong", "drop"):
        kept = [(p or "invalid", g) for p, g in pairs if p or policy == "wrong"]
        truth, guess = [g for _, g in kept], [p for p, _ in kept]

        def reference(average):
            if not kept:
                return 0.0
            return f1_score(truth, guess, labels=STRATEGIES, average=average, zero_division=0) * 100

        assert strategy.macro_f1(w, invalid, policy) == pytest.approx(reference("macro"))
        assert strategy.weighted_f1(w, invalid, policy) == pytest.approx(reference("weighted"))
        assert strategy.strategy_f1(w, invalid, policy) == pytest.approx(np.broadcast_to(reference(None), 8))


def test_unknown_policy_and_variant():
    with pytest.raises(ValueError, match="policy"):
        strategy.macro_f1(dense(), np.zeros(8), "ignore")
    with pytest.raises(ValueError, match="variant"):
        strategy.bias(dense(), "textbook")
    with pytest.raises(ValueError, match="shape"):
        strategy.bias(np.ones((7, 7)), "paper")


def test_distribution_is_of_valid_predictions():
    share = strategy.distribution(["Question", None, "Others", "Others"])
    assert share == pytest.approx([1 / 3, 0, 0, 0, 0, 0, 0, 2 / 3])
    assert strategy.distribution([None]).tolist() == [0] * 8


@quick
@given(connected)
def test_paper_equals_the_published_loop(w):
    assert strategy.preference(w, "paper") == pytest.approx(published_iteration(w), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(connected)
def test_standard_is_the_bradley_terry_maximum_likelihood(w):
    ours = strategy.preference(w, "standard")
    theirs = np.exp(choix.ilsr_pairwise_dense(w * (1 - np.eye(8))))
    assert ours == pytest.approx(8 * theirs / theirs.sum(), rel=1e-5)


def test_standard_on_a_thin_chain_of_wins():
    # One strategy only ever meets its neighbours: connected, yet far from the dense case.
    w = np.diag([9] * 7, 1) + np.diag([3, 5, 1, 2, 7, 4, 6], -1)
    i, j = np.nonzero(w)
    theirs = np.exp(choix.opt_pairwise(8, np.repeat(np.stack([i, j], 1), w[i, j], axis=0), tol=1e-10))
    assert strategy.preference(w, "standard") == pytest.approx(8 * theirs / theirs.sum(), rel=1e-4)


@BOTH
def test_perfect_predictor_and_no_data_have_no_bias(variant):
    for w in (np.diag([5, 1, 2, 3, 4, 5, 6, 7]), np.zeros((8, 8))):
        assert strategy.preference(w, variant).tolist() == [1] * 8
        assert strategy.bias(w, variant) == 0


@BOTH
def test_constant_predictor_has_the_largest_bias(variant):
    w = np.zeros((8, 8))
    w[3] = [9, 2, 3, 4, 5, 6, 7, 8]
    assert strategy.preference(w, variant).tolist() == [0, 0, 0, 8, 0, 0, 0, 0]
    assert strategy.bias(w, variant) == pytest.approx(SQRT7)
    w[3, 6] = 0  # a gold strategy that does not occur changes nothing
    assert strategy.bias(w, variant) == pytest.approx(SQRT7)


@BOTH
def test_never_missed_strategies_share_all_mass(variant):
    w = dense()
    w[:, [2, 5]] = 0
    w[2, 2] = w[5, 5] = 10
    w[2, 0] = w[5, 1] = 1
    assert strategy.preference(w, variant).tolist() == [0, 0, 4, 0, 0, 4, 0, 0]
    assert strategy.bias(w, variant) == pytest.approx(3**0.5)


@BOTH
def test_never_predicted_strategies_get_zero_and_leave_the_others_alone(variant):
    w = dense()
    w[[1, 4]] = 0
    p = strategy.preference(w, variant)
    assert p[[1, 4]].tolist() == [0, 0]
    rest = [i for i in range(8) if i not in (1, 4)]
    assert (p[rest] > 0).all() and p.sum() == pytest.approx(8)
    # What they lost says nothing about the others, up to the unfinished 20 sweeps.
    w[:, [1, 4]] = 0
    w[[1, 4]] = 0
    alone = strategy.preference(w, variant)[rest]
    assert p[rest] / p[rest].sum() == pytest.approx(alone / alone.sum(), rel=1e-6)


@BOTH
def test_strategy_without_evidence_sits_at_the_geometric_mean(variant):
    w = dense()
    w[6] = w[:, 6] = 0
    w[6, 6] = 30
    p = strategy.preference(w, variant)
    others = np.delete(p, 6)
    assert p[6] == pytest.approx(np.exp(np.log(others).mean()))


@BOTH
def test_strategy_that_only_beats_a_never_predicted_one_follows_it_to_zero(variant):
    w = dense()
    w[0] = 0
    w[3] = 0
    w[3, 0] = 5
    p = strategy.preference(w, variant)
    assert p[0] == p[3] == 0 and (np.delete(p, [0, 3]) > 0).all()


def test_group_that_always_wins_takes_all_in_the_limit_only():
    w = np.zeros((8, 8))
    w[:4, :4] = w[4:, 4:] = 3
    w[0, 5] = 1
    assert strategy.preference(w, "standard") == pytest.approx([2, 2, 2, 2, 0, 0, 0, 0])
    paper = strategy.preference(w, "paper")
    assert (paper[4:] > 0).all() and (paper[4:] < paper[:4].min()).all()


def test_separate_groups_each_have_geometric_mean_1():
    w = np.zeros((8, 8))
    w[:4, :4] = w[4:, 4:] = 3
    assert strategy.preference(w, "standard") == pytest.approx([1] * 8)


def test_giving_up_is_an_error_not_a_wrong_number(monkeypatch):
    monkeypatch.setattr(strategy, "MAX_SWEEPS", 2)
    with pytest.raises(ArithmeticError, match="2 sweeps"):
        strategy.bias(dense(), "standard")


@BOTH
@quick
@given(w=sparse)
def test_bounds(variant, w):
    p, b = strategy.preference(w, variant), strategy.bias(w, variant)
    assert np.isfinite(p).all() and (p >= 0).all() and p.sum() == pytest.approx(8)
    assert 0 <= b <= SQRT7 + 1e-9


@quick
@given(sparse, st.permutations(range(8)))
def test_renaming_strategies_renames_preferences(w, order):
    p = strategy.preference(w, "standard")
    assert strategy.preference(w[np.ix_(order, order)], "standard") == pytest.approx(p[list(order)], abs=1e-6)


@BOTH
@quick
@given(w=sparse, factor=st.integers(2, 9))
def test_bias_does_not_depend_on_the_number_of_turns(variant, w, factor):
    assert strategy.bias(factor * w, variant) == pytest.approx(strategy.bias(w, variant), abs=1e-6)


@BOTH
@quick
@given(w=sparse)
def test_correct_predictions_never_enter_the_bias(variant, w):
    assert strategy.bias(w + np.diag(range(8)), variant) == strategy.bias(w, variant)


@BOTH
@settings(max_examples=25, deadline=None)
@given(w=arrays(np.int64, (2, 3, 8, 8), elements=st.sampled_from([0, 0, 0, 1, 2, 20])))
def test_leading_axes_are_independent(variant, w):
    together = strategy.preference(w, variant)
    assert together.shape == (2, 3, 8)
    for index in np.ndindex(2, 3):
        assert together[index] == pytest.approx(strategy.preference(w[index], variant), abs=1e-9)


def test_confusion_of_groups_adds_up():
    predicted = ["Question", None, "Others", "Information"]
    gold = ["Others", "Question", "Others", "Question"]
    w, invalid = strategy.grouped_confusion(predicted, gold, np.array([0, 1, 1, 2]), 3)
    total = confusion(predicted, gold)
    assert (w.sum(0) == total[0]).all() and (invalid.sum(0) == total[1]).all()
    assert w.sum((1, 2)).tolist() == [1, 1, 1] and invalid.sum(1).tolist() == [0, 1, 0]


def test_chance_has_a_bias_that_falls_with_the_turns():
    shares = np.array([0.2, 0.06, 0.08, 0.09, 0.16, 0.16, 0.07, 0.18])
    few, many = (strategy.bias_of_chance(shares, turns, 300, seed=0) for turns in (100, 1792))
    assert 0.05 < many < 0.2 < few
    assert few == strategy.bias_of_chance(shares, 100, 300, seed=0)


def test_counting_invalid_answers_lowers_q_but_may_raise_q_w():
    w, invalid = np.zeros((8, 8)), np.zeros(8)
    w[0, 0], w[0, 1], invalid[0] = 5, 95, 50
    dropped, counted = (strategy.weighted_f1(w, invalid, policy) for policy in ("drop", "wrong"))
    assert counted > dropped
    assert strategy.macro_f1(w, invalid, "wrong") <= strategy.macro_f1(w, invalid, "drop")

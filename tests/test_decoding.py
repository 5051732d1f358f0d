"""Strategy scores over temperatures, and calibration, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from decoupled_esc.evaluate import decoding
from decoupled_esc.taxonomy import STRATEGIES

FEW = {"top_p": 0.95, "number": 3, "replicates": 30, "seed": 0}


def planner(turns=200, skill=2.0, seed=0):
    """Scores that know the gold strategy more or less, gold strategies, dialogues of five turns."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 8, turns)
    scores = rng.normal(0, 1, (turns, 8))
    scores[np.arange(turns), gold] += skill
    return scores, [STRATEGIES[k] for k in gold], [f"d{n // 5}" for n in range(turns)]


def test_argmax_is_scikit_learns_score_of_the_most_probable():
    scores, gold, dialogues = planner()
    first = decoding.sweep(scores, gold, dialogues, **FEW)[0]
    said = [STRATEGIES[k] for k in scores.argmax(axis=1)]
    assert first.temperature == 0
    for key, average in (("Q", "macro"), ("Q_W", "weighted")):
        expected = 100 * f1_score(gold, said, labels=STRATEGIES, average=average, zero_division=0)
        found = getattr(first, key)
        assert found.value == pytest.approx(expected) and found.low <= found.value <= found.high


def test_a_planner_that_is_sure_is_the_same_at_every_temperature():
    scores, gold, dialogues = planner()
    sure = np.where(scores == scores.max(axis=1, keepdims=True), 0.0, -1e6)
    rows = decoding.sweep(sure, gold, dialogues, **FEW)
    assert len(rows) == len(decoding.TEMPERATURES)
    assert all(row.B.value == pytest.approx(rows[0].B.value) for row in rows)


def test_sampling_hides_a_favourite_and_costs_accuracy():
    scores, gold, dialogues = planner(turns=1600, skill=1.0)
    scores[:, 2] += 2.0
    rows = decoding.sweep(scores, gold, dialogues, **FEW)
    assert rows[0].B.value > rows[-1].B.value + 0.3
    assert rows[0].Q_W.value > rows[-1].Q_W.value


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5, width=16), min_size=8, max_size=8), min_size=1, max_size=6),
    st.sampled_from(decoding.TEMPERATURES),
)
def test_probabilities_are_probabilities_and_keep_the_order(rows, temperature):
    scores = np.array(rows)
    p = decoding.probabilities(scores, temperature, 1.0)
    assert p.sum(axis=1) == pytest.approx(1) and (p >= 0).all()
    assert (np.take_along_axis(p, scores.argmax(axis=1)[:, None], 1)[:, 0] >= p.max(axis=1) - 1e-12).all()
    coarse = scores.round(3)  # of very close ones, a constant would round the difference away
    assert decoding.probabilities(coarse + 7.0, temperature, 1.0) == pytest.approx(
        decoding.probabilities(coarse, temperature, 1.0), abs=1e-6
    )


@pytest.mark.parametrize("temperature", (0.5, 0.7, 1.0, 2.0))
@pytest.mark.parametrize("top_p", (0.1, 0.5, 0.95))
def test_top_p_is_that_of_transformers(temperature, top_p):
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = np.random.default_rng(5).normal(0, 2, (300, 8))
    warped = TemperatureLogitsWarper(temperature)(None, torch.tensor(scores))
    expected = TopPLogitsWarper(top_p)(None, warped).softmax(-1).numpy()
    found = decoding.probabilities(scores, temperature, top_p)
    assert found == pytest.approx(expected, abs=1e-9) and (found == 0).any()


def test_the_sweep_samples_with_top_p():
    """What lies below the nucleus is never said: with a small one, sampling is argmax."""
    scores, gold, dialogues = planner()
    rows = decoding.sweep(scores, gold, dialogues, **FEW | {"top_p": 0.01})
    assert all((row.Q.value, row.B.value) == pytest.approx((rows[0].Q.value, rows[0].B.value)) for row in rows)
    wide = decoding.sweep(scores, gold, dialogues, **FEW | {"top_p": 1.0})
    assert wide[-1].Q.value < rows[-1].Q.value - 5


def test_samples_have_the_probabilities_and_nothing_else():
    p = np.array([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0, 0.0, 0.0], [0, 0, 0, 0, 0, 0, 0, 1.0]])
    chance = np.random.default_rng(0).random((2, 20_000))
    chance[:, 0], chance[:, 1] = 0.0, 1 - 2**-53
    found = decoding.samples(p, chance)
    assert found.shape == (20_000, 2) and (found[:, 1] == 7).all()
    shares = np.bincount(found[:, 0], minlength=8) / len(found)
    assert shares == pytest.approx(p[0], abs=0.015) and (shares[p[0] == 0] == 0).all()


def test_calibration_by_hand():
    rest = [-np.inf] * 5
    scores = np.log(np.maximum([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.3, 0.35, 0.35]], 1e-300))
    scores = np.hstack([scores, np.tile(rest, (3, 1))])
    found = decoding.calibration(scores, [STRATEGIES[0], STRATEGIES[1], STRATEGIES[1]])
    assert [row.turns for row in found.bins] == [1, 2]
    assert found.bins[1].confidence == pytest.approx(90) and found.bins[1].accuracy == pytest.approx(50)
    assert found.error == pytest.approx((1 * 65 + 2 * 40) / 3)
    assert found.nats == pytest.approx(-np.log([0.9, 0.1, 0.35]).mean())


def test_samples_from_the_truth_are_calibrated():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(8), 20000)
    gold = [STRATEGIES[k] for k in (p.cumsum(axis=1) < rng.random((20000, 1))).sum(axis=1)]
    assert decoding.calibration(np.log(p), gold).error < 1.5

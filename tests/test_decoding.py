"""Strategy scores over temperatures, and calibration, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from decoupled_esc.evaluate import decoding, strategy
from decoupled_esc.taxonomy import STRATEGIES

FEW = {"top_p": 1.0, "samples": 3, "replicates": 30, "seed": 0}


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
    st.sampled_from(decoding.TEMPERATURES), st.sampled_from([1.0, 0.9]),
)
def test_probabilities_are_probabilities_and_keep_the_order(rows, temperature, top_p):
    scores = np.array(rows)
    p = decoding.probabilities(scores, temperature, top_p)
    assert p.sum(axis=1) == pytest.approx(1) and (p >= 0).all()
    assert (np.take_along_axis(p, scores.argmax(axis=1)[:, None], 1)[:, 0] >= p.max(axis=1) - 1e-12).all()
    coarse = scores.round(3)  # of very close ones, a constant would round the difference away
    assert decoding.probabilities(coarse + 7.0, temperature, top_p) == pytest.approx(
        decoding.probabilities(coarse, temperature, top_p), abs=1e-6
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 0.95), (1.0, 0.6), (1.5, 1.0)])
def test_temperature_and_top_p_are_those_of_transformers(temperature, top_p):
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = planner()[0]
    logits = torch.tensor(scores)
    for warper in [TemperatureLogitsWarper(temperature), *[TopPLogitsWarper(top_p)] * (top_p < 1)]:
        logits = warper(None, logits)
    found = decoding.probabilities(scores, temperature, top_p)
    np.testing.assert_allclose(found, torch.softmax(logits, -1).numpy(), atol=1e-9)
    assert (found == 0).any() == (top_p < 1), "leaving top-p out keeps what is never sampled"


def test_counts_are_those_of_the_probabilities():
    p = decoding.probabilities(planner()[0][:5], 0.7, 0.95)
    counts = decoding.counts(p, np.random.default_rng(0).random((5, 20_000)))
    assert (counts.sum(axis=1) == 20_000).all() and (counts[p == 0] == 0).all()
    np.testing.assert_allclose(counts / 20_000, p, atol=0.02)
    again = strategy.shuffled(counts[:, :], 3)
    assert again.shape == (20_000, 5) and (np.array([np.bincount(column, minlength=8) for column in again.T]) == counts).all()


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

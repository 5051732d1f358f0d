"""Shares corrected for a judge's error: by hand, where the assumptions hold and where they do not, and with no effect."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from decoupled_esc import taxonomy
from decoupled_esc.evaluate import agreement, corrected
from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.corrected import CorrectedShares, Correction, JudgedWriter, KnownShare, judged_writer
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.offline import FoundError, LabelValidity, OutOfSourceValidity
from decoupled_esc.experiments.corrected import ErrorRates
from decoupled_esc.experiments.judging import ErrorsOverSeeds
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import judge_tables

D, EACH = 100, 5
NAMES = [f"d{k:03}" for k in range(D)]
TURNS = np.full(D, EACH)
FEW = {"replicates": 300, "seed": 3}


def said(has, rng, sharp, shift=0.0):
    """A judge's probabilities [D, EACH]: higher by ``sharp`` where a reply ``has`` the label, moved by ``shift``."""
    return np.clip(0.3 + sharp * has + shift + rng.normal(0, 0.1, has.shape), 0, 1)


def replies(rng, share):
    """bool [D, EACH]: dialogues differ in how often a reply has the label."""
    return rng.random((D, EACH)) < rng.beta(8 * share, 8 * (1 - share), (D, 1))


def spread_over(first):
    """[D, EACH] of one label -> [replies, 6]: the other five share the rest."""
    rest = (1 - first.reshape(-1, 1)) / 5
    return np.hstack([first.reshape(-1, 1), *[rest] * 5])


def writer(name, has, f):
    labels = np.where(has.ravel(), LABELS[0], LABELS[1])
    return judged_writer(name, np.repeat(NAMES, EACH), labels.tolist(), spread_over(f))


def sums(f):
    return spread_over(f).reshape(D, EACH, 6).sum(axis=1)


def simulate(rng, shares, sharp=0.4, shifts=(0.0, 0.0), writers=3, own=0.0):
    """Corrected shares of systems with the true ``shares``; ``own``: how much the bias of each writer and system varies."""
    labelled = []
    for k in range(writers):
        has = replies(rng, 0.15 + 0.15 * k)
        labelled.append(writer(f"w{k}", has, said(has, rng, sharp, own * rng.normal())))
    systems = {}
    for name, share, shift in zip("ab", shares, shifts, strict=True):
        systems[name] = sums(said(replies(rng, share), rng, sharp, shift + own * rng.normal()))
    correction = Correction(labelled, NAMES, replicates=300, seed=int(rng.integers(1 << 30)))
    return corrected.corrected(correction, TURNS, {"1": systems}, [("a", "b")])


def holds(found: Estimate | None, truth: float) -> bool:
    return found is None or found.low <= truth <= found.high


def test_both_corrections_are_those_of_the_formulas():
    even = JudgedWriter("x", ["d0", "d1"], [10, 10], [[8] + [0] * 5, [2] + [0] * 5], [[7.0] + [0] * 5, [4.0] + [0] * 5], [[6.0] + [0] * 5, [1.0] + [0] * 5])  # fmt: skip
    other = JudgedWriter("y", ["e0"], [10], [[2] + [0] * 5], [[4.0] + [0] * 5], [[1.0] + [0] * 5])
    found = Correction([even, other], ["d0", "d1"], replicates=50, seed=1)
    m1, m0 = 8 / 12, (15 - 8) / (30 - 12)
    assert found.informedness[0, 0] == pytest.approx(m1 - m0) and found.bias[0, 0] == pytest.approx((12 - 15) / 30)
    f = np.full((51, 6), 0.5)
    assert found.matrix(f)[0, 0] == pytest.approx(100 * (0.5 - m0) / (m1 - m0))
    assert found.rectified(f)[0, 0] == pytest.approx(40)
    biases = (10 - 11) / 20, (2 - 4) / 10
    assert found.spread[0] == pytest.approx(np.std(biases, ddof=1))
    assert found.unknown_writers(2)[0] == pytest.approx(12.706 * 100 * found.spread[0] * np.sqrt(2), rel=1e-3)
    # The dialogues of x are resampled with the systems': whoever loses d0 loses the label there.
    assert found.m0[1:, 0].std() > 0 and found.weights.shape == (51, 2)
    with pytest.raises(ValueError, match="at least two"):
        Correction([even], ["d0", "d1"], replicates=5, seed=1)


def test_a_writers_sums_are_by_dialogue_and_label():
    f = np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.2, 0.8, 0, 0, 0, 0], [0.4, 0.6, 0, 0, 0, 0]])
    found = judged_writer("w", ["b", "a", "b"], [LABELS[0], LABELS[1], LABELS[1]], f)
    assert (found.dialogues, found.replies) == (["a", "b"], [1, 2])
    assert found.labelled[1][:2] == [1, 1] and found.predicted[1][:2] == [0.9, 0.7] and found.hits[1][:2] == [0.5, 0.6]


def test_intervals_cover_where_a_judge_errs_alike_on_all_and_with_no_effect():
    rng = np.random.default_rng(77)
    runs = [simulate(rng, (0.35, 0.35)) for _ in range(200)]
    truth = {"a": 35, "b": 35, "a - b": 0}
    assert np.mean([holds(run.matrix[name][LABELS[0]], value) for run in runs for name, value in truth.items()]) >= 0.93
    assert np.mean([holds(run.rectified["a - b"][LABELS[0]], 0) for run in runs]) >= 0.93


def test_a_true_difference_that_the_judge_shrinks_is_found_in_its_size():
    rng = np.random.default_rng(22)
    runs = [simulate(rng, (0.6, 0.3)) for _ in range(60)]
    found = [run.matrix["a - b"][LABELS[0]] for run in runs]
    assert np.mean([holds(one, 30) for one in found]) >= 0.9 and np.mean([one.low > 0 for one in found]) > 0.9
    assert np.mean([one.value for one in found]) == pytest.approx(30, abs=2.5)


def test_where_writers_differ_the_rectified_interval_covers_and_the_matrix_does_not():
    rng = np.random.default_rng(13)
    runs = [simulate(rng, (0.35, 0.35), own=0.06) for _ in range(120)]
    assert np.mean([holds(run.rectified["a"][LABELS[0]], 35) for run in runs]) >= 0.93
    assert np.mean([holds(run.rectified["a - b"][LABELS[0]], 0) for run in runs]) >= 0.93
    assert np.mean([holds(run.matrix["a - b"][LABELS[0]], 0) for run in runs]) < 0.6


def test_of_a_judge_that_knows_nothing_nothing_can_be_said():
    rng = np.random.default_rng(14)
    runs = [simulate(rng, (0.5, 0.2), sharp=0.0) for _ in range(20)]
    assert np.mean([run.matrix["a - b"][LABELS[0]] is None for run in runs]) >= 0.9


def test_an_impossible_share_stays_visible():
    rng = np.random.default_rng(15)
    found = simulate(rng, (0.1, 0.1), shifts=(-0.15, 0.0)).matrix["a"][LABELS[0]]
    assert found.high < 0, "the judge is harder to please with the labelled replies than with these"


def test_what_is_known_of_a_writer_is_found_by_the_labels_of_the_others():
    rng = np.random.default_rng(16)
    labelled = []
    for k, share in enumerate((0.2, 0.4, 0.6)):
        has = replies(rng, share)
        labelled.append(writer(f"w{k}", has, said(has, rng, 0.5)))
    found = corrected.check(labelled, **FEW)
    for one in found.values():
        known = one[LABELS[0]]
        assert holds(known.matrix, known.labelled) and abs(known.matrix.value - known.labelled) < 5
    assert abs(found["w2"][LABELS[0]].judged - found["w2"][LABELS[0]].labelled) > 5 or found["w0"][LABELS[0]].judged > 25


# --- As the chapter shows it ---


def cells(found):
    return dict.fromkeys(LABELS, found)


def over_seeds(*single):
    raw = {"a": cells(Estimate(30.0, 29.0, 31.0)), "b": cells(Estimate(20.0, 19.0, 21.0))}
    gap = {"a - b": cells(Estimate(10.0, 9.0, 11.0))}
    by_seed = {str(k): {"a - b": cells(value)} for k, value in enumerate(single)}
    return ErrorsOverSeeds(systems=raw, contrasts=gap, seeds=tuple(range(len(single))), by_seed=by_seed, learned_from="labels")


def shares(matrix, rectified, level=Estimate(-16.0, -21.0, -11.0)):
    return CorrectedShares(*({"a": cells(level), "b": cells(None), "a - b": cells(gap)} for gap in (matrix, rectified)))


@pytest.mark.parametrize(("matrix", "rectified", "says"), [
    (Estimate(30.0, 20.0, 40.0), Estimate(10.0, 2.0, 18.0), "supported"),
    (Estimate(-30.0, -40.0, -20.0), Estimate(-10.0, -18.0, -2.0), "not decided"),
    (Estimate(30.0, 20.0, 40.0), Estimate(10.0, -30.0, 50.0), "not decided"),
    (None, Estimate(10.0, 2.0, 18.0), "not decided"),
])  # fmt: skip
def test_a_corrected_difference_decides_only_where_both_corrections_and_all_seeds_agree(matrix, rectified, says):
    judged = over_seeds(9.0, 10.0, 11.0)
    assert judge_tables.corrected_answer(judged, shares(matrix, rectified), "a - b", LABELS[0], 1) == says
    assert judge_tables.corrected_answer(over_seeds(9.0, -1.0, 11.0), shares(matrix, rectified), "a - b", LABELS[0], 1) == "not decided"
    assert judge_tables.corrected_answer(Missing("none"), shares(matrix, rectified), "a - b", LABELS[0], 1) == "not decided"
    assert judge_tables.decided(judged, shares(matrix, rectified), "a - b") == list(LABELS) * (says == "supported")
    assert judge_tables.decided(judged, Missing("none"), "a - b") is None


def test_the_table_says_what_is_impossible_and_where_nothing_can_be_said():
    gap = Estimate(-32.0, -38.0, -27.0)
    table = judge_tables.corrected_errors(over_seeds(1.0), shares(gap, gap), {"A": "a", "B": "b", "A minus B": "a - b"})
    first = table[LABELS[0]]
    assert first["A: by the matrix"] == "impossible: -16.0 [-21.0, -11.0]" and first["B: rectified"] == "nothing"
    assert first["A minus B: by the matrix"] == "-32.0 [-38.0, -27.0]", "a difference may be negative"
    assert judge_tables.corrected_errors(over_seeds(1.0), Missing("none"), {}) == Missing("none")
    known = [KnownShare(20.0, 15.0, Estimate(22.0, 18.0, 26.0), None), KnownShare(20.0, 25.0, Estimate(-5.0, -9.0, -1.0), None)]
    rates = ErrorRates({f"w{k}": {LABELS[0]: one} for k, one in enumerate(known)}, ())
    assert judge_tables.covered(rates) == (2, 1, 1) and judge_tables.off_by(rates) == (5.0, 13.5)


def test_how_many_both_marked_follows_from_kappa_and_the_margins():
    rng = np.random.default_rng(9)
    for _ in range(20):
        a, b = rng.random((2, 50)) < rng.uniform(0.2, 0.8, (2, 1))
        kappa = cohen_kappa_score(a, b)
        assert agreement.agreed(kappa, int(a.sum()), int(b.sum()), 50) == pytest.approx((a & b).sum())
    assert agreement.agreed(0.0, 20, 10, 50) / 10 == pytest.approx(20 / 50), "by chance a marked item is as often marked by the other"


def test_what_a_picking_judge_is_worth_stands_beside_what_it_picked():
    kappa = LabelValidity(100, Estimate(50), Estimate(50), Estimate(0.2, 0.1, 0.3))
    errors = {name: FoundError(40, 20, Estimate(0.0, -0.1, 0.5)) for name in (*taxonomy.ERRORS, "any", "any of three")}
    worth = SimpleNamespace(training=OutOfSourceValidity({"all": kappa}, errors))
    table = judge_tables.selected_shares(worth, {"response": {"Lack of Empathy": 3, "Emotion Misread": 1}}, {"response": "pairs"})
    assert table.loc["Lack of Empathy", "pairs"] == "75.0" and table.loc["Strategy Mismatch", "pairs"] == "0.0"
    found = judge_tables.precision(worth.training, "any of three")
    assert found.value == pytest.approx(40) and found.low < 40 < found.high, "a judge without effect picks as by chance"
    assert judge_tables.selected_shares(Missing("no labels"), {}, {}) == Missing("no labels")

"""Agreement coefficients against the libraries they come from, and what happens where they are undefined."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.agreement import Undefined, fleiss_kappa, krippendorff_alpha, spearman, weighted_kappa
from decoupled_esc.evaluate.bootstrap import cluster_weights

SCALE = [1, 2, 3, 4, 5]
FEW = {"replicates": 40, "seed": 3}
PROPERTY = settings(max_examples=40, deadline=None)

pairs = st.lists(st.tuples(st.sampled_from([1, 2, 4, 5]), st.sampled_from(SCALE)), min_size=2, max_size=30)


def two_raters(items, seed, noise=1.0):
    """Two ratings 1..5 of each item that agree more or less, and a dialogue for each item."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 5, items)
    a, b = (np.clip(np.round(truth + rng.normal(0, noise, items)), 1, 5).astype(int) for _ in range(2))
    return a.tolist(), b.tolist(), [f"d{n:04}" for n in rng.integers(0, max(2, items // 6), items)]


def several_raters(items=40, raters=4, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    ratings = np.clip(np.round(rng.uniform(1, 5, items) + rng.normal(0, 0.7, (raters, items))), 1, 5)
    ratings[rng.random(ratings.shape) < missing] = np.nan
    return ratings, [n // 2 for n in range(items)]


def same(left: Estimate, right: Estimate) -> bool:
    return [left.value, left.low, left.high] == pytest.approx([right.value, right.low, right.high], nan_ok=False)


@pytest.mark.parametrize("weights", ["quadratic", None])
def test_kappa_is_that_of_scikit_learn(weights):
    a, b, groups = two_raters(200, seed=1)
    a = [2 if x == 3 else x for x in a]  # a level that one rater never uses
    found = weighted_kappa(a, b, groups, labels=SCALE, weights=weights, **FEW)
    assert found.value == pytest.approx(cohen_kappa_score(a, b, labels=SCALE, weights=weights))
    assert found.low < found.value < found.high


def test_an_unused_level_keeps_its_place_on_the_scale():
    a, b = [1, 1, 5, 4, 4], [1, 4, 5, 5, 1]
    groups = range(5)
    whole = weighted_kappa(a, b, groups, labels=SCALE, **FEW).value
    assert whole == pytest.approx(cohen_kappa_score(a, b, labels=SCALE, weights="quadratic"))
    assert whole != pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))


def test_spearman_is_that_of_scipy():
    a, b, groups = two_raters(150, seed=2)
    assert spearman(a, b, groups, **FEW).value == pytest.approx(spearmanr(a, b).statistic)
    fine = np.random.default_rng(0).normal(size=(2, 30))
    assert spearman(*fine, range(30), **FEW).value == pytest.approx(spearmanr(*fine).statistic)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_alpha_is_that_of_the_krippendorff_package(level, missing):
    ratings, groups = several_raters(missing=missing)
    found = krippendorff_alpha(ratings, groups, level=level, **FEW)
    assert found.value == pytest.approx(krippendorff.alpha(ratings, level_of_measurement=level))
    assert found.low < found.value < found.high


def test_fleiss_kappa_is_that_of_statsmodels():
    ratings, groups = several_raters()
    table, _ = inter_rater.aggregate_raters(ratings.T)
    assert fleiss_kappa(ratings, groups, **FEW).value == pytest.approx(inter_rater.fleiss_kappa(table))


def test_fleiss_kappa_of_different_raters_on_each_item():
    ratings, groups = several_raters(raters=4)
    spread = np.full((8, 40), np.nan)
    for item in range(40):
        spread[np.random.default_rng(item).permutation(8)[:4], item] = ratings[:, item]
    assert fleiss_kappa(spread, groups, **FEW) == fleiss_kappa(ratings, groups, **FEW)


def test_an_interval_of_spearman_from_resampled_data():
    """A copy is what scipy makes of the data with the items of each dialogue repeated as often as it was sampled."""
    a, b, groups = two_raters(60, seed=4)
    names = sorted(set(groups))
    copies = []
    for times in cluster_weights(len(names), 40, seed=3):
        repeat = [times[names.index(group)] for group in groups]
        copies.append(spearmanr(np.repeat(a, repeat), np.repeat(b, repeat)).statistic)
    found = spearman(a, b, groups, **FEW)
    assert [found.low, found.high] == pytest.approx(np.quantile(copies, [0.025, 0.975]).tolist())


def test_copies_within_a_dialogue_do_not_narrow_the_interval():
    """Ten copies of each item are no new evidence: clustered, the interval is that of the items themselves."""
    a, b, _ = two_raters(50, seed=5)
    names = [f"{n:02}" for n in range(50)]
    once = weighted_kappa(a, b, names, labels=SCALE, **FEW)
    copied = weighted_kappa(a * 10, b * 10, names * 10, labels=SCALE, **FEW)
    assert same(once, copied)


def test_one_dialogue_has_no_interval():
    a, b, _ = two_raters(20, seed=7)
    found = weighted_kappa(a, b, ["d"] * 20, labels=SCALE, **FEW)
    assert found == Estimate(found.value)


def test_replicates_without_variation_are_left_out_unless_they_are_many():
    # One dialogue of 40 differs: it is missing from (39/40)^40 = 36% of the replicates, in which nothing can be said.
    a = [3] * 39 + [5]
    assert weighted_kappa(a, a, range(40), labels=SCALE, replicates=200, seed=0) == Estimate(1.0)
    # Ten of forty differ: no replicate misses all of them.
    a = [3] * 30 + [5] * 10
    assert weighted_kappa(a, a, range(40), labels=SCALE, replicates=200, seed=0) == Estimate(1.0, 1.0, 1.0)


def test_constant_ratings_are_undefined_not_nan():
    with pytest.raises(Undefined, match="one and the same label"):
        weighted_kappa([3, 3, 3], [3, 3, 3], "abc", labels=SCALE, **FEW)
    with pytest.raises(Undefined, match="one rater gave every item the same value"):
        spearman([3, 3, 3], [1, 2, 3], "abc", **FEW)
    with pytest.raises(Undefined, match="paired are equal"):
        krippendorff_alpha([[3, 3, 1], [3, 3, np.nan]], "abc", level="ordinal", **FEW)
    with pytest.raises(Undefined, match="all ratings are equal"):
        fleiss_kappa(np.full((3, 4), 2.0), "abcd", **FEW)


def test_a_constant_rater_beside_one_who_varies_agrees_as_chance_would():
    assert weighted_kappa([3, 3, 3, 3], [1, 2, 4, 5], "abcd", labels=SCALE, **FEW).value == pytest.approx(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weighted_kappa([1, None], [1, 2], "ab", labels=SCALE, **FEW), "None is not one of the labels"),
        (lambda: weighted_kappa([1, 2], [1], "ab", labels=SCALE, **FEW), "one length"),
        (lambda: weighted_kappa([], [], [], labels=SCALE, **FEW), "at least 1"),
        (lambda: weighted_kappa([1], [1], "a", labels=[1, 1], **FEW), "two different"),
        (lambda: spearman([1, np.nan], [1, 2], "ab", **FEW), "nan"),
        (lambda: krippendorff_alpha([[1, 2]], "ab", level="nominal", **FEW), "at least two raters"),
        (lambda: krippendorff_alpha([[1, np.nan], [np.nan, 2]], "ab", level="nominal", **FEW), "no item has two"),
        (lambda: krippendorff_alpha([[1, 2], [1, 2]], "abc", level="nominal", **FEW), "3 items"),
        (lambda: fleiss_kappa([[1, 2], [1, np.nan]], "ab", **FEW), r"\[1, 2\] ratings"),
        (lambda: fleiss_kappa([[1, np.nan], [np.nan, 2]], "ab", **FEW), "at least 2"),
    ],
)
def test_bad_ratings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def outcome(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except Undefined:
        return None


@PROPERTY
@given(pairs, st.sampled_from(["quadratic", None]))
def test_symmetric_and_no_more_than_one(rated, weights):
    a, b = zip(*rated)
    for function, options in ((weighted_kappa, {"labels": SCALE, "weights": weights}), (spearman, {})):
        there = outcome(function, a, b, range(len(a)), **options, **FEW)
        back = outcome(function, b, a, range(len(a)), **options, **FEW)
        assert (there is None) == (back is None)
        if there is not None:
            assert there.value == pytest.approx(back.value) and -1.000001 <= there.value <= 1.000001


@PROPERTY
@given(pairs)
def test_a_rater_agrees_with_himself(rated):
    a = [x for x, _ in rated]
    ratings = np.array([a, a, a], dtype=float)
    groups = range(len(a))
    for found in (
        outcome(weighted_kappa, a, a, groups, labels=SCALE, **FEW),
        outcome(spearman, a, a, groups, **FEW),
        outcome(krippendorff_alpha, ratings, groups, level="ordinal", **FEW),
        outcome(fleiss_kappa, ratings, groups, **FEW),
    ):
        assert (found is None) == (len(set(a)) == 1)
        assert found is None or found.value == pytest.approx(1)
        assert found is None or found.low is None or found.low == pytest.approx(1)


@PROPERTY
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_items_and_raters_does_not_matter(rated, random):
    rows = [(a, b, f"d{n // 3}") for n, (a, b) in enumerate(rated)]
    mixed = random.sample(rows, len(rows))
    for function, options in ((weighted_kappa, {"labels": SCALE}), (spearman, {})):
        first, second = (outcome(function, *zip(*r), **options, **FEW) for r in (rows, mixed))
        assert first is None and second is None or same(first, second)
    for function, options in ((krippendorff_alpha, {"level": "interval"}), (fleiss_kappa, {})):
        tables = [(np.array([[x, y] for x, y, _ in r], dtype=float).T, [g for *_, g in r]) for r in (rows, mixed)]
        first = outcome(function, *tables[0], **options, **FEW)
        second = outcome(function, tables[1][0][::-1], tables[1][1], **options, **FEW)
        assert first is None and second is None or same(first, second)

"""What a design can see: the formula against simulation, spreads by hand, and no effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from decoupled_esc.corpus.judgements import Rating
from decoupled_esc.evaluate.power import paired_spreads, smallest_detectable
from decoupled_esc.experiments.agreement import JudgedSpread
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import power

FEW = {"replicates": 200, "seed": 1}


def test_a_difference_of_that_size_is_found_in_four_cases_of_five_and_none_in_one_of_twenty():
    random, n, sd = np.random.default_rng(0), 100, 1.3
    size = smallest_detectable(sd, n)
    noise = random.normal(0, sd, (4000, n))
    assert np.mean(ttest_1samp(noise + size, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.025)
    assert np.mean(ttest_1samp(noise, 0, axis=1).pvalue < 0.05) == pytest.approx(0.05, abs=0.012)


def test_four_times_the_turns_see_half_the_difference():
    assert smallest_detectable(1.0, 400) == pytest.approx(smallest_detectable(1.0, 100) / 2)


def ratings(first, second, rater="experts", dimension="Empathy") -> list[Rating]:
    both = {"A": first, "B": second, "C": [9.0] * len(first)}
    return [Rating("MentalAlign", str(n), writer, dimension, rater, value) for writer, own in both.items() for n, value in enumerate(own)]


def test_spreads_are_of_paired_differences_and_posts_of_one_writer_are_left_out():
    rows = [*ratings([5, 3, 4], [4, 4, 2]), Rating("MentalAlign", "alone", "A", "Empathy", "experts", 1.0)]
    (found,) = paired_spreads(rows, "A", "B", **FEW)
    assert (found.rater, found.dimension, found.posts) == ("experts", "Empathy", 3)
    assert found.difference.value == pytest.approx(2 / 3) and found.sd == pytest.approx(np.std([1, -1, 2], ddof=1))
    assert found.difference.low <= found.difference.value <= found.difference.high


def test_equal_writers_differ_by_nothing():
    (found,) = paired_spreads(ratings([4, 3, 5], [4, 3, 5]), "A", "B", **FEW)
    assert (found.difference.value, found.difference.low, found.difference.high, found.sd) == (0, 0, 0, 0)


def spread(*sds: float) -> JudgedSpread:
    wide = [ratings([3 + sd, 3 - sd] * 50, [3, 3] * 50, dimension=f"{n}" if n else "Empathy") for n, sd in enumerate(sds)]
    return JudgedSpread("A", "B", 4.0, paired_spreads([row for rows in wide for row in rows], "A", "B", **FEW))


def test_the_papers_differences_are_held_against_what_can_be_seen():
    assert len(list(power.printed())) == 32
    assert power.seen(spread(0.0), "experts") == list(power.printed())  # ratings without any spread see everything
    assert power.seen(spread(100.0), "experts") == []
    assert power.detectable(spread(1.0), "experts") == pytest.approx(smallest_detectable(np.std([1, -1] * 50, ddof=1), 100) * 5 / 4)


def test_what_is_missing_says_why():
    why = Missing("no ratings here")
    assert power.table(why) == why and "no ratings here" in power.figure(why, "source").axes[0].texts[0].get_text()
    assert list(power.table(spread(1.0)).index) == ["experts"]

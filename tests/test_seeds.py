"""Scores over training runs: with one seed those of `evaluate_systems`, with more their average, wider intervals."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import TypeAdapter
from test_bootstrap import sampling, system

from decoupled_esc.evaluate import SINGLE_METRICS, STRATEGY_METRICS, TEXT_METRICS, evaluate_systems
from decoupled_esc.evaluate.bootstrap import Resampled, over_trainings
from decoupled_esc.evaluate.judged import Means
from decoupled_esc.evaluate.seeds import (
    SeedCounts,
    SeedEvaluation,
    SeedMeans,
    evaluate_seeds,
    mean_over_seeds,
    seed_counts,
)
from decoupled_esc.taxonomy import STRATEGIES

TURNS = {
    13: {"a": system(1), "b": system(2, accuracy=0.1)},
    14: {"a": system(3), "b": system(4, accuracy=0.1)},
    15: {"a": system(5), "b": system(6, accuracy=0.3)},
}
GOLD = [SimpleNamespace(id=turn.id, dialogue=turn.dialogue, strategy=turn.gold_strategy) for turn in TURNS[13]["a"]]
COUNTS = {seed: {name: seed_counts(turns) for name, turns in systems.items()} for seed, systems in TURNS.items()}
HOW = {"contrasts": [("a", "b")], "replicates": 400, "seed": 7}


def over(*seeds):
    found = evaluate_seeds(GOLD, {seed: COUNTS[seed] for seed in seeds}, **HOW)
    return found.together, found.by_seed


def test_one_seed_is_what_evaluate_systems_says():
    ours, by_seed = over(13)
    theirs = evaluate_systems(TURNS[13], **HOW)
    for part in ("systems", "contrasts"):
        for name, scores in getattr(ours, part).items():
            assert list(scores["paper"]) == [*TEXT_METRICS, *STRATEGY_METRICS, *SINGLE_METRICS]
            for key, estimate in scores["paper"].items():
                expected = getattr(theirs, part)[name]["paper"][key]
                assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
                    (expected.value, expected.low, expected.high), abs=1e-5
                )
    for name, details in ours.details.items():
        expected = theirs.details[name]
        assert (details.confusion, details.invalid, details.turns) == (
            expected.confusion,
            expected.invalid,
            expected.turns,
        )
        assert details.preference["paper"] == pytest.approx(expected.preference["paper"])
    assert by_seed == {"13": {"a - b": {key: e.value for key, e in ours.contrasts["a - b"]["paper"].items()}}}


def test_several_seeds_are_averaged_and_kept():
    together, by_seed = over(13, 14, 15)
    assert list(by_seed) == ["13", "14", "15"]
    for key, estimate in together.contrasts["a - b"]["paper"].items():
        assert estimate.value == pytest.approx(np.mean([by_seed[seed]["a - b"][key] for seed in by_seed]))
        assert estimate.low <= estimate.value <= estimate.high
    single = [over(seed)[0].systems["b"]["paper"]["Q"].value for seed in TURNS]
    assert together.systems["b"]["paper"]["Q"].value == pytest.approx(np.mean(single))
    assert together.details["a"].turns == 3 * len(GOLD)


def test_the_same_model_thrice_has_the_interval_of_one():
    """Nearly: symmetrical limits in place of percentiles."""
    once, _ = over(13)
    thrice = evaluate_seeds(GOLD, dict.fromkeys((13, 14, 15), COUNTS[13]), **HOW).together
    for key, expected in once.contrasts["a - b"]["paper"].items():
        found = thrice.contrasts["a - b"]["paper"][key]
        assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)


def test_seeds_that_disagree_widen_the_interval():
    """Always right under one seed, and never under another: any two dialogues agree, and the seeds don't."""
    right = "".join(str(STRATEGIES.index(turn.strategy)) for turn in sorted(GOLD, key=lambda turn: turn.id))
    wrong = "".join(str((int(sign) + 1) % 8) for sign in right)
    text = COUNTS[13]["a"].text
    seeds = {seed: {"a": SeedCounts(said, text, [])} for seed, said in ((13, right), (14, wrong), (15, right))}
    q = evaluate_seeds(GOLD, seeds, contrasts=[], replicates=2000, seed=0).together.systems["a"]["paper"]["Q"]
    # t of two degrees of freedom times the standard error of 100, 0 and 100
    assert q.value == pytest.approx(200 / 3) and q.high - q.value == pytest.approx(4.3027 * 100 / 3, rel=0.01)


# --- The interval over trainings ---

DIALOGUE, BOTH = 1.0, 3.0  # As here: what a dialogue is worth differs by training more than it differs in all of them


def trainings(rng, number, spread, dialogues=130, replicates=300):
    """Scores of crossed trainings and dialogues without any effect; ``spread``: standard deviation between trainings."""
    cells = rng.normal(0, DIALOGUE, dialogues) + rng.normal(0, BOTH, (number, dialogues)) + rng.normal(0, spread, (number, 1))
    weights = rng.multinomial(dialogues, np.full(dialogues, 1 / dialogues), size=replicates)
    return [Resampled(float(row.mean()), weights @ row / dialogues) for row in cells]


@pytest.mark.parametrize("number", (3, 5))
@pytest.mark.parametrize("spread", (0.0, 0.3, 1.0))
def test_without_an_effect_the_interval_excludes_0_at_most_one_time_in_twenty(number, spread):
    """Whether dialogues dominate, or trainings do.  The tolerance is two standard errors of 600 trials."""
    rng = np.random.default_rng([number, int(10 * spread)])
    found = [over_trainings(trainings(rng, number, spread)) for _ in range(600)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 600)
    for one in found[:50]:
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high)
        assert (one.low + one.high) / 2 == pytest.approx(one.value)


def test_trainings_that_are_equal_add_nothing_and_no_difference_has_p_1():
    one = trainings(np.random.default_rng(0), 1, 0.0)[0]
    alone, many = one.estimate(), over_trainings([one] * 5)
    assert many.high - many.low == pytest.approx(alone.high - alone.low, rel=0.1)
    nothing = over_trainings([Resampled(0.0, np.zeros(10))] * 3)
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    certain = over_trainings([Resampled(1.0, np.ones(10))] * 3)
    assert (certain.low, certain.high) == (1, 1) and certain.p < 1e-9


def test_counts_are_in_the_order_of_ids_and_results_read_back():
    turns = TURNS[13]["a"]
    found = seed_counts(turns)
    assert (
        seed_counts(turns[::-1])
        == found
        == TypeAdapter(SeedCounts).validate_json(TypeAdapter(SeedCounts).dump_json(found))
    )
    assert len(found.strategies) == len(turns)
    assert found.strategies.count("-") == sum(turn.predicted_strategy is None for turn in turns)
    assert np.array(found.text).shape == (20, 6)
    for kind, result in ((SeedEvaluation, evaluate_seeds(GOLD, COUNTS, **HOW)), (SeedMeans, means_over(13, 14))):
        assert TypeAdapter(kind).validate_json(TypeAdapter(kind).dump_json(result)) == result


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="no reply to .* turns"):
        seed_counts(system(1, replies=False))
    with pytest.raises(ValueError, match=r"seed 14 has the systems \['a'\]"):
        evaluate_seeds(GOLD, {13: COUNTS[13], 14: {"a": COUNTS[14]["a"]}}, **HOW)
    short = COUNTS[13] | {"a": replace(COUNTS[13]["a"], strategies="01")}
    few = COUNTS[13] | {"a": replace(COUNTS[13]["a"], samples=["01"])}
    for counts in (short, few):
        with pytest.raises(ValueError, match="a under seed 13: 2 turns of 20 dialogues, and the test set has"):
            evaluate_seeds(GOLD, {13: counts}, **HOW)


def test_samples_count_as_in_evaluate_systems():
    turns = {seed: {"a": sampling(seed, 6), "b": sampling(seed + 9, 6, share=0.2)} for seed in (13, 14)}
    gold = [SimpleNamespace(id=one.id, dialogue=one.dialogue, strategy=one.gold_strategy) for one in turns[13]["a"]]
    counts = {seed: {name: seed_counts(rows) for name, rows in found.items()} for seed, found in turns.items()}
    assert len(counts[13]["a"].samples) == 6 and len(counts[13]["a"].samples[0]) == len(gold)
    single = {seed: evaluate_systems(found, **HOW) for seed, found in turns.items()}
    found = evaluate_seeds(gold, counts, **HOW)
    for key in (*STRATEGY_METRICS, *SINGLE_METRICS):
        values = [one.contrasts["a - b"]["paper"][key].value for one in single.values()]
        assert list(found.by_seed["13"]["a - b"].values()) and found.by_seed["13"]["a - b"][key] == pytest.approx(values[0])
        assert found.together.contrasts["a - b"]["paper"][key].value == pytest.approx(np.mean(values))


def test_one_dialogue_has_no_interval():
    turns = system(1, dialogues=1)
    gold = [SimpleNamespace(id=turn.id, dialogue=turn.dialogue, strategy=turn.gold_strategy) for turn in turns]
    found = evaluate_seeds(gold, {13: {"a": seed_counts(turns)}}, contrasts=[], replicates=20, seed=0).together
    assert found.systems["a"]["paper"]["Q"].low is None


# --- Means, as of shares of errors ---

LABELS = ("one", "two")
DIALOGUES = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4])
SHARES = {
    seed: {name: np.random.default_rng([seed, k]).random((12, 2)) for k, name in enumerate("ab")}
    for seed in (13, 14, 15)
}


def means_over(*seeds):
    sums = {
        seed: {
            name: np.array([values[DIALOGUES == d].sum(0) for d in range(5)]) for name, values in SHARES[seed].items()
        }
        for seed in seeds
    }
    return mean_over_seeds(np.bincount(DIALOGUES), sums, LABELS, **HOW)


def test_means_under_one_seed_are_the_judges_means():
    ours = means_over(13)
    theirs = Means([str(d) for d in DIALOGUES], replicates=400, seed=7).table(SHARES[13], LABELS, [("a", "b")])
    for part in ("systems", "contrasts"):
        found, expected = getattr(ours, part), getattr(theirs, part)
        assert found.keys() == expected.keys()
        for name, row in expected.items():
            for label, estimate in row.items():
                assert vars(found[name][label]) == pytest.approx(vars(estimate))
    assert ours.by_seed["13"]["a - b"]["one"] == pytest.approx(ours.contrasts["a - b"]["one"].value)


def test_means_under_several_seeds_are_averaged():
    together = means_over(13, 14, 15)
    for label in LABELS:
        found = together.contrasts["a - b"][label]
        assert found.value == pytest.approx(np.mean([of["a - b"][label] for of in together.by_seed.values()]))
        assert found.low < found.value < found.high

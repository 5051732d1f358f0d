"""Scores over training runs: with one seed those of `evaluate_systems`, with more their average, wider intervals."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import TypeAdapter
from test_bootstrap import system

from decoupled_esc.evaluate import SINGLE_METRICS, TEXT_METRICS, evaluate_systems
from decoupled_esc.evaluate.bootstrap import Resampled, over_trainings
from decoupled_esc.evaluate.judged import Means
from decoupled_esc.evaluate.seeds import (
    SeedCounts,
    SeedEvaluation,
    SeedMeans,
    evaluate_seeds,
    mean_over_seeds,
    seed_counts,
    strategy_shares,
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
            assert list(scores["paper"]) == [*TEXT_METRICS, *SINGLE_METRICS, *SINGLE_METRICS.values()]
            for key, estimate in scores["paper"].items():
                expected = vars(getattr(theirs, part)[name]["paper"][key]) | {"p": estimate.p}
                assert vars(estimate) == pytest.approx(expected, abs=1e-5)
    for name, details in ours.details.items():
        expected = theirs.details[name]
        for count in ("confusion", "invalid", "turns"):
            assert getattr(details, count) == getattr(expected, count)
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
    seeds = {seed: {"a": SeedCounts(said, text)} for seed, said in ((13, right), (14, wrong), (15, right))}
    q = evaluate_seeds(GOLD, seeds, contrasts=[], replicates=2000, seed=0).together.systems["a"]["paper"]["Q"]
    # t of two degrees of freedom times the standard error of 100, 0 and 100
    assert q.value == pytest.approx(200 / 3) and q.high - q.value == pytest.approx(4.3027 * 100 / 3, rel=0.01)


def test_shares_of_strategies_stand_beside_the_human_references():
    found = strategy_shares(GOLD, COUNTS, contrasts=[("a", "b"), ("a", "gold")], replicates=100, seed=7)
    for k, name in enumerate(STRATEGIES):
        human = 100 * np.mean([turn.strategy == name for turn in GOLD])
        own = [100 * np.mean([sign == str(k) for sign in COUNTS[seed]["a"].strategies]) for seed in TURNS]
        assert found.systems["gold"][name].value == pytest.approx(human)
        assert found.systems["a"][name].value == pytest.approx(np.mean(own))
        excess = found.contrasts["a - gold"][name]
        assert excess.value == pytest.approx(np.mean(own) - human) and excess.low <= excess.value <= excess.high and excess.p is not None
        assert [found.by_seed[str(seed)]["a - gold"][name] for seed in TURNS] == pytest.approx([one - human for one in own])


def test_an_answer_without_a_strategy_is_none_of_the_eight():
    silent = {13: {"a": SeedCounts("-" * len(GOLD), COUNTS[13]["a"].text)}}
    found = strategy_shares(GOLD, silent, contrasts=[], replicates=20, seed=0).systems
    assert {one.value for one in found["a"].values()} == {0} and sum(one.value for one in found["gold"].values()) == pytest.approx(100)


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
    assert seed_counts(turns[::-1]) == found and len(found.strategies) == len(turns)
    assert found.strategies.count("-") == sum(turn.predicted_strategy is None for turn in turns)
    assert np.array(found.text).shape == (20, 6)
    whole = evaluate_seeds(GOLD, COUNTS, **HOW)
    for kind, result in ((SeedCounts, found), (SeedEvaluation, whole), (SeedMeans, means_over(13, 14))):
        assert TypeAdapter(kind).validate_json(TypeAdapter(kind).dump_json(result)) == result


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="no reply to .* turns"):
        seed_counts(system(1, replies=False))
    with pytest.raises(ValueError, match="a and b were made under no seed together"):
        evaluate_seeds(GOLD, {13: {"b": COUNTS[13]["b"]}, 14: {"a": COUNTS[14]["a"]}}, **HOW | {"contrasts": [("a", "b")]})
    short = COUNTS[13] | {"a": replace(COUNTS[13]["a"], strategies="01")}
    with pytest.raises(ValueError, match="a under seed 13: 2 turns of 20 dialogues, and the test set has"):
        evaluate_seeds(GOLD, {13: short}, **HOW)


def test_a_system_of_one_seed_stands_beside_those_of_several():
    """It has its own scores and differences under that seed, and changes nothing of the others."""
    how = HOW | {"contrasts": [("a", "b")]}
    whole = evaluate_seeds(GOLD, COUNTS, **how)
    part = evaluate_seeds(GOLD, {13: COUNTS[13], 14: {"a": COUNTS[14]["a"]}, **{n: COUNTS[n] for n in COUNTS if n > 14}}, **how)
    alone = evaluate_seeds(GOLD, {n: counts for n, counts in COUNTS.items() if n != 14}, **how)
    assert part.together.systems["a"] == whole.together.systems["a"]
    assert part.together.systems["b"] == alone.together.systems["b"]
    assert part.together.contrasts == alone.together.contrasts and part.by_seed["14"] == {}


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
    def sums_of(values):
        return np.array([values[DIALOGUES == d].sum(0) for d in range(5)])

    sums = {seed: {name: sums_of(values) for name, values in SHARES[seed].items()} for seed in seeds}
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


# --- Expectations ---


def expected(seed: int, size: int = 50):
    """A planner that names the gold strategy half of the time, sampled once, and again and again."""
    random, rows = np.random.default_rng(seed), []
    for turn in system(1):
        said = [STRATEGIES.index(turn.gold_strategy) if random.random() < 0.5 else int(random.integers(8)) for _ in range(1 + size)]
        counts = tuple(np.bincount(said[1:], minlength=8).tolist())
        rows.append(replace(turn, predicted_strategy=STRATEGIES[said[0]], sampled=counts))
    return rows


def test_an_expectation_hardly_changes_with_the_sample():
    found = [evaluate_seeds(GOLD, {13: {"a": seed_counts(expected(n))}}, contrasts=[], replicates=50, seed=0).together for n in range(8)]
    for key in ("Q", "Q_W", "B"):
        many = [one.systems["a"]["paper"][key] for one in found]
        once = [one.systems["a"]["paper"][SINGLE_METRICS[key]].value for one in found]
        assert np.std([one.value for one in many]) < 0.35 * np.std(once)
        assert abs(np.mean([one.value for one in many]) - np.mean(once)) < 3 * np.std(once)
        assert all(one.low < one.value < one.high for one in many)


def test_what_is_always_the_same_is_its_own_expectation():
    turns = system(1)
    sure = [
        replace(turn, sampled=tuple(50 * (name == turn.predicted_strategy) for name in STRATEGIES)) for turn in turns
    ]
    again = evaluate_seeds(GOLD, {13: {"a": seed_counts(sure)}}, contrasts=[], replicates=50, seed=0).together.systems["a"]["paper"]
    alone = evaluate_seeds(GOLD, {13: {"a": seed_counts(turns)}}, contrasts=[], replicates=50, seed=0).together.systems["a"]["paper"]
    for key, single in SINGLE_METRICS.items():
        assert again[key].value == pytest.approx(again[single].value) == pytest.approx(alone[key].value) == alone[single].value
        assert again[key].low == pytest.approx(alone[key].low)


def test_systems_and_seeds_agree_on_expectations():
    turns = expected(1)
    over = evaluate_seeds(GOLD, {7: {"a": seed_counts(turns)}}, contrasts=[], replicates=50, seed=0).together
    (one,) = evaluate_systems({"a": turns}, contrasts=[], replicates=50, seed=0).systems.values()
    for key in (*SINGLE_METRICS, *SINGLE_METRICS.values()):
        assert one["paper"][key].value == pytest.approx(over.systems["a"]["paper"][key].value)


def test_turns_sampled_unequally_often_are_refused():
    turns = expected(1)
    with pytest.raises(ValueError, match=r"turns were sampled \[3, 50\] times"):
        evaluate_systems({"a": [replace(turns[0], sampled=(3, *[0] * 7)), *turns[1:]]}, contrasts=[], replicates=5, seed=0)

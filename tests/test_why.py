"""Why systems differ: crossed factors, sources of bias, acceptable strategies; each with a case without effect."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, f1_score

from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate import acceptable, bias_sources, crossed, strategy
from decoupled_esc.evaluate.bootstrap import Estimate, cluster_weights, numbered
from decoupled_esc.evaluate.decoding import probabilities
from decoupled_esc.experiments.why import _shown, _where
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import why
from decoupled_esc.taxonomy import STRATEGIES

FEW = {"replicates": 200, "seed": 0}
CELL = arrays(float, (6, 2), elements=st.floats(-9, 9))


def people(turns: int = 4000, skill: float = 1.0, seed: int = 0):
    """Probabilities [turns, 8] with which people choose, very unequal; what they chose; dialogues of ten turns."""
    random = np.random.default_rng(seed)
    logs = np.log([0.35, 0.25, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02]) + skill * random.normal(size=(turns, 8))
    p = probabilities(logs, 1.0, 1.0)
    chosen = np.minimum((p.cumsum(axis=1) < random.random((turns, 1))).sum(axis=1), 7)
    return p, [STRATEGIES[k] for k in chosen], [f"d{n // 10}" for n in range(turns)]


def turn(number: int, said: str, used: str, dialogue: str = "esconv/0001", before: str | None = None) -> Turn:
    context = [Message("seeker", "hello"), Message("supporter", "hi", before)] if before else []
    return Turn(f"{dialogue}/{number:02}", dialogue, (*context, Message("seeker", said)), used, "a reply")


# --- Plans and words crossed ---


@given(CELL, CELL, CELL, CELL)
def test_main_effects_add_up_to_the_difference(old, first, second, both):
    found = crossed.effects(old, first, second, both)
    np.testing.assert_allclose(found["first"] + found["second"], found["total"], atol=1e-9)
    other = crossed.effects(old, second, first, both)
    np.testing.assert_allclose(other["first"], found["second"], atol=1e-9)


@given(CELL, CELL)
def test_a_factor_without_effect_has_none_and_the_other_has_all(old, both):
    found = crossed.effects(old, old, both, both)
    assert not found["first"].any() and not found["interaction"].any()
    np.testing.assert_allclose(found["second"], found["total"])


def test_means_leave_out_missing_turns_and_absent_columns():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan], [8.0, np.nan]])
    group, groups = numbered(["a", "a", "b", "c"])
    found = crossed.means({"row": values}, ("x", "y"), group, cluster_weights(groups, **FEW))["row"]
    assert found.keys() == {"x"} and found["x"].value == pytest.approx(4.0)
    one = crossed.over_seeds([{"row": found}])["row"]["x"]
    assert one.low < 4.0 < one.high and one.p is None
    three = crossed.over_seeds([{"row": found}] * 3)["row"]["x"]
    assert three.value == pytest.approx(4.0) and three.p is not None, "several trainings are averaged as elsewhere"


def test_an_effect_of_noise_alone_has_an_interval_around_zero():
    random = np.random.default_rng(3)
    cells = [random.normal(size=(2000, 1)) for _ in range(4)]
    group, groups = numbered([n // 10 for n in range(2000)])
    rows = crossed.means(crossed.effects(*cells), ("x",), group, cluster_weights(groups, **FEW))
    assert all(own.estimate().low < 0 < own.estimate().high for row in rows.values() for own in row.values())


def test_a_reader_of_strategies_and_how_often_it_would_be_right_by_chance():
    replies = ["what happened ?", "when was that ?", "you can do it", "you are strong"] * 5
    used = [STRATEGIES[0], STRATEGIES[0], STRATEGIES[4], STRATEGIES[4]] * 5
    read = crossed.strategy_reader(replies, used).predict(["what was that ?", "you are right"])
    assert list(read) == [STRATEGIES[0], STRATEGIES[4]]
    found = _shown([STRATEGIES[0], None, STRATEGIES[4]], [STRATEGIES[0], STRATEGIES[0], STRATEGIES[0]])
    assert found.tolist() == [[100, 100], [0, 0], [0, 0]]


def test_tables_are_divided_by_whether_the_plan_is_right():
    found = _where({"x": np.array([[1.0], [2.0], [3.0]])}, np.array([True, False, True]))
    assert [np.nanmean(found[f"x, {kind}"]) for kind in ("all", "right", "wrong")] == [2.0, 2.0, 2.0]
    assert np.isnan(found["x, right"]).tolist() == [[False], [True], [False]]


# --- Where B comes from ---


@settings(max_examples=50, deadline=None)
@given(arrays(float, (8, 8), elements=st.floats(0.1, 9)), arrays(float, 8, elements=st.floats(0.5, 2)))
def test_b_is_zero_exactly_where_each_strategy_is_predicted_as_often_as_it_is_gold(w, tilt):
    for _ in range(200):  # rows and columns are made to agree, whatever is right or wrong
        w = w * np.sqrt(w.sum(axis=0) / w.sum(axis=1))[:, None]
        w = w / np.sqrt(w.sum(axis=0) / w.sum(axis=1))[None]
    assert strategy.bias(w, "paper") < 1e-4 and strategy.bias(w, "standard") < 1e-4
    tilted = w * tilt[:, None]
    gap = np.abs(tilted.sum(axis=0) - tilted.sum(axis=1)).max() / tilted.sum()
    assert (strategy.bias(tilted, "standard") > 1e-3) == (gap > 1e-3) or gap < 0.01
    wrong = np.roll(np.eye(8), 1, axis=0)
    assert strategy.bias(wrong, "paper") == 0, "never right, and no bias"


def test_calibrated_sampling_has_no_bias_whatever_the_base_rates_are():
    """Without knowledge of the turn and with it."""
    for skill in (0.0, 1.5):
        p, gold, dialogues = people(20_000, skill)
        rows = bias_sources.conditions(np.log(p), gold, dialogues, top_p=0.95, **FEW)
        assert rows["as scored, T = 1"]["B"].value < 0.06, skill
        assert rows["as scored, argmax"]["B"].value > 0.4 and rows["as scored, T = 0.7, top-p"]["B"].value > 0.1
        parts = bias_sources.parts(rows)
        assert abs(parts["confidence"].value) < 0.06 and parts["shares"].value < 0.06, "nothing to recalibrate"


def test_overconfidence_and_shares_are_told_apart():
    p, gold, dialogues = people()
    sure = bias_sources.parts(bias_sources.conditions(3 * np.log(p), gold, dialogues, top_p=0.95, **FEW))
    assert sure["confidence"].estimate().low > 0.2 and sure["shares"].value < 0.15
    leaning = np.log(p) + np.array([0, 0, 0, 0, 0, 0, 1.0, 2.0])
    rows = bias_sources.conditions(leaning, gold, dialogues, top_p=0.95, **FEW)
    found = bias_sources.parts(rows)
    assert found["shares"].estimate().low > 0.3 > abs(found["confidence"].value)
    assert rows["temperature and shares fitted, T = 1"]["B"].value < 0.1
    fitted = bias_sources.recalibrated(3 * leaning, gold, dialogues, 0, shares=True)
    assert bias_sources.mean_nats(fitted, gold) == pytest.approx(bias_sources.mean_nats(np.log(p), gold), abs=0.02)
    np.testing.assert_allclose(np.exp(fitted).sum(axis=1), 1)


def test_the_parts_of_one_planner_add_up_and_the_same_planner_twice_does_not_differ():
    p, gold, dialogues = people(1000)
    rows = bias_sources.conditions(np.log(p), gold, dialogues, top_p=0.95, **FEW)
    parts = bias_sources.parts(rows)
    whole = parts["decoding, argmax"].value + parts["confidence"].value + parts["shares"].value
    assert whole == pytest.approx(rows["as scored, argmax"]["B"].value)
    same = bias_sources.differences(rows, rows)
    assert {own.estimate() for row in same.values() for own in row.values()} == {Estimate(0.0, 0.0, 0.0)}


def test_without_base_rates_what_knows_nothing_prefers_nothing():
    scores = np.tile(np.log([0.35, 0.25, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02]), (5, 1))
    assert np.ptp(bias_sources.without_base_rates(scores)) == 0
    np.testing.assert_allclose(probabilities(bias_sources.without_base_rates(scores), 0.0, 1.0), 1 / 8)


def test_scores_of_certain_predictions_are_scikit_learns():
    p, gold, dialogues = people(400)
    said = p.argmax(axis=1)
    group, groups = numbered(dialogues)
    counts = bias_sources.expected_counts(np.eye(8)[said], strategy.strategy_indices(gold), group, groups)
    found = bias_sources.scores_of(counts, cluster_weights(groups, **FEW))
    named = [STRATEGIES[k] for k in said]
    for key, average in (("Q", "macro"), ("Q_W", "weighted")):
        expected = 100 * f1_score(gold, named, labels=STRATEGIES, average=average, zero_division=0)
        assert found[key].value == pytest.approx(expected)
    assert found["accuracy"].value == pytest.approx(100 * accuracy_score(gold, named))


# --- Acceptable strategies ---


def test_messages_sent_one_after_the_other_accept_each_others_strategies():
    turns = [turn(1, "hello", "Question"), turn(2, " ", "Information"), turn(3, "yes", "Others"),
             turn(0, " ", "Question", "esconv/0002")]  # fmt: skip
    found = acceptable.in_the_same_run(turns)
    both = {STRATEGIES.index("Question"), STRATEGIES.index("Information")}
    assert set(found[0].nonzero()[0]) == set(found[1].nonzero()[0]) == both
    assert (found[2:] == acceptable.only_gold(turns)[2:]).all()


def test_similar_contexts_accept_what_several_of_them_used():
    train = [turn(n, "my dog died", "Reflection of feelings") for n in range(12)]
    train += [turn(n, "exams next week", "Question" if n % 2 else "Information", "esconv/0002") for n in range(12)]
    asked = [turn(0, "exams next week again", "Others", "esconv/0003")]
    near = acceptable.neighbours(train, asked)
    assert near.shape == (1, 10) and (near >= 12).all()
    found = acceptable.in_similar_contexts(train, asked, near)[0]
    assert {STRATEGIES[k] for k in found.nonzero()[0]} == {"Others", "Question", "Information"}


def test_the_same_moment_accepts_what_is_frequent_there():
    train = (
        [turn(0, "hi", "Question")] * 9
        + [turn(0, "hi", "Information")]
        + [turn(9, "hi", "Others", before="Question")] * 3
    )
    asked = [turn(0, "hi", "Others"), turn(9, "hi", "Information", before="Question")]
    found = acceptable.at_the_same_moment(train, asked, {"esconv/0001": 10})
    names = [{STRATEGIES[k] for k in row.nonzero()[0]} for row in found]
    assert names == [{"Question", "Others"}, {"Others", "Information"}], "a tenth is too rare, gold always counts"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_accepting_more_never_lowers_accuracy_and_gold_alone_changes_nothing(seed):
    random = np.random.default_rng(seed)
    p, truth = random.dirichlet(np.ones(8), 30), random.integers(0, 8, 30)
    group, one = np.zeros(30, dtype=int), np.eye(8, dtype=bool)[truth]
    plain = acceptable.accepted_counts(p, one, truth, group, 1)
    np.testing.assert_allclose(plain, bias_sources.expected_counts(p, truth, group, 1))
    more = acceptable.accepted_counts(p, one | (random.random((30, 8)) < 0.3), truth, group, 1)
    assert more.sum() == pytest.approx(30) and np.trace(more[0]) >= np.trace(plain[0]) - 1e-9


def test_equal_systems_are_never_told_apart_and_a_better_one_is():
    p, gold, dialogues = people(800)
    group, groups = numbered(dialogues)
    truth, weights = strategy.strategy_indices(gold), cluster_weights(groups, **FEW)
    alone = np.eye(8, dtype=bool)[truth]
    definitions = {acceptable.GOLD: alone, "all but gold's neighbour": ~np.roll(alone, 1, axis=1)}
    found = acceptable.scored({"a": p, "b": p, "gold": alone.astype(float)}, definitions, gold, group, weights)
    rows = found[acceptable.GOLD]
    assert acceptable.order(rows, rows, "accuracy") == acceptable.Order(pairs=3, apart=2, swapped=0, reversed=())
    bad = {name: {"accuracy": rows["gold"]["accuracy"] - row["accuracy"]} for name, row in rows.items()}
    turned = ("gold over a", "gold over b")
    assert acceptable.order(bad, rows, "accuracy") == acceptable.Order(3, apart=2, swapped=2, reversed=turned)


# --- What is said of them ---

NONE, UP, DOWN = Estimate(0.1, -0.2, 0.4), Estimate(0.5, 0.2, 0.8), Estimate(-0.5, -0.8, -0.2)


@pytest.mark.parametrize(
    ("plans", "words", "said"),
    [
        (NONE, NONE, "of neither part does the interval exclude 0"),
        (UP, NONE, "the plans change it, and of the words the interval holds 0"),
        (NONE, DOWN, "the words change it, and of the plans the interval holds 0"),
        (UP, DOWN, "both parts change it"),
    ],
)
def test_a_part_carries_a_difference_if_its_interval_excludes_zero(plans, words, said):
    effects = {"total": {"F1": NONE}, "plans": {"F1": plans}, "words": {"F1": words}}
    assert f"+0.1 [-0.2, +0.4] in all: {said} (plans " in why.which_part(effects, "F1").replace("\u2212", "-")


def test_a_better_plan_is_one_only_where_the_interval_says_so():
    said = [why.better_plan({"gold - plan, wrong": {"F1": one}}, "F1").split(": ")[1] for one in (NONE, UP, DOWN)]
    assert said == ["the interval holds 0", "it rises", "it falls"]
    assert not why.excludes_zero(Estimate(3.0)), "without an interval nothing is told apart"


def test_an_order_changes_only_by_pairs_that_are_told_apart_both_ways():
    same = acceptable.Order(pairs=6, apart=4, swapped=2, reversed=())
    alone = {"accuracy": acceptable.Order(6, 4, 0, ())}
    said = why.order_changes({acceptable.GOLD: alone, "x": {"accuracy": same}}, "accuracy")
    assert (
        said
        == "the order of pairs that are told apart never changes (pairs in another order at all, most by chance: 2 of 6 (x))"
    )
    turned = {"x": {"accuracy": same}, "y": {"accuracy": acceptable.Order(6, 4, 2, ("a over b",))}}
    assert "the order changes: under gold alone a over b, and by y the other way round" in why.order_changes(
        turned, "accuracy"
    )


def test_a_difference_in_b_that_recalibration_takes_away_does_not_survive():
    own, fitted = ({f"{scores}, {name}": {"B": one} for name in why.DECODINGS} for scores, one in
                   ((bias_sources.OWN, UP), (bias_sources.FITTED, NONE)))  # fmt: skip
    said = why.survives(own | fitted)
    assert "as scored, the interval excludes 0 at 3 of 3 decodings" in said
    assert "temperature and shares fitted, the interval excludes 0 at 0 of 2 decodings" in said


def test_a_planner_that_names_no_strategy_is_right_in_none():
    weights = np.ones((3, 2))
    scores = bias_sources.scores_of(np.zeros((2, 8, 8)), weights)
    assert scores["accuracy"].value == 0 and np.all(scores["accuracy"].copies == 0)


def test_a_backbone_without_a_study_has_a_dash_and_takes_no_answer_from_another():
    there = SimpleNamespace(effects={row: {"F1": UP} for row in ("total", "plans", "words")})
    orders = {acceptable.GOLD: {"accuracy": acceptable.Order(6, 4, 0, ("a before b",))}, "x": {"accuracy": acceptable.Order(6, 4, 2, ())}}
    everywhere = {
        "plans-and-words": {"ours": there, "theirs": Missing("not made")}, "given-strategies": {"ours": Missing("not made")},
        "accepted-strategies": {"theirs": SimpleNamespace(orders=orders)}, "bias-sources": {},
    }
    table = why.by_backbone(everywhere)
    assert list(table) == ["ours", "theirs"] and set(table.loc["2. F1, gold in place of a wrong plan"]) == {"–"}
    assert table["ours"]["1. of this, the words"] == why.format_estimate(UP, 1, "+") and table["theirs"]["1. of this, the words"] == "–"
    turned = table.loc["3. pairs of systems that turn round, by accuracy"]
    assert (turned["ours"], turned["theirs"]) == ("–", "none"), "gold alone turns no pair round"

"""Controls of chapter 19, and what a design can see: each with a case without effect."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoupled_esc import mining, prompts, train
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate import bias_sources, crossed, strategy
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, over_trainings
from decoupled_esc.evaluate.decoding import probabilities
from decoupled_esc.evaluate.power import Spread, pooled, smallest_detectable, spread_of
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import controls, inputs
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.replies import shown
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import power, why
from decoupled_esc.present.paper import load_tables
from tests.test_why import DOWN, FEW, NONE, UP, people

KIND = st.sampled_from("abc")


# --- Pairs matched ---


@given(st.lists(st.tuples(KIND, KIND)), st.integers(0, 99))
def test_each_kind_is_chosen_as_often_as_it_is_rejected(sides, seed):
    kept = [sides[n] for n in mining.balanced(sides, seed)]
    assert Counter(a for a, _ in kept) == Counter(b for _, b in kept) and not Counter(kept) - Counter(sides)
    assert mining.balanced(kept, seed) == list(range(len(kept))), "what is matched already loses nothing"
    assert Counter(pair for pair in kept if len(set(pair)) == 1) == Counter(pair for pair in sides if len(set(pair)) == 1)


def turn(number: int, used: str, reply: str) -> Turn:
    context = (Message("seeker", "hello"), Message("supporter", "hi", "Question"), Message("seeker", "well"))
    return Turn(f"esconv/{number // 10:04}/{number % 10:02}", f"esconv/{number // 10:04}", context, used, reply)


TURNS = [turn(n, "Question" if n % 2 else "Others", "one two three four five six" if n % 3 else "one") for n in range(40)]


class Done:
    """What a step is given, where what it reads is here already."""

    def __init__(self, folder, results: dict):
        self.folder, self.results, self.tokens = folder, results, None

    def __getitem__(self, step):
        return self.results[id(step)]

    def path(self, step, name):
        return self.folder / name


def mined(tmp_path) -> SimpleNamespace:
    """Pairs in which one strategy and long replies are chosen more often."""

    def pair(turn, kind, used, reply):
        return mining.Mined(f"{turn.id}#{used}", turn.id, kind, used, reply, None, None, None)

    wrong = [pair(one, "strategy", "Others" if n < 30 and one.strategy == "Question" else "Information", None) for n, one in enumerate(TURNS)]
    wrong += [pair(one, "strategy", "Question", None) for one in TURNS[:12] if one.strategy == "Others"]
    replies = [pair(one, "response", one.strategy, "a" if n % 4 else "a b c d e f") for n, one in enumerate(TURNS)]
    mining.write(tmp_path / "strategy.jsonl", wrong)
    mining.write(tmp_path / "response.jsonl", replies)
    return SimpleNamespace(turns=SimpleNamespace(read=lambda: TURNS))


def test_matched_pairs_prefer_no_strategy_and_no_length_and_the_others_are_as_many(tmp_path):
    source, found, kept = mined(tmp_path), {}, {}
    for matched in (True, False):
        mined(tmp_path)
        found[matched] = controls.MatchPairs(source, matched, 13).run(Done(tmp_path, {id(source): None}))
        kept[matched] = {kind: mining.read(tmp_path / f"{kind}.jsonl") for kind in ("strategy", "response")}
    gold = {one.id: one for one in TURNS}
    same = kept[True]["strategy"]
    assert Counter(gold[pair.turn].strategy for pair in same) == Counter(pair.strategy for pair in same) and same
    assert found[True].pairs == found[False].pairs and found[True].of == {"strategy": 46, "response": 40}
    assert 0 < found[True].pairs["response"] < 40 and {pair.id for pair in kept[False]["response"]} != {pair.id for pair in kept[True]["response"]}
    apart = [abs(np.subtract(*found[matched].words)) for matched in (True, False)]
    assert apart[0] == 0 < apart[1]


def test_training_on_the_chosen_side_reads_each_turn_of_the_pairs_once(tmp_path, monkeypatch):
    source, start = mined(tmp_path), SimpleNamespace(role="generator", layout="generator-trunk", key="k")
    seen = {}
    monkeypatch.setattr(train, "train_sft", lambda *args, **more: seen.update(turns=args[1], **more) or SimpleNamespace(tokens=7))
    monkeypatch.setattr(controls, "weights_of", lambda work, base, start: (base, start))
    held_out = SimpleNamespace(read=lambda: TURNS[:2])
    step = controls.TrainChosen("base", 512, 13, start, source, SimpleNamespace(read=lambda: [*TURNS, turn(99, "Others", "x")]), held_out, "training")
    work = Done(tmp_path, {id(start): None, id(source): None})
    assert step.run(work).tokens == work.tokens == 7
    assert seen["turns"] == TURNS and seen["unit"] == "dialogue" and seen["compare"], "and no turn without a pair"


# --- What a policy is shown ---


def test_only_who_sees_earlier_strategies_changes():
    one = turn(3, "Question", "why?")
    tags, none = prompts.LAYOUTS["planner-tags"](one), prompts.LAYOUTS["vanilla-no-tags"](one)
    assert "supporter: [Question] hi" in tags.messages[1][1] and "seeker: hello" in tags.messages[1][1]
    assert none.messages[2] == ("assistant", "hi") and none.messages[0] == prompts.vanilla(one).messages[0]
    assert (tags.target, none.target) == (prompts.planner(one).target, prompts.vanilla(one).target)
    first = Turn(one.id, one.dialogue, one.context[:1], one.strategy, one.reply)
    for with_tags, without in (("planner-tags", "planner"), ("vanilla", "vanilla-no-tags")):
        assert prompts.LAYOUTS[with_tags](first) == prompts.LAYOUTS[without](first), "where there are none, nothing"


def test_each_control_changes_one_field_of_a_system_of_the_questions():
    steps = table.steps(load_profile("smoke"), inputs.as_published())

    def changed(a: str, b: str) -> set[str]:
        return {name for name, value in steps[a].fields.items() if value != steps[b].fields[name]}

    assert changed("sft-planner-tags", "sft-planner") == changed("sft-vanilla-no-tags", "sft-vanilla") == {"layout"}
    assert steps["sft-vanilla-long"].training.epochs == 2 * steps["sft-vanilla"].training.epochs
    assert changed("sft-vanilla-long", "sft-vanilla") == {"training"}
    for role in ("planner", "generator"):
        assert changed(f"dpo-{role}-matched", f"dpo-{role}") == changed(f"dpo-{role}-matched", f"dpo-{role}-fewer") == {"pairs"}
        assert steps[f"sft-{role}-chosen"].training == steps[f"dpo-{role}"].training
    for kind in ("tags", "sft-validation"):
        assert len(changed(f"replies-decoupled-{kind}", "replies-decoupled-sft")) == 1
    assert shown(steps["sft-planner-tags"], "planner") is prompts.LAYOUTS["planner-tags"]
    assert shown(steps["sft-vanilla"], "vanilla") is shown(steps["dpo-vanilla"], "vanilla") is shown(None, "vanilla") is prompts.vanilla
    many = load_profile("smoke").model_copy(update={"other_seeds": [14]})
    assert not [name for name in table.steps(many, inputs.as_published()) if name.endswith(("matched-seed14", "tags-seed14"))]


# --- Bias without training ---


def test_a_planner_retuned_to_its_own_bias_stays_as_it_is():
    p, gold, _ = people(600)
    found = bias_sources.retuned_to(np.log(p), np.log(p), gold, 0.7, 0.95)
    assert [one.setting for one in found.values()] == [pytest.approx(0.7), 0.0]


def test_re_weighting_reaches_the_bias_of_another_planner():
    p, gold, dialogues = people(1500)
    leaning, truth = np.log(p) + np.array([0, 0, 0, 0, 0, 0, 1.0, 2.0]), strategy.strategy_indices(gold)

    def bias(p) -> float:
        w = bias_sources.expected_counts(p, truth, np.zeros(len(gold), dtype=int), 1)
        return float(strategy.bias(w, "paper")[0])

    found = bias_sources.retuned_to(leaning, np.log(p), gold, 1.0, 1.0)["strategies re-weighted"]
    assert 0.5 < found.setting < 1.5 and bias(probabilities(leaning, 1.0, 1.0)) > 0.3
    assert bias(found.probabilities(leaning, 1.0)) == pytest.approx(bias(p), abs=0.05)


def planner(p) -> SimpleNamespace:
    return SimpleNamespace(plan=Sampling(temperature=0.7, top_p=0.95, max_new_tokens=12), p=p)


def test_one_planner_twice_differs_from_itself_in_nothing(tmp_path):
    p = np.random.default_rng(0).dirichlet(np.ones(8), len(TURNS))
    sft, dpo = planner(p), planner(p)
    rows = SimpleNamespace(rows=[SimpleNamespace(id=one.id, scores=list(np.log(own))) for one, own in zip(TURNS, p, strict=True)])
    turns = SimpleNamespace(read=lambda: TURNS)
    step = controls.MatchBias((sft, dpo), (sft, dpo), turns, turns, **FEW)
    found = step.run(Done(tmp_path, {id(sft): rows, id(dpo): rows}))
    assert found.turns == 40 and found.settings["strategies re-weighted"] == 0.0
    assert found.differences["SP-DPO - SFT"]["Q_W"] == found.differences["SP-DPO - SFT, strategies re-weighted"]["B"] == Estimate(0.0, 0.0, 0.0)
    assert set(found.scores) == {"SFT", "SP-DPO", *(f"SFT, {way}" for way in bias_sources.RETUNED)}


# --- Replies cut alike ---

REPLY = st.lists(st.sampled_from(["you", "are", "strong", "?"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(REPLY, REPLY), min_size=1, max_size=4))
def test_cut_replies_have_one_length_and_begin_as_before(pairs):
    first, second = crossed.cut_alike(*zip(*pairs, strict=True))
    for (a, b), one, other in zip(pairs, first, second, strict=True):
        assert len(one.split()) == len(other.split()) == min(len(a.split()), len(b.split()))
        assert a.startswith(one) and b.startswith(other)


def test_a_system_that_only_writes_on_gains_nothing_once_it_is_cut(tmp_path):
    systems = {"a": SimpleNamespace(), "b": SimpleNamespace()}
    said = {"a": "one two three four", "b": "one two"}
    rows = {id(systems[name]): SimpleNamespace(rows=[SimpleNamespace(id=one.id, reply=reply) for one in TURNS]) for name, reply in said.items()}
    step = controls.CompareCutReplies(systems, (("a", "b"),), SimpleNamespace(read=lambda: TURNS), **FEW)
    found = step.run(Done(tmp_path, rows))
    assert found.whole["a - b"]["words"].value == 2 and found.whole["a - b"]["F1"].value != 0
    assert {one.value for one in found.cut["a - b"].values()} == {0.0}


# --- What a design can see ---


def test_variances_are_read_from_an_interval_over_training_runs():
    random = np.random.default_rng(1)
    dialogues, values = random.normal(0, 0.6, 400), (0.2, 1.1, -0.4)
    mean = over_trainings([Resampled(value, value + dialogues) for value in values])
    found = spread_of(mean, values, 1000)
    assert found.runs == pytest.approx(np.var(values, ddof=1)) and found.dialogues == pytest.approx(dialogues.var(ddof=1))
    one = spread_of(Estimate(0.3, 0.3 - 1.96, 0.3 + 1.96), [0.3], 1000)
    assert one.runs is None and one.dialogues == pytest.approx(1.0, abs=1e-3)
    assert one.detectable(1000) == pytest.approx(smallest_detectable(1.0, 1), abs=1e-3)
    assert one.detectable(4000) == pytest.approx(one.detectable(1000) / 2)


def test_runs_that_do_not_differ_leave_the_dialogues_alone():
    copies = np.random.default_rng(2).normal(0, 0.5, 400)
    found = spread_of(over_trainings([Resampled(1.0, 1.0 + copies)] * 3), [1.0] * 3, 500)
    assert found.runs == 0 and found.dialogues == pytest.approx(copies.var(ddof=1))
    assert pooled([found, Spread(None, 0.0, 500)]).runs == 0 and pooled([Spread(None, 1.0, 5)] * 2).runs is None


def test_as_many_runs_as_are_needed_see_the_difference_and_one_fewer_does_not():
    spread = Spread(0.5, 0.1, 1000)
    needed = spread.runs_needed(1.2, 1000)
    assert spread.detectable(1000, needed) <= 1.2 < spread.detectable(1000, needed - 1) and needed > 1
    assert spread.runs_needed(0.5, 1000) is None and spread.runs_needed(0.5, 20_000) is not None
    assert Spread(0.0, 0.1, 1000).runs_needed(1.2, 1000) == 1


def measured(by_seed: dict) -> SeedEvaluation:
    """As much of an evaluation as is read."""
    details = {"a": SimpleNamespace(turns=1792)}
    wide = {key: Estimate(0.5, 0.5 - 1.96, 0.5 + 1.96) for key in power.SAMPLED.values()}
    contrasts = {"a - b": {"paper": wide}}
    return SimpleNamespace(seeds=tuple(by_seed), together=SimpleNamespace(details=details, contrasts=contrasts), by_seed=by_seed)


def test_every_published_difference_of_the_seven_tables_is_held_against_what_can_be_seen():
    own = power.spreads(measured({"13": {"a - b": dict.fromkeys(power.SAMPLED.values(), 0.5)}}), ("a - b", "absent"))
    smallest = power.bars(own, Missing("no ratings"))
    assert smallest.keys() == power.SAMPLED.keys() and smallest["F1"] == pytest.approx(2.8, abs=0.01)
    tables = load_tables()
    for name, pairs in power.COMPARED.items():
        rows = {row.key.partition("/")[2] for row in tables[name].rows}
        found = power.held_against(name, smallest)
        backbones = {row.key.partition("/")[0] for row in tables[name].rows}
        wanted = [pair for pair in pairs if set(pair) <= rows]
        assert {one.pair for one in found} == set(wanted) and len(wanted) > 3
        assert len(found) == len(backbones) * len(wanted) * len({column.key for column in tables[name].columns} & smallest.keys())
    table_3 = power.held_against("decoupledesc/table-3", smallest)
    gain = next(one for one in table_3 if one.pair == ("vanilla/sft", "vanilla/base") and one.column == "Q")
    assert gain.difference == pytest.approx(12.21) and gain.ratio == pytest.approx(12.21 / 2.8, abs=0.01)
    assert power.share_seen(table_3, ["B"]) == f"0 of {sum(one.column == 'B' for one in table_3)}"
    assert power.share_seen(power.held_against("cso/table-4", dict.fromkeys(smallest, 0.0))) == "48 of 48", "without any spread all are seen"
    shown = power.ratios_figure({"DecoupledESC": {"Table 3": table_3}, "CSO": {"Table 4": power.held_against("cso/table-4", smallest)}}, "source")
    assert [axes.get_title() or axes.get_title("left") for axes in shown.axes] == ["DecoupledESC", "CSO"]
    assert power.runs_table(own).shape == (12, 5)


# --- What is said of them ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [((UP, UP), "changes it"), ((UP, NONE), "is not shown"), ((NONE, NONE), "is not shown"), ((UP, DOWN), "is not shown")],
)
def test_a_part_changes_a_metric_only_where_every_difference_agrees(changes, said):
    contrasts = {name: {"B": one} for names in why.PARTS.values() for name, one in zip(names, changes, strict=False)}
    first = why.carried(contrasts, "B", 2).split("; ")[0]
    assert first.startswith(f"hiding earlier strategies {said}")


def test_the_contrasts_of_the_parts_are_measured_and_differences_say_which_way():
    steps = table.steps(load_profile("smoke"), inputs.as_published())
    assert {name for names in why.PARTS.values() for name in names} <= {f"{a} - {b}" for a, b in steps["metrics-information"].contrasts}
    assert [why.told(one).split(": ")[1] for one in (NONE, UP, DOWN)] == ["the interval holds 0", "it rises", "it falls"]
    asked = [why.answer(changes, 1) for changes in ([UP, UP], [UP, NONE], [DOWN, DOWN], [UP, DOWN], [NONE])]
    assert asked == ["yes", "not shown", "no, the other way round", "not shown", "not shown"] and why.answer([DOWN], -1) == "yes"
    carried = [why.length_carries(*both) for both in ((UP, NONE), (UP, UP), (UP, DOWN), (NONE, UP))]
    assert carried == ["yes", "no", "yes", "there is no difference that it could carry"]
    drawn = why.changed({", whole": {"x": {"F1": UP}}, ", cut": {"x": {"F1": NONE}}}, {"x": "a"}, {"F1": "overlap"})
    assert drawn == {"overlap": {"a, whole": UP, "a, cut": NONE}}

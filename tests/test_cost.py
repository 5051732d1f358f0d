"""The plan and the ledger: arithmetic by hand, and what a plan must say of any profile."""

from types import SimpleNamespace

import pytest

from decoupled_esc.experiments import cost
from decoupled_esc.experiments.cost import CARDS, MODELS, TOKENS, Made, Plan
from decoupled_esc.experiments.profiles import load_profile, names
from decoupled_esc.experiments.run import Book

QWEN = MODELS["Qwen/Qwen2.5-7B-Instruct"]
CARD = CARDS["A100 80GB"]
PAPER = [name for name in names() if load_profile(name).needs_gpu]


@pytest.fixture(scope="module")
def found():
    """All that profile laptop published."""
    return cost.made(Book("laptop"))


def lines(profile, found, **results) -> dict:
    """The plan's lines where a run counted ``results``: name -> fields of its result, ``written`` aside."""
    profile = load_profile(profile) if isinstance(profile, str) else profile
    counted = {}
    for name, fields in results.items():
        name = name.replace("_", "-")
        counted[name] = Made(found[name].step, SimpleNamespace(**fields), {"tokens": fields.get("written")})
    return {line.step: line for line in Plan(profile, CARD).lines(counted)}


def test_the_arithmetic_of_a_training_by_hand(found):
    line = lines("qwen2.5-7b", found, sft_planner={"tokens": 1_000_000, "unpacked_tokens": 9_000_000})["sft-planner"]
    assert line.read == pytest.approx(3 * 720_000), "three epochs, where laptop has one"
    assert line.hours == pytest.approx(3 * 720_000 * 4 * 7.62e9 / (312e12 * 0.35) / 3600)
    assert 14 < line.gib < 24, "the weights alone are 14.2 GiB"


def test_the_papers_generator_reads_every_turns_context_anew(found):
    trained = {"tokens": 1_000_000, "unpacked_tokens": 9_000_000}
    assert lines("qwen2.5-7b", found, sft_generator=trained)["sft-generator"].read == pytest.approx(3 * 0.72 * 9_000_000)


def test_all_weights_take_more_than_adapters_and_generating_least():
    full, lora = (cost.memory(QWEN, 1000, training=True, rank=rank) for rank in (None, 16))
    assert full > 7.62e9 * 16 / 2**30 > 4 * lora
    assert cost.memory(QWEN, 64, training=False, rank=16) < lora
    per_token = [cost.flops_per_token(QWEN, training=training, lora=False) for training in (True, False)]
    assert per_token == [6 * QWEN.parameters, 2 * QWEN.parameters]


@pytest.mark.parametrize("name", PAPER)
def test_a_faster_card_takes_less_time_and_the_sum_is_of_all_lines(name, found):
    hours = {}
    for title, card in CARDS.items():
        planned = Plan(load_profile(name), card).lines(found)
        whole = cost.total(planned)
        assert whole.hours == pytest.approx(sum(line.hours for line in planned))
        assert whole.gib == max(line.gib for line in planned)
        assert {"sft-vanilla", "dpo-planner", "replies-vanilla-sft", "judged"} <= {line.step for line in planned}
        hours[title] = whole.hours
    assert hours["H100 80GB"] < hours["A100 80GB"] < hours["RTX 4090"]
    assert list(cost.table(planned))[-1] == "all"


def test_the_search_is_paid_by_its_calls(found):
    grown = {"trees": {"t": SimpleNamespace(iterations=10)}, "tasks": {"reward": 50, "seeker": 40}}
    line, calls = lines("qwen2.5-7b", found, search=grown)["search"], 100 * 100 * 9
    assert line.read == pytest.approx(calls * 800)
    assert line.dollars == pytest.approx(calls * (800 * 0.15 + 40 * 0.60) / 1e6)


def test_adapters_are_planned_where_the_profile_trains_them_beside_all_weights(found):
    systems = {"cso-dpo": SimpleNamespace(tokens=1000), "cso-lora-dpo": SimpleNamespace(tokens=3000)}
    counted = {"cso_lora_dpo": {"tokens": 1000}, "replies_cso_lora_dpo": {"turns": 10, "written": 10}}
    counted["strategy_test"] = {"windows": 80, "systems": systems}
    profile = load_profile("qwen2.5-7b")
    (line,) = lines(profile, found, **counted).values()
    assert line.step == "strategy-test" and line.read == 80 * cost.READ_PER_WINDOW
    assert line.written == pytest.approx(1000 * TOKENS)
    both = profile.model_copy(update={"cso": profile.cso.model_copy(update={"lora": profile.cso})})
    planned = lines(both, found, **counted)
    assert len(planned) == 3 and planned["strategy-test"].written == pytest.approx(4000 * TOKENS)


def test_all_weights_of_a_backbone_are_shared_by_its_cards(found):
    counted = {"cso_dpo": {"tokens": 1000}, "sft_vanilla": {"tokens": 1000}}
    lora, full = (lines(name, found, **counted) for name in ("qwen2.5-7b", "qwen2.5-7b-full"))
    epochs = [load_profile(name).cso.training.epochs for name in ("qwen2.5-7b", "qwen2.5-7b-full")]
    assert full["cso-dpo"].read / lora["cso-dpo"].read == pytest.approx(epochs[1] / epochs[0])
    assert full["cso-dpo"].hours == pytest.approx(1.5 * epochs[1] / epochs[0] * lora["cso-dpo"].hours)
    assert full["sft-vanilla"].hours == lora["sft-vanilla"].hours
    assert 57 < full["cso-dpo"].gib < 66 and lora["cso-dpo"].gib < 24


def test_a_plan_is_checked_against_the_ledger(found):
    rows = cost.checked(found)
    assert rows["sft-vanilla"]["planned"] == pytest.approx(rows["sft-vanilla"]["took"])
    sft, dpo = (found[f"{kind}-planner"].result for kind in ("sft", "dpo"))
    assert rows["dpo-planner"]["operations"] == 8 * dpo.tokens * dpo.parameters
    assert rows["sft-planner"]["operations"] == 6 * sft.tokens * sft.parameters
    assert cost.checked({"data": found["data"]}) == {}


def test_every_step_has_a_line_of_the_ledger(found):
    groups = {name: cost.group_of(one.step) for name, one in found.items()}
    assert (groups["replies-cso-dpo"], groups["replies-vanilla-sft"]) == ("CSO", "replies")
    assert groups["sft-seeker"] == "fine-tuning" and groups["judged"] == "metrics, judges and counts"
    whole = cost.ledger(found.values())
    assert whole["steps"] == len(found) and whole["seconds"] == sum(
        one.provenance["wall_seconds"] for one in found.values()
    )


def test_what_a_plan_says_and_what_it_refuses():
    published = [one for one in map(load_profile, names()) if one.backbone.kind != "embedded"]
    assert {one.backbone.name for one in published} == set(MODELS)
    assert any(line.startswith("sft-planner") for line in cost.plan_of(load_profile("smollm2-135m"), "RTX 4090"))
    text = cost.plan_of(load_profile("qwen2.5-7b-full"), "A100 80GB")
    assert "2 x A100 80GB (GPU-hours of all, GiB on each), one seed" in text[0] and text[-2].startswith("all ")
    with pytest.raises(cost.CostError, match=r"no card 'A100 80' \(did you mean 'A100 80GB'\?\)"):
        cost.plan_of(load_profile("qwen2.5-7b"), "A100 80")
    with pytest.raises(cost.CostError, match="profile smoke: it needs no GPU, and there is nothing to plan"):
        cost.plan_of(load_profile("smoke"), "L40S")

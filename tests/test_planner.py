"""The plan and the ledger: arithmetic by hand, and what a plan must say of any profile."""

import pytest

from decoupled_esc.workflow import planner
from decoupled_esc.workflow.profiles import load_profile, names
from decoupled_esc.workflow.session import Session
from decoupled_esc.workflow.stages import STAGES
from decoupled_esc.workflow.store import Result

QWEN = planner.MODELS["Qwen/Qwen2.5-7B-Instruct"]
CARD = planner.CARDS["A100 80GB"]


def result(name, payload, tokens=None):
    return Result(name, payload, {}, "", {"wall_seconds": 60.0, "tokens": tokens, "peak_memory_mib": 100, "date": "d", "commit": "c"})


def test_the_arithmetic_of_a_training_by_hand():
    counted = {"sft-planner": result("sft-planner", {"tokens": 1_000_000, "tokens_apart": 9_000_000})}
    (line,) = planner.plan(load_profile("qwen2.5-7b"), CARD, counted)
    assert line.read == pytest.approx(720_000)
    assert line.hours == pytest.approx(720_000 * 4 * 7.62e9 / (312e12 * 0.35) / 3600)
    assert 14 < line.gib < 24, "the weights alone are 14.2 GiB"


def test_the_papers_generator_reads_every_turns_context_anew():
    counted = {"sft-generator": result("sft-generator", {"tokens": 1_000_000, "tokens_apart": 9_000_000})}
    (line,) = planner.plan(load_profile("qwen2.5-7b"), CARD, counted)
    assert line.read == pytest.approx(0.72 * 9_000_000)


def test_all_weights_take_more_than_adapters_and_generating_least():
    full, lora = (planner.memory(QWEN, 1000, training=True, lora_rank=rank) for rank in (None, 16))
    assert full > 7.62e9 * 16 / 2**30 > 4 * lora
    assert planner.memory(QWEN, 64, training=False, lora_rank=16) < lora
    assert planner.flops_a_token(QWEN, "train", False) == 3 * planner.flops_a_token(QWEN, "read", False) == 6 * QWEN.parameters


def test_a_faster_card_takes_less_time_and_the_sum_is_of_all_lines():
    published = Session("laptop").published
    counted = {name: found for name in STAGES if (found := published.read(name)) is not None}
    for name in names():
        profile = load_profile(name)
        if profile.backbone.name not in planner.MODELS:
            continue
        hours = {}
        for card in planner.CARDS.values():
            lines = planner.plan(profile, card, counted)
            whole = planner.total(lines)
            assert whole.hours == pytest.approx(sum(line.hours for line in lines)) and whole.gib == max(line.gib for line in lines)
            assert {"sft-vanilla", "dpo-planner", "replies-vanilla-sft", "judged"} <= {line.stage for line in lines}
            hours[card.name] = whole.hours
        assert hours["H100 80GB"] < hours["A100 80GB"] < hours["RTX 4090"]
        assert planner.table(lines)[-1]["stage"] == "all"


def test_the_search_is_paid_by_its_calls():
    trees = {"t": {"iterations": 10}}
    counted = {"search": result("search", {"trees": trees, "tasks": {"reward": 50, "seeker": 40}})}
    (line,) = planner.plan(load_profile("qwen2.5-7b"), CARD, counted)
    calls = 100 * 100 * 9
    assert line.read == pytest.approx(calls * 800)
    assert line.dollars == pytest.approx(calls * (800 * 0.15 + 40 * 0.60) / 1e6)


def test_adapters_are_planned_where_the_profile_trains_them_beside_all_weights():
    counted = {
        "cso-lora-dpo": result("cso-lora-dpo", {"tokens": 1000}), "replies-cso-lora-dpo": result("replies-cso-lora-dpo", {"turns": 10}),
        "strategy-test": result("strategy-test", {"windows": 80, "systems": {"cso-dpo": {"tokens": 1000}, "cso-lora-dpo": {"tokens": 3000}}}),
    }  # fmt: skip
    profile = load_profile("qwen2.5-7b")
    (line,) = planner.plan(profile, CARD, counted)
    assert line.stage == "strategy-test" and line.written == pytest.approx(1000 * planner.TOKENS) and line.read == 80 * planner.READ_A_WINDOW
    both = profile.model_copy(update={"cso": profile.cso.model_copy(update={"lora": profile.cso})})
    lines = {line.stage: line for line in planner.plan(both, CARD, counted)}
    assert set(lines) == set(counted) and lines["strategy-test"].written == pytest.approx(4000 * planner.TOKENS)


def test_all_weights_of_a_backbone_are_shared_by_its_cards():
    counted = {"cso-dpo": result("cso-dpo", {"tokens": 1000}), "sft-vanilla": result("sft-vanilla", {"tokens": 1000})}
    lora, full = ({line.stage: line for line in planner.plan(load_profile(name), CARD, counted)} for name in ("qwen2.5-7b", "qwen2.5-7b-full"))
    assert full["cso-dpo"].hours == pytest.approx(1.5 * lora["cso-dpo"].hours) and full["sft-vanilla"].hours == lora["sft-vanilla"].hours
    counted["cso-dpo"].inputs["settings"] = {"cso.training": {"epochs": 6}}  # 3 in the full profile and 1 in the other
    (again,) = (line for line in planner.plan(load_profile("qwen2.5-7b-full"), CARD, counted) if line.stage == "cso-dpo")
    assert again.read == pytest.approx(full["cso-dpo"].read / 2)
    assert 57 < full["cso-dpo"].gib < 66 < 80 and lora["cso-dpo"].gib < 24


def test_a_plan_is_checked_against_the_ledger():
    counted = {
        "sft-vanilla": result("sft-vanilla", {"tokens": 1000, "parameters": 10}), "sft-planner": result("sft-planner", {"tokens": 3000, "parameters": 10}),
        "dpo-planner": result("dpo-planner", {"tokens": 1000, "parameters": 10, "loss": {}}), "data": result("data", {}),
    }  # fmt: skip
    rows = {row["stage"]: row for row in planner.checked(counted)}
    assert rows["sft-vanilla"]["planned"] == rows["sft-vanilla"]["took"] == 60
    assert rows["sft-planner"]["planned"] == pytest.approx(180) and rows["dpo-planner"]["planned"] == pytest.approx(80)
    assert planner.checked({"data": result("data", {})}) == []


def test_every_paper_profile_has_a_model_to_plan_with():
    assert {load_profile(name).backbone.name for name in names() if load_profile(name).scale == "paper"} == set(planner.MODELS)


def test_the_ledger_lists_what_there_is_in_the_graphs_order():
    rows = planner.ledger({"sft-planner": result("sft-planner", {}, 5), "data": result("data", {})})
    assert [(row["stage"], row["seconds"], row["tokens"]) for row in rows] == [("data", 60.0, None), ("sft-planner", 60.0, 5)]

"""What bench/ measured, as committed: complete, consistent with itself, and read with a clear error where it is missing."""

import json
import re
import sys
from pathlib import Path

import pytest

from bench.base_model import text, trials
from decoupled_esc.present import benchmarks

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import turn_training  # noqa: E402


@pytest.fixture(scope="module")
def bench() -> dict:
    return benchmarks.load("turn_training")


def find(bench, **case) -> dict:
    (row,) = [row for row in bench["measurements"] if case.items() <= row.items()]
    return row


def test_every_case_was_measured_once(bench):
    keys = ("group", "task", "size", "contender", "dialogues")
    assert [{key: row[key] for key in keys} for row in bench["measurements"]] == turn_training.cases()
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in bench["measurements"])
    provenance = bench["provenance"]
    assert provenance["data"]["corpus"] == "esconv" and provenance["settings"]["dialogues"] == turn_training.DIALOGUES


def test_contenders_trained_on_the_same_turns_from_the_same_weights(bench):
    for size in turn_training.HIDDEN:
        for task in ("sft-planner", "dpo-planner", "dpo-generator"):
            cases = [
                r for r in bench["measurements"] if (r["group"], r["size"], r["task"]) == ("side-by-side", size, task)
            ]
            assert len({row["turns"] for row in cases}) == len({row["target_tokens"] for row in cases}) == 1
            losses = [row["loss"] for row in cases]  # of a few steps, over batches of different composition
            assert max(losses) - min(losses) < 0.15 * max(losses)
    scores = [row for row in bench["measurements"] if row["group"] == "scoring"]
    assert {row["turns"] for row in scores} == {1792}
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-5)  # the same log-probabilities


def test_the_readme_of_turn_trees_shows_what_was_measured(bench):
    text = (Path(__file__).parents[1] / "packages/turn_trees/README.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if re.match(r"\| (SFT|DPO), ", line)]
    tasks = {"SFT, short answers": "sft-planner", "DPO, short answers": "dpo-planner", "DPO, replies": "dpo-generator"}
    assert len(table) == 6
    for name, size, read, read_here, trl, llamafactory, here, times in table:
        case = {"group": "side-by-side", "task": tasks[name], "size": size}
        packed, plain = find(bench, contender="packed", **case), find(bench, contender="trl", **case)
        assert (read, read_here) == (f"{plain['tokens']:,}", f"{packed['tokens']:,}")
        assert (trl, here) == (f"{plain['seconds']:.0f} s", f"{packed['seconds']:.1f} s")
        assert times == f"{plain['seconds'] / packed['seconds']:.0f}"
        if llamafactory:
            assert llamafactory == f"{find(bench, contender='llamafactory', **case)['seconds']:.0f} s"


def test_only_what_is_shared_is_saved(bench):
    for row in bench["measurements"]:
        if row["contender"] == "packed" and row["task"] != "score":
            assert row["tokens"] < row["tokens_apart"]
            if row["group"] == "side-by-side":
                case = {key: row[key] for key in ("group", "task", "size", "dialogues")}
                # trl reads every token of every answer, and pads.
                assert find(bench, contender="trl", **case)["tokens"] >= row["tokens_apart"]
    split = bench["training_split"]
    assert split["sft-planner"]["turns"] == 14_763
    for layout in ("vanilla", "planner", "generator-trunk"):
        assert split[f"sft-{layout}"]["tokens_apart"] > 3 * split[f"sft-{layout}"]["tokens"]
        assert split[f"dpo-{layout}"]["tokens_apart"] > 1.9 * split[f"sft-{layout}"]["tokens_apart"]


def test_a_ratio_compares_the_same_case():
    rows = [
        {"contender": "packed", "task": "a", "size": "s", "seconds": 2.0, "turns": 10},
        {"contender": "trl", "task": "a", "size": "s", "seconds": 30.0, "turns": 10},
        {"contender": "llamafactory", "task": "a", "size": "s", "seconds": 30.0, "turns": 11},
    ]
    assert benchmarks.ratio(rows, "trl", task="a", size="s") == 15
    with pytest.raises(ValueError, match="11 turns against 10"):
        benchmarks.ratio(rows, "llamafactory", task="a", size="s")
    with pytest.raises(KeyError, match="trl"):
        benchmarks.ratio(rows, "trl", task="b", size="s")


def test_a_missing_file_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"results/bench/turn_training.json is missing. Run python bench/turn_training.py"
    ):
        benchmarks.load("turn_training")


def test_bias_by_rate_is_of_one_role_smallest_rate_first(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    lines = [
        {"role": "planner", "learning_rate": 3e-5, "before": {"B, drawn": 0.3}, "after": {"B, drawn": 0.6, "B, argmax": 9}},
        {"role": "planner", "learning_rate": 3e-6, "after": {"B, drawn": 0.2}},
        {"role": "vanilla", "learning_rate": 1e-4, "before": {"B": 0.5}, "after": {"B": 1.0}},
    ]
    (tmp_path / "preference_search-x.json").write_text(json.dumps(lines))
    before, after = benchmarks.bias_by_rate("x", "planner")
    assert before == 0.3 and list(after.items()) == [(3e-6, 0.2), (3e-5, 0.6)]
    assert benchmarks.bias_by_rate("x", "vanilla") == (0.5, {1e-4: 1.0})


def test_every_trial_of_the_base_models_is_kept():
    found = json.loads(trials.TARGET.read_text(encoding="utf-8"))
    assert [(row["name"], row["differs"]) for row in found["trials"]] == [
        (name, t[0]) for name, t in trials.TRIALS.items()
    ]
    for row in found["trials"]:
        assert set(row["bits_per_byte"]) == set(text.SOURCES)
        assert all(1 < bits < 4 for bits in row["bits_per_byte"].values())
        # Whole blocks of no more than the tokens that were allowed.
        assert 0 <= trials.TRIALS[row["name"]][3] - row["tokens"] < 1024
    assert set(found["tokens_per_second"]) == {"float32", "bfloat16"}


# --- The judge client ---


def test_the_client_lost_nothing_and_fetched_nothing_twice():
    rows = benchmarks.load("judge_client")["measurements"]
    many = [row for row in rows if row["in_flight"] == 32]
    assert [(row["requests"], round(row["faults"], 2)) for row in many] == [(2000, 0.3), (2000, 0)]
    assert all(
        row["lost"] == row["wrong"] == row["delivered_twice"] == 0 and row["stored"] == row["delivered"] for row in rows
    )
    assert all(bool(row["faults_met"]) == bool(row["faults"]) for row in rows)

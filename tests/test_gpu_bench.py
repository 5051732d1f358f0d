"""bench/gpu.py without a GPU: its tiny rehearsal, so that the minutes on a real one are not lost to an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decoupled_esc.experiments import run
from tests.small_steps import Here

ROOT = Path(__file__).parents[1]
QUIET = {"CUDA_VISIBLE_DEVICES": "", "DECOUPLED_ESC_VLLM": "", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def gpu():
    """The module, in an environment without a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        patch.setattr(run, "local_workers", lambda profile: Here())
        for name, value in QUIET.items():
            patch.setenv(name, value)
        import gpu

        yield gpu


@pytest.fixture(scope="module")
def parts(gpu, tmp_path_factory) -> dict[str, dict]:
    """What the command wrote, by part: one in a process of its own, as all are on a GPU box, and the others here."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, gpu.__file__, "--tiny", "--minutes", "6", "--only", "correctness", "--out", str(out)]
    ran = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    for measure, name, which in ((gpu.training, "training-tiny", "tiny"), (gpu.pipeline, "pipeline", "")):
        measure(gpu.Part(name, out, gpu.time.time() + 300), which, True)
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json")}


def test_what_the_machine_lacks_is_listed_first_each_with_its_remedy(parts):
    lacking = {row["what"]: row["fetch"] for row in parts["machine"]["rows"] if not row["here"]}
    assert "CUDA" in lacking and all(lacking.values())


def test_packed_gradients_are_those_of_one_pass_per_turn_and_a_tree_that_is_none_is_seen(parts):
    found = parts["correctness-qwen2"]
    cases = [(row["task"], row["dtype"]) for row in found["rows"]]
    assert cases == [(task, dtype) for task in ("sft", "dpo") for dtype in ("float32", "bfloat16", "autocast")]
    (missing,) = found["flex_attention_missing"]  # tried once, and said why
    assert "FlexAttention" in missing["why"] and "CPU" in missing["why"]
    for row in found["rows"]:
        assert row["attention"] == "prefix_tree" and row["tokens"] < row["tokens_apart"]
        assert 0 < row["packed_error"] <= row["bound"] and row["same"]
        assert row["loss_difference"] < 1e-3 and row["packed_peak_mib"] > 0
        if row["dtype"] == "float32":
            assert row["packed_error"] < 1e-4 < 0.1 < row["error_without_the_tree"]


def test_both_trainers_learn_the_same_answers_from_the_same_weights(parts):
    rows = parts["training-tiny"]["rows"]
    assert [(row["task"], row["contender"]) for row in rows] == [(t, c) for t in ("sft", "dpo") for c in ("ours", "trl")]
    for ours, theirs in (rows[:2], rows[2:]):
        assert ours["target_tokens"] == theirs["target_tokens"] and ours["tokens"] < theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert all(row["useful_tokens_per_second"] > 0 and row["share_of_matrix_rate"] > 0 for row in (ours, theirs))
    assert set(parts["training-tiny"]["ratios"]) == {"sft ours/trl", "dpo ours/trl"}


def test_the_pipeline_ran_and_what_could_not_run_says_so(parts, gpu, monkeypatch, tmp_path):
    assert parts["pipeline"]["finished"] and [row["step"] for row in parts["pipeline"]["rows"]] == ["data"]
    assert not [part for part in parts.values() if part.get("error") or any("error" in row for row in part["rows"])]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--minutes", "0", "--out", str(tmp_path)])
    assert gpu.main() == 0
    assert {json.loads((tmp_path / f"{name}.json").read_text())["missing"] for name in gpu.TINY} == {"no time was left"}

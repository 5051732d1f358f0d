"""The real stages, from dialogues to metrics, on the miniature corpus with the smaller of the shipped models."""

import json

import pytest

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import fetch
from decoupled_esc.evaluate import Evaluation
from decoupled_esc.models import HubModel, weights_digest
from decoupled_esc.present import replication
from decoupled_esc.train import Lora
from decoupled_esc.workflow import stages
from decoupled_esc.workflow.profiles import load_profile
from decoupled_esc.workflow.session import Session


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session without real data, network or published results; one role is trained with LoRA, two in full."""
    folder = tmp_path_factory.mktemp("pipeline")
    smoke = load_profile("smoke")
    quick = smoke.sft.planner.model_copy(update={"batch": 2, "micro_batch": 2})
    lora = quick.model_copy(update={"lora": Lora(rank=4, alpha=4, dropout=0.05)})
    profile = smoke.model_copy(update={
        "data": smoke.data.model_copy(update={"train_dialogues": 4, "test_dialogues": 2, "window": 700}),
        "sft": smoke.sft.model_copy(update={"vanilla": lora, "planner": quick, "generator": quick}),
        "bootstrap_replicates": 50,
    })  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(fetch.FOLDER, raising=False)
        patch.setenv(fetch.CACHE, str(folder / "cache"))
        yield Session(profile, runs_only=True, runs=folder / "runs", published=folder / "published")


@pytest.fixture(scope="module")
def metrics(session):
    return session.run("metrics")


def test_every_system_answers_every_test_turn_once(session, metrics):
    turns = [turn.id for d in session.corpora["esconv"].split("test")[:2] for turn in corpus.turns(d)]
    for system in stages.SYSTEMS:
        result = session.run(f"replies-{system}")
        assert [row["id"] for row in result.rows] == turns
        assert result.payload["turns"] == len(turns)
        assert result.provenance["tokens"] == sum(row["tokens"] for row in result.rows)
        for row in result.rows if system in ("decoupled-base", "decoupled-sft") else ():
            assert len(row["scores"]) == 8 and max(row["scores"]) < 0


def test_what_was_trained_is_what_was_asked(session, metrics):
    vanilla, planner = (session.run(f"sft-{role}").payload for role in ("vanilla", "planner"))
    assert vanilla["trainable"] < vanilla["parameters"] and planner["trainable"] == planner["parameters"]
    assert vanilla["target_tokens"] > planner["target_tokens"] > 0
    assert planner["steps"][-1]["loss"] < planner["steps"][0]["loss"]
    assert len({session.run(f"sft-{role}").payload["weights"] for role in stages.ROLES}) == 3


def test_argmax_takes_the_most_probable_strategy(session, metrics):
    drawn, best = (session.run(f"replies-decoupled-sft{end}").rows for end in ("", "-argmax"))
    for row, scored in zip(best, drawn, strict=True):
        assert scored["scores"][taxonomy.STRATEGIES.index(row["strategy"])] == max(scored["scores"])
    assert metrics.payload["details"]["decoupled-sft-argmax"]["invalid_rate"] == 0


def test_a_base_is_known_by_its_weights(session, metrics):
    found = session.run("base-model")
    assert found.payload["weights"] == found.inputs["settings"]["weights"] == weights_digest(session.profile.backbone.folder)
    assert found.payload["held_out"]["perplexity"] < found.payload["vocabulary"] / 2


def test_nothing_runs_twice(session, metrics):
    paths = sorted(session.runs.folder.glob("*.json"))
    before = [path.stat().st_mtime_ns for path in paths]
    assert session.run("metrics") == metrics
    assert [path.stat().st_mtime_ns for path in paths] == before


@pytest.mark.parametrize("system", ["vanilla-sft", "decoupled-sft"])
def test_interrupted_replies_end_the_same(session, metrics, system):
    name = f"replies-{system}"
    whole = session.run(name)
    session.runs.path(name).unlink()
    for growing in (session.runs.folder / name).glob("*.jsonl"):
        lines = growing.read_text(encoding="utf-8").splitlines(keepends=True)
        growing.write_text("".join(lines[: len(lines) // 2]) + '{"id": "torn', encoding="utf-8")
    again = session.run(name)
    assert again.rows == whole.rows and again.digest == whole.digest


def test_metrics_and_report_read_back(session, metrics):
    evaluation = Evaluation.from_json(json.dumps(metrics.payload))
    assert {f"{p}-{m}" for p in ("vanilla", "decoupled") for m in ("base", "sft")} <= set(evaluation.systems)
    data = session.run("data").payload
    tables = [
        replication.table_1(data, session.label), replication.table_6(data, session.label),
        *(replication.table_3(evaluation, session.run("judged").payload, paradigm, session.label) for paradigm in ("vanilla", "decoupled")),
    ]  # fmt: skip
    assert replication.report(tables).status.notna().all()
    assert all("SYNTHETIC" in table.caption for table in tables)


def test_the_miniature_is_told_apart(session):
    data = session.run("data").payload
    assert data["corpus"] == data["failed"]["corpus"] == "miniature"
    assert set(data["survey"]) == set(data["flaws"]) == {"esconv", "failed_esconv"}
    assert data["survey"]["esconv"]["empathy"]["mean"] > data["survey"]["failed_esconv"]["empathy"]["mean"]
    assert "SYNTHETIC" in session.source("n = 1") and "SYNTHETIC" in session.label


def test_a_published_backbone_takes_the_same_path(session, metrics, tmp_path):
    """The code of the large profiles, proven on the small model: loaded by name and revision, it answers the same."""
    base = session.profile.backbone.folder
    hub = HubModel(kind="hub", name=str(base), revision="main", dtype="float32")
    profile = session.profile.model_copy(update={"backbone": hub})
    other = Session(profile, runs_only=True, runs=tmp_path / "runs", published=tmp_path / "published")
    for name in ("replies-decoupled-base", "replies-vanilla-sft"):
        assert other.run(name).rows == session.run(name).rows
    assert other.run("base-model").payload == {"kind": "hub", "name": str(base), "revision": "main"}

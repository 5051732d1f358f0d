"""The real stages, from dialogues to metrics, on the miniature corpus with the smaller of the shipped models."""

import json
import math

import pandas as pd
import pytest

from decoupled_esc import corpus, prompts, taxonomy, train
from decoupled_esc.corpus import fetch
from decoupled_esc.evaluate import Evaluation
from decoupled_esc.evaluate.judges import Protocol
from decoupled_esc.generate.client import Endpoint
from decoupled_esc.models import HubModel, weights_digest
from decoupled_esc.present import chained, replication
from decoupled_esc.search import escpro
from decoupled_esc.train import Lora
from decoupled_esc.train.held_out import divergence
from decoupled_esc.workflow import stages
from decoupled_esc.workflow.profiles import Judge, load_profile
from decoupled_esc.workflow.session import Context, Session
from tests.misbehaving_server import serving


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
        replication.table_3(evaluation, session.run("judged").payload, "vanilla", session.label, methods=("direct-refine", "self-refine", "emotion-cot")),
        replication.table_1_mined(session.run("pairs").payload, session.label),
        replication.table_2(session.run("judged").payload, session.label), replication.table_4(session.run("judged").payload, session.label),
        replication.table_5(Evaluation.from_json(json.dumps(session.run("metrics-controlled").payload)), session.label),
    ]  # fmt: skip
    assert replication.report(tables).status.notna().all()
    assert all("SYNTHETIC" in table.caption for table in tables)


def test_from_search_to_csos_tables(session, metrics):
    searched = session.run("search")
    assert len(searched.rows) == len(searched.payload["trees"]) > 0
    gold = [node for row in searched.rows for node in row["nodes"] if node.get("gold")]
    assert gold and not any("reply" in node for node in gold), "what people said is not in what is published"
    pro = session.run("esc-pro").payload
    assert pro["statistics"]["released"]["pairs"] == pro["pairs"]
    found = session.run("metrics-cso")
    evaluation = Evaluation.from_json(json.dumps(found.payload["together"]))
    assert set(evaluation.systems) == set(stages.CSO_SYSTEMS)
    prompted = Evaluation.from_json(json.dumps(metrics.payload))
    tuning = "full"
    tables = [chained.table_2(evaluation, prompted, tuning, session.label), chained.table_4(evaluation, session.label), chained.table_5(pro, session.label)]
    tables += [chained.losses(evaluation, table, tuning, session.label) for table in chained.BACKBONES]
    lines = pd.concat([table.to_frame() for table in tables])
    assert lines.status.notna().all() and not lines.duplicated(["table", "row", "column"]).any()
    assert chained.table_7(pro).shape == (7, 3)
    asked = session.run("strategy-test")
    assert asked.payload["windows"] == sum(asked.payload["strategies"].values()) > 0 and len(set(asked.payload["strategies"].values())) == 1
    assert {row["id"]: len(row["strategies"]) for row in asked.rows} == dict.fromkeys(stages.STRATEGY_TESTED, asked.payload["windows"])
    windows = session.run("metrics-strategy-test").payload
    both = chained.two_tests(evaluation, Evaluation.from_json(json.dumps(windows["together"])))
    assert list(both.index) == list(stages.STRATEGY_TESTED) and both.notna().all(axis=None)
    assert chained.claims(windows, {"lower bias": ("cso-dpo - cso-sft", "B", -1)}).shape == (1, 3)
    weights = {name: session.run(f"cso-{name}").payload["weights"] for name in stages.CHAINED}
    if pro["statistics"]["released"]["pairs"] > 2:
        assert len(set(weights.values())) > 1


def test_offline_judges_of_invented_labels_say_so(session, metrics):
    found = session.run("judged-offline").payload
    assert found["errors"]["learned_from"] == "48 INVENTED labels" and found["empathy"]["learned_from"] == "144 INVENTED ratings"
    assert set(found["errors"]["systems"]) == {"gold", *stages.JUDGED} == set(found["empathy"]["systems"])
    for shares in found["errors"]["systems"].values():
        assert sum(share["value"] for share in shares.values()) == pytest.approx(100)
    for name in ("error-classifier", "empathy-scale"):
        assert "invented" in session.run(name).payload["missing"], "what such a judge is worth is not measured"
    over = session.run("errors").payload
    assert over["seeds"] == [session.profile.seed] and over["learned_from"] == found["errors"]["learned_from"]
    for name, shares in over["systems"].items():
        assert shares["None"] == pytest.approx(found["errors"]["systems"][name]["None"], abs=1e-3)


def test_without_labels_other_profiles_are_not_judged(session, tmp_path):
    large = Session(session.profile.model_copy(update={"scale": "small"}), runs_only=True, runs=tmp_path, published=tmp_path)
    for name in ("error-classifier", "empathy-scale"):
        assert "decoupled-esc data fetch" in large.run(name).payload["missing"]


def answered(body):
    """A judge that likes longer replies, and sees a template in the shortest."""
    system, user = (message["content"] for message in body["messages"])
    if "Say of each of two replies" in system:  # the filter of preference pairs, which this judge mines as well
        return json.dumps({"first": "None", "second": "Template Response"})
    if "Compare the" in system:
        first, second = (user.split(f"<{place} reply>\n")[1].split("\n</")[0] for place in ("first", "second"))
        return json.dumps({"better": "neither" if len(first) == len(second) else "first" if len(first) > len(second) else "second"})
    reply = user.rsplit("\n</reply", 1)[0].rsplit("reply to score>\n" if "Score" in system else "<reply>\n", 1)[1]
    if "Score" not in system:
        return json.dumps({"error": "Template Response" if len(reply) < 20 else "None"})
    return json.dumps({"score": min(5, len(reply) // 20)})


def test_llm_judges_over_a_server(session, metrics):
    protocol = Protocol(turns=12, gold="shown", calls="each", context="last", repeats=2, pairs=True)
    assert session.run("judged").payload == {"missing": "profile smoke has no LLM judge"}
    with serving(say=answered) as server:
        endpoints = [Endpoint(model=name, base_url=server.url, timeout_seconds=20.0) for name in (replication.PAPER_JUDGE, "other")]
        judge = Judge(endpoints=endpoints, mode="record", protocol=protocol)
        asked = Session(session.profile.model_copy(update={"judge": judge}), runs_only=True, runs=session.runs.folder.parent,
                        published=session.published.folder)  # fmt: skip
        result = asked.run("judged")
        # Scores twice, errors, and eight choices a pair, of two judges; what is the same question is asked once.
        most = 2 * len(stages.JUDGED) * 12 * 9 + 2 * 2 * 12 * 8 + 2 * 100 * 4 + 4 * 60  # mined pairs, and the filter before
        assert most / 3 < len(server.asked) <= most and set(server.asked.values()) == {1}
    payload = result.payload
    assert payload["turns"] == 12 and set(payload["judges"]) == {replication.PAPER_JUDGE, "other"}
    found = payload["judges"]["other"]
    texts = {f"{name}/{row['id']}": row["reply"] for name in stages.JUDGED for row in asked.run(f"replies-{name}").rows}
    assert len(result.rows) == 2 * len(stages.JUDGED) * 12
    for row in result.rows:
        assert row["scores"]["Emp"] == min(5, len(texts[row["id"]]) // 20)
        assert row["error"] == ("Template Response" if len(texts[row["id"]]) < 20 else "None")
    mean = sum(row["scores"]["Flu"] for row in result.rows if row["judge"] == "other" and row["id"].startswith("vanilla-sft/")) / 12
    assert found["scores"]["systems"]["vanilla-sft"]["Flu"]["value"] == pytest.approx(mean)
    assert payload["between"][f"{replication.PAPER_JUDGE} ~ other"]["Hel"]["equal"] == 100 == found["repeats"][0]["Hel"]["equal"]
    assert found["pairs"]["decoupled-sft - vanilla-sft"]["Emp"]["same_in_both_orders"]["value"] == 100
    evaluation = Evaluation.from_json(json.dumps(metrics.payload))
    assert found["resolved"] == ["other-resolved"], "a server under another name"
    own = payload["judges"][replication.PAPER_JUDGE] | {"resolved": [replication.PAPER_JUDGE]}
    paper = payload | {"turns": 100, "protocol": payload["protocol"] | {"turns": 100}, "judges": payload["judges"] | {replication.PAPER_JUDGE: own}}
    table = replication.table_3(evaluation, paper, "vanilla", "x")
    cells = {(cell.row.split("/")[-1], cell.column): cell for cell in table.cells()}
    own = payload["judges"][replication.PAPER_JUDGE]["scores"]["systems"]["vanilla-sft"]["Emp"]["value"]
    assert cells["sft", "Emp"].measured.value == own and "100 of the turns" in table.caption
    assert len(replication.judge_scores(payload)) == 2 * len(stages.JUDGED) == len(replication.judge_errors(payload))
    assert len(replication.judge_pairs(payload)) == 16 and len(replication.judge_agreement(payload)) == 7
    impostor = paper | {"judges": payload["judges"]}  # a server that was given the name of the paper's judge
    for other in (payload, impostor, paper | {"turns": 99}, paper | {"judges": {"other": found}}):
        cells = replication.table_3(evaluation, other, "vanilla", "x").cells()
        assert not any(cell.measured for cell in cells if cell.column == "Emp"), "asked otherwise, or another judge"
    # A larger budget, a shorter wait or another address ask nothing anew, and train nothing.
    patient = [endpoint.model_copy(update={"timeout_seconds": 5.0, "max_tokens": 10**9, "base_url": "http://elsewhere"}) for endpoint in endpoints]
    moved = Session(asked.profile.model_copy(update={"judge": judge.model_copy(update={"endpoints": patient})}), runs_only=True,
                    runs=session.runs.folder.parent, published=session.published.folder)  # fmt: skip
    assert {moved.state(name, moved.runs).word for name in ("pairs", "dpo-planner", "judged")} == {"fresh"}
    # The server is gone: everything is in the record, whatever becomes of the stage's own folder.
    asked.runs.path("judged").unlink()
    replayed = Session(asked.profile.model_copy(update={"judge": judge.model_copy(update={"mode": "replay"})}), runs_only=True,
                       runs=session.runs.folder.parent, published=session.published.folder)  # fmt: skip
    assert replayed.run("judged").payload == payload


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


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_cso_trains_a_published_base_with_either_tuning(session, tmp_path, tuning):
    """The way of the large profiles, which start from the base itself, on the small model and eight pairs."""
    lora = Lora(rank=4, alpha=4, dropout=0.0) if tuning == "lora" else None
    smoke, base = session.profile, session.profile.backbone.folder
    how = smoke.cso.training.model_copy(update={"lora": lora, "epochs": 6, "warmup_share": 0.0})
    cso = smoke.cso.model_copy(update={"start": "base-model", "sft": how, "training": how, "lora": None})
    profile = smoke.model_copy(update={"cso": cso, "backbone": HubModel(kind="hub", name=str(base), revision="main", dtype="float32")})
    turns = [turn for dialogue in session.corpora["esconv"].split("train")[:4] for turn in corpus.turns(dialogue)][:8]
    (tmp_path / "esc-pro").mkdir()
    escpro.write(tmp_path / "esc-pro" / "pairs.jsonl", [escpro.ProPair(f"{turn.id}#1", turn, "Others", "Hm.") for turn in turns])

    def context(name: str) -> Context:
        folder = tmp_path / name
        folder.mkdir()
        folders = {path.name: path for path in tmp_path.iterdir()}
        return Context(profile=profile, folder=folder, needs={}, folders=folders, corpora=session.corpora, files={}, answers=tmp_path / "answers")

    made = stages.chain(context("cso-dpo"), "dpo")
    assert made["pairs"] == made["turns"] == 8 and made["steps"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert (made["trainable"] == made["parameters"]) == (tuning == "full") and made["divergence"] > 0
    assert made["steps"][-1]["loss"] < made["steps"][0]["loss"] - 1e-3
    asked = context("replies-cso-dpo")
    assert stages.replies_vanilla(asked, "cso-dpo")["turns"] == len(asked.rows) > 0
    model, _ = stages._load(asked, "cso-dpo")
    untouched, tokenizer = stages._load(asked)
    unseen = [turn for dialogue in session.corpora["esconv"].split("validation")[:2] for turn in corpus.turns(dialogue)]
    held_out = train.encode(unseen, prompts.vanilla, tokenizer, profile.data.window)
    assert divergence(model, untouched, held_out) == pytest.approx(made["divergence"], rel=1e-3), "what answers is what was trained"

"""What describes this repository to machines agrees with what it is: citation files, cards, the research crate, the start on Binder."""

import datetime
import json
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from decoupled_esc.publish import crate
from decoupled_esc.publish.site import ROOT

CITED = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_codemeta_and_zenodo_say_what_the_citation_says():
    codemeta, zenodo = (json.loads((ROOT / name).read_text(encoding="utf-8")) for name in ("codemeta.json", ".zenodo.json"))
    abstract = " ".join(CITED["abstract"].split())
    (author,) = (person["name"] for person in CITED["authors"])
    for name, said in (("codemeta", codemeta["name"]), ("zenodo", zenodo["title"])):
        assert said == CITED["title"], name
    assert codemeta["description"] == zenodo["description"] == abstract
    assert codemeta["version"] == zenodo["version"] == CITED["version"] == PROJECT["version"]
    assert codemeta["license"].endswith(f"/{CITED['license']}") and zenodo["license"] == CITED["license"] == PROJECT["license"]
    assert [one["name"] for one in codemeta["author"]] == [one["name"] for one in zenodo["creators"]] == [author]
    assert codemeta["keywords"] == zenodo["keywords"] == CITED["keywords"]
    assert codemeta["identifier"] == PROJECT["name"] and PROJECT["requires-python"] in codemeta["runtimePlatform"]
    assert [one["name"] for one in codemeta["referencePublication"]] == [one["title"] for one in CITED["references"]]
    cited = {one.get("doi") for one in CITED["references"]} | {i["value"] for one in CITED["references"] for i in one.get("identifiers", [])}
    assert {one["identifier"] for one in zenodo["related_identifiers"]} == cited - {None}


@pytest.mark.parametrize("name", ["esc-base", "esc-nano"])
def test_a_model_card_has_the_hubs_form_and_the_books_numbers(name):
    card = ModelCard.load(ROOT / "data" / name / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("cc-by-nc-sa-4.0", "transformers", "text-generation")
    sections = re.findall(r"^## (.+)$", card.text, re.M)
    assert {"What it is for", "What it was made from", "How to start", "Evaluation", "Compute", "Limits", "Citation"} <= set(sections)
    assert "It is not a counsellor" in card.text and "must not be used to talk with people in need" in card.text
    record = json.loads((ROOT / "results" / "pretraining" / f"{name}.json").read_text(encoding="utf-8"))
    shown = re.findall(r"\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", card.text, re.M)
    held = record["held_out"].values()
    assert shown == [(str(one["conversations"]), f"{one['perplexity']:.1f}", f"{one['bits_per_byte']:.3f}") for one in held]
    assert f"{record['tokens']:,} tokens in {record['provenance']['wall_seconds'] / 60:.0f} minutes" in card.text


@pytest.mark.parametrize(("name", "license"), [("data", "mit"), ("data/miniature", "cc0-1.0")])
def test_a_data_card_has_the_hubs_form(name, license):
    card = DatasetCard.load(ROOT / name / "README.md")
    assert card.data.license == license and card.data.language == ["en"] and card.data.pretty_name and card.data.size_categories
    assert "## Lim" in card.text or "far too small to learn from" in card.text


def test_the_card_of_the_split_counts_what_is_in_it():
    lines = (ROOT / "data" / "esconv_split.tsv").read_text(encoding="utf-8").splitlines()
    parts = [line.split("\t")[1] for line in lines if not line.startswith("#")]
    card = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (train|validation|test) \| ([\d,]+) \|$", card, re.M) == [
        (part, f"{parts.count(part):,}") for part in ("train", "validation", "test")
    ]


# --- the research crate ---


@pytest.fixture(scope="module")
def graph() -> dict[str, dict]:
    made = crate.crate()["@graph"]
    found = {entity["@id"]: entity for entity in made}
    assert len(found) == len(made), "an entity stands in the crate twice"
    return found


def references(value):
    match value:
        case {"@id": str(id)}:
            yield id
        case list():
            for one in value:
                yield from references(one)


def test_every_published_result_is_an_action_with_what_it_was_made_from(graph):
    results = [path for path in (ROOT / "results").glob("*/*.json") if "step" in json.loads(path.read_bytes())]
    actions = {id: one for id, one in graph.items() if one["@type"] == "CreateAction"}
    made = [file["@id"] for one in actions.values() for file in one["result"]]
    assert sorted(name for name in made if name.endswith(".json")) == sorted(path.relative_to(ROOT).as_posix() for path in results)
    assert set(references(graph["./"]["mentions"])) == set(actions)
    for one in actions.values():
        software = graph[one["instrument"]["@id"]]
        assert software["@type"] == "SoftwareApplication" and re.fullmatch(r"[\d.]+, commit \w+\+?", software["softwareVersion"])
        assert datetime.date.fromisoformat(one["endTime"]) <= datetime.date.fromisoformat(graph["./"]["datePublished"])


def test_what_the_crate_names_is_there(graph):
    assert graph[crate.NAME]["about"] == {"@id": "./"} and graph["./"]["conformsTo"] == {"@id": crate.PROFILE}
    outside = {crate.CRATE, "http://schema.org/CompletedActionStatus"}
    for entity in graph.values():
        for name, value in entity.items():
            missing = set(references(value)) - set(graph) - outside
            assert not missing, f"{entity['@id']}, {name}: {missing}"
    for id in references(graph["./"]["hasPart"]):
        assert (ROOT / id).exists(), id


def test_a_trained_planner_rests_on_its_start_model_its_pairs_and_the_corpus(graph):
    (action,) = (one for one in graph.values() if one["@type"] == "CreateAction" and one["name"].endswith(": laptop/dpo-planner"))
    objects = set(references(action["object"]))
    assert {"results/laptop/sft-planner.json", "results/laptop/pairs.json", "data/esc-base/"} <= objects
    assert any(id.startswith("#data-esconv-") for id in objects)


def test_the_committed_crate_is_that_of_the_results(tmp_path):
    committed = ROOT / crate.NAME
    if committed.exists():
        assert json.loads(committed.read_bytes()) == crate.crate(), "run: make publish"
    with pytest.raises(FileNotFoundError, match="decoupled-esc publish"):
        crate.crate(tmp_path)


# --- Binder ---


def test_binder_installs_what_the_lock_pins_and_no_link_to_it_is_on():
    binder = ROOT / "binder"
    assert "-r ../requirements.lock" in (binder / "requirements.txt").read_text().splitlines()
    assert (binder / "runtime.txt").read_text().strip() == "python-3.11"
    script = binder / "postBuild"
    assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", script]).returncode == 0
    assert "--editable packages/turn_trees --editable ." in script.read_text()
    launch = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["launch_buttons"]
    assert not launch["binderhub_url"] and not launch["colab_url"]

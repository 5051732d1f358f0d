"""Making a base model: the stream it reads, an interrupted run, what is measured, and the models that are shipped."""

import json
import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_base_text import CLEANS

from bench.base_model import make
from bench.base_model import text as texts
from bench.base_model.text import Passage
from decoupled_esc import corpus, models, prompts, taxonomy
from decoupled_esc.corpus import Message
from decoupled_esc.experiments.run import PUBLISHED, surroundings
from decoupled_esc.pipeline.store import Store, Stores
from decoupled_esc.pipeline.workers import perform
from decoupled_esc.train.held_out import conversation_ids, perplexity

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=128)
SHIPPED = ("esc-nano", "esc-base")


def record(name: str) -> dict:
    return json.loads((PUBLISHED / "pretraining" / f"{name}.json").read_text(encoding="utf-8"))


def recipe(**changes) -> make.Recipe:
    return make.Recipe(**{
        "description": "a test", "shape": SHAPE, "seed": 5, "repeats": dict.fromkeys(texts.SOURCES, 2), "block": 64, "batch_size": 2,
        "learning_rate": 1e-3, "warmup_ratio": 0.1, "weight_decay": 0.1, "precision": "float32",
        "checkpoint_every": 4, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def passages(dialogues) -> list[Passage]:
    return texts.from_dialogues(dialogues[:8])


# The stream -----------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 4), min_size=1), st.integers(1, 30), st.integers(0, 9))
def test_each_source_is_read_as_often_as_said_and_evenly(repeats, size, seed):
    passages = [Passage(f"{source}/{n}", ()) for source in repeats for n in range(size)]
    mix = make.mixed(passages, repeats, seed)
    counted = Counter(p.id for p in mix)
    assert counted == {p.id: repeats[p.source] for p in passages}
    assert mix == make.mixed(passages, repeats, seed)
    for source, times in repeats.items():  # a second reading begins when the first has ended
        order = [p.id for p in mix if p.source == source]
        assert all(len(set(order[k * size : (k + 1) * size])) == size for k in range(times))


def test_a_source_without_text_or_repeats_is_an_error(passages):
    with pytest.raises(ValueError, match=r"repeats names \['annomi', 'miniature'\], and the text has \['miniature'\]"):
        make.mixed(passages, {"miniature": 1, "annomi": 1}, 0)


def test_blocks_hold_the_passages_one_after_the_other(passages, tokenizer):
    stream = [token for block in make.blocks(passages, tokenizer, 50) for token in block]
    assert {len(block) for block in make.blocks(passages, tokenizer, 50)} == {50}
    said = "".join(
        models.PAD + "".join(
            f"<|im_start|>{'user' if m.role == 'seeker' else 'assistant'}\n{m.text}<|im_end|>\n" for m in p.messages
        )
        for p in passages
    )  # fmt: skip
    whole = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert stream == whole[: len(stream)] and len(whole) - len(stream) < 50


def test_the_strategies_names_are_words_of_the_vocabulary(passages):
    tokenizer = make.base_tokenizer(passages, 800)
    for name in taxonomy.STRATEGIES:
        pieces = [tokenizer.decode([i]) for i in prompts.ids(name, tokenizer)]
        assert len(pieces) <= 2 * len(re.findall(r"\w+", name)) and "".join(pieces) == name


# Training -------------------------------------------------------------------------------------------------------


def made(passages, tokenizer, folder, sequences=None):
    made_by = recipe(repeats={"miniature": 2})
    sequences = sequences or make.blocks(
        make.mixed(passages, made_by.repeats, made_by.seed), tokenizer, made_by.block
    )
    log = make.pretrain(models.create(SHAPE, tokenizer, made_by.seed), tokenizer, sequences, made_by, folder)
    return sequences, log


def test_an_interrupted_run_ends_with_the_same_weights(passages, tokenizer, tmp_path):
    sequences, whole = made(passages, tokenizer, tmp_path / "whole")

    class Interrupted(list):
        def __getitem__(self, number):
            if number == 13:  # in step 7; the last checkpoint is of step 4
                raise KeyboardInterrupt
            return super().__getitem__(number)

    with pytest.raises(KeyboardInterrupt):
        made(passages, tokenizer, tmp_path / "cut", Interrupted(sequences))
    assert not (tmp_path / "cut" / "policy").exists()
    _, again = made(passages, tokenizer, tmp_path / "cut", sequences)
    digests = {models.weights_digest(tmp_path / name / "policy") for name in ("whole", "cut")}
    assert len(digests) == 1
    assert again == whole
    assert whole["steps"][-1]["loss"] < whole["steps"][0]["loss"] and whole["steps"][-1]["tokens"] == whole["tokens"]
    assert whole["tokens"] == len(sequences) * 64


def test_perplexity_is_that_of_the_models_own_loss(passages, tokenizer):
    model = models.create(SHAPE, tokenizer, 5)
    row = torch.tensor([conversation_ids(passages[0].messages, tokenizer)])
    with torch.no_grad():
        loss = model.eval()(input_ids=row, labels=row).loss.item()
    found = perplexity(model, tokenizer, [passages[0].messages], 4096)
    assert found["nats_per_token"] == pytest.approx(loss, rel=1e-5) and found["tokens"] == row.shape[1] - 1
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert found["bytes"] == sum(len(m.text.encode()) for m in passages[0].messages)
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) * found["tokens"] / found["bytes"], rel=1e-5)
    pieces = perplexity(model, tokenizer, [passages[0].messages], 20)
    assert pieces["tokens"] == found["tokens"], "every token but the first is asked for once"


# Recipes --------------------------------------------------------------------------------------------------------


def test_recipes_are_strict(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "EMBEDDED", tmp_path)
    (tmp_path / "esc-odd").mkdir()
    (tmp_path / "esc-odd" / "recipe.yaml").write_text(json.dumps({**recipe().model_dump(), "blok": 1, "batch_size": "2"}))
    with pytest.raises(ValueError, match=r"(?s)batch_size\n  Input should be a valid integer.*blok\n  Extra inputs"):
        make.load_recipe("esc-odd")


def test_a_base_model_is_made_measured_and_published(passages, tmp_path, monkeypatch, capsys):
    """From a small text: what is published is what was measured, and what holds is not made again."""
    for module in (make, models):
        monkeypatch.setattr(module, "RUNS" if module is make else "EMBEDDED", tmp_path / module.__name__)
    monkeypatch.setattr(make, "PUBLISHED", tmp_path / "results")
    monkeypatch.setattr(make, "SOURCES", ("miniature",))
    monkeypatch.setattr(make, "THREADS", torch.get_num_threads())
    monkeypatch.setattr(make, "split", lambda rows: (list(rows[2:]), {"miniature": list(rows[:2])}))
    text = texts.CleanText(tuple(passages), {"miniature": {"passages": 8}})
    monkeypatch.setattr(texts.MakeText, "run", lambda self, work: text)
    monkeypatch.setitem(texts.MakeText.run.__annotations__, "return", texts.CleanText)
    step = make.MakeBase("esc-small", recipe(repeats={"miniature": 1}), texts.MakeText({}))
    with pytest.raises(SystemExit, match="esc-small has not been made here"):
        make.publish("esc-small", step)
    make.made(step.text, "text")
    found = make.made(step, "esc-small")
    assert make.made(step, "esc-small") == found and found.held_out["miniature"]["conversations"] == 2
    (models.EMBEDDED / "esc-small").mkdir(parents=True)
    assert "data/esc-small/model.safetensors" in make.publish("esc-small", step)
    written = json.loads((tmp_path / "results" / "pretraining" / "esc-small.json").read_text())
    assert written["weights"] == found.weights == models.weights_digest(models.EMBEDDED / "esc-small")
    assert set(written) == set(record("esc-nano")) and written["text"]["digest"] == texts.text_digest(passages)
    assert json.loads((models.EMBEDDED / "esc-small" / "config.json").read_text())["dtype"] == "bfloat16"


# What is shipped ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request):
    return models.EmbeddedModel(kind="embedded", name=request.param)


def test_weights_are_those_that_the_record_describes(shipped):
    found = record(shipped.name)
    assert models.weights_digest(shipped.folder) == found["weights"]
    assert found["recipe"] == json.loads(json.dumps(make.load_recipe(shipped.name).model_dump()))
    size = sum(path.stat().st_size for path in shipped.folder.glob("*.safetensors"))
    assert size == found["bytes"] <= 16_000_000
    assert set(found["held_out"]) == set(found["recipe"]["repeats"]) == set(texts.SOURCES)
    assert all(
        1 < held["perplexity"] < found["recipe"]["shape"]["vocabulary"] / 10 for held in found["held_out"].values()
    )


def test_a_shipped_model_is_a_qwen2_with_the_chat_template(shipped):
    model, tokenizer = models.load(shipped.folder), models.load_tokenizer(shipped.folder)
    low, high = {"esc-nano": (0.8e6, 1.5e6), "esc-base": (4e6, 8e6)}[shipped.name]
    assert low < model.num_parameters() == record(shipped.name)["parameters"] < high
    assert model.config.model_type == "qwen2" and model.config.max_position_embeddings >= 2048
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    stored = json.loads((shipped.folder / "config.json").read_text())
    assert stored["dtype"] == "bfloat16"


def test_a_shipped_model_talks_but_knows_no_tag(shipped):
    """The stored weights give back a recorded number, and think a tag much less likely than a sentence."""
    model, tokenizer = models.load(shipped.folder), models.load_tokenizer(shipped.folder)

    def nats(text: str) -> float:
        said = (Message("seeker", "I feel sad today."), Message("supporter", text))
        return perplexity(model, tokenizer, [said], 512)["nats_per_token"]

    assert nats("I am sorry to hear that.") < min(nats(f"[{name}]") for name in taxonomy.STRATEGIES) - 1


def test_only_training_dialogues_were_read(shipped):
    read = set(record(shipped.name)["esconv_dialogues"])
    listed = {f"esconv/{number:04d}": split for number, split in corpus.read_manifest().values()}
    assert {listed[id] for id in read} == {"train"} and len(read) > 1000


@pytest.fixture(scope="module")
def esconv():
    """The real ESConv."""
    found = corpus.load("esconv", download=False)
    if found.name != "esconv":
        pytest.skip("needs the real data (DECOUPLED_ESC_DATA)")
    return found


@pytest.fixture(scope="module")
def text(esconv, tmp_path_factory):
    """The text of the base models, made anew from the published files."""
    stores, step = Stores(Store(tmp_path_factory.mktemp("runs"))), texts.make_text()
    assert perform(step, "text", stores, surroundings).error is None
    return stores.result(step).rows


@CLEANS
def test_no_evaluation_dialogue_is_in_the_text(shipped, esconv, text):
    """The text is the text of the record, and shares no 13-gram with what is tested."""
    passages = text
    assert texts.text_digest(passages) == record(shipped.name)["text"]["digest"]
    evaluation = texts.from_dialogues([*esconv.split("validation"), *esconv.split("test")])
    grams = texts.overlaps_with(evaluation)
    assert len(grams) > 50_000 and not texts.overlaps_with(passages) & grams
    assert texts.overlaps_with([*passages[:5], evaluation[0]]) & grams, "the check finds what is there"
    told = re.compile("|".join(re.escape(f"[{name}]") for name in taxonomy.STRATEGIES), re.I)
    assert not any(told.search(m.text) for p in passages for m in p.messages)
    assert {m.role for p in passages for m in p.messages} == {"seeker", "supporter"}, "no instruction"

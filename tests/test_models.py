"""The embedded model: its tokenizer loses nothing, its weights follow from a seed, and both survive a save."""

import json
import shutil
import unicodedata

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from decoupled_esc import models
from decoupled_esc.errors import KnownError

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=256)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi \u2615\n\nthere "},
    {"role": "assistant", "content": "[Question] What happened?"},
]


@pytest.fixture(scope="module")
def model(tokenizer):
    return models.create(SHAPE, tokenizer, seed=7)


@pytest.fixture(scope="module")
def saved(tokenizer, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def same(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k].cpu(), theirs[k].cpu()) for k in mine)


# The tokenizer --------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
@example(" leading and trailing \n\n ")
@example("don't , do n't ! \u00a0\u2028\x00 \U0001f469\u200d\U0001f469 e\u0301 \u00e9")
def test_any_text_comes_back_composed(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)  # as Qwen2's tokenizer
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_words_of_the_training_text_are_short_and_special_tokens_single(tokenizer):
    assert len(tokenizer) == SHAPE.vocabulary
    assert (tokenizer.pad_token, tokenizer.eos_token) == (models.PAD, models.END)
    for special in (models.PAD, models.START, models.END):
        assert len(tokenizer(special, add_special_tokens=False)["input_ids"]) == 1
    assert len({tokenizer.convert_tokens_to_ids(t) for t in (models.PAD, models.START, models.END)}) == 3
    text = "I am here to listen."
    assert len(tokenizer(text)["input_ids"]) < len(text) / 1.5


def test_same_texts_same_tokenizer():
    texts = ["it is hard", "it was hard for me", "me too"]
    one, two = (models.train_tokenizer(texts, 280).get_vocab() for _ in range(2))
    assert one == two


def test_chat_template_is_chatml(tokenizer):
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendered == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi \u2615\n\nthere <|im_end|>\n"
        "<|im_start|>assistant\n[Question] What happened?<|im_end|>\n"
    )
    asked = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert asked == rendered[: len(asked)] and asked.endswith("<|im_start|>assistant\n")


# The weights ----------------------------------------------------------------------------------------------------


def test_weights_follow_from_the_seed_alone(tokenizer, model):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = models.create(SHAPE, tokenizer, seed=7)
    assert torch.equal(torch.get_rng_state(), before)  # whoever draws next is not disturbed
    assert same(model, again)
    assert not same(model, models.create(SHAPE, tokenizer, seed=8))


# Saving and loading ---------------------------------------------------------------------------------------------


def test_save_and_load_change_nothing(saved, read, tokenizer, model):
    loaded = models.load(saved)
    assert same(loaded, model) and not loaded.training
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert json.loads((saved / "config.json").read_text())["model_type"] == "qwen2"
    assert read.get_vocab() == tokenizer.get_vocab()
    assert (read.pad_token_id, read.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert read.apply_chat_template(CHAT, tokenize=False) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    ids = torch.tensor([tokenizer("Hello there")["input_ids"]])
    with torch.no_grad():
        expected, logits = model.eval()(ids).logits, loaded(ids.to(loaded.device)).logits
    assert torch.allclose(logits.cpu(), expected, atol=1e-5)


@pytest.fixture(scope="module")
def read(saved):
    return models.load_tokenizer(saved)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
@example("don't , do n't 1234 \u0e33 e\u0301\n\n x <|im_end|>\n<|im_start|> [Question]How")
def test_a_loaded_tokenizer_splits_the_same(read, tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert read(text)["input_ids"] == ids
    for skip in (True, False):
        assert read.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_dtype_and_adapter(saved, model, tmp_path):
    from peft import LoraConfig, get_peft_model

    assert models.load(models.Weights(saved, dtype="bfloat16")).dtype == torch.bfloat16
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(models.load(saved), config)
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]], device=adapted.device)
    with torch.no_grad():
        plain, expected = models.load(saved)(ids).logits, adapted.eval()(ids).logits
        loaded = models.load(models.Weights(saved, adapter=tmp_path))(ids).logits
    assert torch.equal(loaded, expected)
    assert (loaded - plain).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_adapter_answers_as_training_reads_it(saved, model, tmp_path, dtype):
    """Where the base is in bfloat16, training's autocast rounds the adapter's weights: to answer with them rounded is the same."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(models.load(saved), config).save_pretrained(tmp_path)
    weights, ids = models.Weights(saved, dtype=dtype, adapter=tmp_path), torch.tensor([[4, 5, 6, 7, 8]])
    answering, training = models.load(weights), models.load(weights, for_training=True).eval()
    kinds = [{p.dtype for n, p in one.named_parameters() if "lora_" in n} for one in (answering, training)]
    assert kinds == [{getattr(torch, dtype)}, {torch.float32}]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        read = training(ids).logits
    with torch.no_grad():
        assert torch.equal(answering(ids).logits, read)


def test_a_tokenizer_without_padding_pads_with_the_end(saved, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    read = models.load_tokenizer(tmp_path)
    assert read.pad_token == read.eos_token == models.END


# The identity of a policy ---------------------------------------------------------------------------------------


def test_digest_changes_with_one_weight(saved, tmp_path):
    weights = load_file(saved / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    digest = models.weights_digest(tmp_path)
    assert len(digest) == 64 and models.weights_digest(tmp_path) == digest
    (tmp_path / "config.json").write_text("{}")  # not a weight
    assert models.weights_digest(tmp_path) == digest
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 5] += 1e-6
    save_file(weights, tmp_path / "model.safetensors")
    changed = models.weights_digest(tmp_path)
    assert changed != digest
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    assert models.weights_digest(tmp_path) not in {digest, changed}


def test_digest_of_a_folder_without_weights(tmp_path):
    with pytest.raises(models.ModelUnavailable, match="holds no safetensors file"):
        models.weights_digest(tmp_path)


def test_what_a_training_left_is_found(tmp_path):
    base = models.Weights("hub/name", "abc", "bfloat16")
    adapter, whole = tmp_path / "adapter", tmp_path / "whole"
    for folder, file in ((adapter, "adapter_config.json"), (whole, "config.json")):
        folder.mkdir()
        (folder / file).write_text("{}")
    assert models.weights_of(base, None) == models.weights_of(base, None, whole) == base
    of_whole = models.Weights(whole, None, "bfloat16")
    assert models.weights_of(base, whole) == models.weights_of(base, whole, adapter) == of_whole
    on_base = models.Weights("hub/name", "abc", "bfloat16", adapter)
    assert models.weights_of(base, adapter) == models.weights_of(base, adapter, adapter) == on_base
    assert models.weights_of(base, adapter, whole) == models.Weights(whole, None, "bfloat16", adapter)
    hub = models.HubModel(kind="hub", name="hub/name", revision="abc", dtype="bfloat16")
    assert hub.weights == base and base.identity == "hub/name@abc"


@pytest.mark.parametrize("kept", [0, 4, 60, 3000])
def test_damaged_weights_are_told_with_the_remedy(saved, tmp_path, kept):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:kept])
    with pytest.raises(KnownError, match=r"damaged weights .*; delete them, and make or fetch them again") as caught:
        models.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)

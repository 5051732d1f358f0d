"""Profiles: the shipped ones say what they should, and a wrong one is an error that names the file and the key."""

from math import inf, nan

import pytest
import yaml
from pydantic import ValidationError

from decoupled_esc.cli import main
from decoupled_esc.experiments import profiles
from decoupled_esc.experiments.profiles import ProfileError, load_profile, parse_profile
from decoupled_esc.generate.client import Endpoint
from decoupled_esc.generate.vllm import Serving
from decoupled_esc.models import HubModel, Shape
from decoupled_esc.present import paper
from decoupled_esc.train import Launch, Lora
from tests.plain_data import plain, put

FOLDER = profiles.FOLDER
SHIPPED = profiles.names()
PAPER = ("gemma2-9b", "llama3.1-8b", "qwen2.5-7b")
FULL = tuple(f"{name}-full" for name in PAPER)


def message(data: dict) -> str:
    with pytest.raises(ProfileError) as caught:
        parse_profile(data, "profiles/x.yaml")
    text = str(caught.value)
    assert text.startswith("profiles/x.yaml: ") and "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    return tmp_path


# --- What is shipped ---


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_loads_under_its_own_name(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.needs_gpu == (profile.backbone.kind == "hub")
    for training in (profile.sft.vanilla, profile.sft.planner, profile.sft.generator):
        assert training.batch_size % training.per_device_batch_size == 0


def test_smoke_laptop_and_the_papers_backbones_are_shipped():
    assert {"smoke", "laptop", *PAPER} <= set(SHIPPED)
    assert [name for name in SHIPPED if load_profile(name).scale == "paper"] == sorted([*PAPER, *FULL])


@pytest.mark.parametrize("name", PAPER)
def test_paper_profiles_hold_the_papers_numbers(name):
    profile = load_profile(name)
    assert profile.data.train_dialogues is None and profile.data.test_dialogues is None  # the whole splits
    for role in ("vanilla", "planner", "generator"):
        training = getattr(profile.sft, role)
        assert (training.learning_rate, training.epochs) == (1e-5, 3)
        # A dialogue has 14.2 turns on average.
        assert training.batch_size == (32 if role == "generator" else round(32 / 14.2))
        assert (training.lora.rank, training.lora.alpha, training.lora.dropout) == (16, 16, 0.05)
    for sampling in (profile.generation.reply, profile.generation.plan):
        assert (sampling.temperature, sampling.top_p) == (0.7, 0.95)
    assert profile.generator_layout == "paper"
    assert len(profile.backbone.revision) == 40, "a backbone is pinned to a commit"


@pytest.mark.parametrize("name", [*PAPER, *FULL])
def test_paper_profiles_hold_csos_numbers(name):
    """Tables 13 and 14 of CSO, number by number, but for the batch, which counts pairs there and trees here."""
    backbone, cso = name.removesuffix("-full"), load_profile(name).cso
    row = f"{backbone}/{'full' if name in FULL else 'lora'}"
    schedule, constants = (paper.load_tables()[f"cso/table-{n}"] for n in (13, 14))
    assert {how.lora is None for how in (cso.sft, cso.training)} == {name in FULL}
    for kind, how in (("sft", cso.sft), ("cso", cso.training)):
        said = schedule.row(f"{row}/{kind}").values
        assert (how.epochs, how.learning_rate) == (said["epochs"], said["lr"])
    for loss, own in cso.losses:
        said = constants.row(f"{row}/{loss}").values
        assert own.learning_rate == schedule.row(f"{row}/cso").values["lr"] and own.loss.loss == loss
        without = {"beta": None, "gamma": 0.0, "chosen-weight": 1.0, "rejected-weight": 1.0}
        for key, value in said.items():
            assert getattr(own.loss, key.replace("-", "_")) == (without[key] if value is None else value)


@pytest.mark.parametrize("name", [*PAPER, "laptop", "smoke", "smollm2-135m"])
def test_csos_adapters_are_csos(name):
    """CSO, appendix F.2: "LoRA fine-tuning is conducted with an alpha of 8, and a dropout rate of 0"; the rank is ours."""
    cso = load_profile(name).cso
    tuning = cso.lora or cso
    for how in (tuning.sft, tuning.training):
        assert (how.lora.alpha, how.lora.dropout, how.lora.rank) == (8, 0.0, 8)


def test_backbones_search_as_cso_does_and_small_models_so_that_something_is_found():
    said = {"exploration": 1.0, "rollout": 4, "own_turn": False, "gold_value": 1.0, "gold_visits": 100, "min_iterations": 100}
    for name in PAPER:
        search = load_profile(name).search
        assert said.items() <= search.constants.model_dump().items() and search.searches == 1
    for name in ("laptop", "smoke"):
        constants = load_profile(name).search.constants
        assert constants.own_turn and constants.gold_value is None and constants.gold_visits == 1


@pytest.mark.parametrize("name", FULL)
def test_a_full_profile_is_the_other_but_for_csos_tuning(name):
    full, other = load_profile(name), load_profile(name.removesuffix("-full"))
    assert full.launch.processes == 2 and full.backbone.dtype == "float32" and other.backbone.dtype == "bfloat16"
    assert (
        full.sft == other.sft and full.search == other.search and full.judge == other.judge and full.data == other.data
    )
    assert full.backbone.name == other.backbone.name and full.backbone.revision == other.backbone.revision
    assert full.preference.generator == other.preference.generator and full.preference.vanilla.training.batch_size == 4


def test_the_laptop_reads_all_data_once():
    """The paper: three times; one pass of a base that knows the dialogues is as good (the profile says by how much)."""
    laptop, paper = load_profile("laptop"), load_profile("qwen2.5-7b")
    for role in ("vanilla", "planner", "generator"):
        assert (getattr(laptop.sft, role).epochs, getattr(paper.sft, role).epochs) == (1, 3)
        assert getattr(laptop.sft, role).batch_size == 2 and laptop.generator_layout == "trunk"
    assert laptop.generation.reply.temperature == paper.generation.reply.temperature
    assert laptop.data == paper.data and laptop.data.train_dialogues is laptop.data.test_dialogues is None


def test_a_profile_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("smoke").seed = 14


# --- What is refused ---


@pytest.mark.parametrize(
    ("where", "near"),
    [
        ("sed", "seed"),
        ("data.max_lengths", "max_length"),
        ("backbone.nam", "name"),
        ("sft.planer", "planner"),
        ("sft.vanilla.epoch", "epochs"),
        ("generation.reply.temprature", "temperature"),
        ("preference.alternatives.simp", "simpo"),
        ("cso.losses.dpoo", "dpo"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(where, near):
    assert message(put(plain(), where, 1)) == f"profiles/x.yaml: unknown key {where!r} (did you mean {near!r}?)"


def test_a_search_without_roles_is_told_in_a_sentence():
    assert message(put(plain(), "search.seeker", None)).endswith(
        "search: without roles behind servers the search needs a seeker to train"
    )
    role = {"model": "m"}
    assert "roles names a server for each" in message(put(plain(), "search.roles", {"seeker": role}))


def test_an_answer_leaves_room_for_its_prompt():
    found = message(put(plain(), "generation.reply.max_new_tokens", 1024))
    assert found.endswith("generation: max_new_tokens 1024 leaves no room for a prompt in data.max_length 1024")


def test_adapters_and_all_weights_are_not_mixed():
    lora = {"rank": 4, "alpha": 4, "dropout": 0.0}
    found = message(put(plain(), "cso.training.lora", lora))
    assert (
        found
        == "profiles/x.yaml: cso.sft, cso.training, sft.vanilla: all of them train an adapter (lora), or none does"
    )


def test_processes_that_cannot_share_a_batch_are_told_before_they_start():
    found = message(put(plain("laptop"), "launch", {"processes": 2, "config": "ddp"}))
    assert found == (
        "profiles/x.yaml: each batch_size must be a multiple of its per_device_batch_size times 2 processes, and these are not: "
        "preference.vanilla.training (3), preference.planner.training (3), cso.sft (3), cso.training (3), cso.lora.sft (3), cso.lora.training (3)"
    )


def test_a_profile_says_what_it_has_otherwise(folder):
    (folder / "base.yaml").write_text(
        yaml.safe_dump({key: value for key, value in plain().items() if key != "name"}), encoding="utf-8"
    )
    (folder / "own.yaml").write_text(
        "extends: base\nseed: 14\ncso: {losses: {dpo: {loss: {beta: 0.7}}}, lora: null}\n", encoding="utf-8"
    )
    own, base = load_profile("own"), load_profile("base")
    assert (own.name, own.seed, own.cso.lora, own.cso.losses.dpo.loss.beta) == ("own", 14, None, 0.7)
    assert (
        own.cso.losses.dpo.learning_rate == base.cso.losses.dpo.learning_rate
        and own.cso.losses.ipo == base.cso.losses.ipo
    )
    assert base.cso.losses.dpo.loss.beta == 0.1 and base.cso.lora is not None and own.sft == base.sft


@pytest.mark.parametrize(("base", "why"), [
    ("bass", "profiles/own.yaml: extends 'bass', which is no profile (did you mean 'base'?)"),
    ("own", "profiles/own.yaml: extends own, which extends this one"),
    ("middle", "profiles/middle.yaml: extends own, which extends this one"),
])  # fmt: skip
def test_a_profile_that_extends_what_it_cannot(folder, base, why):
    (folder / "base.yaml").write_text("seed: 13\n", encoding="utf-8")
    (folder / "middle.yaml").write_text("extends: own\n", encoding="utf-8")
    (folder / "own.yaml").write_text(f"extends: {base}\n", encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile("own")
    assert str(caught.value) == why


def test_what_a_profile_extends_may_extend_another(folder):
    data = yaml.safe_dump({key: value for key, value in plain().items() if key != "name"})
    (folder / "base.yaml").write_text(data, encoding="utf-8")
    (folder / "middle.yaml").write_text("extends: base\nseed: 14\nmining: {samples: 3}\n", encoding="utf-8")
    (folder / "own.yaml").write_text("extends: middle\nseed: 15\nmining: {as_in: middle}\n", encoding="utf-8")
    own = load_profile("own")
    assert (own.seed, own.mining.samples, own.mining.as_in, load_profile("middle").seed) == (15, 3, "middle", 14)
    (folder / "own.yaml").write_text("extends: middle\nmining: {as_in: midle}\n", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"mining.as_in: .*no profile 'midle' \(did you mean 'middle'\?\)"):
        load_profile("own")


def test_a_wrong_key_may_stand_in_either_file(folder):
    (folder / "base.yaml").write_text(
        yaml.safe_dump({key: value for key, value in plain().items() if key != "name"} | {"sed": 1}), encoding="utf-8"
    )
    (folder / "own.yaml").write_text("extends: base\n", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"^profiles/own.yaml, which extends profiles/base.yaml: unknown key 'sed'"):
        load_profile("own")


def test_an_unknown_key_below_an_optional_section_is_named_too():
    found = message(put(plain("qwen2.5-7b"), "sft.generator.lora.rnk", 16))
    assert found.endswith("unknown key 'sft.generator.lora.rnk' (did you mean 'rank'?)")


@pytest.mark.parametrize("key", ["hub", "zzz"])
def test_an_unknown_key_without_a_near_one_is_named_alone(key):
    assert message({**plain(), key: 1}) == f"profiles/x.yaml: unknown key {key!r}"


def test_a_key_of_the_other_kind_of_backbone_is_unknown():
    assert "unknown key 'backbone.revision'" in message(put(plain(), "backbone.revision", "main"))


@pytest.mark.parametrize(
    "where", ["seed", "data.max_length", "backbone.name", "sft.vanilla.lora", "generation.plan.top_p"]
)
def test_a_missing_key_is_named(where):
    assert f"missing key {where!r}" in message(put(plain(), where, ...))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("seed", "13"),
        ("seed", True),
        ("needs_gpu", 0),
        ("data.max_length", None),
        ("backbone.name", "esc-bass"),
        ("sft.vanilla.epochs", 3.0),
        ("sft.vanilla.learning_rate", "1e-5"),  # what YAML makes of 1e-5 without a point
        ("sft.vanilla.schedule", "cosin"),
        ("scale", "big"),
        ("sft", 3),
    ],
)
def test_a_wrong_type_or_word_is_named_with_the_value(where, value):
    found = message(put(plain(), where, value))
    assert where in found and found.endswith(f"got {value!r}")


def test_a_wrong_word_comes_with_the_known_ones():
    assert "'cosine', 'linear' or 'constant'" in message(put(plain(), "sft.vanilla.schedule", "cosin"))
    found = message(put(plain(), "backbone.kind", "embeded"))
    assert "backbone: " in found and "'embedded'" in found and "'hub'" in found


def test_whole_numbers_stand_for_real_ones():
    assert parse_profile(put(plain(), "generation.reply.temperature", 0), "x").generation.reply.temperature == 0.0


def test_every_problem_is_told_at_once():
    found = message({**put(plain(), "data.max_lengths", 1), "seed": "x"})
    assert "data.max_lengths" in found and "seed" in found


# --- Files ---


@pytest.mark.parametrize(("name", "near"), [("labtop", " (did you mean 'laptop'?)"), ("../profiles/smoke", ""), ("", "")])
def test_an_unknown_profile_lists_those_that_exist_and_names_the_nearest(name, near):
    with pytest.raises(ProfileError) as caught:
        load_profile(name)
    assert f"{name!r}{near}" in str(caught.value) and f"Profiles: {', '.join(SHIPPED)}" in str(caught.value)


ODD_FILES = [
    (b"- a\n- b\n", "not a mapping"), (b"just words\n", "not a mapping"), (b"# nothing but a comment\n", "not a mapping"),
    (b"seed: [1, 2\n", "not valid YAML: "), (b"a: b: c\n", "not valid YAML: "), (b"\tseed: 1\n", "not valid YAML: "),
    (b"\xff\xfe\x00seed", "not valid YAML: "), (b"seed: \xe9\n", "not valid YAML: "), (None, "can't be read"),
    (b"seed: 1\nseed: 2\n", "the key 'seed' stands twice"), (b"seed: 2026-11-27\n", "seed"), (b"data: &a {b: *a}\n", ""),
    (b"data: {max_length: 5, max_length: 6}\n", "the key 'max_length' stands twice"),
    (b"a: " + b"[" * 3000 + b"]" * 3000 + b"\n", ""),
]  # fmt: skip


@pytest.mark.parametrize(("content", "why"), ODD_FILES)
def test_an_odd_file_or_yaml_that_means_something_else_is_one_line(folder, content, why):
    path = folder / "odd.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ProfileError, match="^profiles/odd.yaml: ") as caught:
        load_profile("odd")
    assert why in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 3000


def test_a_file_cant_go_by_another_name(folder):
    (folder / "odd.yaml").write_text(yaml.safe_dump(plain("laptop")))
    with pytest.raises(ProfileError, match="profiles/odd.yaml: unknown key 'name'"):
        load_profile("odd")


# --- Bounds ---


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("sft.vanilla.epochs", 0), ("generation.reply.temperature", float("nan")), ("preference.planner.loss.beta", 0.0),
        ("data.train_dialogues", -3), ("data.test_dialogues", 0), ("data.max_length", 0), ("generation.batch_tokens", 0),
        ("mining.samples", 0), ("search.dialogues", 0), ("search.max_gold_turns", 1), ("search.constants.min_iterations", 0),
        ("search.threshold", float("nan")), ("bootstrap_replicates", 0), ("seed", -1), ("other_seeds", [-1]),
        ("search.seeds", "exts"), ("cso.pairs", "publishd"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_its_key(where, value):
    found = message(put(plain(), where, value))
    assert where.split(".")[-1] in found


SMOKE, ODD = load_profile("smoke"), (nan, inf, "1")
CONSTANTS = dict.fromkeys(type(SMOKE.search.constants).model_fields, (*ODD, True)) | {"own_turn": ODD}
COUNTS = ("gold_visits", "min_iterations", "max_iterations", "max_terminal_nodes", "max_depth", "parallel_simulations")
BOUNDS = [
    (SMOKE.sft.vanilla, {
        "epochs": (0, -1), "learning_rate": (0, -1e-3, nan, inf), "batch_size": (0,), "per_device_batch_size": (0, -2),
        "warmup_ratio": (-0.1, 1, 5, nan), "checkpoint_every": (0,), "schedule": ("step",), "precision": ("float8",)}),
    (Lora(rank=4, alpha=8, dropout=0.3), {"rank": (0,), "alpha": (0, -1), "dropout": (-0.1, 1, nan)}),
    (SMOKE.preference.planner.loss, {"beta": (0, -1, nan, inf), "gamma": (-1, nan), "chosen_weight": (-1,), "rejected_weight": (inf,)}),
    (Launch(processes=1, config="cpu"), {"processes": (0,), "config": ("",)}),
    (SMOKE.generation.reply, {"temperature": (-1, nan, inf), "top_p": (0, 5, nan), "max_new_tokens": (0,), "beams": (2,)}),
    (Serving(), {"patience_seconds": (0, nan), "max_concurrency": (0,), "urls": (["here"],), "port": (1,)}),
    (Endpoint(model="judge"), {
        "max_concurrency": (0,), "attempts": (0,), "timeout_seconds": (0, nan), "budget": (3,), "dollars_per_million_in": (-1,),
        "dollars_per_million_out": (inf,), "max_tokens": (0,), "max_dollars": (nan, 0), "base_url": ([], "here"),
        "api_key_env": ("sk-a key",), "model": ("",)}),
    (SMOKE.search.constants, CONSTANTS),
    (SMOKE.search.constants, dict.fromkeys(COUNTS, (0, -1, 1.5)) | {
        "exploration": (-0.1,), "prior_temperature": (0.0,), "strategy_weight": (0.0,), "rollout": (-1,), "most_rounds": (3,)}),
    (Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=256), {"layers": (0,), "hidden": (-1,), "dropout": (0.1,)}),
    (HubModel(kind="hub", name="a/b", revision="c", dtype="float32"), {"name": ("",), "revision": ("",), "dtype": ("float8",), "kind": ("embedded",)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("good", "name", "value"), [(good, name, bad) for good, fields in BOUNDS for name, values in fields.items() for bad in values]
)  # fmt: skip
def test_nonsense_is_refused_by_its_field(good, name, value):
    """What `message` says of a few, of every setting that other rooms define."""
    fields = good.model_dump()
    assert type(good).model_validate(fields) == good
    with pytest.raises(ValidationError) as caught:
        type(good).model_validate(fields | {name: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {name}


@pytest.mark.parametrize("others", [[14, 14], [13]])
def test_seeds_are_distinct(others):
    assert "repeat a seed" in message(put(plain(), "other_seeds", others))


@pytest.mark.parametrize("number", ["-3", "0", "two", "²"])
@pytest.mark.parametrize("command", ["run --cores", "human-eval export x --samples", "human-eval export x --raters"])
def test_a_number_of_anything_is_one_or_more_and_the_message_says_of_what(command, number, capsys):
    with pytest.raises(SystemExit):
        main([*command.split()[:-1], f"{command.split()[-1]}={number}"])
    assert f"argument {command.split()[-1]}: must be 1 or more, got {number}" in capsys.readouterr().err

"""The one table of steps: what each profile builds, what each field changes, and users' own ExTES and ESC-Pro end to end."""

import json

import pytest

from decoupled_esc import models
from decoupled_esc.corpus import fetch
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.cso import ReadPublishedPairs, SampleRandomPairs, TrainCSO
from decoupled_esc.experiments.inputs import Policy
from decoupled_esc.experiments.judging import CountErrors, JudgeOffline
from decoupled_esc.experiments.labels import ErrorLabels, TrainingLabels
from decoupled_esc.experiments.preferences import MinePairs
from decoupled_esc.experiments.profiles import ProfileError, load_profile, names, parse_profile
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.run import PUBLISHED, ROOT, Book
from decoupled_esc.experiments.searches import ExtractPairs, GrowTrees
from decoupled_esc.pipeline import Missing, closure
from decoupled_esc.pipeline.store import Store, Stores, result_type
from decoupled_esc.publish import notebooks
from decoupled_esc.search import escpro
from tests.plain_data import plain, put
from tests.small_steps import Here

SEEDS = ("14", "15")
PLANNED = {f"replies-decoupled-{kind}" for kind in ("base", "sft", *table.LOSSES, "tags", "sft-validation", "dpo-validation")}
CONTROLLED = {role: {f"dpo-{role}-{kind}" for kind in ("matched", "fewer")} for role in ("planner", "generator")}
PLANNED |= {f"replies-planner-{kind}" for kind in ("matched", "fewer", "chosen")}
ALTERNATIVES = {f"{loss}-generator" for loss in table.LOSSES[1:]}
PREFERENCES = {f"{loss}-{role}" for loss in table.LOSSES for role in ("planner", "generator")}
PREFERENCES |= {"dpo-vanilla", *(f"dpo-vanilla-{name}" for name in table.QUADRANTS)}


def build(data: dict) -> dict:
    return table.steps(parse_profile(data | {"name": "own"}, "own"), inputs.as_published())


@pytest.fixture(scope="module")
def laptop():
    return table.steps(load_profile("laptop"), inputs.as_published())


@pytest.fixture(scope="module")
def seeded():
    """Profile laptop under three seeds, each with a search of its own."""
    return build(put(plain("laptop") | {"other_seeds": [int(seed) for seed in SEEDS]}, "search.searches", 3))


# --- Every profile ---


@pytest.mark.parametrize("name", names())
def test_every_profile_builds_its_table(name):
    profile = load_profile(name)
    steps = table.steps(profile, inputs.as_published())
    by_key = table.names(steps)
    assert all(key in by_key for key in closure(steps.values())), "what is needed has a name"
    # Trainings that the profile has not are Missing, and one under each of their names.
    twins = [name for name, step in steps.items() if by_key[step.key] != name]
    assert all(isinstance(steps[name], TrainCSO | Reply) for name in twins) and bool(twins) == (
        profile.cso.lora is None
    )
    assert {name.rpartition("-seed")[2] for name in steps if "-seed" in name} == {str(s) for s in profile.other_seeds}
    assert all(result_type(type(step)) is not None for step in steps.values()), "each says what it returns"
    assert [name for name in steps if name.startswith("replies-")][:1] == ["replies-vanilla-base"]


def test_every_chapter_reads_steps_that_exist(laptop):
    read = {source.stem: notebooks.steps_read(source) for source in notebooks.sources()}
    assert {name for reads in read.values() for name in reads} <= laptop.keys() and len(read) > 15
    for name in names():
        assert set().union(*read.values()) <= table.steps(load_profile(name), inputs.as_published()).keys()


def test_every_published_result_holds_and_is_read_as_its_type(laptop):
    store = Store(PUBLISHED / "laptop", table.names(laptop))
    read = {name for source in notebooks.sources() for name in notebooks.steps_read(source)}
    needed = closure([laptop[name] for name in read])
    for name, step in laptop.items():
        if step.key not in needed and store.why_not(step) == "not here":
            continue  # no chapter shows it yet
        assert store.why_not(step) == "", name
        stored = store.read(step)
        kind = result_type(type(step))
        assert isinstance(stored.result, Missing) or kind.validate_python(stored.result) == stored.result
        assert stored.key == step.key and stored.fields == step.fields and stored.provenance["name"] == name
    known = {f"{name}.json" for name in laptop} | {f"{name}.jsonl" for name in laptop}
    assert {path.name for path in (PUBLISHED / "laptop").iterdir()} <= known


def test_a_book_gives_published_results_without_any_data(monkeypatch, tmp_path):
    monkeypatch.setattr(inputs, "on_this_machine", lambda **_: pytest.fail("the data was read"))
    book = Book("laptop", runs=tmp_path)
    assert book["data"].dialogues["train"] > 500 and "decoupled-dpo" in book["metrics"].systems
    with pytest.raises(Exception, match=r"no step 'metric'.*did you mean 'metrics'"):
        _ = book["metric"]


# --- Seeds ---


def test_the_systems_of_the_questions_exist_under_each_seed(seeded):
    own = {
        seed: {n.removesuffix(f"-seed{seed}"): s for n, s in seeded.items() if n.endswith(f"-seed{seed}")}
        for seed in SEEDS
    }
    assert own["14"].keys() == own["15"].keys()
    wanted = {*table.SEEDED_SYSTEMS, *table.CSO_MAIN, *table.STRATEGY_TESTED}
    assert {f"replies-{name}" for name in wanted} <= own["14"].keys() and "metrics" not in own["14"]
    assert {n for n in own["14"] if n.startswith("cso-")} - {"cso-mined-pairs"} == set(table.CSO_MAIN), "the rest under one seed"
    for seed, steps in own.items():
        for name, step in steps.items():
            assert step.key != seeded[name].key and getattr(step, "seed", int(seed)) == int(seed)
        assert "sft-seeker" not in steps, "one seeker for all searches"
        assert steps["search"].seeker is seeded["sft-seeker"] and steps["search"].generator is steps["sft-generator"]
        assert steps["cso-dpo"].pairs is steps["cso-gold"].pairs is steps["esc-pro"] and steps["cso-gold"].gold
        assert steps["cso-random"].pairs is steps["esc-pro-random"] and steps["esc-pro-random"].pairs is steps["esc-pro"]
        mined = steps["cso-mined"].pairs
        assert mined is steps["cso-mined-pairs"] and mined.mined is steps["pairs"] and mined.like is steps["esc-pro"]
        assert steps["cso-dpo"].start is steps["sft-vanilla"] and steps["dpo-planner"].pairs is steps["pairs"]
    for name in ("questions", "metrics-cso", "metrics-strategy-test", "errors", "strategy-shares"):
        assert list(seeded[name].counts) == ["13", *SEEDS], name
    assert seeded["metrics"].seed == 13


def test_what_shapes_training_sees_no_label_of_a_test_dialogue_and_rq4_has_another_judge(seeded):
    shaping = [s.labels for s in seeded.values() if isinstance(s, MinePairs)]
    shaping += [s.reward.labels for s in seeded.values() if isinstance(s, GrowTrees | ExtractPairs)]
    assert len(shaping) > 3 and {type(labels) for labels in shaping} == {TrainingLabels}
    judging = [s.labels for s in seeded.values() if isinstance(s, CountErrors | JudgeOffline)]
    assert len(judging) > 3 and {type(labels) for labels in judging} == {ErrorLabels}


def test_seeds_take_their_turn_of_the_searches():
    """Seed i learns from search i mod the number of searches."""
    data = put(plain("laptop") | {"other_seeds": [14, 15, 16, 17]}, "search.searches", 3)
    steps = build(data)
    searched = [steps["esc-pro"], steps["esc-pro-seed14"], steps["esc-pro-seed15"]]
    assert len({step.search.seeds.seed for step in searched}) == 3, "around other dialogues"
    assert not {"search-seed16", "esc-pro-seed17", "esc-pro-random-seed16"} & steps.keys()
    learned = [steps[name].pairs for name in ("cso-dpo", *(f"cso-dpo-seed{seed}" for seed in (14, 15, 16, 17)))]
    assert all(pairs is searched[n % 3] for n, pairs in enumerate(learned))
    assert steps["cso-random-seed16"].pairs is steps["esc-pro-random"]
    assert steps["cso-mined-seed16"].pairs.mined is steps["pairs-seed16"] and steps["cso-mined-seed16"].pairs.like is searched[0]
    assert list(steps["searches"].searches) == ["13", "14", "15"]
    once = build(put(data, "search.searches", 1))
    assert {once[f"cso-dpo-seed{seed}"].pairs for seed in (14, 17)} == {once["esc-pro"]}


# --- What a field changes ---

CHANGES = [
    ("sft.vanilla.learning_rate", 1e-3, {"sft-vanilla", "sft-vanilla-no-tags", "sft-vanilla-long"}),
    ("sft.planner.epochs", 2, {"sft-planner", "sft-planner-tags"}),
    ("sft.generator.checkpoint_every", 31, {"sft-generator"}),
    ("search.seeker.epochs", 2, {"sft-seeker"}),
    ("preference.planner.loss.beta", 0.6, {"dpo-planner"} | CONTROLLED["planner"]),
    ("preference.generator.training.epochs", 2, {"dpo-generator", "sft-generator-chosen"} | CONTROLLED["generator"] | ALTERNATIVES),
    ("preference.alternatives.ipo.learning_rate", 1e-3, {"ipo-planner", "ipo-generator"}),
    ("preference.vanilla.loss.beta", 0.3, {"dpo-vanilla", "dpo-vanilla-psnr", "dpo-vanilla-nspr", "dpo-vanilla-nsnr"}),
    ("mining.samples", 3, {"candidates-vanilla", "candidates-generator"}),
    ("mining.dialogues", 40, {"candidates-vanilla", "candidates-generator", "candidates-planner", "pairs"}),
    ("data.validation_dialogues", 9, PREFERENCES.union(*CONTROLLED.values(), {"sft-planner-chosen", "sft-generator-chosen"})),
    ("generation.plan.temperature", 0.5, {"candidates-planner"} | PLANNED),
    ("search.constants.exploration", 2.0, {"search"}),
    ("search.max_gold_turns", 11, {"search"}),
    ("search.threshold", 0.6, {"esc-pro"}),
    ("search.constants.gold_visits", 2, {"search"}),
    ("cso.losses.dpo.loss.beta", 0.2, {"cso-dpo", "cso-random", "cso-gold", "cso-mined", "cso-quarter", "cso-half"}),
    ("cso.lora.losses.kto.learning_rate", 1e-3, {"cso-lora-kto"}),
    ("cso.lora.sft.epochs", 2, {"cso-lora-sft"}),
    ("cso.sft.warmup_ratio", 0.2, {"cso-sft"}),
    ("scale", "small", {"error-classifier", "empathy-scale", "pairs", "search", "esc-pro", "counts-errors", "judged-offline", "error-rates", "llm-judges"}),
    ("description", "another", set()),
    ("launch", {"processes": 1, "config": "cpu"}, set()),
]  # fmt: skip
ENDPOINT = "judge.endpoints.0"
JUDGED = [
    (f"{ENDPOINT}.model", "another", {"pairs", "judged", "llm-judges"}),
    ("judge.protocol.turns", 50, {"pairs", "judged", "llm-judges"}),
    *((f"{ENDPOINT}.{field}", value, set()) for field, value in {
        "max_dollars": 99.0, "dollars_per_million_in": 7.0, "max_concurrency": 3, "attempts": 2, "base_url": "http://127.0.0.1/v1",
        "api_key_env": "MY_KEY", "timeout_seconds": 9.0}.items()),
    ("judge.mode", "replay", set()),
    ("generation.vllm.max_concurrency", 3, set()),
    ("generation.vllm.options", ["--enforce-eager"], set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "where", "value", "readers"),
    [("smoke", *row) for row in CHANGES] + [("qwen2.5-7b", *row) for row in JUDGED],
)
def test_a_field_changes_its_readers_and_what_is_downstream_and_nothing_else(name, where, value, readers):
    data = plain(name) | {"other_seeds": []}
    if name != "smoke" and not data["generation"].get("vllm"):
        data["generation"]["vllm"] = {}
    before, after = build(data), build(put(data, where, value))
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].key != after[name].key}
    readers_keys = {before[name].key for name in readers}
    assert changed == {name for name, step in before.items() if readers_keys & closure([step]).keys()}


def test_scores_do_without_the_systems_that_a_profile_leaves_out():
    left = ["vanilla-sft-argmax", "gold-dpo", "vanilla-self-refine", "cso-ipo"]
    before, after = build(plain("smoke")), build(plain("smoke") | {"left_out": left})
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].key != after[name].key}
    assert {"metrics", "counts", "counts-cso", "questions", "metrics-cso"} <= changed
    assert not any(isinstance(before[name], Reply | Policy | MinePairs | GrowTrees) for name in changed), "nothing is made otherwise"
    metrics = after["metrics"]
    assert metrics.systems.keys() == before["metrics"].systems.keys() - set(left)
    assert metrics.contrasts == tuple(pair for pair in before["metrics"].contrasts if not set(pair) & set(left))
    assert "vanilla-sft-argmax" not in after["counts"].systems and "cso-ipo" not in after["counts-cso"].systems
    assert after["replies-gold-dpo"].key == before["replies-gold-dpo"].key, "which can still be asked for"
    with pytest.raises(ProfileError, match=r"left_out: no system 'vanilla-stf'.*vanilla-sft"):
        build(plain("smoke") | {"left_out": ["vanilla-stf"]})


def test_the_backbone_of_135_million_is_asked_the_questions_at_a_reduced_size():
    steps = table.steps(load_profile("smollm2-135m"), inputs.as_published())
    asked = {"vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo"}
    assert steps["counts"].systems.keys() == asked and steps["metrics"].systems.keys() == asked | {"vanilla-base", "decoupled-base"}
    trained = {name for name, step in steps["counts-cso"].systems.items() if step.policy.training is not None}
    assert trained == {"cso-sft", "cso-dpo", "cso-random"}
    assert steps["candidates-vanilla"].turns.limit < steps["sft-vanilla"].turns.limit and steps["counts"].turns.limit is None
    assert {seed for step in steps.values() if (seed := getattr(step, "seed", None)) is not None} == {13}


def test_the_model_behind_a_server_judges_replies_and_pairs_that_are_there_already():
    own, served = (table.steps(load_profile(name), inputs.as_published()) for name in ("smollm2-135m", "smollm2-135m-served"))
    judged = served["judged"]
    assert judged.systems.keys() == {"vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo"} and judged.judge.protocol.turns >= 50
    shared = {step.key for step in own.values()}
    assert all(step.key in shared for step in judged.upstream), "nothing is trained, sampled or mined for the judge"
    made = {type(step).__name__ for step in closure([served["esc-pro"]]).values() if step.key not in shared}
    assert made == {"FineTuneSeeker", "GrowTrees", "ExtractPairs"} and served["sft-seeker"].training is None
    assert served["search"].roles.keys() == {"supporter", "seeker", "strategies", "reward"} and served["llm-judges"].upstream == ()


def test_other_data_changes_what_reads_it():
    own = inputs.as_published()
    other = inputs.Inputs({**own.corpora, "esconv": inputs.Source("esconv", "0" * 64)}, own.files)
    before, after = (table.steps(load_profile("smoke"), one) for one in (own, other))
    same = {name for name in before if before[name].key == after[name].key}
    assert same == {"judgement-agreement", "judged-spread", "judged-conversations", "learned-judges"}, (
        "published judgements are not of ESConv"
    )
    files = {**own.files, "extes": inputs.Files("extes", "1" * 64), "esc_pro": inputs.Files("esc_pro", "1" * 64)}
    after = table.steps(load_profile("smoke"), inputs.Inputs(own.corpora, files))
    assert all(before[name].key == after[name].key for name in before), "smoke reads none of them"


# --- Users' own copies, end to end ---

SAID = ["I failed my exam again.", "My mother is very ill.", "Nobody talks to me at work."]
EXTES = [
    {"scene": "s", "description": "d", "content": [
        {"User": said}, {"AI Strategy": "Reflective Statements", "AI": "That must hurt."}, {"User": "Yes, it does."},
        {"AI": "Shall we make a plan?", "AI Strategy": "Suggest Options"}, {"User": "Thank you."},
    ]} for said in SAID
]  # fmt: skip
ESC_PRO = [
    {"messages": [
        {"role": "user", "content": said},
        {"role": "assistant", "content": "That hurts.", "strategy": "Empathetic Statements",
         "negative": [{"strategy": "Share Information", "content": "Many fail."}, {"strategy": "Affirmation", "content": "Great."}]},
        {"role": "user", "content": "Yes."},
        {"role": "assistant", "content": "What next?", "strategy": "Collaborative Planning",
         "negative": [{"strategy": "Affirmation", "content": "You can."}]},
    ]} for said in SAID
]  # fmt: skip


def small(**changes) -> dict:
    """`smoke` on four dialogues, one tree of few rounds."""
    data = plain("smoke") | {"bootstrap_replicates": 20}
    for where, value in {
        "data.train_dialogues": 4, "data.test_dialogues": 2, "data.max_length": 512, "search.dialogues": 2,
        "search.constants.min_iterations": 2, "search.constants.max_iterations": 2, "generation.reply.max_new_tokens": 12, **changes,
    }.items():  # fmt: skip
        data = put(data, where, value)
    return data


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A folder of a user with both files, and the miniature corpus for all else."""
    for path, rows in {"extes/ExTES.json": EXTES, "esc_pro/ESC-Pro.json": ESC_PRO}.items():
        (tmp_path / "data" / path).parent.mkdir(parents=True)
        (tmp_path / "data" / path).write_text(json.dumps(rows))
    monkeypatch.setenv(fetch.FOLDER, str(tmp_path / "data"))
    monkeypatch.setenv(fetch.CACHE, str(tmp_path / "cache"))
    inputs.load.cache_clear()
    yield tmp_path
    inputs.load.cache_clear()


def book_of(data: dict, folder) -> Book:
    book = Book(parse_profile(data | {"name": "own"}, "own"), runs=folder / "runs", published=folder / "none")
    book.steps = table.steps(book.profile, inputs.on_this_machine(download=False))
    return book


def test_trees_grow_from_a_copy_of_extes(own_files):
    book = book_of(small(**{"search.seeds": "extes"}), own_files)
    seeds = book.steps["search"].seeds.read()
    assert len(seeds) == 2 and {d.utterances[0].text for d in seeds} < set(SAID)
    book.run(["esc-pro"], Here(), runs_only=True)
    search, pairs = book["search"], book["esc-pro"]
    assert search.seeds == 2 and list(search.trees) == [d.id for d in seeds]
    assert all(id.startswith("extes/") for id in search.trees)
    assert pairs.seeds.dialogues == 2 and pairs.pairs >= 0
    (own_files / "data" / "extes" / "ExTES.json").unlink()
    absent = book_of(small(**{"search.seeds": "extes"}), own_files)
    assert absent.steps["search"].key != book.steps["search"].key
    absent.run(["esc-pro"], Here(), runs_only=True)
    assert isinstance(absent["esc-pro"], Missing) and "extes is not on this machine" in absent["esc-pro"].reason


def test_training_starts_from_a_copy_of_the_published_pairs(own_files):
    data = small(**{"cso.pairs": "published", "cso.start": "base-model"})
    book = book_of(data, own_files)
    step = book.steps["esc-pro-published"]
    assert isinstance(step, ReadPublishedPairs) and isinstance(book.steps["esc-pro-random"], SampleRandomPairs)
    assert book.steps["cso-dpo"].pairs is book.steps["esc-pro-random"].pairs is step
    assert book.steps["cso-dpo"].start is None
    assert book.run(["cso-dpo", "cso-sft"], Here(), runs_only=True) == 3
    dpo, sft = book["cso-dpo"], book["cso-sft"]
    assert (dpo.pairs, dpo.turns, dpo.trees, dpo.loss.loss) == (9, 6, 3, "dpo")
    assert (sft.pairs, sft.turns, sft.trees, sft.loss) == (0, 6, 3, None)
    policy = Stores(book.runs).path(book.steps["cso-dpo"], "policy")
    assert models.weights_digest(policy) != models.weights_digest(ROOT / "data" / "esc-nano")
    assert book.run(["cso-random", "cso-mined"], Here(), runs_only=True)
    where = {"searched": step, "random": book.steps["esc-pro-random"], "mined": book.steps["cso-mined-pairs"]}
    found = {kind: escpro.read(Stores(book.runs).path(one, "pairs.jsonl")) for kind, one in where.items()}
    assert [pair.turn for pair in found["random"]] == [pair.turn for pair in found["searched"]], "pair by pair"
    assert all(pair.strategy != pair.turn.strategy for pair in found["random"])
    said = [(pair.turn.id, pair.strategy) for pair in found["random"]]
    assert len(set(said)) == len(said) == book["cso-random"].pairs == 9
    train = {turn.id: turn for turn in book.steps["pairs"].turns.read()}
    assert len(found["mined"]) == min(9, book["pairs"].pairs["vanilla"]) and all(p.turn == train[p.turn.id] for p in found["mined"])
    book.run(["cso-gold"], Here(), runs_only=True)
    assert isinstance(book["cso-gold"], Missing)
    (own_files / "data" / "esc_pro" / "ESC-Pro.json").write_text('[{"messages": [{"role": "x"}]}]')
    with pytest.raises(Exception, match=r"esc-pro-published: ESC-Pro.json, dialogue 0.*messages"):
        book_of(data, own_files).run(["cso-dpo"], Here(), runs_only=True)


def test_what_the_papers_texts_claim_is_measured(laptop):
    """The +7 over Vanilla-SFT, the share of Question, and CSO's Table 4 and Figure 4 with adapters as well."""
    assert ("decoupled-dpo", "vanilla-sft") in laptop["errors"].contrasts
    shares = laptop["strategy-shares"]
    assert set(shares.contrasts) == {("vanilla-dpo", "vanilla-sft"), ("vanilla-sft", "gold"), ("vanilla-dpo", "gold")}
    assert {seed: counted for seed, (counted,) in shares.counts.items()} == {seed: counted for seed, (counted,) in laptop["questions"].counts.items()}
    for name in ("random", "quarter", "half"):
        own, other = laptop[f"cso-lora-{name}"], laptop[f"cso-{name}"]
        assert (own.pairs, own.share, own.preference) == (other.pairs, other.share, other.preference) and own.training.lora is not None
    assert {("cso-lora-random", "cso-lora-sft"), ("cso-lora-dpo", "cso-lora-random")} <= set(laptop["metrics-cso"].contrasts)

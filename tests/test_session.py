"""Sessions and code versions: a result is used exactly as long as what it was computed from is the same.

The stages here are toys, written to a module of their own, so that their settings, data and code can be changed.
"""

import ast
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from decoupled_esc.workflow import code, session, stages
from decoupled_esc.workflow.code import PACKAGE, stage_code
from decoupled_esc.workflow.profiles import load_profile
from decoupled_esc.workflow.session import Session, StageError
from decoupled_esc.workflow.stages import Stage

TOYS = '''
"""Three toy stages."""

FACTOR = 2
CALLS = []  # what has run, in order


def grow(context):
    """Leaves weights behind."""
    CALLS.append("grow")
    (context.folder / "policy").mkdir(exist_ok=True)
    (context.folder / "policy" / "weights").write_text(str(context.profile.seed))
    if context.profile.seed == 99:
        raise KeyboardInterrupt
    context.tokens = 5
    return {"size": context.profile.seed * FACTOR}


def write(context):
    """Ten rows, a few at a time."""
    CALLS.append("write")
    rows = context.open_rows("rows")
    CALLS.append(f"{len(rows.by_id)} rows were there")
    for n in range(10):
        if n == context.profile.bootstrap_replicates:
            raise KeyboardInterrupt
        rows.append([{"id": str(n), "text": _text(context, n)}])
    context.rows = tuple(rows.by_id.values())
    return {"rows": len(context.rows)}


def _text(context, n):
    return f"{n} of {context.needs['grow'].payload['size']}"


def count(context):
    """Counts words."""
    CALLS.append("count")
    return {"words": sum(len(row["text"].split()) for row in context.needs["write"].rows)}
'''


def _grow_settings(profile) -> dict:
    return {"seed": profile.seed, "data": {"window": profile.data.window}}


class House:
    """Toy stages in a module of their own, and sessions over them in a folder of their own."""

    def __init__(self, folder: Path, monkeypatch):
        folder.mkdir(exist_ok=True)
        self.folder, self.monkeypatch, self.module = folder, monkeypatch, folder / "toys.py"
        self.data = "d1"
        monkeypatch.setattr(stages, "__file__", str(self.module))
        self.build(TOYS)

    def build(self, text: str) -> None:
        """The toys as ``text`` says."""
        self.module.write_text(text, encoding="utf-8")
        code._read.cache_clear()
        toys = SimpleNamespace()
        exec(text, vars(toys))
        self.calls = toys.CALLS
        table = (
            Stage("grow", toys.grow, _grow_settings, leaves=("policy",)),
            Stage("write", toys.write, lambda p: {}, needs=("grow",), corpora=()),
            Stage("count", toys.count, lambda p: {}, needs=("write",), corpora=(), uses_model=False),
        )
        self.monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})

    def session(self, runs_only: bool = False, **changes) -> Session:
        profile = load_profile("smoke").model_copy(update=changes)
        opened = Session(profile, runs_only=runs_only, runs=self.folder / "runs", published=self.folder / "results")
        opened.corpora = {"esconv": SimpleNamespace(digest=self.data, name="esconv")}
        return opened

    def publish(self) -> None:
        """What was run becomes what was published, as `decoupled-esc publish` does."""
        opened = self.session()
        for name in stages.STAGES:
            if (found := opened.runs.read(name)) is not None:
                opened.published.write(found)

    def why(self, name: str, published: bool = False, **changes) -> tuple[str, str]:
        opened = self.session(**changes)
        state = opened.state(name, opened.published if published else opened.runs)
        return state.word, state.why


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setattr(session.corpus, "manifest_digests", lambda: {"esconv": "d1"})
    monkeypatch.delenv(session.RUNS_ONLY, raising=False)
    yield House(tmp_path, monkeypatch)
    code._read.cache_clear()


# --- Files that may be absent ---


def test_a_stage_runs_without_its_files_and_again_once_they_have_come(house, tmp_path):
    toys = SimpleNamespace()
    exec("def look(context):\n    return {'files': [path.name for path in context.files.get('decoupledesc_release', ())]}\n", vars(toys))
    house.module.write_text("def look(context):\n    return {}\n", encoding="utf-8")
    stage = Stage("look", toys.look, lambda p: {}, corpora=(), files=("decoupledesc_release",), uses_model=False)
    house.monkeypatch.setattr(stages, "STAGES", {"look": stage})

    def opened(files):
        found = house.session()
        found.files = files
        return found

    without, here = opened({}), opened({"decoupledesc_release": (tmp_path / "labels.json",)})
    assert without.run("look").payload == {"files": []}
    assert without.runs.read("look").inputs["data"] == {"decoupledesc_release": "absent"}
    assert without.state("look", without.runs).word == "fresh"
    assert here.state("look", here.runs).why == "the data is not what it was computed from"
    assert here.run("look").payload == {"files": ["labels.json"]}
    here.published.write(here.runs.read("look"))
    assert without.state("look", without.published).word == "fresh", "published from the files that the registry names"


def test_work_on_the_real_data_is_not_lost_to_the_miniature(house):
    house.session().run("count")
    synthetic = house.session()
    synthetic.corpora = {"esconv": SimpleNamespace(digest="d2", name="miniature")}
    with pytest.raises(StageError, match=r"grow\.json was made from the real esconv, .* Set DECOUPLED_ESC_DATA as before, or move"):
        synthetic.run("count")
    assert house.why("count") == ("fresh", ""), "nothing was touched"
    elsewhere = house.session()
    elsewhere.corpora = {"esconv": SimpleNamespace(digest="d3", name="mine")}
    assert elsewhere.run("grow").payload == {"size": 26}, "other real data is other work"
    assert synthetic.run("grow").payload == {"size": 26} and synthetic.runs.read("grow").inputs["data"] == {"esconv": "d2"}


# --- Asking ---


def test_a_stage_runs_once_after_what_it_needs(house):
    first = house.session().result("count")
    assert house.calls == ["grow", "write", "0 rows were there", "count"]
    assert first.payload == {"words": 30}
    assert house.session().result("count") == house.session().run("count") == first
    assert house.calls.count("count") == house.calls.count("grow") == 1


def test_asking_for_what_holds_looks_at_each_stage_once(house, monkeypatch):
    def step(context):
        return {"needs": sorted(context.needs)}

    house.module.write_text("def step(context):\n    return {}\n", encoding="utf-8")
    ladder = [f"step-{k}" for k in range(24)]  # each needs the two before it: tens of thousands of ways lead down
    table = {name: Stage(name, step, lambda p: {}, tuple(ladder[max(0, k - 2) : k]), corpora=()) for k, name in enumerate(ladder)}
    monkeypatch.setattr(stages, "STAGES", table)
    house.session().run(ladder[-1])
    again, looked = house.session(), []
    whole = again._state
    monkeypatch.setattr(again, "_state", lambda name, *rest: looked.append(name) or whole(name, *rest))
    assert again.run(ladder[-1]).payload == {"needs": ladder[-3:-1]}
    assert sorted(looked) == sorted(ladder)


def test_a_result_says_what_it_was_computed_from_and_how(house):
    house.session().run("count")
    grown, written = (house.session().runs.read(name) for name in ("grow", "write"))
    assert grown.inputs == {"settings": {"seed": 13, "data": {"window": 1024}}, "data": {"esconv": "d1"}, "needs": {}}
    assert written.inputs == {"settings": {}, "data": {}, "needs": {"grow": grown.digest}}
    assert written.rows[3] == {"id": "3", "text": "3 of 26"}
    how = grown.provenance
    assert how["profile"] == "smoke" and how["tokens"] == 5 and how["left"] == ["policy"]
    assert {"date", "wall_seconds", "peak_memory_mib", "commit", "hardware", "versions", "python"} <= how.keys()
    assert how["versions"]["torch"]


def test_without_git_the_commit_is_unknown_and_nothing_is_lost(house, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert house.session().run("grow").provenance["commit"] is None


def test_a_fresh_published_result_is_used_without_running(house):
    house.session().run("count")
    house.publish()
    shutil.rmtree(house.folder / "runs")
    house.calls.clear()
    house.data = "other data on this machine"  # a reader of published results needs no copy of the data
    assert house.session().result("count").payload == {"words": 30}
    assert house.calls == [] and not (house.folder / "runs").exists()


def test_a_stale_published_result_is_left_aside(house):
    house.session().run("count")
    house.publish()
    house.calls.clear()
    assert house.session(seed=14).result("grow").payload == {"size": 28}
    assert house.calls == ["grow"]
    assert house.session().published.read("grow").payload == {"size": 26}, "what was published stays"


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_runs_only_leaves_published_results_aside(house, monkeypatch, by):
    house.session().run("count")
    house.publish()
    shutil.rmtree(house.folder / "runs")
    house.calls.clear()
    if by == "environment":
        monkeypatch.setenv(session.RUNS_ONLY, "1")
    assert house.session(runs_only=True if by == "argument" else None).result("grow").payload == {"size": 26}
    assert house.calls == ["grow"]


def test_an_unknown_stage_is_named_with_the_nearest(house):
    for ask in (house.session().result, house.session().run, lambda name: house.session().vouch(name, "so")):
        with pytest.raises(StageError, match="no stage 'cuont' .did you mean 'count'.*Stages: grow, write, count"):
            ask("cuont")


def test_a_gpu_profile_without_gpu_is_an_error_before_anything_runs(house, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StageError, match="profile smoke needs a GPU for stage grow.*Use profile smoke or laptop"):
        house.session(needs_gpu=True).run("count")
    assert house.calls == []
    house.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    assert house.session(needs_gpu=True).run("grow").provenance["hardware"]["gpu"] == "pretended"


# --- Why a result no longer holds ---


def test_missing_fresh_and_damaged(house):
    assert house.why("grow") == ("missing", "never run")
    house.session().run("count")
    assert [house.why(name) for name in stages.STAGES] == [("fresh", "")] * 3
    house.session().runs.path("grow").write_text("{")
    assert house.why("grow") == ("missing", "its file is damaged")
    assert house.why("write") == ("stale", "grow is damaged")
    assert house.session().run("grow").payload == {"size": 26}, "damaged: computed again"


def test_damaged_rows(house):
    house.session().run("write")
    rows = house.session().runs.path("write").with_suffix(".jsonl")
    rows.write_bytes(rows.read_bytes()[:-9])
    assert house.why("write") == ("missing", "its file is damaged")
    assert len(house.session().run("write").rows) == 10


def test_a_section_that_came_is_told_of_in_a_line():
    told = session._difference({"cso.lora": None}, {"cso.lora": load_profile("smoke").cso.lora.model_dump()})
    assert told.startswith("cso.lora was None and is {'sft': {'epochs': 1,") and told.endswith(" ...") and len(told) < 120


def test_a_changed_setting_is_named_with_both_values(house):
    house.session().run("count")
    assert house.why("grow", seed=14) == ("stale", "the profile changed: seed was 13 and is 14")
    window = load_profile("smoke").data.model_copy(update={"window": 512})
    assert house.why("grow", data=window) == ("stale", "the profile changed: data.window was 1024 and is 512")
    assert house.why("count", seed=14)[1].endswith("grow is stale (the profile changed: seed was 13 and is 14))")
    assert house.why("grow", bootstrap_replicates=5) == ("fresh", ""), "a setting that this stage doesn't read"


def test_a_need_that_changed_makes_stale_and_an_equal_one_does_not(house):
    house.session().run("count")
    house.build(TOYS.replace("FACTOR = 2", "FACTOR = 4 // 2"))  # other code, same result
    house.session().run("grow")
    assert house.why("write") == ("fresh", "")
    house.session(seed=14).run("grow")
    assert house.why("write", seed=14) == ("stale", "grow has changed")
    assert house.session(seed=14).run("count").payload == {"words": 30}
    assert house.session(seed=14).runs.read("write").rows[3]["text"] == "3 of 28"


def test_other_data_makes_stale(house):
    house.session().run("count")
    house.data = "d2"
    assert house.why("grow") == ("stale", "the data is not what it was computed from")
    assert house.session().run("grow").inputs["data"] == {"esconv": "d2"}


def test_published_results_answer_to_the_manifest(house, monkeypatch):
    house.session().run("count")
    house.publish()
    assert house.why("grow", published=True) == ("fresh", "")
    monkeypatch.setattr(session.corpus, "manifest_digests", lambda: {"esconv": "d2"})
    assert house.why("grow", published=True) == ("stale", "the data is not what it was computed from")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("write", 'return f"{n} of', 'return f"{n} from'),  # a function beside it
        ("grow", "FACTOR = 2", "FACTOR = 3"),  # a constant beside it
        ("count", "sum(len", "2 * sum(len"),
    ],
)
def test_changed_code_makes_stale_what_uses_it_and_nothing_else(house, name, old, new):
    house.session().run("count")
    house.build(TOYS.replace(old, new))
    for other in ("grow", "write", "count"):
        if other == name:
            assert house.why(other) == ("stale", "the code it depends on has changed")
        elif list(stages.STAGES).index(other) < list(stages.STAGES).index(name):
            assert house.why(other) == ("fresh", "")
    house.session().run(name)
    assert house.why(name) == ("fresh", "")


def test_weights_that_are_gone_make_a_run_stale_but_not_what_was_published(house):
    house.session().run("count")
    house.publish()
    shutil.rmtree(house.folder / "runs" / "smoke" / "grow" / "policy")
    assert house.why("grow") == ("stale", "its weights are gone")
    assert house.why("grow", published=True) == ("fresh", "")
    house.calls.clear()
    house.session().run("count")
    assert house.calls == ["grow"], "the same weights again: what was made from them holds"


def test_weights_that_an_interrupted_run_of_other_work_left_are_not_taken_for_ours(house):
    house.session().run("grow")
    with pytest.raises(KeyboardInterrupt):
        house.session(seed=99).run("grow")  # after it saved its weights
    assert house.why("grow") == ("stale", "its folder holds other weights")
    house.session().run("grow")
    assert (house.folder / "runs" / "smoke" / "grow" / "policy" / "weights").read_text() == "13"


# --- Interrupted work ---


def test_an_interrupted_stage_goes_on_from_its_rows(house):
    with pytest.raises(KeyboardInterrupt):
        house.session(bootstrap_replicates=4).run("write")
    assert house.why("write") == ("missing", "never run")
    resumed = house.session().run("write")
    assert house.calls == ["grow", "write", "0 rows were there", "write", "4 rows were there"]
    assert [row["id"] for row in resumed.rows] == [str(n) for n in range(10)]
    assert resumed.digest == House(house.folder / "afresh", house.monkeypatch).session().run("write").digest


def test_a_torn_row_of_a_killed_stage_is_written_anew(house):
    with pytest.raises(KeyboardInterrupt):
        house.session(bootstrap_replicates=4).run("write")
    with open(house.folder / "runs" / "smoke" / "write" / "rows.jsonl", "ab") as file:
        file.write(b'{"id": "4", "te')
    assert [row["text"] for row in house.session().run("write").rows] == [f"{n} of 26" for n in range(10)]


@pytest.mark.parametrize("change", ["need", "code"])
def test_interrupted_work_on_other_inputs_starts_over(house, change):
    with pytest.raises(KeyboardInterrupt):
        house.session(bootstrap_replicates=4).run("write")
    if change == "code":
        house.build(TOYS.replace('return f"{n} of', 'return f"{n} from'))
    done = house.session(seed=14 if change == "need" else 13).run("write")
    assert house.calls[-1] == "0 rows were there"
    assert {row["text"].split(maxsplit=1)[1] for row in done.rows} == {"of 28" if change == "need" else "from 26"}


TWO = """
import sys, time
from pathlib import Path
from decoupled_esc.workflow import stages
from decoupled_esc.workflow.session import Session

folder, me = Path(sys.argv[1]), sys.argv[2]

def slow(context):
    (folder / f"started-{me}").touch()
    while not (folder / "release").exists():
        time.sleep(0.01)
    return {"by": me}

stages.STAGES = {"slow": stages.Stage("slow", slow, lambda profile: {}, corpora=(), uses_model=False)}
session = Session("smoke", runs=folder / "runs", published=folder / "results")
(folder / f"asks-{me}").touch()
print(session.result("slow").payload["by"])
"""


def test_two_processes_that_ask_at_once_compute_once(tmp_path):
    def ask(me: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", TWO, str(tmp_path), me], stdout=subprocess.PIPE, text=True)

    def wait_for(name: str, process: subprocess.Popen) -> None:
        while not (tmp_path / name).exists():
            assert process.poll() is None, "it ended too early"
            time.sleep(0.01)

    first = ask("first")
    wait_for("started-first", first)
    second = ask("second")
    wait_for("asks-second", second)
    time.sleep(0.3)  # for the second to come to the lock; were there none, it would start
    (tmp_path / "release").touch()
    assert [process.communicate(timeout=60)[0].strip() for process in (first, second)] == ["first", "first"]
    assert not (tmp_path / "started-second").exists()


# --- Vouching ---


def test_vouching_accepts_the_present_code_and_keeps_the_reason(house):
    house.session().run("count")
    house.publish()
    before = house.session().published.read("grow")
    house.build(TOYS.replace("FACTOR = 2", "FACTOR = 1 + 1"))
    assert house.why("grow", published=True) == ("stale", "the code it depends on has changed")
    house.session().vouch("grow", "  the same number, written otherwise ")
    after = house.session().published.read("grow")
    assert house.why("grow", published=True) == house.why("count", published=True) == ("fresh", "")
    (entry,) = after.vouched
    assert entry["why"] == "the same number, written otherwise" and entry["date"] and entry["code"] != before.code
    assert replace(after, vouched=()) == before and after.digest == before.digest
    house.build(TOYS.replace("FACTOR = 2", "FACTOR = 3"))
    assert house.why("grow", published=True)[0] == "stale", "only the code that was vouched for"


def test_vouching_needs_a_reason_and_something_published(house):
    with pytest.raises(StageError, match="there is no result of grow under profile smoke"):
        house.session().vouch("grow", "because")
    house.session().run("count")
    house.publish()
    for empty in ("", " \n"):
        with pytest.raises(StageError, match="say why"):
            house.session().vouch("grow", empty)
    assert house.session().published.read("grow").vouched == ()


def test_vouching_accepts_what_was_run_here_too(house):
    house.session().run("count")
    house.build(TOYS.replace("FACTOR = 2", "FACTOR = 1 + 1"))
    assert house.why("grow")[0] == "stale"
    house.session().vouch("grow", "the same number, written otherwise")
    assert house.why("grow") == ("fresh", ""), "with nothing published, and with the weights it left still its own"


# --- Code versions ---

MODULES = {
    "taxonomy.py": "NAMES = ('a', 'b')\n",
    "corpus/__init__.py": "from library.corpus.fetch import get\nfrom library.taxonomy import NAMES\n",
    "corpus/fetch.py": "def get():\n    return 1\n",
    "unused.py": "X = 1\n",
    "workflow/stages.py": '''
LIMIT = 3
TABLE: dict = {"one": 1}


def one(context):
    """Docs."""
    from library import corpus

    return {"n": [corpus.get(), helper(context)], "table": TABLE}


def helper(context):
    return LIMIT


def other(context):
    return 0
''',
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small package; returns a function that gives the digest of its stage after texts were replaced."""
    package = tmp_path / "library"
    monkeypatch.setattr(code, "PACKAGE", package)
    monkeypatch.setattr(code, "WITHOUT_EFFECT", (package / "corpus" / "fetch.py",))

    def version(changed: str = "", old: str = "", new: str = "", text: str | None = None) -> str:
        for name, content in MODULES.items():
            if name == changed:
                assert old in content
                content = content.replace(old, new) if text is None else text
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(content, encoding="utf-8")
        code._read.cache_clear()
        digest, files = stage_code("one", package / "workflow" / "stages.py")
        assert [file.relative_to(package).as_posix() for file in files] == ["corpus/__init__.py", "taxonomy.py"]
        return digest

    yield version
    code._read.cache_clear()


def test_a_digest_is_the_same_text_on_every_version_of_python(library):
    assert library() == "32dffc0c07b4d9ae"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("taxonomy.py", "NAMES", "# a comment\n\n\nNAMES"),
        ("taxonomy.py", "'b')", "'b')   # at the end of a line"),
        ("taxonomy.py", "NAMES", '"""A module."""\n\nNAMES'),
        ("workflow/stages.py", '"""Docs."""', '"""Other docs,\n\n    # of several lines.\n    """'),
        ("workflow/stages.py", '    """Docs."""\n', ""),
        ("workflow/stages.py", "    return LIMIT", "\n    # why\n    return LIMIT  \n"),
        ("workflow/stages.py", "return 0", "return 1"),
        ("workflow/stages.py", '{"one": 1}', '{"one": 2}'),
        ("corpus/fetch.py", "return 1", "return 2"),
        ("unused.py", "X = 1", "X = 2"),
    ],
)
def test_what_no_result_depends_on_leaves_the_digest(library, name, old, new):
    assert library(name, old, new) == library()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("taxonomy.py", "'b'", "'c'"),  # imported by what is imported
        ("taxonomy.py", "'b'", "'#'"),
        ("corpus/__init__.py", "get\n", "get as got\n"),
        ("workflow/stages.py", "corpus.get()", "corpus.get(1)"),
        ("workflow/stages.py", "return LIMIT", "return LIMIT + 1"),
        ("workflow/stages.py", "LIMIT = 3", "LIMIT = 4"),
        ("workflow/stages.py", "def helper(", "@cache\ndef helper("),
        ("workflow/stages.py", "def helper(context)", "def helper(context=None)"),
    ],
)
def test_a_changed_statement_changes_the_digest(library, name, old, new):
    assert library(name, old, new) != library()


def test_inside_a_string_blank_lines_and_signs_of_comments_count(library):
    def prompt(text: str) -> str:
        return library("taxonomy.py", text=f"NAMES = '''{text}'''\n")

    texts = ["a\nb", "a\n\nb", "a\n# heading\nb", "a\n# other heading\nb", "a  \nb", "a\u2028b", "a\x0cb"]
    assert len({prompt(text) for text in texts}) == len(texts)


def test_a_one_line_class_counts_in_spite_of_its_docstring(library):
    assert library("unused.py") == library()
    one, two = (library("taxonomy.py", text=f'class E({base}): """Docs."""\n') for base in ("ValueError", "OSError"))
    assert one != two


# --- The rooms ---

ORDER = [
    "taxonomy", "corpus", "prompts", "packing", "models", "generate", "train", "evaluate", "mining", "search",
    "present", "workflow",
]  # fmt: skip
BESIDE = {"progress"}  # knows nothing, and any room may use it

BASE = {"taxonomy", "corpus", "prompts", "packing", "models", "train"}
USED = {
    "data": {"taxonomy", "corpus"},
    "released": {"taxonomy", "corpus", "evaluate"},
    "base-model": BASE,
    **{f"sft-{role}": BASE for role in ("vanilla", "planner", "generator")},
    "pairs": {"taxonomy", "corpus", "prompts", "generate", "evaluate", "mining"},
    **{name: {*BASE, "evaluate", "generate", "mining"} for name in stages.STAGES if name.split("-")[0] in stages.LOSSES},
    **dict.fromkeys(
        ("metrics", "metrics-controlled", "metrics-losses", "questions", "metrics-cso", "metrics-strategy-test", "errors", "tallies", "tallies-cso",
         "tallies-cso-lora", "tallies-errors"),
        {"taxonomy", "corpus", "evaluate"},
    ),
    "strategy-test": {*BASE, "evaluate", "generate"} - {"train"},
    **dict.fromkeys(("error-classifier", "empathy-scale", "judged-offline"), {"taxonomy", "corpus", "evaluate"}),
    "judged": {"taxonomy", "corpus", "evaluate", "generate", "mining"},
    "sft-seeker": {*BASE, "generate", "search"},
    "search": {*BASE, "evaluate", "generate", "search"} - {"train"},
    "esc-pro": {"taxonomy", "corpus", "evaluate", "search"},
    "esc-pro-random": {*BASE, "generate", "search"} - {"train"},
    **dict.fromkeys((name for name in stages.STAGES if name.startswith("cso-")), {*BASE, "search"}),
    "decoding": {"taxonomy", "corpus", "prompts", "evaluate", "generate"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path):
    """(level, dotted name) of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("name", list(stages.STAGES))
def test_a_stages_code_reaches_the_rooms_it_uses(name):
    stage = stages.STAGES[name]
    digest, files = stage_code(stage.run.__name__, Path(stages.__file__))
    rooms = {room(path) for path in files}
    if name in USED:
        assert rooms == USED[name]
    else:  # replies, candidates
        assert {"taxonomy", "corpus", "prompts", "packing", "models", "generate"} <= rooms <= {*BASE, "generate"}
    assert digest and not {"workflow", "present", "progress"} & rooms
    assert PACKAGE / "corpus" / "fetch.py" not in files


def test_no_two_stages_share_a_code_version():
    digests = [stage_code(stage.run.__name__, Path(stages.__file__), stage.arguments)[0] for stage in stages.STAGES.values()]
    assert len(set(digests)) == len(digests)


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_knows_only_those_above_it(path):
    assert room(path) in [*ORDER, *BESIDE], "a new room: give it a place in the order"
    for level, name in imports(path):
        assert level == 0, f"a relative import of {name}: code versions are taken over absolute ones"
        if name.startswith("decoupled_esc."):
            known = name.split(".")[1]
            above = ORDER[: ORDER.index(room(path)) + 1] if room(path) in ORDER else [room(path)]
            assert known in [*above, *BESIDE], f"{room(path)} imports {name}"


def test_importing_the_workflow_loads_no_torch():
    probe = "import decoupled_esc.workflow, sys; print(sorted({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n", "a reader of stored results waits for it"


# --- Other seeds ---


def test_a_stage_may_read_what_other_seeds_gave(house):
    toys = SimpleNamespace()
    text = '''
def grow(context):
    return {"seed": context.profile.seed}

def ask(context):
    return {name: result.payload["seed"] for name, result in context.needs.items()}
'''
    exec(text, vars(toys))
    house.module.write_text(text, encoding="utf-8")
    code._read.cache_clear()
    table = (
        Stage("grow", toys.grow, lambda p: {"seed": p.seed}, corpora=(), uses_model=False),
        Stage("ask", toys.ask, lambda p: {"more": p.more_seeds}, ("grow",), corpora=(), over_seeds=("grow",), uses_model=False),
    )
    house.monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})
    opened = house.session(more_seeds=[14, 15])
    opened.files = {}
    assert opened.run("ask").payload == {"grow": 13, "grow@14": 14, "grow@15": 15}
    assert (house.folder / "runs" / "smoke@14" / "grow.json").exists()
    assert opened.state("ask", opened.runs).word == "fresh"
    (house.folder / "runs" / "smoke@15" / "grow.json").unlink()
    assert opened.state("ask", opened.runs).why == "grow@15 is missing"
    assert opened.run("ask").payload["grow@15"] == 15
    for one, name in opened.whole():
        one.published.write(one.runs.read(name))
    assert opened.state("ask", opened.published).word == "fresh"
    assert "more was [14, 15]" in house.session(more_seeds=[14]).state("ask", opened.published).why
    shutil.rmtree(house.folder / "runs")
    further = house.session(more_seeds=[14, 15, 16])
    further.files = {}
    assert further.run("ask").payload["grow@16"] == 16
    assert [path.name for path in sorted((house.folder / "runs").iterdir())] == ["smoke", "smoke@16"], "what other seeds gave was published"
    (house.folder / "results" / "smoke@15" / "grow.json").unlink()
    assert opened.state("ask", opened.published).why == "grow@15 is missing"


def test_what_is_made_once_is_made_under_the_profiles_own_seed_and_read_by_every_other(house):
    toys = SimpleNamespace()
    text = '''
def search(context):
    (context.folder / "pairs").write_text(str(context.profile.seed))
    return {"seed": context.profile.seed}

def learn(context):
    return {"searched": context.needs["search"].payload["seed"], "read": (context.folders["search"] / "pairs").read_text()}

def ask(context):
    return {name: result.payload["read"] for name, result in context.needs.items()}
'''
    exec(text, vars(toys))
    house.module.write_text(text, encoding="utf-8")
    code._read.cache_clear()
    table = (
        Stage("search", toys.search, lambda p: {"seed": p.seed}, corpora=(), uses_model=False, leaves=("pairs",), once=True),
        Stage("learn", toys.learn, lambda p: {"seed": p.seed}, ("search",), corpora=(), uses_model=False),
        Stage("ask", toys.ask, lambda p: {}, ("learn",), corpora=(), over_seeds=("learn",), uses_model=False),
    )
    house.monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})
    assert stages.of_every_seed() == ["learn"]
    opened = house.session(more_seeds=[14])
    opened.files = {}
    assert opened.run("ask").payload == {"learn": "13", "learn@14": "13"}
    assert not (house.folder / "runs" / "smoke@14" / "search.json").exists()
    alone = house.session(seed=14, name="smoke@14")
    alone.files = {}
    assert alone.state("learn", alone.runs).word == "fresh", "the session of another seed finds it by itself"
    (house.folder / "runs" / "smoke" / "search.json").unlink()
    assert opened.state("ask", opened.runs).why == "learn is stale (search is missing)"
    assert alone.state("learn", alone.runs).why == "search is missing"


# --- Published results, and copies from other machines ---


def test_a_stage_run_here_takes_published_results_that_left_nothing_in_a_folder(house):
    house.session().run("count")
    house.publish()
    shutil.rmtree(house.folder / "runs")
    house.calls.clear()
    opened = house.session()
    assert opened.run("count").payload == {"words": 30} and house.calls == ["count"]
    assert opened.state("count", opened.runs).word == "fresh"
    assert house.session(runs_only=True).run("count").payload == {"words": 30}
    assert house.calls == ["count", "grow", "write", "0 rows were there"], "a run computes everything itself, and finds the same"


def test_published_results_without_their_rows_are_made_again(house):
    opened = house.session()
    opened.run("count")
    house.publish()
    opened.published.write(replace(opened.published.read("write"), rows=(), rows_left_out=True))
    shutil.rmtree(house.folder / "runs")
    house.calls.clear()
    house.session().run("count")
    assert house.calls == ["grow", "write", "0 rows were there", "count"]


def test_a_result_made_from_a_copy_of_another_machine_holds(house):
    opened = house.session()
    opened.run("write")
    house.publish()
    grown = opened.published.read("grow")
    opened.published.write(replace(grown, payload={"size": 1}))
    assert house.why("write", published=True) == ("stale", "grow has changed")
    opened.published.write(replace(grown, payload={"size": 1}, remade=({"digest": grown.digest, "date": "2026-01-01"},)))
    assert house.why("write", published=True)[0] == "fresh"

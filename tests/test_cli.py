"""The command line and the graph of jobs: one line for a known error, and no job started that is not due."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from decoupled_esc import corpus
from decoupled_esc.corpus import fetch
from decoupled_esc.workflow import chapters, cli, dag, session, stages
from decoupled_esc.workflow.cli import main
from decoupled_esc.workflow.session import Session
from decoupled_esc.workflow.store import ROOT


@pytest.fixture(autouse=True)
def away_from_home(tmp_path, monkeypatch):
    """No network, no cache, and nothing written in the repository."""
    monkeypatch.setenv(fetch.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(session.RUNS_ONLY, "1")
    monkeypatch.setenv(fetch.QUIET, "1")
    monkeypatch.delenv(fetch.FOLDER, raising=False)
    monkeypatch.setattr(corpus, "load", lambda name, load=corpus.load, **options: load(name, download=False))
    monkeypatch.setattr(session, "Session", partial(Session, runs=tmp_path / "runs", published=tmp_path / "results"))
    monkeypatch.setattr(dag, "build", lambda profile: tmp_path / "build" / profile)


def fails(capsys, *arguments: str) -> str:
    """What a command that must fail prints: one line on stderr."""
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err
    return err


# --- Commands ---


def test_status_lists_every_stage(capsys, tmp_path):
    assert main(["status"]) == 0
    head, columns, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("profile smoke: ") and columns.split() == ["stage", "run", "here", "published"]
    assert [line.split()[0] for line in lines] == list(stages.STAGES)
    assert all(line.count("missing (never run)") == 2 for line in lines)
    assert not (tmp_path / "runs").exists()


def test_status_keeps_its_columns_apart(capsys, monkeypatch):
    why = session.State("stale", "a reason that is longer than its column is wide, as happens")
    monkeypatch.setattr(Session, "state", lambda self, name, store, known=None: why)
    main(["status", "--profile", "laptop"])
    assert f"({why.why})  stale" in capsys.readouterr().out


def test_data_is_listed_with_licence_and_source(capsys):
    assert main(["data"]) == main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for row in fetch.describe():
        assert f"{row.name}: {row.use}" in out and row.licence in out and row.source in out
    assert fetch.FOLDER in out and fetch.CACHE in out


def test_one_data_set_is_listed_alone(capsys):
    assert main(["data", "list", "esconv"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("esconv: ") and "failed_esconv: " not in out


def test_verifying_what_is_not_here_is_an_error_with_a_remedy(capsys):
    assert "esconv is not here" in (found := fails(capsys, "data", "verify")) and "data fetch esconv" in found


def test_verifying_a_damaged_copy_is_an_error(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    for row in fetch.describe():
        for name in row.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("[]")
    monkeypatch.setenv(fetch.FOLDER, str(folder))
    assert "wrong checksum" in fails(capsys, "data", "verify", "esconv")


@pytest.mark.skipif(not os.environ.get(fetch.FOLDER), reason=f"needs the real data in {fetch.FOLDER}")
def test_verifying_the_real_data(capsys, monkeypatch, real_data=os.environ.get(fetch.FOLDER)):
    monkeypatch.setenv(fetch.FOLDER, real_data)
    assert main(["data", "verify"]) == 0
    assert capsys.readouterr().out.count("checksum holds, from the environment") == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["status", "--profile", "smok"], "no profile 'smok' (did you mean 'smoke'?)"),
        (["run", "--profile", "nothing-like-it"], "no profile 'nothing-like-it'. Profiles: "),
        (["run", "metrisc"], "nothing called 'metrisc' (did you mean 'metrics'?)"),
        (["job", "stage", "bsae-model"], "no stage 'bsae-model' (did you mean 'base-model'?)"),
        (["vouch", "metrisc", "--why", "so"], "no stage 'metrisc' (did you mean 'metrics'?)"),
        (["vouch", "metrics", "--why", "so"], "there is no result of metrics"),
        (["pretrain", "esc-bse"], "no base model 'esc-bse' (did you mean 'esc-base'?)"),
        (["data", "verify", "esconf"], "unknown data set 'esconf' (did you mean 'esconv'?)"),
        (["job", "stage", "base-model", "--profile", "qwen2.5-7b"], "needs a GPU for stage base-model"),
    ],
)
def test_known_errors_are_one_line_and_status_1(capsys, monkeypatch, arguments, what):
    monkeypatch.setattr(cli, "_say", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert what in fails(capsys, *arguments)


def test_weights_that_are_not_there_are_one_line_too(capsys, monkeypatch):
    def missing(*_):
        raise FileNotFoundError("data/esc-nano holds no safetensors file")

    monkeypatch.setattr(Session, "state", missing)
    assert fails(capsys, "status") == "error: data/esc-nano holds no safetensors file\n"


def test_as_a_program_it_says_one_line_too():
    program = Path(sys.executable).with_name("decoupled-esc")
    run = subprocess.run([program, "status", "--profile", "smok"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["sttus"], [], ["vouch", "metrics"], ["data", "drop"]])
def test_what_is_no_command_is_explained(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: decoupled-esc" in capsys.readouterr().err


def test_an_interrupt_is_130_and_promises_to_go_on(capsys, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "state", interrupted)
    assert main(["status"]) == 130
    assert "goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(Session, "run", interrupted)
    monkeypatch.setattr(dag, "build", lambda profile: tmp_path)
    assert main(["job", "stage", "data"]) == 130
    assert capsys.readouterr().err.count("\n") <= 1, "the run that started it says so"


def test_a_reader_may_stop_reading():
    command = f"{Path(sys.executable).parent}/decoupled-esc plan --profile qwen2.5-7b-full --card 'A100 80GB' | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("profile qwen2.5-7b-full on 2 x A100 80GB (GPU-hours of all, GiB on each), one seed") and run.stderr == ""


def test_a_job_does_not_wait_for_what_it_does_not_use(tmp_path):
    probe = f"""
import pathlib, sys
from decoupled_esc.workflow import cli, dag, session
dag.build = lambda profile: pathlib.Path({str(tmp_path)!r})
session.Session.run = lambda self, name: print(name)
code = cli.main(["job", "stage", "data"])
print(code, sorted({{"jupytext", "bs4", "torch"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[-3:] == ["data", "0 []", ""]


def test_a_bug_is_not_dressed_up_as_a_known_error(monkeypatch):
    def bug(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Session, "state", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["status"])


def test_progress_counts_what_is_done_and_what_is_left(tmp_path, capsys):
    (tmp_path / "plan.json").write_text('{"started": 0, "due": ["a", "b", "c"], "done": ["a"]}')
    cli._say(tmp_path, "b ...")
    cli._say(tmp_path, "b done", finished="b")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/3, ") and first.endswith("] b ...")
    assert second.startswith("[2/3, ") and second.endswith("] b done; left: c")


# --- The graph ---

GRAPH = {job.name: job for job in dag.jobs("smoke")}


def test_the_graph_holds_every_stage_every_chapter_and_the_book():
    assert [job.name for job in GRAPH.values() if job.kind == "stage"] == list(stages.STAGES)
    assert [job.name for job in GRAPH.values() if job.kind == "chapter"] == [path.stem for path in chapters.sources()]
    assert [job.kind for job in GRAPH.values()][-1] == "book"
    assert len({job.marker for job in GRAPH.values()}) == len(dag.jobs("smoke"))


@pytest.mark.parametrize("graph", [list(GRAPH.values()), dag.jobs("qwen2.5-7b")], ids=["smoke", "with more seeds"])
def test_the_graph_has_no_circle_and_no_loose_end(graph):
    seen = set()
    for job in graph:  # each after those it needs
        assert set(job.needs) <= seen, f"{job.name} comes too early, or needs what nothing makes"
        seen.add(job.marker)


def test_what_is_searched_once_is_read_under_every_seed():
    graph = {job.name: job for job in dag.jobs("qwen2.5-7b")}
    assert {"cso-dpo@14", "replies-cso-dpo@15", "tallies@14", "sft-vanilla@15"} <= set(graph)
    assert not {"search@14", "esc-pro@14", "questions@14", "ipo-planner@14"} & set(graph)
    assert graph["esc-pro"].marker in graph["cso-dpo@14"].needs and graph["sft-vanilla@14"].marker in graph["cso-dpo@14"].needs
    assert {graph[f"tallies-cso{end}"].marker for end in ("", "@14", "@15")} <= set(graph["metrics-cso"].needs)


def test_jobs_need_what_they_read():
    marker = {job.name: job.marker for job in GRAPH.values()}
    for stage in stages.STAGES.values():
        assert set(GRAPH[stage.name].needs) == {marker[need] for need in stage.needs}
        assert str(Path(stages.__file__)) in GRAPH[stage.name].files
        assert any(file.endswith("profiles/smoke.yaml") for file in GRAPH[stage.name].files)
        assert any(file.endswith("smoke/data.txt") for file in GRAPH[stage.name].files)
        assert str(ROOT / "data" / "esc-nano" / "model.safetensors") in GRAPH[stage.name].files
    for source in chapters.sources():
        assert set(GRAPH[source.stem].needs) == {marker[name] for name in chapters.stages_read(source)}
        assert str(source) in GRAPH[source.stem].files
        assert str(ROOT / "data" / "paper_values.json") in GRAPH[source.stem].files
    assert set(GRAPH["book"].needs) == {marker[source.stem] for source in chapters.sources()}
    assert {str(ROOT / name) for name in ("_toc.yml", "_config.yml", "book/welcome.md")} <= set(GRAPH["book"].files)


def test_files_that_jobs_depend_on_exist():
    for job in GRAPH.values():
        assert [file for file in job.files if not Path(file).exists() and not file.endswith("data.txt")] == []


def test_only_stages_with_a_model_ask_for_the_gpu_and_only_where_the_profile_does():
    assert not any(job.gpu for job in GRAPH.values())
    asking = {job.name.partition("@")[0] for job in dag.jobs("qwen2.5-7b") if job.gpu}
    assert asking == {stage.name for stage in stages.STAGES.values() if stage.uses_model}


# --- What is due ---


@pytest.fixture
def graph(tmp_path):
    """a -> b -> d, a -> c; all done, each with a file of its own."""

    def job(name: str, *needs: str) -> dag.Job:
        (tmp_path / f"{name}.py").touch()
        (tmp_path / f"{name}.done").touch()
        os.utime(tmp_path / f"{name}.py", (1000, 1000))
        os.utime(tmp_path / f"{name}.done", (2000, 2000))
        markers = tuple(str(tmp_path / f"{need}.done") for need in needs)
        return dag.Job("stage", name, markers, (str(tmp_path / f"{name}.py"),), str(tmp_path / f"{name}.done"))

    return [job("a"), job("b", "a"), job("c", "a"), job("d", "b")]


def names(graph: list[dag.Job]) -> list[str]:
    return [job.name for job in dag.due(graph)]


def test_nothing_is_due_when_all_is_done(graph):
    assert names(graph) == []


@pytest.mark.parametrize(("asked", "behind"), [([], "abcd"), (["d"], "abd"), (["c"], "ac"), (["a"], "a"), (["c", "b"], "abc")])
def test_only_what_is_asked_for_and_what_it_needs_is_planned(graph, asked, behind):
    assert "".join(job.name for job in dag.behind(graph, asked)) == behind


def test_everything_is_due_at_first(graph, tmp_path):
    for marker in tmp_path.glob("*.done"):
        marker.unlink()
    assert names(graph) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("touched", "started"), [("a", "abcd"), ("b", "bd"), ("c", "c"), ("d", "d")])
def test_a_touched_file_starts_its_job_and_all_below(graph, tmp_path, touched, started):
    os.utime(tmp_path / f"{touched}.py", (3000, 3000))
    assert "".join(names(graph)) == started
    os.utime(tmp_path / f"{touched}.py", (1000, 1000))
    (tmp_path / f"{touched}.done").unlink()
    assert "".join(names(graph)) == started


def test_a_job_done_again_starts_those_below(graph, tmp_path):
    os.utime(tmp_path / "b.done", (3000, 3000))
    assert names(graph) == ["d"]


def test_noting_the_data_keeps_the_time_where_nothing_changed(tmp_path, monkeypatch):
    assert dag.note_data("smoke").startswith("esconv from miniature")
    note = dag.build("smoke") / "data.txt"
    assert [line.split()[:2] for line in note.read_text().splitlines()] == [
        ["esconv", "miniature"], ["failed_esconv", "miniature"], ["decoupledesc_release", "absent"], ["empathy_mental_health", "absent"]
    ]  # fmt: skip
    os.utime(note, (1000, 1000))
    dag.note_data("smoke")
    assert note.stat().st_mtime == 1000
    note.write_text("esconv esconv 0123\n")
    dag.note_data("smoke")
    assert "miniature" in note.read_text()


# --- Snakemake ---

WRAPPER = """
from pathlib import Path
from decoupled_esc.workflow import dag

dag.build = lambda profile: Path({build!r}) / profile
include: {snakefile!r}
"""


def test_snakemake_would_run_every_job_in_order(tmp_path):
    dag.note_data("smoke")
    wrapper = tmp_path / "Snakefile"
    wrapper.write_text(WRAPPER.format(build=str(tmp_path / "build"), snakefile=str(ROOT / "Snakefile")))
    command = [sys.executable, "-m", "snakemake", "all", "-n", "--snakefile", wrapper, "--directory", tmp_path,
               "--cores", "2", "--config", "profile=smoke"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    planned = [line.split()[1].rstrip(":") for line in run.stdout.splitlines() if line.startswith("rule ")]
    rules = [name.replace("-", "_") for name in GRAPH]
    assert sorted(planned) == sorted([*rules, "all"])
    assert planned.index("metrics") < planned.index("book") < planned.index("all")

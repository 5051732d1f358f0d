"""The command line: one line for a known error, its exit codes, and what it prints of damage."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from decoupled_esc import cli
from decoupled_esc.cli import main
from decoupled_esc.corpus import fetch
from decoupled_esc.experiments import inputs, run
from decoupled_esc.experiments.run import ROOT, Book
from decoupled_esc.pipeline import schedule
from decoupled_esc.publish.steps import Built


@pytest.fixture(autouse=True)
def away_from_home(tmp_path, monkeypatch):
    """No network, no cache, and nothing written in the repository."""
    monkeypatch.setenv(fetch.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.FOLDER, raising=False)
    monkeypatch.setattr(inputs, "load", lambda name, download=True, load=inputs.load: load(name, False))
    monkeypatch.setattr(run, "Book", partial(Book, runs=tmp_path / "runs"))


def fails(capsys, *arguments: str) -> str:
    """What a command that must fail prints: one line on stderr."""
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("[decoupled-esc]")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and "Traceback" not in out + err
    return errors[0]


def test_status_lists_every_step(capsys):
    assert main(["status"]) == 0
    head, columns, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("profile smoke: ") and columns.split() == ["step", "run", "here", "published"]
    assert [line.split()[0] for line in lines] == list(Book("smoke").published_steps)
    assert all(line.count("not here") == 2 for line in lines)


def test_status_names_damage_and_what_changed(capsys, tmp_path):
    book = Book("smoke", runs=tmp_path / "runs")
    path = book.runs.place(book.steps["data"])
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert main(["status"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("data "))
    assert "damaged" in line and "result.json" in line


def test_what_changed_is_advice_of_a_few_lines_by_room():
    changed = {f"step-{n}": {"turn_trees/trees.py", *(f"corpus/{name}.py" for name in "edcba")} for n in range(9)}
    changed |= {"judged": {"evaluate/judges.py"}, "kept": set()}
    assert list(cli._advice(changed)) == [
        "advice: corpus/ (a, b, c and 2 more), turn_trees/ (trees) changed since 9 results were made (step-0, step-1, step-2 and 6 more): "
        "was a `version` to be raised?",
        "advice: evaluate/ (judges) changed since a result was made (judged): was a `version` to be raised?",
    ]


def test_status_prints_advice_once_for_all_results(monkeypatch, capsys):
    monkeypatch.setattr(run, "_changed_files", lambda commit: [f"{room}/{n}.py" for room in ("corpus", "train", "search") for n in range(20)])
    assert main(["status", "--profile", "laptop"]) == 0
    advice = [line for line in capsys.readouterr().out.splitlines() if line.startswith("advice: ")]
    assert 1 <= len(advice) <= 5 and max(map(len, advice)) < 250


def test_data_is_listed_with_licence_and_source(capsys):
    assert main(["data"]) == main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for row in fetch.describe():
        assert f"{row.name}: {row.use}" in out and row.licence in out and row.source in out
    assert fetch.FOLDER in out and fetch.CACHE in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data", "verify"], "esconv is not here"),
        (["data", "fetch", "esconvv"], "esconv"),
        (["run", "--profile", "smok"], "did you mean 'smoke'?"),
        (["run", "metric"], "did you mean 'metrics'?"),
        (["run", "--profile", "laptop"], "needs the real esconv"),
        (["run", "data", "--cluster", "nowhere.yaml"], "profiles/slurm/config.yaml"),
        (["plan"], "smoke"),
        (["plan", "--profile", "qwen2.5-7b", "--card", "RTX 4091"], "RTX 4090"),
        (["human-eval", "export", "study", "--systems", "decoupled-sfd"], "did you mean 'decoupled-sft'?"),
        (["human-eval", "report", "no-such-study"], "no-such-study"),
    ],
)
def test_a_known_error_is_one_line(capsys, arguments, said):
    assert said in fails(capsys, *arguments)


def test_a_plan_is_printed_for_a_backbone(capsys):
    assert main(["plan", "--profile", "qwen2.5-7b"]) == 0
    assert "sft-planner" in capsys.readouterr().out


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device", "x"), 1)])
def test_exit_codes(monkeypatch, capsys, raised, code):
    def command(options):
        raise raised

    monkeypatch.setattr(cli, "_status", command)
    assert main(["status"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fault_of_the_library_is_not_hidden(monkeypatch):
    def command(options):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_status", command)
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_a_reader_who_stops_reading_meets_no_traceback():
    command = f"{os.path.dirname(sys.executable)}/decoupled-esc data"
    found = subprocess.run(f"{command} | head -1", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in found.stderr and found.stdout.count("\n") == 1


@pytest.mark.parametrize("occupied", [False, True])
def test_a_run_ends_with_the_path_of_the_book_by_its_readable_name(monkeypatch, capsys, tmp_path, occupied):
    def made(wanted, names, stores, workers, **more):
        step = next(step for step in wanted if names[step.key] == "book")
        path = stores.runs.place(step).parent / "html" / "index.html"
        path.parent.mkdir(parents=True)
        path.write_text("")
        stores.runs.write(step, Built("html/index.html", 1), {})

    monkeypatch.setattr(schedule, "run", made)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "smoke" / ("book" if occupied else "")).mkdir(parents=True)
    assert main(["run"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1].removeprefix("open ")
    assert os.path.exists(shown) and (shown == "runs/smoke/book/html/index.html") != occupied


def test_a_run_that_is_terminated_says_so_and_leaves_nothing_running(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\nfrom decoupled_esc import cli\n"
        "from decoupled_esc.experiments import run\n"
        f"run.PRELOAD, run.Book = (), partial(run.Book, runs=Path({str(tmp_path / 'runs')!r}))\nsys.exit(cli.main(['run', 'sft-planner', 'data']))\n"
    )
    environment = {**os.environ, fetch.CACHE: str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while "[1/2" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on from there" in err and "Traceback" not in err
    time.sleep(1)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == ""
    durations = json.loads((tmp_path / "runs" / "durations.json").read_text())
    assert list(durations) == ["data"]

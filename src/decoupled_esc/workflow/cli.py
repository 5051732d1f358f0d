"""The command line: ``decoupled-esc run | status | data | publish | vouch | pretrain | people | site``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

from decoupled_esc.workflow.store import ROOT


def main(arguments: list[str] | None = None) -> int:
    """Run one command.  Known errors are one line on stderr and exit status 1; an interrupt is 130."""
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads what is printed has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except Exception as error:
        if (told := _told(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command is not _job:  # whoever runs the jobs says it once
            print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _told(error: Exception) -> str | None:
    """What a user is told of ``error``; None of one that is a fault of this library."""
    # Here, so that a job that goes well does not wait for all of them.
    from decoupled_esc.corpus import CorpusError
    from decoupled_esc.evaluate.people import PeopleError
    from decoupled_esc.generate.client import EndpointError
    from decoupled_esc.generate.record import RecordError
    from decoupled_esc.generate.vllm import ServerError
    from decoupled_esc.mining import PairsError
    from decoupled_esc.models import ModelUnavailable
    from decoupled_esc.prompts import PromptTooLong
    from decoupled_esc.search.escpro import ProError
    from decoupled_esc.search.tree import SearchError
    from decoupled_esc.train import LaunchError
    from decoupled_esc.workflow.book import BookError
    from decoupled_esc.workflow.chapters import ChapterError
    from decoupled_esc.workflow.profiles import ProfileError
    from decoupled_esc.workflow.session import StageError

    known = (
        BookError, ChapterError, CorpusError, EndpointError, LaunchError, ModelUnavailable, PairsError, PeopleError, ProError, ProfileError,
        PromptTooLong, RecordError, SearchError, ServerError, StageError,
    )  # fmt: skip
    if isinstance(error, known):
        return str(error)
    if not isinstance(error, OSError):
        return None
    if error.errno is None:  # raised here, with a sentence of its own: weights, a record or a chapter is missing
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{error.filename or 'a file'}: {error.strerror}; what was finished is kept"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decoupled-esc", description="Re-run DecoupledESC and CSO, chapter by chapter.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function, help: str | None, profile: bool = True) -> argparse.ArgumentParser:
        shown = {"help": help} if help else {}  # a command without help is not listed
        sub = commands.add_parser(name, description=help, **shown)
        sub.set_defaults(command=function)
        if profile:
            sub.add_argument("--profile", default="smoke", help="a file of profiles/ (default: smoke)")
        return sub

    run = command("run", _run, "run stages and chapters that are due, and build the book")
    run.add_argument("targets", nargs="*", metavar="stage|chapter", help="only these and what they need (default: all)")
    run.add_argument("--cores", type=int, default=os.cpu_count(), help="jobs at a time (default: all cores)")
    run.add_argument("--cluster", type=Path, metavar="FOLDER", help="run the jobs on a cluster, by a Snakemake profile (profiles/slurm)")
    command("status", _status, "say which results are fresh, stale or missing, and why")
    plan = command("plan", _plan, "say what a run would take on a card: GPU-hours, memory, tokens, money")
    plan.add_argument("--card", default="RTX 4090", help="as in workflow/planner.py (default: RTX 4090, the paper's)")
    data = command("data", _data, "list the data sets, fetch or verify one", profile=False)
    data.add_argument("action", nargs="?", choices=("list", "fetch", "verify"), default="list")
    data.add_argument("name", nargs="?", help="a data set (default: esconv and failed_esconv)")
    publish = command("publish", _publish, "replace the committed results and notebooks by those of a finished run")
    publish.add_argument("--notebooks", action="store_true", help="only execute the notebooks from the committed results")
    vouch = command("vouch", _vouch, "accept changed code for a result, with the reason kept in it")
    vouch.add_argument("stages", nargs="+", metavar="stage")
    vouch.add_argument("--why", required=True)
    pretrain = command("pretrain", _pretrain, "make a base model of data/ anew, following its recipe", profile=False)
    pretrain.add_argument("name", help="esc-nano or esc-base")
    pretrain.add_argument("--publish", action="store_true", help="put the weights and their record where they are committed")
    ask = command("people", _people, "ask people: write blinded forms for systems of a profile, or read the answers")
    ask.add_argument("action", choices=("export", "report"))
    ask.add_argument("folder", type=Path, help="of the study; the forms quote the corpus, so keep it out of git (runs/ is)")
    ask.add_argument("--systems", nargs="+", default=["decoupled-sft", "vanilla-sft"], help="two to compare, or any number to score")
    ask.add_argument("--samples", type=int, default=20, help="test turns (default: 20)")
    ask.add_argument("--raters", type=int, default=20, help="forms to write (default: 20)")
    ask.add_argument("--scores", action="store_true", help="score single replies; otherwise pairs are compared")
    ask.add_argument("--exclude", nargs="+", default=[], metavar="RATER", help="with report: raters to leave out")
    command("site", _site, "check the committed notebooks and build the book from them, executing nothing", profile=False)
    job = command("job", _job, None)
    job.add_argument("kind", choices=("stage", "chapter", "book"))
    job.add_argument("name")
    return parser


def _run(options) -> int:
    from decoupled_esc.corpus.fetch import QUIET
    from decoupled_esc.progress import PLAIN
    from decoupled_esc.workflow import dag
    from decoupled_esc.workflow.profiles import load_profile, nearest
    from decoupled_esc.workflow.session import RUNS_ONLY, StageError

    profile = load_profile(options.profile)
    graph = dag.jobs(profile.name)
    names = [job.name for job in graph]
    for target in options.targets:
        if target not in names:
            raise StageError(f"nothing called {target!r}{nearest(target, names)}. Known: {', '.join(names)}")
    origin = dag.note_data(profile.name)
    wanted = dag.behind(graph, options.targets)
    due = dag.due(wanted)
    folder = dag.build(profile.name)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"started": time.time(), "due": [job.name for job in due], "done": []}
    (folder / "plan.json").write_text(json.dumps(plan))
    print(f"profile {profile.name}: {profile.description}")
    print(f"data: {origin}")
    if due:
        print(f"{len(due)} of {len(wanted)} jobs are due: {', '.join(plan['due'])}", flush=True)
    if options.cluster is None:
        where = ["--cores", str(options.cores), "--resources", "gpu=1"]
    elif (options.cluster / "config.yaml").exists():
        where = ["--workflow-profile", str(options.cluster.resolve())]
    else:
        raise StageError(f"{options.cluster} holds no config.yaml; profiles/slurm is one that does")
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT),
        "--config", f"profile={profile.name}", *where,
        "--rerun-triggers", "mtime", "--max-checksum-file-size", "0", "--rerun-incomplete", "--nolock", "--quiet", "all",
        "--", *[job.marker for job in graph if job.name in options.targets],
    ]  # fmt: skip
    environment = {
        # glibc gives large blocks back to the system after each use, and a training step asks for the same ones again:
        # keeping them takes a third off the time on CPU.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        **os.environ,
        RUNS_ONLY: "1",
        QUIET: "1",
        PLAIN: "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    code = subprocess.run(command, env=environment).returncode
    if code:
        print(f"stopped after {_span(time.time() - plan['started'])}; the same command goes on from there", file=sys.stderr)
        return code
    print(f"all done in {_span(time.time() - plan['started'])}")
    if not options.targets:
        print(f"open {_shown(folder / 'book' / '_build' / 'html' / 'index.html')}")
    return 0


def _plan(options) -> int:
    from decoupled_esc.workflow import planner
    from decoupled_esc.workflow.profiles import ProfileError, load_profile, nearest
    from decoupled_esc.workflow.session import Session, StageError
    from decoupled_esc.workflow.stages import STAGES

    profile, published = load_profile(options.profile), Session("laptop").published
    if options.card not in planner.CARDS:
        raise StageError(f"no card {options.card!r}{nearest(options.card, list(planner.CARDS))}. Cards: {', '.join(planner.CARDS)}")
    if profile.backbone.name not in planner.MODELS:
        raise ProfileError(f"profile {profile.name} needs no GPU, and there is nothing to plan: `decoupled-esc status` says what it took")
    counted = {name: result for name in STAGES if (result := published.read(name)) is not None}
    cards = planner.cards(profile)
    on = f"one {options.card}" if cards == 1 else f"{cards} x {options.card} (GPU-hours of all, GiB on each)"
    print(f"profile {profile.name} on {on}, one seed; tokens as counted under profile laptop; at {100 * planner.SHARE:.0f}% of the card's rate (assumed)")
    for row in planner.table(planner.plan(profile, planner.CARDS[options.card], counted)):
        print(f"{row['stage']:34}" + "".join(f"{row[key]:>14}" for key in list(row)[1:]))
    print(f"{'':34}" + "".join(f"{key:>14}" for key in list(row)[1:]))
    return 0


def _job(options) -> int:
    """One job of the graph, called by Snakemake."""
    from decoupled_esc.workflow import chapters, dag
    from decoupled_esc.workflow.session import Session

    # transformers warns of its own deprecated names, which trl still uses: nothing that a reader can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    folder = dag.build(options.profile)
    started = time.time()
    _say(folder, f"{options.name} ...")
    if options.kind == "stage":
        stage, at, seed = options.name.partition("@")
        Session(f"{options.profile}{at}{seed}", runs_only=True).run(stage)
    elif options.kind == "chapter":
        chapters.execute(chapters.NOTEBOOKS / f"{options.name}.py", folder / "notebooks" / f"{options.name}.ipynb",
                         options.profile)  # fmt: skip
    else:
        from decoupled_esc.workflow import book

        index = book.build_book(folder / "notebooks", folder / "book")
        problems = book.check_site(index.parent)
        if problems:
            raise book.BookError("the built book has problems:\n" + "\n".join(problems))
    _say(folder, f"{options.name} done in {_span(time.time() - started)}", finished=options.name)
    return 0


_NAMED = 6
"""How many of the jobs that are left are named in a line of progress."""


def _say(folder: Path, what: str, finished: str | None = None) -> None:
    """One line of progress: how many jobs are done, for how long the run has been going, and what is left."""
    from filelock import FileLock

    path = folder / "plan.json"
    with FileLock(folder / ".plan.lock"):
        plan = json.loads(path.read_text()) if path.exists() else {"started": time.time(), "due": [], "done": []}
        if finished:
            plan["done"].append(finished)
            path.write_text(json.dumps(plan))
    left = [name for name in plan["due"] if name not in plan["done"]]
    line = f"[{len(plan['done'])}/{len(plan['due'])}, {_span(time.time() - plan['started'])}] {what}"
    more = f" and {len(left) - _NAMED} more" * (len(left) > _NAMED)
    print(f"{line}; left: {', '.join(left[:_NAMED])}{more}" if finished and left else line, file=sys.stderr, flush=True)


def _status(options) -> int:
    from decoupled_esc.workflow.session import Session

    opened = Session(options.profile)
    print(f"profile {opened.profile.name}: {opened.profile.description}")
    print(f"{'stage':<30}{'run here':<44}  published")
    known: dict = {}
    for session, name in opened.whole():
        here, published = (session.state(name, store, known) for store in (session.runs, session.published))
        words = [f"{s.word} ({s.why})" if s.why else s.word for s in (here, published)]
        seed = "" if session is opened else f"@{session.profile.seed}"
        print(f"{name + seed:<30}{words[0]:<44}  {words[1]}")
    return 0


def _data(options) -> int:
    from decoupled_esc.corpus import fetch

    if options.action == "list":
        for row in fetch.describe():
            if options.name in (None, row.name):
                print(f"{row.name}: {row.use}\n    here: {row.here or 'no'}; download: {row.download}; licence: {row.licence}")
                print(f"    source: {row.source}\n    files: {', '.join(row.files)}")
        print(f"Set {fetch.FOLDER} to a folder of your own to use its files; {fetch.CACHE} moves the cache.")
        return 0
    for name in [options.name] if options.name else ["esconv", "failed_esconv"]:
        found = getattr(fetch, options.action)(name)
        print(f"{name}: {'checksum holds' if options.action == 'verify' else 'is here'}, from the {found.origin}")
    return 0


def _publish(options) -> int:
    from decoupled_esc.workflow import chapters

    written = chapters.publish_notebooks() if options.notebooks else chapters.publish(options.profile)
    print("published: " + ", ".join(written))
    return 0


def _vouch(options) -> int:
    from decoupled_esc.workflow.session import Session

    session = Session(options.profile)
    for stage in options.stages:
        session.vouch(stage, options.why)
    print(f"profile {options.profile}: {', '.join(options.stages)} now accept the present code: {options.why}")
    return 0


def _pretrain(options) -> int:
    from decoupled_esc.workflow import pretraining

    if options.publish:
        print("published: " + ", ".join(pretraining.publish(options.name)))
        return 0
    found = pretraining.run(options.name)
    print(f"{found['name']}: {found['parameters']:,} parameters, {found['tokens']:,} tokens in {_span(found['provenance']['wall_seconds'])}")
    for source, held in found["held_out"].items():
        print(f"  held-out perplexity on {source}: {held['perplexity']:.1f} ({held['bits_per_byte']:.2f} bits per byte)")
    return 0


def _people(options) -> int:
    from decoupled_esc.workflow import people
    from decoupled_esc.workflow.session import Session

    session = Session(options.profile)
    if options.action == "report":
        settings = session.profile
        print(people.report(options.folder, exclude=options.exclude, replicates=settings.bootstrap_replicates, seed=settings.seed))
        return 0
    people.export(session, options.folder, options.systems, samples=options.samples, raters=options.raters, scores=options.scores)
    print(f"forms are in {_shown(options.folder / 'forms')}; put what raters send back into {_shown(options.folder / 'answers')},")
    print(f"then: decoupled-esc people report {_shown(options.folder)}")
    return 0


def _site(options) -> int:
    from decoupled_esc.workflow import book, chapters

    problems = chapters.check_stamps() or book.check_notebooks(chapters.NOTEBOOKS)
    if problems:
        raise book.BookError("the committed notebooks have problems:\n" + "\n".join(problems))
    index = book.build_book(chapters.NOTEBOOKS, ROOT / "build" / "site")
    problems = book.check_site(index.parent)
    if problems:
        raise book.BookError("the built book has problems:\n" + "\n".join(problems))
    print(f"open {_shown(index)}")
    return 0


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def _shown(path: Path) -> str:
    """``path`` relative to where the user stands, where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

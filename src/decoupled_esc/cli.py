"""The command line: ``decoupled-esc run | status | plan | data | score | publish | human-eval | site``."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from decoupled_esc.errors import DISK, KNOWN, nearest


def main(arguments: list[str] | None = None) -> int:
    """Run one command.  Known errors are one line on stderr and exit status 1; an interrupt is 130."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt
    try:
        code = options.command(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads what is printed has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except KNOWN as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}; what was finished is kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _count(text: str) -> int:
    """A number of something; argparse says of what, before the message."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decoupled-esc", description="Re-run DecoupledESC and CSO, chapter by chapter."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function, help: str, profile: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, description=help, help=help)
        sub.set_defaults(command=function)
        if profile:
            sub.add_argument("--profile", default="smoke", help="a file of profiles/ (default: smoke)")
        return sub

    run = command("run", _run, "run steps and chapters whose results don't hold, and build the book")
    run.add_argument("targets", nargs="*", metavar="step|chapter", help="only these and what they need (default: all)")
    run.add_argument("--cores", type=_count, default=None, help="steps at a time (default: all cores)")
    slurm = "submit every step to SLURM, with the parameters of a file such as profiles/slurm/config.yaml"
    run.add_argument("--cluster", type=Path, metavar="FILE", help=slurm)
    command("status", _status, "say which results hold, and why others don't")
    plan = command("plan", _plan, "say what a run would take on a card: GPU-hours, memory, tokens, money")
    plan.add_argument("--card", default="RTX 4090", help="as in experiments/cost.py (default: RTX 4090, the paper's)")
    data = command("data", _data, "list the data sets, fetch or verify one", profile=False)
    data.add_argument("action", nargs="?", choices=("list", "fetch", "verify"), default="list")
    data.add_argument("name", nargs="?", help="a data set (default: esconv and failed_esconv)")
    score = command(
        "score", _score, "score a system of yours on the test turns, and say where it stands", profile=False
    )
    what = score.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file", type=Path, nargs="?", help="JSON lines: id of the test turn (esconv/0012/05), strategy, reply"
    )
    what.add_argument(
        "--turns", action="store_true", help="print the test turns, a line of JSON each: id, and the context to answer"
    )
    score.add_argument("--profile", default="laptop", help="whose systems it is put beside (default: laptop)")
    publish = command("publish", _publish, "replace the committed results and notebooks by those of a finished run")
    publish.add_argument("steps", nargs="*", metavar="step", help="replace the results of these alone (default: all)")
    publish.add_argument("--notebooks", action="store_true", help="only execute the notebooks, from committed results")
    asking = "ask people: write blinded forms for systems of a profile, or read the answers"
    ask = command("human-eval", _human_eval, asking)
    ask.add_argument("action", choices=("export", "report"))
    ask.add_argument("folder", type=Path, help="of the study; forms quote the corpus: keep it out of git (runs/ is)")
    pair = ["decoupled-sft", "vanilla-sft"]
    ask.add_argument("--systems", nargs="+", default=pair, help="two to compare, or any number to score")
    ask.add_argument("--samples", type=_count, default=20, help="test turns (default: 20)")
    ask.add_argument("--raters", type=_count, default=20, help="forms to write (default: 20)")
    ask.add_argument("--scores", action="store_true", help="score single replies; otherwise pairs are compared")
    ask.add_argument("--exclude", nargs="+", default=[], metavar="RATER", help="with report: raters to leave out")
    building = "check the committed notebooks and build the book from them, executing nothing"
    site = command("site", _site, building, profile=False)
    site.add_argument(
        "--format", choices=("html", "epub", "pdf"), default="html", help="one file of all chapters: epub, pdf"
    )
    return parser


def _run(options) -> int:
    from decoupled_esc.experiments.profiles import ProfileError
    from decoupled_esc.experiments.run import Book, local_workers
    from decoupled_esc.pipeline import StepError, schedule
    from decoupled_esc.pipeline.store import Stores
    from decoupled_esc.publish.steps import book_steps

    book, started = Book(options.profile), time.time()
    profile = book.profile
    data = book.steps["data"]
    synthetic = [source.name for source in (data.esconv, data.failed) if not source.is_real]
    if synthetic and profile.scale != "smoke":
        real = f"needs the real {' and '.join(synthetic)}, and only the synthetic miniature is here"
        raise ProfileError(f"profile {profile.name} {real}; see: decoupled-esc data")
    steps = book.steps | book_steps(book)
    for target in options.targets:
        if target not in steps:
            raise StepError(f"nothing called {target!r}{nearest(target, steps)}. Known: {', '.join(steps)}")
    print(f"profile {profile.name}: {profile.description}")
    for name in synthetic:
        print(f"data: the SYNTHETIC miniature stands in for {name}")
    wanted, stores = [steps[name] for name in options.targets or steps], Stores(book.runs)
    names = {step.key: name for name, step in reversed(steps.items())}
    workers = local_workers(profile, options.cores) if options.cluster is None else _cluster(options.cluster, book)
    schedule.run(wanted, names, stores, workers, needs_gpu=profile.needs_gpu)
    folder = _link(book, steps)
    print(f"all done in {schedule.span(time.time() - started)}")
    if not options.targets:
        link, place = folder / "book", book.runs.place(steps["book"]).parent
        shown = link if link.resolve() == place.resolve() else place  # where something else has that name
        print(f"open {_shown(shown / stores.result(steps['book']).index)}")
    return 0


def _cluster(path: Path, book):
    import yaml

    from decoupled_esc.experiments.profiles import ProfileError
    from decoupled_esc.experiments.run import surroundings
    from decoupled_esc.pipeline.workers import Slurm

    try:
        found = yaml.safe_load(path.read_bytes())
        steps, gpu = found["steps"], found["gpu_steps"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        why = f"no file with submitit's parameters under `steps` and `gpu_steps` ({type(error).__name__})"
        raise ProfileError(f"{path}: {why}; see profiles/slurm/config.yaml") from None
    return Slurm(book.runs.folder / "slurm", steps, gpu if book.profile.needs_gpu else {}, provenance=surroundings)


def _link(book, steps: dict) -> Path:
    """Readable names beside the keys: ``<name>`` in the folder ``runs/<profile>``, which is given, leads to a step's folder."""
    folder = book.runs.folder / book.profile.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in steps.items():
        target, link = book.runs.place(step).parent, folder / name
        if target.exists() and link.resolve() != target.resolve() and (link.is_symlink() or not link.exists()):
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(target, folder))
    return folder


def _status(options) -> int:
    from decoupled_esc.experiments.run import Book, changed_since
    from decoupled_esc.pipeline.store import Damaged

    book = Book(options.profile)
    print(f"profile {book.profile.name}: {book.profile.description}")
    wide = max(map(len, book.steps)) + 2
    print(f"{'step':<{wide}}{'run here':<50}  published")
    changed: dict[str, set[str]] = {}
    for name, step in book.steps.items():
        words = []
        for store, one in ((book.runs, step), (book.published, book.published_steps[name])):
            try:
                stored = store.read(one)
                if stored is not None:
                    store.verify(one) if store.keeps_files else None
                    changed.setdefault(name, set()).update(changed_since(stored, one))
                words.append("holds" if stored is not None else store.why_not(one))
            except Damaged as damage:
                words.append(f"damaged: {damage}")
        print(f"{name:<{wide}}{words[0]:<50}  {words[1]}")
    for line in _advice(changed):
        print(line)
    return 0


def _advice(changed: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Which modules changed since results were made (by result): a line for the rooms that the same results rest on."""
    from decoupled_esc.pipeline.schedule import few

    rooms: dict[str, set[str]] = {}
    results: dict[str, list[str]] = {}
    for name, modules in changed.items():
        for module in sorted(modules):
            room, _, inside = module.removesuffix(".py").partition("/")
            rooms.setdefault(room, set()).add(inside)
            if name not in results.setdefault(room, []):
                results[room].append(name)
    for names in sorted(set(map(tuple, results.values())), key=len, reverse=True):
        same = [room for room in sorted(rooms) if results[room] == list(names)]
        said = [f"{room}/ ({few(sorted(rooms[room]), 3)})" if rooms[room] != {""} else room for room in same]
        many = f"{len(names)} results were" if len(names) > 1 else "a result was"
        yield f"advice: {', '.join(said)} changed since {many} made ({few(names, 3)}): was a `version` to be raised?"


def _plan(options) -> int:
    from decoupled_esc.experiments import cost
    from decoupled_esc.experiments.profiles import load_profile

    print("\n".join(cost.plan_of(load_profile(options.profile), options.card)))
    return 0


def _data(options) -> int:
    from decoupled_esc import packaged
    from decoupled_esc.corpus import fetch

    if options.action == "list":
        for row in fetch.describe():
            if options.name in (None, row.name):
                print(f"{row.name}: {row.use}")
                print(f"    here: {row.here or 'no'}; download: {row.download}; licence: {row.licence}")
                print(f"    source: {row.source}\n    files: {', '.join(row.files)}")
        print(f"Set {fetch.FOLDER} to a folder of your own to use its files; {fetch.CACHE} moves the cache.")
        return 0
    for name in [options.name] if options.name else ["esconv", "failed_esconv"]:
        found = getattr(fetch, options.action)(name)
        if fetch.entry(name).model:
            packaged.folder(name)
        print(f"{name}: {'checksum holds' if options.action == 'verify' else 'is here'}, from the {found.origin}")
    return 0


def _score(options) -> int:
    from decoupled_esc.errors import KnownError
    from decoupled_esc.experiments.book import SCOREBOARD_SYSTEMS
    from decoupled_esc.experiments.run import Book
    from decoupled_esc.experiments.scoreboard import score_file
    from decoupled_esc.experiments.scores import evaluated
    from decoupled_esc.present.scoreboard import standing

    book = Book(options.profile)
    turns = book.steps["scoreboard"].turns.read()
    if options.turns:
        for turn in turns:
            context = [{"role": message.role, "text": message.text} for message in turn.context]
            print(json.dumps({"id": turn.id, "context": context}, ensure_ascii=False))
        return 0
    stored = {name: book.stored(f"replies-{name}") for name in SCOREBOARD_SYSTEMS}
    stored = {name: found.result for name, found in stored.items() if found and not found.rows_left_out}
    gold = {turn.id: turn for turn in turns}
    if not all(row.id in gold for replies in stored.values() for row in replies.rows):
        raise KnownError(
            "scoring needs the real esconv, whose turns the published replies answer; see: decoupled-esc data"
        )
    others = {
        name: evaluated(replies, gold, book.steps[f"replies-{name}"].strategy_sampling, book.profile.seed)
        for name, replies in stored.items()
    }
    profile = book.profile
    found = score_file(options.file, turns, others, replicates=profile.bootstrap_replicates, seed=profile.seed)
    print(standing(found, options.file.name))
    return 0


def _publish(options) -> int:
    from decoupled_esc.experiments.run import Book, publish_results
    from decoupled_esc.publish.crate import write_crate
    from decoupled_esc.publish.steps import publish_notebooks

    written = [] if options.notebooks else publish_results(Book(options.profile), options.steps)
    written += publish_notebooks(Book("laptop"))
    print("published: " + ", ".join([*written, write_crate().name]))
    return 0


def _human_eval(options) -> int:
    from decoupled_esc.evaluate import human_eval
    from decoupled_esc.experiments.book import SYSTEMS
    from decoupled_esc.experiments.run import Book

    book = Book(options.profile)
    if options.action == "report":
        resampling = {"replicates": book.profile.bootstrap_replicates, "seed": book.profile.seed}
        print(human_eval.report(options.folder, options.exclude, **resampling))
        return 0
    replies = {}
    for name in options.systems:
        if name not in SYSTEMS:
            known = f"{nearest(name, SYSTEMS)}. Systems: {', '.join(SYSTEMS)}"
            raise human_eval.HumanEvalError(f"no system {name!r}{known}")
        stored = book.stored(f"replies-{name}")
        if stored is None or stored.rows_left_out:
            remedy = f"write them with: decoupled-esc run --profile {options.profile} replies-{name}"
            raise human_eval.HumanEvalError(f"the replies of {name} are not here; {remedy}")
        replies[name] = {row.id: row.reply for row in stored.result.rows}
    dialogues, kind = book.steps["replies-vanilla-sft"].turns.dialogues(), "scores" if options.scores else "pairs"
    human_eval.export(dialogues, replies, options.folder, options.samples, options.raters, kind, book.profile.seed)
    forms, answers, study = (_shown(options.folder / part) for part in ("forms", "answers", ""))
    print(f"forms are in {forms}; put what raters send back into {answers},")
    print(f"then: decoupled-esc human-eval report {study}")
    return 0


def _site(options) -> int:
    from decoupled_esc.experiments.run import ROOT, Book
    from decoupled_esc.publish import notebooks, site
    from decoupled_esc.publish.steps import check_stamps

    problems = notebooks.check_notebooks(notebooks.NOTEBOOKS) or check_stamps(Book("laptop"))
    if problems:
        raise site.BookError("the committed notebooks have problems:\n" + "\n".join(problems))
    if options.format != "html":
        print(f"open {_shown(site.build_file(options.format, notebooks.NOTEBOOKS, ROOT / 'build' / options.format))}")
        return 0
    index = site.build_book(notebooks.NOTEBOOKS, ROOT / "build" / "site")
    if problems := site.check_site(index.parent):
        raise site.BookError("the built book has problems:\n" + "\n".join(problems))
    print(f"open {_shown(index)}")
    return 0


def _shown(path: Path) -> str:
    """``path`` relative to where the user stands, where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

"""Human evaluation: a blinded study as forms that work offline, and from the forms to win rates and agreement.

After figure 6 of DecoupledESC (twenty people compare two systems on twenty samples) and tables 1, 3 and 6 of CSO
(pairs, and single replies on a scale).  The steps, each a function:

    study = make_study(samples, DECOUPLED_ESC, kind="pairs", raters=20, items_per_rater=20, attention=3, seed=0)
    write_forms(study, folder)           # forms/ is what raters receive; key.json unblinds and stays with you
    answers = read_answers(folder / "answers", read_key(folder / "key.json"))
    quality(study, answers)              # who may not have read; you decide whom to exclude, and it is reported
    win_rates(study, answers, exclude=["rater-07"], replicates=2000, seed=0)

Two replies are called 1 and 2 wherever a rater sees them: on a narrow screen they stand below one another.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from decoupled_esc.corpus import Message
from decoupled_esc.evaluate.agreement import Undefined, fleiss_kappa, krippendorff_alpha
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, bootstrap, cluster_weights, ratio_of_sums

Kind = Literal["pairs", "scores"]

TEMPLATE = Path(__file__).with_name("people.html")
CHOICES = {"1": 1, "tie": 0, "2": -1}
"""What a rater says of a pair -> how much better the reply shown first is."""

SHORTEST_SHUFFLE = 5
"""Words that a reply needs before a shuffle of them is evidently off."""
LEAST_SECONDS = 8.0
"""Median time per item below which a rater is flagged: nobody reads a dialogue and answers four questions in it."""
MOST_ALIKE = 0.9
"""Share of one answer (always reply 1, always the same score) from which a rater is flagged."""
LEAST_ANSWERS = 12
"""Answers (items x criteria) below which `MOST_ALIKE` says nothing."""


class PeopleError(Exception):
    """A study or an answer file can't be used; one line that says which file, row and field, and what to do."""


@dataclass(frozen=True)
class Criterion:
    """What raters judge; ``about`` is the sentence they read."""

    key: str
    about: str


DECOUPLED_ESC = (
    Criterion("fluency", "It reads naturally, hangs together, and is easy to follow."),
    Criterion("professionalism", "It shows sound knowledge of how to support people, and gives no misleading advice."),
    Criterion("empathy", "It understands what the seeker feels, and shows care."),
    Criterion("helpfulness", "What it offers is relevant to the seeker's situation, and of use."),
)
"""Figure 6 of DecoupledESC; the names are the paper's, the wording ours."""

CSO_QUALITY = (
    Criterion("empathy", "It understands what the seeker feels, and shows care."),
    Criterion("information", "What it says or suggests is relevant, correct and enough."),
    Criterion("humanoid", "It sounds like a person, not like a template."),
    Criterion("strategy", "The way of supporting that it chooses fits this moment of the conversation."),
)
"""Table 1 of CSO."""

CSO_SUPPORT = (
    Criterion("acceptance", "It is a reply that the seeker could well accept."),
    Criterion("effectiveness", "It helps with what troubles the seeker."),
    Criterion("sensitivity", "It notices the seeker's emotions and answers to them."),
)
"""Tables 3 and 6 of CSO.  Its Satisfaction is the mean of these three; its Alignment needs the intended strategy, which
a blinded form does not show."""


@dataclass(frozen=True)
class Sample:
    """One turn of a test set, and what each system replied to it."""

    id: str
    dialogue: str
    context: tuple[Message, ...]
    replies: Mapping[str, str]
    """system -> its reply, in one order in all samples."""


@dataclass(frozen=True)
class Item:
    """One thing to judge: two replies to a context, or one."""

    id: str
    """Six random hex digits: it says nothing about the sample or the system."""
    sample: str
    dialogue: str
    context: tuple[Message, ...]
    replies: tuple[str, ...]
    systems: tuple[str, ...]
    """Who wrote the replies; empty for an attention item."""
    attention: Literal["shuffled", "same"] | None = None
    """``shuffled``: the last reply belongs to another dialogue and its words are mixed.  ``same``: both are equal."""


@dataclass(frozen=True)
class Shown:
    """One item in one rater's form; ``swapped`` if the item's second reply is shown as reply 1."""

    item: str
    swapped: bool


@dataclass(frozen=True)
class Study:
    """Everything about a study, with its unblinding; never given to raters."""

    kind: Kind
    criteria: tuple[Criterion, ...]
    scale: tuple[int, int]
    """Lowest and highest score, both included; of no use to pairs."""
    items: tuple[Item, ...]
    forms: Mapping[str, tuple[Shown, ...]]
    """rater -> items in the order shown."""
    seed: int

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems judged, in the order of the samples' replies."""
        return tuple(dict.fromkeys(system for item in self.items for system in item.systems))

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that tie an answer file to this study and say nothing about it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """One JSON object; equal studies give equal bytes."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Study:
        """The inverse of `to_json`; raises ValueError, TypeError or KeyError on an object of another form."""
        fields = json.loads(text)
        items = [
            Item(**row | {
                "context": tuple(Message(**message) for message in row["context"]),
                "replies": tuple(row["replies"]),
                "systems": tuple(row["systems"]),
            })
            for row in fields["items"]
        ]  # fmt: skip
        return cls(**fields | {
            "criteria": tuple(Criterion(**criterion) for criterion in fields["criteria"]),
            "scale": tuple(fields["scale"]),
            "items": tuple(items),
            "forms": {rater: tuple(Shown(**shown) for shown in form) for rater, form in fields["forms"].items()},
        })  # fmt: skip


# Design -------------------------------------------------------------------------------------------------------------


def make_study(
    samples: Sequence[Sample],
    criteria: Sequence[Criterion],
    *,
    kind: Kind,
    raters: int,
    items_per_rater: int,
    attention: int,
    seed: int,
    scale: tuple[int, int] = (1, 5),
) -> Study:
    """Who judges what, in which order and on which side; the same bytes for the same arguments.

    ``pairs``: an item is a sample with the replies of its two systems.  ``scores``: an item is a sample with the reply
    of one system, on ``scale``; a rater gets the systems in equal shares, the replies to one sample where possible.

    * Items get equally many raters, give or take one.
    * Each system is reply 1 in half of each rater's items and in half of each item's forms, give or take one.
    * Every form has its own order and ``attention`` items of its own, which look like the others: two where one reply
      (of another dialogue, words mixed) is evidently off, once on each side, then one where both are equal, and so on.
      They go to samples that the rater does not judge anyway, as far as there are any.  For ``scores`` all are mixed.

    Raises PeopleError where the samples don't fit: none, an id twice, other systems than the first sample's, not two
    systems in a pair, fewer items than ``items_per_rater``, or nothing to make attention items from.
    """
    systems = _checked(samples, criteria, kind, raters, scale)
    draw = random.Random(seed)
    order = draw.sample(list(samples), len(samples))
    ids = _opaque_ids(draw)
    judged = [
        Item(next(ids), s.id, s.dialogue, s.context, tuple(s.replies[name] for name in group), group)
        for s in order
        for group in ([systems] if kind == "pairs" else [(name,) for name in systems])
    ]
    if not 1 <= items_per_rater <= len(judged):
        raise PeopleError(f"items_per_rater is {items_per_rater}, and there are {len(judged)} items; use 1 to these")

    # Dealing in a circle gives every item equally many raters, no rater an item twice, and, as the items of one sample
    # stand together, every rater equally many of each system.
    dealt = [(r, (r * items_per_rater + k) % len(judged)) for r in range(raters) for k in range(items_per_rater)]
    swapped = _halved(dealt, draw) if kind == "pairs" else dict.fromkeys(dealt, False)
    forms, checks = {}, []
    for rater in range(raters):
        mine = [item for r, item in dealt if r == rater]
        shown = [Shown(judged[item].id, swapped[rater, item]) for item in mine]
        taken = {judged[item].sample for item in mine}
        own = _attention_items(order, taken, kind, attention, ids, draw)
        side = draw.random() < 0.5
        for item in own:
            shown.append(Shown(item.id, kind == "pairs" and side))
            side = not side if item.attention == "shuffled" else side
        checks += own
        forms[f"rater-{rater + 1:0{len(str(raters))}}"] = tuple(draw.sample(shown, len(shown)))
    return Study(kind, tuple(criteria), tuple(scale), tuple(judged + checks), forms, seed)


def _checked(samples, criteria, kind, raters, scale) -> tuple[str, ...]:
    """The systems of the samples, after checking that a study can be made of them."""
    if kind not in ("pairs", "scores"):
        raise PeopleError(f"kind must be 'pairs' or 'scores', not {kind!r}")
    if not samples or not criteria or raters < 1:
        raise PeopleError(f"a study needs samples, criteria and raters, not {len(samples)}, {len(criteria)}, {raters}")
    if kind == "scores" and not scale[0] < scale[1]:
        raise PeopleError(f"the scale must rise from its lowest to its highest score, not {scale}")
    for what, names in (("sample", [s.id for s in samples]), ("criterion", [c.key for c in criteria])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise PeopleError(f"the {what} {twice[0]!r} occurs twice; give each an id of its own")
    systems = tuple(samples[0].replies)
    for sample in samples:
        if tuple(sample.replies) != systems:
            raise PeopleError(
                f"sample {sample.id!r} has replies of {list(sample.replies)}, the first sample of {list(systems)}; "
                "give all samples the same systems in one order"
            )
    if not systems or kind == "pairs" and len(systems) != 2:
        raise PeopleError(f"pairs need two systems, scores at least one; the samples have {list(systems)}")
    return systems


def _opaque_ids(draw: random.Random):
    seen = set()
    while True:
        made = f"{draw.randrange(16**6):06x}"
        if made not in seen:
            seen.add(made)
            yield made


def _halved(dealt: Sequence[tuple[int, int]], draw: random.Random) -> dict[tuple[int, int], bool]:
    """Swaps half of each rater's and half of each item's showings (rater, item), give or take one.

    Tie each showing to one other of its rater and to one other of its item.  The ties form paths, and cycles in which
    the two kinds take turns, so these are even: along either, every second one is swapped.
    """
    ties: dict[tuple[int, int], list[tuple[int, int]]] = {showing: [] for showing in dealt}
    for side in (0, 1):
        groups: dict[int, list[tuple[int, int]]] = {}
        for showing in draw.sample(dealt, len(dealt)):
            groups.setdefault(showing[side], []).append(showing)
        for members in groups.values():
            for one, other in zip(members[::2], members[1::2]):
                ties[one].append(other)
                ties[other].append(one)
    swapped: dict[tuple[int, int], bool] = {}
    for start in dealt:
        if start in swapped:
            continue
        swapped[start] = draw.random() < 0.5
        walk = [start]
        while walk:
            here = walk.pop()
            for other in ties[here]:
                if other not in swapped:
                    swapped[other] = not swapped[here]
                    walk.append(other)
    return swapped


def _attention_items(samples, taken, kind, number, ids, draw) -> list[Item]:
    """``number`` attention items on samples outside ``taken``, as far as there are any."""
    free = [s for s in samples if s.id not in taken]
    hosts = draw.sample(free, len(free)) + draw.sample([s for s in samples if s.id in taken], len(taken))
    items = []
    for index in range(number):
        host = hosts[index % len(hosts)]
        good = draw.choice(list(host.replies.values()))
        if kind == "pairs" and index % 3 == 2:
            items.append(Item(next(ids), host.id, host.dialogue, host.context, (good, good), (), "same"))
            continue
        strangers = [
            reply
            for s in samples
            if s.dialogue != host.dialogue
            for reply in s.replies.values()
            if len(set(reply.split())) >= SHORTEST_SHUFFLE
        ]
        if not strangers:
            raise PeopleError(
                f"an attention item for {host.id!r} needs a reply of {SHORTEST_SHUFFLE} words from another dialogue; "
                "add samples, or set attention to 0"
            )
        words = draw.choice(strangers).split()
        mixed = words
        while mixed == words:
            mixed = draw.sample(words, len(words))
        replies = (good, " ".join(mixed)) if kind == "pairs" else (" ".join(mixed),)
        items.append(Item(next(ids), host.id, host.dialogue, host.context, replies, (), "shuffled"))
    return items


# Forms --------------------------------------------------------------------------------------------------------------

NOTICE = (
    "These conversations are about distress: loss, fear, loneliness and the like.",
    "You may leave out any item, take a break, or stop for good at any time and without a reason; what you answered "
    "up to then can still be of use.",
    "The replies come from a research project. They are not counselling, and nobody should follow them as advice.",
    "If reading them stays with you, talk to somebody. If you or someone else may be in danger, contact your local "
    "emergency services; one place to look for a crisis line is findahelpline.com.",
)


def write_forms(study: Study, folder: Path) -> list[Path]:
    """Writes ``forms/`` (a page and a sheet per rater, and instructions) and ``key.json`` to ``folder``.

    Send a rater one page or one sheet.  ``key.json`` unblinds: keep it from raters.  Returns the files for the raters.
    Raises PeopleError if ``folder`` holds the key of another study, whose forms may be under way.
    """
    key = folder / "key.json"
    if key.exists() and key.read_text(encoding="utf-8") != study.to_json():
        raise PeopleError(f"{key}: belongs to another study, which could not be read without it; choose another folder")
    forms = folder / "forms"
    forms.mkdir(parents=True, exist_ok=True)
    key.write_text(study.to_json(), encoding="utf-8")
    (folder / "answers").mkdir(exist_ok=True)
    written = [forms / "instructions.txt"]
    written[0].write_text(_instructions(study), encoding="utf-8")
    page = TEMPLATE.read_text(encoding="utf-8")
    for rater in study.forms:
        form = _blind(study, rater)
        data = json.dumps(form, ensure_ascii=False).replace("<", "\\u003c")  # or a reply could end the script element
        written.append(forms / f"{rater}.html")
        written[-1].write_text(page.replace("{{form}}", data), encoding="utf-8")
        written.append(forms / f"{rater}.csv")
        # With a byte order mark, or Excel takes UTF-8 for something else.
        written[-1].write_text(_sheet(form), encoding="utf-8-sig", newline="")
    return written


def read_key(path: Path) -> Study:
    """The study that `write_forms` wrote.  Raises PeopleError if the file is missing or none."""
    if not path.exists():
        raise PeopleError(f"{path}: there is no such file; use the key.json that the export wrote beside forms/")
    try:
        return Study.from_json(path.read_text(encoding="utf-8"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PeopleError(f"{path}: is not the key of a study ({error}); use the file that the export wrote") from error


def _blind(study: Study, rater: str) -> dict:
    """What a rater may know: texts in the order shown, and no system, sample or sign of an attention item."""
    items = {item.id: item for item in study.items}
    return {
        "study": study.id,
        "rater": rater,
        "kind": study.kind,
        "choices": _choices(study),
        "notice": NOTICE,
        "criteria": [asdict(criterion) for criterion in study.criteria],
        "items": [
            {
                "item": shown.item,
                "context": [[message.role, message.text] for message in items[shown.item].context],
                "replies": list(items[shown.item].replies[:: -1 if shown.swapped else 1]),
            }
            for shown in study.forms[rater]
        ],
    }


def _choices(study: Study) -> list[str]:
    """The answers that a form offers for each criterion."""
    return list(CHOICES) if study.kind == "pairs" else [str(n) for n in range(study.scale[0], study.scale[1] + 1)]


def _sheet(form: dict) -> str:
    """A form as CSV: one row per item, an empty column per criterion."""
    replies = ["reply 1", "reply 2"] if form["kind"] == "pairs" else ["reply"]
    keys = [criterion["key"] for criterion in form["criteria"]]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["study", "rater", "item", "context", *replies, *keys])
    for item in form["items"]:
        context = "\n".join(f"{role.capitalize()}: {text}" for role, text in item["context"])
        texts = [_no_formula(text) for text in (context, *item["replies"])]
        # A leading letter keeps spreadsheets from reading 12e456 as a number.
        writer.writerow([f"s{form['study']}", form["rater"], f"i{item['item']}", *texts, *[""] * len(keys)])
    return out.getvalue()


def _no_formula(text: str) -> str:
    """A text that a spreadsheet won't run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _instructions(study: Study) -> str:
    say = (
        "For each criterion, write 1 or 2 for the reply that does better, or tie."
        if study.kind == "pairs"
        else f"For each criterion, write a whole number from {study.scale[0]} (lowest) to {study.scale[1]} (highest)."
    )
    lines = [
        "Please read this before you begin.", "", *NOTICE, "",
        "Use either the page (open the .html file; no network needed) or the sheet (the .csv file), not both.",
        f"Each item is a conversation up to now and {'two replies' if study.kind == 'pairs' else 'a reply'} to it.",
        say,
        "Judge each criterion by itself. A few items are there to check that the replies are read.",
        "In a sheet, leave a cell empty to leave it out, change nothing else, and save as CSV.",
        "", *[f"{criterion.key}: {criterion.about}" for criterion in study.criteria],
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


# Answers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What one rater said of one item."""

    rater: str
    item: str
    values: Mapping[str, int]
    """criterion -> 1, 0 or -1 if the item's first reply is better, equal or worse; or the score.  Criteria that were
    left out are absent."""
    seconds: float | None = None
    """How long the item was on the screen; unknown for a sheet."""


def read_answers(folder: Path, study: Study) -> list[Answer]:
    """The answers in the ``.json`` and ``.csv`` files of ``folder``, unblinded, by rater and in the order shown.

    Items and criteria that were left out are left out here.  Several files of one rater (an early one and the final
    one, a copy) are joined as long as they don't contradict each other.

    Raises PeopleError, naming the file, row and field, for a file that can't be read, of another study, with an unknown
    rater, item, criterion or answer, or that contradicts another one; and if there is no file.
    """
    paths = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in (".json", ".csv"))
    if not paths:
        raise PeopleError(f"{folder}: holds no .json or .csv file; put the files that raters sent back there")
    found: dict[tuple[str, str], Answer] = {}
    source: dict[tuple[str, str], Path] = {}
    for path in paths:
        read = _json_rows if path.suffix.lower() == ".json" else _csv_rows
        for where, row in read(path, study):
            answer = _answer(path, where, row, study)
            at = answer.rater, answer.item
            if at in found:
                answer = _joined(found[at], answer, f"{path}, {where}", source[at])
            found[at], source[at] = answer, path
    place = {
        (rater, shown.item): (number, index)
        for number, (rater, form) in enumerate(study.forms.items())
        for index, shown in enumerate(form)
    }
    return [found[at] for at in sorted(found, key=place.__getitem__) if found[at].values]


def _json_rows(path: Path, study: Study):
    """(where, row) for each answer in a file of the page."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        head = {"study": str(told["study"]), "rater": str(told["rater"])}
        rows = [
            head | {"item": str(a["item"]), "seconds": a["seconds"], "values": dict(a["values"])}
            for a in told["answers"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise PeopleError(
            f"{path}: is not a file of answers ({type(error).__name__}: {error}); ask for the file that the page saved"
        ) from error
    return [(f"answer {number}", row) for number, row in enumerate(rows, 1)]


def _csv_rows(path: Path, study: Study):
    """(where, row) for each line of a sheet; commas, semicolons or tabs, as spreadsheets save them."""
    # Only names and answers are read back, so a spreadsheet's own encoding of the texts does no harm.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    first = (text.splitlines() or [""])[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    keys = [criterion.key for criterion in study.criteria]
    missing = [name for name in ("study", "rater", "item", *keys) if name not in (reader.fieldnames or [])]
    if missing:
        raise PeopleError(
            f"{path}, row 1, field {missing[0]}: there is no such column; keep the form's first row, and save as CSV"
        )
    rows = []
    for number, row in enumerate(reader, 2):
        if not any((cell or "").strip() for name, cell in row.items() if name):
            continue  # spreadsheets like to add empty rows
        row = {name: (row[name] or "").strip() for name in ("study", "rater", "item", *keys)}
        values = {key: row[key] for key in keys if row[key]}
        head = {"study": row["study"].removeprefix("s"), "rater": row["rater"], "item": row["item"].removeprefix("i")}
        rows.append((f"row {number}", head | {"seconds": None, "values": values}))
    return rows


def _answer(path: Path, where: str, row: dict, study: Study) -> Answer:
    """One row, checked against the study and unblinded."""

    def wrong(field: str, problem: str) -> PeopleError:
        return PeopleError(f"{path}, {where}, field {field}: {problem}")

    if row["study"] != study.id:
        raise wrong("study", f"{row['study']!r} is not this study, {study.id!r}; use its key, or move the file")
    if row["rater"] not in study.forms:
        raise wrong("rater", f"nobody is called {row['rater']!r} here; the raters are {', '.join(study.forms)}")
    shown = {shown.item: shown for shown in study.forms[row["rater"]]}.get(row["item"])
    if shown is None:
        raise wrong("item", f"{row['item']!r} is not in the form of {row['rater']}; restore it from the form as sent")
    choices, values = _choices(study), {}
    for key, said in row["values"].items():
        if key not in {criterion.key for criterion in study.criteria}:
            raise wrong(key, "is not a criterion of this study; take the column out")
        said = str(said).strip().lower()
        said = said.removesuffix(".0")  # spreadsheets make 4.0 of 4
        if said not in choices:
            raise wrong(key, f"{said!r} is not one of {', '.join(choices)}; ask the rater, or empty the field")
        values[key] = (CHOICES[said] * (-1 if shown.swapped else 1)) if study.kind == "pairs" else int(said)
    seconds = row["seconds"]
    if seconds is not None and not (type(seconds) in (int, float) and 0 <= seconds < float("inf")):
        raise wrong("seconds", f"{seconds!r} is not a time; use a number of seconds, or null if it is not known")
    return Answer(row["rater"], row["item"], values, seconds)


def _joined(old: Answer, new: Answer, where: str, old_path: Path) -> Answer:
    for key, value in new.values.items():
        if old.values.get(key, value) != value:
            raise PeopleError(
                f"{where}, field {key}: contradicts {old_path}; keep the file that the rater means, and move the other"
            )
    seconds = max((s for s in (old.seconds, new.seconds) if s is not None), default=None)
    return replace(old, values={**old.values, **new.values}, seconds=seconds)


# Quality ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RaterQuality:
    """How one rater worked; ``flags`` says in words what speaks against using the answers."""

    rater: str
    answered: int
    """Items with an answer on every criterion, of ``shown``; attention items included."""
    shown: int
    attention_passed: int
    attention_answered: int
    median_seconds: float | None
    """Of the items with an answer; None where no time is known."""
    commonest: str | None
    """The answer given most often, as the rater saw it ("1", "tie", "2" or a score), attention items left out."""
    commonest_share: float
    flags: tuple[str, ...] = ()


def quality(study: Study, answers: Sequence[Answer]) -> dict[str, RaterQuality]:
    """rater -> how that rater worked, for every rater of the study.  Nobody is excluded by it.

    A flag is raised for passing no more than half of the attention items answered, a median below `LEAST_SECONDS`, and
    one answer in at least `MOST_ALIKE` of `LEAST_ANSWERS` or more.  The last can be honest where two systems hardly
    differ: always *tie*.  An attention item is passed if, on most of its criteria,

    * mixed words: the other reply is better, and nowhere is the mixed one; as a score, the lower half of the scale;
    * equal replies: the answer is tie.
    """
    items = {item.id: item for item in study.items}
    found = {}
    for rater, form in study.forms.items():
        mine = [answer for answer in answers if answer.rater == rater and answer.values]
        swapped = {shown.item: shown.swapped for shown in form}
        checks = [_passed(study, items[a.item], a) for a in mine if items[a.item].attention]
        said = [
            _as_shown(study, value, swapped[a.item])
            for a in mine
            if not items[a.item].attention
            for value in a.values.values()
        ]
        (commonest, often), *_ = Counter(said).most_common(1) or [(None, 0)]
        times = [a.seconds for a in mine if a.seconds is not None]
        median = statistics.median(times) if times else None
        share = often / max(1, len(said))
        flags = []
        if checks and 2 * sum(checks) <= len(checks):
            flags.append(f"passed {sum(checks)} of {len(checks)} attention items")
        if median is not None and median < LEAST_SECONDS:
            flags.append(f"took {median:.1f} s per item (median), under {LEAST_SECONDS:.0f} s")
        if len(said) >= LEAST_ANSWERS and share >= MOST_ALIKE:
            flags.append(f"answered {commonest!r} in {share:.0%} of {len(said)} answers")
        complete = sum(len(a.values) == len(study.criteria) for a in mine)
        found[rater] = RaterQuality(
            rater, complete, len(form), sum(checks), len(checks), median, commonest, share, tuple(flags)
        )
    return found


def _as_shown(study: Study, value: int, swapped: bool) -> str:
    """An unblinded value as the rater gave it."""
    if study.kind == "scores":
        return str(value)
    return {number: choice for choice, number in CHOICES.items()}[-value if swapped else value]


def _passed(study: Study, item: Item, answer: Answer) -> bool:
    values = list(answer.values.values())
    if study.kind == "scores":
        right = [value < sum(study.scale) / 2 for value in values]
    elif item.attention == "same":
        right = [value == 0 for value in values]
    else:
        right = [value > 0 for value in values if min(values) >= 0]
    return 2 * sum(right) > len(values)


# Results ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one criterion; None where it is undefined, as with one rater or equal answers."""

    fleiss: Estimate | None
    """Fleiss' kappa, on the items with the commonest number of raters (at least two), since it needs one number."""
    fleiss_items: int
    alpha: Estimate | None
    """Krippendorff's alpha on all items, the answers taken as ordered (lose, tie, win; or the scores)."""


@dataclass(frozen=True)
class Preference:
    """How often the first system is preferred on one criterion: shares of answers in %, with 95% intervals."""

    win: Estimate
    tie: Estimate
    lose: Estimate
    answers: int
    agreement: Agreement


@dataclass(frozen=True)
class Scores:
    """Mean scores on one criterion, and the differences a - b of systems, with 95% intervals."""

    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    answers: int
    agreement: Agreement


@dataclass(frozen=True)
class Outcome:
    """The result of a study, by criterion; who was counted and who was not stands in it."""

    systems: tuple[str, ...]
    criteria: dict[str, Preference] | dict[str, Scores]
    raters: tuple[str, ...]
    excluded: tuple[str, ...]
    items: int
    dialogues: int

    def to_json(self) -> str:
        """One JSON object; equal results give equal bytes."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)


def win_rates(
    study: Study, answers: Sequence[Answer], *, exclude: Sequence[str] = (), replicates: int, seed: int
) -> Outcome:
    """Shares of win, tie and lose of ``study.systems[0]`` against the other, of all answers to ``pairs``.

    Intervals draw dialogues, with all their items and answers, with replacement; raters stay as they are.  They say how
    the shares of *these* raters would vary over other dialogues, not what other people would say.  With a single
    dialogue there are none, and where all answers are equal they have no width, which is no certainty.  Attention items
never count, nor the answers of ``exclude``.

    Raises PeopleError for a study of scores, an unknown rater in ``exclude``, or a criterion without answers.
    """

    def preference(rows: list[tuple[Item, str, int]], agreement: Agreement) -> Preference:
        groups = [item.dialogue for item, _, _ in rows]
        shares = [
            _finish(_mean(groups, [100 * (value == sign) for _, _, value in rows], groups, replicates, seed), groups)
            for sign in (1, 0, -1)
        ]
        return Preference(*shares, len(rows), agreement)

    return _outcome(study, answers, "pairs", exclude, replicates, seed, preference)


def mean_scores(
    study: Study, answers: Sequence[Answer], *, exclude: Sequence[str] = (), replicates: int, seed: int
) -> Outcome:
    """The mean score of each system over all answers to ``scores``, and the differences of systems.

    Intervals and errors as `win_rates`; the systems of a difference are compared on the same draws.  Agreement is over
    the replies of all systems together, as in table 6 of CSO.  Raises PeopleError too if a system has no answer.
    """

    def scores(rows: list[tuple[Item, str, int]], agreement: Agreement) -> Scores:
        everyone = [item.dialogue for item, _, _ in rows]
        means: dict[str, Resampled] = {}
        for system in study.systems:
            of_it = [(item.dialogue, value) for item, _, value in rows if item.systems == (system,)]
            if not of_it:
                raise PeopleError(f"no answer is about {system!r}; wait for more answers, or exclude fewer raters")
            means[system] = _mean(*map(list, zip(*of_it)), everyone, replicates, seed)
        differences = {f"{a} - {b}": means[a] - means[b] for a, b in combinations(study.systems, 2)}
        finished = [{name: _finish(score, everyone) for name, score in part.items()} for part in (means, differences)]
        return Scores(*finished, len(rows), agreement)

    return _outcome(study, answers, "scores", exclude, replicates, seed, scores)


def _outcome(study, answers, kind, exclude, replicates, seed, summary) -> Outcome:
    if study.kind != kind:
        other = "mean_scores" if kind == "pairs" else "win_rates"
        raise PeopleError(f"this is a study of {study.kind}, not of {kind}; use {other}")
    unknown = sorted(set(exclude) - set(study.forms))
    if unknown:
        raise PeopleError(f"exclude names {unknown[0]!r}; the raters are {', '.join(study.forms)}")
    items = {item.id: item for item in study.items}
    counted = [a for a in answers if a.rater not in exclude and a.values and not items[a.item].attention]
    criteria = {}
    for criterion in study.criteria:
        key = criterion.key
        rows = [(items[a.item], a.rater, a.values[key]) for a in counted if key in a.values]
        if not rows:
            raise PeopleError(f"no answer is on {key!r}; wait for more answers, or exclude fewer raters")
        criteria[key] = summary(rows, _agreement(rows, replicates, seed))
    judged = {a.item for a in counted}
    return Outcome(
        study.systems,
        criteria,
        raters=tuple(rater for rater in study.forms if rater in {a.rater for a in counted}),
        excluded=tuple(rater for rater in study.forms if rater in exclude),
        items=len(judged),
        dialogues=len({items[item].dialogue for item in judged}),
    )


def _mean(groups: list[str], values: list[float], everyone: list[str], replicates: int, seed: int) -> Resampled:
    """The mean of ``values`` under draws of the dialogues in ``everyone``."""
    names = {name: number for number, name in enumerate(sorted(set(everyone)))}
    of = np.array([names[group] for group in groups])
    sums, counts = (np.bincount(of, x, len(names)) for x in (values, np.ones(len(of))))
    weights = cluster_weights(len(names), replicates, seed)
    return bootstrap(weights, lambda draws: ratio_of_sums(draws, sums, counts))


def _finish(score: Resampled, everyone: list[str]) -> Estimate:
    return score.estimate() if len(set(everyone)) > 1 else Estimate(score.value)


def _agreement(rows: list[tuple[Item, str, int]], replicates: int, seed: int) -> Agreement:
    raters = sorted({rater for _, rater, _ in rows})
    items = sorted({item.id: item.dialogue for item, _, _ in rows}.items())
    column = {item: number for number, (item, _) in enumerate(items)}
    ratings = np.full((len(raters), len(items)), np.nan)
    for item, rater, value in rows:
        ratings[raters.index(rater), column[item.id]] = value
    groups = np.array([dialogue for _, dialogue in items])
    number = (~np.isnan(ratings)).sum(0)
    several = number[number >= 2]
    if not len(several):
        return Agreement(None, 0, None)
    # Of two equally common numbers the larger, which uses more answers.
    commonest = max(Counter(several.tolist()).items(), key=lambda pair: (pair[1], pair[0]))[0]
    full = number == commonest
    draws = {"replicates": replicates, "seed": seed}

    def defined(coefficient, *arguments, **options) -> Estimate | None:
        try:
            return coefficient(*arguments, **options, **draws)
        except Undefined:
            return None

    return Agreement(
        defined(fleiss_kappa, ratings[:, full], groups[full].tolist()),
        int(full.sum()),
        defined(krippendorff_alpha, ratings, groups.tolist(), level="ordinal"),
    )

"""Published judgements of supportive replies, by people and by large models: what judges are checked against.

* iEval (Svikhnushina et al. 2022): 240 people each chatted with four bots about two situations and rated every chat.
* Empathic judges (Kumar et al. 2025): three experts, crowds and three LLMs on 200 conversations of four data sets.
* MentalAlign (Badawi et al. 2025): experts and four LLMs on replies by nine models and by a person to 1,000 posts; no reply texts.

What a file leaves open is left out and counted, as is what MentalAlign has off its scale; another form is a CorpusError.
"""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc.corpus.readers import DataFile

BOTS = ("Pink", "Purple", "Yellow", "Green")
SITUATIONS = ("positive", "negative")


@dataclass(frozen=True)
class Chat:
    """A person's chat with one bot, and what the same person thought of it."""

    person: str
    situation: str
    bot: str
    said: tuple[str, ...]
    """Messages in turn, the person's first."""
    rank: int
    """The person's verdict beside the other three bots: 1 bad, 2 okay, 3 good; bots may share one."""

    @property
    def replies(self) -> tuple[str, ...]:
        """The bot's messages."""
        return self.said[1::2]


@dataclass(frozen=True)
class Rating:
    """What one rater gave one reply or conversation on one dimension."""

    sample: str
    """The data set that it is from: a key of `SAMPLES`, or "MentalAlign"."""
    conversation: str
    writer: str
    """Who wrote the reply; "" where the whole conversation was rated."""
    dimension: str
    rater: str
    value: float


@dataclass(frozen=True)
class Ratings:
    """All ratings of a source, and how many were left out, by reason."""

    rows: tuple[Rating, ...]
    left_out: dict[str, int]


EXPERTS = ("expert1", "expert2", "expert3")
RATERS = {"gpt": "GPT-4o", "claude": "Claude", "llm": "Gemini"} | {n: n for n in (*EXPERTS, "experts", "crowd")}
"""Name in the file -> ours.  ``experts`` is the median of the three; ``llm`` holds Gemini's ratings."""

SAMPLES = {
    "Lend an Ear": ("lend_an_ear_conversation_id", 1, 5), "Perceived Empathy": ("perceived_conversation_id", 1, 7),
    "EmpatheticDialogues": ("empathetic_conversation_id", 1, 5), "EPITOME": ("epitome_conversation_id", 0, 2),
}  # fmt: skip
"""Sample -> (the column of its ids, the ends of its scale)."""

_GIVEN = re.compile(r"[\"“](\w+)[\"”]\s*:\s*(\d+(?:\.\d+)?)")
_NO_DIMENSION = {"Unnamed: 0", "full_conversation", "rp_id"}
ATTRIBUTES = ("Guidance", "Informativeness", "Relevance", "Safety", "Empathy", "Helpfulness", "Understanding")
WRITERS = {
    "original": "human", "claude": "Claude-3.5-Haiku", "ds_llama": "DeepSeek-LLaMA-8B", "ds_qwen": "DeepSeek-Qwen-7B",
    "gemini": "Gemini-2.0-Flash", "gpt4o": "GPT-4o", "gpt4omini": "GPT-4o-mini", "llama_3": "Llama-3.1-8B",
    "qwen_2": "Qwen2.5-7B", "qwen_3": "Qwen3-4B",
}  # fmt: skip
"""Name in the file's header -> who wrote the replies."""

JUDGES = ("experts", "Claude", "Gemini", "GPT-4o", "o4-mini")
"""Raters of MentalAlign, in the order of its files."""


def _file(path: Path, name: str) -> DataFile:
    return DataFile(path, f"fetch the files again: decoupled-esc data fetch {name}")


def read_ieval(path: Path) -> list[Chat]:
    """All chats of ``ieval_data.json``, ordered by person, situation and bot; nothing is left out."""
    found, file = [], _file(path, "ieval")
    for number, person in enumerate(file.rows("people")):
        for situation, bot in itertools.product(SITUATIONS, BOTS):
            where = f"person {number}, {situation}, {bot}"
            side = person.get(situation) if isinstance(person, dict) else None
            chat = side.get(bot) if isinstance(side, dict) else None
            said = ("\n" + file.text_of(chat, "chat_log", where)).split("\n- ")[1:]
            if len(said) < 2:
                raise file.odd("expected messages of both, each after '- '", f"{where}, chat_log")
            if type(rank := chat.get("Rating")) is not int or not 1 <= rank <= 3:
                raise file.odd(f"expected 1 to 3, got {rank!r}", f"{where}, Rating")
            found.append(Chat(f"{number}", situation, bot, (*said,), rank))
    return found


def read_empathic(path: Path) -> Ratings:
    """The 21 dimensions of the table that has the annotations of all four samples side by side; empty cells are left out."""
    file = _file(path, "empathic_judges")
    header, *lines = list(csv.reader(io.StringIO(file.text("utf-8-sig"), newline=""))) or [[]]
    found, left_out = [], Counter()
    for sample, (id, low, high) in SAMPLES.items():
        if id not in header or "annotation_method" not in header[header.index(id) :]:
            raise file.odd(f"lacks {id!r}, or 'annotation_method' after it", "header")
        # Column names repeat from sample to sample: each has its own from its id to its rater.
        first, last = header.index(id), header.index("annotation_method", header.index(id))
        seen = {("", rater) for rater in RATERS}
        for number, line in enumerate(lines, start=1):
            if len(line) != len(header) or line[last] not in RATERS or (line[first], line[last]) in seen:
                problem = f"expected {len(header)} cells, a rater among {', '.join(RATERS)}, each once for an id"
                raise file.odd(problem, f"row {number}, {id}")
            seen.add((line[first], line[last]))
            for place in range(first + 1, last):
                if (dimension := header[place]) in _NO_DIMENSION:
                    continue
                if not line[place]:
                    left_out["empty cell"] += 1
                elif not re.fullmatch(r"\d+(\.\d+)?", line[place]) or not low <= float(line[place]) <= high:
                    problem = f"expected a number from {low} to {high}, got {line[place]!r}"
                    raise file.odd(problem, f"row {number}, {dimension}")
                else:
                    found.append(Rating(sample, line[first], "", dimension, RATERS[line[last]], float(line[place])))
    return Ratings(tuple(found), dict(left_out))


TEXTS = {"EmpatheticDialogues": "conv_id", "EPITOME": "sp_id", "Lend an Ear": "conversation_id"}
"""Sample -> the column of its ids in the file of its texts, in the order of the files; the fourth sample's are not published."""


def read_conversations(paths: Sequence[Path]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(sample, conversation) of `read_empathic` -> messages in turn, the seeker's first; from the files after the table of ratings.

    Messages of one speaker in a row are one; what stands before a speaker's name belongs to no one and is left out.
    """
    found = {}
    for (sample, id), path in zip(TEXTS.items(), paths[1:4], strict=True):
        columns = ("seeker_post", "response_post") if sample == "EPITOME" else ("full_conversation",)
        file = _file(path, "empathic_judges")
        for number, row in file.table((id, *columns)):
            if len(columns) == 2:
                said = [row[column] for column in columns]
            else:
                parts = re.split(r"(?m)^\s*(Seeker|Supporter):", row["full_conversation"].replace("_comma_", ","))
                said, before = [], None
                for speaker, text in zip(parts[1::2], parts[2::2], strict=True):
                    said = [*said[:-1], f"{said[-1]} {text.strip()}"] if speaker == before else [*said, text.strip()]
                    before = speaker
                if len(said) < 2 or parts[1] != "Seeker":
                    raise file.odd("expected messages of both, the seeker's first", f"row {number}")
            found[sample, row[id]] = tuple(said)
    return found


def read_mentalalign(paths: Sequence[Path]) -> Ratings:
    """Ratings from 1 to 5 by the raters of `JUDGES`, a file each; left out are empty, unread and off-scale ones.

    A judge's row whose post is not the experts' post under the same number is left out too: its replies are others.
    """
    found, left_out, posts = [], Counter(), {}
    for rater, path in zip(JUDGES, paths, strict=True):
        file = _file(path, "mentalalign")
        (header, *lines), seen = _sheet(file) or [[]], set()
        writers = [cell.strip().partition("_response_")[2] for cell in header[2:]]
        if header[:2] != ["ConvID", "context"] or writers != [*WRITERS]:
            raise file.odd(f"expected columns ConvID, context and ..._response_ of {', '.join(WRITERS)}", "row 1")
        for number, (id, post, *replies) in enumerate(lines, start=2):
            if id in seen or not id:
                raise file.odd(f"expected a number of its own, got {id!r}", f"row {number}, ConvID")
            seen.add(id)
            same = posts.setdefault(id, post := re.sub(r"\W", "", post)) == post
            for writer, said in zip(writers, replies, strict=True):
                given = dict(_GIVEN.findall(said)) if same else {}
                for attribute in ATTRIBUTES:
                    if (value := given.get(attribute, "")) in {"1", "2", "3", "4", "5"}:
                        found.append(Rating("MentalAlign", id, WRITERS[writer], attribute, rater, float(value)))
                    else:
                        why = "no rating" if same else "another post than the experts'"
                        left_out[f"{rater}: {f'{value}, not 1 to 5' if value else why}"] += 1
    return Ratings(tuple(found), dict(left_out))


def _sheet(file: DataFile) -> list[list[str]]:
    """Rows of the first sheet of an ``.xlsx`` file as text, empty cells as ""; all are as long as the longest."""
    import openpyxl

    try:
        sheet = openpyxl.load_workbook(file.path, data_only=True).worksheets[0]
        return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # openpyxl lets through whatever zip, XML or its own descriptors raise
        raise file.odd(f"cannot be read as a spreadsheet ({error})", "sheet 1") from None

"""Open English dialogue and counselling text, as the passages that a small base model is trained on.

Four sources, each read into the same two roles: ESConv's training dialogues in chat form without their strategies,
AnnoMI (client and therapist), counsel-chat (question and answer), DailyDialog (the two speakers in turn).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup

from decoupled_esc.corpus.chat import chat_form
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.fetch import locate
from decoupled_esc.corpus.readers import fold, read_csv, read_text
from decoupled_esc.corpus.types import Dialogue, Message

SOURCES = ("esconv", "annomi", "counsel_chat", "dailydialog")

ONE_IN = 20
"""One in so many transcripts, questions and dialogues of each source but ESConv is kept from training."""


@dataclass(frozen=True)
class Passage:
    """A conversation without strategies; ``id`` is ``source/place``; ``source/place.2`` is a second piece of it."""

    id: str
    messages: tuple[Message, ...]

    @property
    def source(self) -> str:
        """One of ``SOURCES``."""
        return self.id.partition("/")[0]

    @property
    def group(self) -> str:
        """The transcript, dialogue or question that it belongs to: ``id`` without what tells its pieces apart."""
        whole = self.id.partition(".")[0]
        return whole.partition("-")[0] if self.source == "counsel_chat" else whole


def from_dialogues(dialogues: Iterable[Dialogue]) -> list[Passage]:
    """ESConv dialogues in chat form, as fine-tuning will show them, without strategies."""
    return [Passage(d.id, tuple(Message(m.role, m.text) for m in chat_form(d))) for d in dialogues]


def read_annomi(path: Path) -> list[Passage]:
    """One passage a transcript of ``AnnoMI-full.csv``, which has a row for every annotator of an utterance.

    Utterances of one speaker in a row are joined.  Raises CorpusError naming file, row and field.
    """
    said: dict[str, dict[int, tuple[str, str]]] = {}
    for number, row in read_csv(path, ("transcript_id", "utterance_id", "interlocutor", "utterance_text"), _AGAIN):
        role = {"client": "seeker", "therapist": "supporter"}.get(row["interlocutor"])
        if role is None or not row["utterance_id"].isdigit():
            field = "utterance_id" if role else "interlocutor"
            raise CorpusError(
                f"unexpected {row[field]!r}", file=path.name, field=f"row {number}, {field}", remedy=_AGAIN
            )
        text = _spoken(row["utterance_text"])
        if text:
            said.setdefault(row["transcript_id"], {})[int(row["utterance_id"])] = (role, text)
    return [
        Passage(f"annomi/{int(id):04d}", _joined(utterances[n] for n in sorted(utterances)))
        for id, utterances in said.items()
    ]


def read_counsel_chat(path: Path) -> list[Passage]:
    """One passage an answer of ``counsel_chat.csv``: the question, with its title, and the answer without markup.

    An answer given twice is kept once; a question without text is left out.  Raises CorpusError naming file and field.
    """
    passages, seen = [], set()
    for number, row in read_csv(path, ("questionID", "questionTitle", "questionText", "answerText"), _AGAIN):
        title, question, answer = (fold(row[key]) for key in ("questionTitle", "questionText", "answerText"))
        answer = fold(BeautifulSoup(answer, "lxml").get_text(" "))
        if not question or not answer or answer in seen:
            continue
        seen.add(answer)
        asked = question if not title or question.startswith(title) else f"{title.rstrip('.')}. {question}"
        passages.append(
            Passage(
                f"counsel_chat/{row['questionID']}-{number:04d}",
                (Message("seeker", asked), Message("supporter", answer)),
            )
        )
    return passages


def read_dailydialog(paths: Iterable[Path]) -> list[Passage]:
    """One passage a line of DailyDialog's text files; the first speaker takes the seeker's role.

    The blanks that tokenisation left are closed again.  Raises CorpusError for a line without ``__eou__``.
    """
    passages = []
    for path in paths:
        for number, line in enumerate(read_text(path, _AGAIN, "utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            if "__eou__" not in line:
                raise CorpusError("no __eou__", file=path.name, field=f"line {number}", remedy=_AGAIN)
            texts = [_detokenised(part) for part in line.split("__eou__")[:-1]]
            messages = (Message("supporter" if n % 2 else "seeker", text) for n, text in enumerate(texts) if text)
            passages.append(Passage(f"dailydialog/{path.stem.rpartition('_')[2]}-{number:04d}", tuple(messages)))
    return passages


def read_open_text() -> list[Passage]:
    """The passages of all sources but ESConv, in a fixed order.  Raises CorpusError where a source is not here."""
    return [
        *read_annomi(locate("annomi").paths[0]),
        *read_counsel_chat(locate("counsel_chat").paths[0]),
        *read_dailydialog(locate("dailydialog").paths),
    ]


def held_out_groups(passages: Iterable[Passage]) -> set[str]:
    """The groups of all sources but ESConv that are kept for measuring perplexity: one in ``ONE_IN``, by a hash."""
    groups: dict[str, set[str]] = {}
    for passage in passages:
        groups.setdefault(passage.source, set()).add(passage.group)
    return {
        group
        for source, found in groups.items()
        if source != "esconv"
        for group in sorted(found, key=lambda group: hashlib.sha256(group.encode()).digest())[
            : -(-len(found) // ONE_IN)
        ]
    }


def words(text: str) -> list[str]:
    """Lower-case words, what n-grams are counted over."""
    return re.findall(r"[a-z0-9']+", text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams of words of ``text``."""
    said = words(text)
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}


_AGAIN = "put the published file there again (data/registry.json has its checksum)"


def _joined(utterances: Iterable[tuple[str, str]]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for role, text in utterances:
        if messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].text} {text}")
        else:
            messages.append(Message(role, text))
    return tuple(messages)


def _spoken(text: str) -> str:
    """A line of a transcript without the transcriber's remarks in brackets and the dashes of interrupted speech."""
    return fold(re.sub(r"^\s*-+|-+\s*$", "", re.sub(r"\[[^\]]*\]", " ", text)))


def _detokenised(text: str) -> str:
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"(\w) ' (s|m|t|re|ve|ll|d|S|M|T)\b", r"\1'\2", text)
    text = re.sub(r"\s+([.,!?;:%)])", r"\1", text)
    return fold(re.sub(r"([($])\s+", r"\1", text))

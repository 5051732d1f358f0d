"""Dialogues and turns: the two types that every later room starts from.

All are frozen dataclasses with stable ids, so that any intermediate result can be joined back to the dialogue it
came from: ``esconv/0123`` is a dialogue and ``esconv/0123/07`` the utterance with index 7 (0-based) in it.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["seeker", "supporter"]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Utterance:
    """One line of a dialogue as published, white space folded."""

    id: str
    role: Role
    text: str
    strategy: str | None = None
    """The supporter's strategy (one of ``taxonomy.STRATEGIES``); None for the seeker."""
    feedback: int | None = None
    """The seeker's rating, 1 to 5, of the supporter's last utterances, where one was given."""


@dataclass(frozen=True)
class Survey:
    """What both sides answered after the talk: intensities and ratings on 1 to 5, None where not answered."""

    initial_intensity: int | None = None
    final_intensity: int | None = None
    empathy: int | None = None
    relevance: int | None = None
    supporter_relevance: int | None = None


@dataclass(frozen=True)
class Dialogue:
    """One conversation between a seeker and a supporter."""

    id: str
    utterances: tuple[Utterance, ...]
    split: Split | None = None
    experience_type: str = ""
    emotion_type: str = ""
    problem_type: str = ""
    situation: str = ""
    survey: Survey = field(default_factory=Survey)


@dataclass(frozen=True)
class Message:
    """One message of the chat form (see :func:`decoupled_esc.corpus.chat_form`)."""

    role: Role
    text: str
    strategy: str | None = None


@dataclass(frozen=True)
class Turn:
    """The unit of training and evaluation: what a supporter said, and everything said before it.

    ``context`` is the chat form up to this turn; it alternates seeker and supporter and ends on the seeker.
    """

    id: str
    dialogue: str
    context: tuple[Message, ...]
    strategy: str
    reply: str


@dataclass(frozen=True)
class Flaw:
    """Something the published data set itself has wrong, kept or skipped by rule and always counted."""

    file: str
    dialogue: str
    what: str


@dataclass(frozen=True)
class Corpus:
    """A data set in memory, with where it came from."""

    name: str
    dialogues: tuple[Dialogue, ...]
    flaws: tuple[Flaw, ...] = ()
    origin: str = ""

    def split(self, split: Split) -> tuple[Dialogue, ...]:
        """The dialogues of one split, in id order."""
        return tuple(d for d in self.dialogues if d.split == split)

    @property
    def digest(self) -> str:
        """sha256 (hex) of what was said, by whom, with which strategy, and of the split.

        The identity of this data in every stored result.  Per-turn feedback is left out: only one of ESConv's two
        published formats has it, and the same dialogues must have the same identity.
        """
        sha = hashlib.sha256()
        for d in self.dialogues:
            said = [(u.id, u.role, u.strategy, u.text) for u in d.utterances]
            sha.update(json.dumps([d.id, d.split, said], ensure_ascii=False).encode() + b"\n")
        return sha.hexdigest()

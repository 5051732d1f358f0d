"""ESC-Pro as files: preferred turns and what is rejected for them, as training takes them (CSO, section 3.2)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from decoupled_esc.corpus import CorpusError, Dialogue, Message, Turn, Utterance, extes, fold, tagged, turns
from decoupled_esc.corpus.readers import HALF, NO_CHARACTER, DataFile
from decoupled_esc.files import read_as, write_rows
from decoupled_esc.search.pairs import Preferred


@dataclass(frozen=True)
class ProPair:
    """A preferred turn and one rejected (strategy, reply)."""

    id: str
    turn: Turn
    strategy: str
    reply: str

    @property
    def rejected(self) -> str:
        """``[Strategy] reply``."""
        return tagged(Message("supporter", self.reply, self.strategy))


def pairs(turns: Iterable[Preferred]) -> list[ProPair]:
    """A pair for each rejected sibling of each preferred turn (Eq. 6), the turns of a tree together."""
    return [
        ProPair(f"{one.turn.id}#{other.id.rpartition('.')[2]}", one.turn, other.strategy, other.reply)
        for one in turns for other in one.rejected
    ]  # fmt: skip


def write(path: Path, found: Iterable[ProPair]) -> None:
    """One JSON line per pair, with all that was said before."""

    def row(pair: ProPair) -> dict:
        rejected = {"rejected_strategy": pair.strategy, "rejected_reply": pair.reply}
        return {"id": pair.id} | _said(pair.turn) | rejected

    write_rows(path, map(row, found))


def read(path: Path) -> list[ProPair]:
    """The pairs of `write`.  Raises RowsError, naming file, line and field, for anything else."""
    rows = read_as(path, "ESC-Pro", _PairRow, "esc-pro")
    return [ProPair(row.id, row.said(), row.rejected_strategy, row.rejected_reply) for row in rows]


def write_turns(path: Path, turns: Iterable[Turn]) -> None:
    """ESC-Pro-SFT: one JSON line per preferred turn (section 5.1)."""
    write_rows(path, map(_said, turns))


def read_turns(path: Path) -> list[Turn]:
    """The turns of `write_turns`.  Raises as `read` does."""
    return [row.said() for row in read_as(path, "ESC-Pro", _TurnRow, "esc-pro")]


class _TurnRow(BaseModel):
    turn: str
    dialogue: str
    context: list[Message]
    strategy: str
    reply: str

    def said(self) -> Turn:
        return Turn(self.turn, self.dialogue, tuple(self.context), self.strategy, self.reply)


class _PairRow(_TurnRow):
    id: str
    rejected_strategy: str
    rejected_reply: str


def _said(turn: Turn) -> dict:
    head = {"turn": turn.id, "dialogue": turn.dialogue, "context": [asdict(message) for message in turn.context]}
    return head | {"strategy": turn.strategy, "reply": turn.reply}


def _strategy(name: str) -> str:
    if (strategy := extes.esconv_strategy(name)) is None:
        raise ValueError(f"{name!r} is none of CSO's eight strategies")
    return strategy


def _text(text: str) -> str:
    if re.search(HALF, text):
        raise ValueError(NO_CHARACTER)
    return fold(text)


class _Seeker(BaseModel):
    role: Literal["user"]
    content: Annotated[str, AfterValidator(_text)]


class _Choice(BaseModel):
    strategy: Annotated[str, AfterValidator(_strategy)]
    content: Annotated[str, AfterValidator(_text), Field(pattern=r"\S")]


class _Supporter(_Choice):
    role: Literal["assistant"]
    negative: list[_Choice] = []


class _Published(BaseModel):
    messages: list[Annotated[_Seeker | _Supporter, Field(discriminator="role")]]


def read_published(path: Path) -> tuple[list[ProPair], list[Turn]]:
    """ESC-Pro as its authors published it (`ESC-Pro.json`): the pairs, and all preferred turns, in ESConv's strategies.

    Turn ids are ``esc-pro/0003/05``, dialogue 3's utterance 5, and a pair's is its turn's with ``#`` and the number of
    what is rejected.  Raises CorpusError naming file, dialogue and field for anything of another form.
    """
    remedy = "put ESC-Pro.json there, a JSON list of {messages: [{role, content, strategy, negative}]}"
    found, preferred = [], []
    for number, row in enumerate(DataFile(path, remedy).rows("dialogues")):
        try:
            messages = _Published.model_validate(row).messages
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "dialogue"
            raise CorpusError(first["msg"], file=path.name, dialogue=number, field=field, remedy=remedy) from None
        id, utterances, rejected = f"esc-pro/{number:04d}", [], {}
        for place, message in enumerate(messages):
            own = f"{id}/{place:02d}"
            if message.role == "assistant":
                utterances.append(Utterance(own, "supporter", message.content, message.strategy))
                rejected[own] = message.negative
            elif message.content:
                utterances.append(Utterance(own, "seeker", message.content))
        for turn in turns(Dialogue(id, tuple(utterances))):
            preferred.append(turn)
            others = enumerate(rejected[turn.id])
            found += [ProPair(f"{turn.id}#{k}", turn, other.strategy, other.content) for k, other in others]
    return found, preferred


def turns_of(found: Sequence[ProPair]) -> list[Turn]:
    """The preferred turns of ``found``, each once."""
    return list({pair.turn.id: pair.turn for pair in found}.values())


def some(found: Sequence[ProPair], share: float) -> list[ProPair]:
    """The pairs of the first ``share`` of the trees that have any (Figure 4)."""
    trees = list(dict.fromkeys(pair.turn.dialogue for pair in found))
    kept = set(trees[: round(share * len(trees))])
    return [pair for pair in found if pair.turn.dialogue in kept]

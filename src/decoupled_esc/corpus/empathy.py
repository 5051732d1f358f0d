"""Replies to people in distress on Reddit, rated by people for three mechanisms of empathy (Sharma et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.readers import read_csv

FILES = {
    "emotional reactions": "emotional-reactions-reddit.csv",
    "interpretations": "interpretations-reddit.csv",
    "explorations": "explorations-reddit.csv",
}
"""Mechanism -> file: warmth and concern expressed; understanding communicated; asking for what was not said."""

MECHANISMS = tuple(FILES)


@dataclass(frozen=True)
class RatedReply:
    """One reply and how strongly it shows one mechanism: 0 not at all, 1 weakly, 2 strongly."""

    post: str
    """Id of the post that it answers."""
    mechanism: str
    reply: str
    level: int


def read(folder: Path) -> list[RatedReply]:
    """All ratings in ``folder``.  Raises CorpusError naming file, row and field for any other form."""
    found = []
    for mechanism, name in FILES.items():
        for number, row in read_csv(folder / name, ("sp_id", "response_post", "level"), _AGAIN):
            if row["level"] not in ("0", "1", "2"):
                problem = f"expected 0, 1 or 2, got {row['level']!r}"
                raise CorpusError(problem, file=name, field=f"row {number}, level", remedy=_AGAIN)
            found.append(RatedReply(row["sp_id"], mechanism, row["response_post"], int(row["level"])))
    return found


_AGAIN = "fetch the files again: decoupled-esc data fetch empathy_mental_health"


def by_mechanism(rated: Sequence[RatedReply]) -> dict[str, list[RatedReply]]:
    """The ratings of each mechanism, in ``MECHANISMS``' order."""
    return {mechanism: [row for row in rated if row.mechanism == mechanism] for mechanism in MECHANISMS}

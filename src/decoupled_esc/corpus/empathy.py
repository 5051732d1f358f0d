"""Replies to people in distress on Reddit, rated by people for three mechanisms of empathy (Sharma et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc.corpus.readers import DataFile

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
        file = DataFile(folder / name, "fetch the files again: decoupled-esc data fetch empathy_mental_health")
        for number, row in file.table(("sp_id", "response_post", "level")):
            if row["level"] not in ("0", "1", "2"):
                raise file.odd(f"expected 0, 1 or 2, got {row['level']!r}", f"row {number}, level")
            found.append(RatedReply(row["sp_id"], mechanism, row["response_post"], int(row["level"])))
    return found


def by_mechanism(rated: Sequence[RatedReply]) -> dict[str, list[RatedReply]]:
    """The ratings of each mechanism, in ``MECHANISMS``' order."""
    return {mechanism: [row for row in rated if row.mechanism == mechanism] for mechanism in MECHANISMS}

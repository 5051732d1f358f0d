"""The paper's 8:1:1 split of ESConv, committed as hashes of what supporters said (facts, not text).

The 130 test and 130 validation dialogues were published in chat form, and are found by their supporter utterances among
ESConv's 1,300; the rest is the training split.  ``data/esconv_split.tsv`` has a line a dialogue, hash and split, in the
order of their numbers, so that ids do not depend on which published format was read.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.readers import DataFile, fold
from decoupled_esc.corpus.types import Dialogue, Split

MANIFEST = Path(__file__).parents[3] / "data" / "esconv_split.tsv"


def dialogue_hash(supporter_texts: Iterable[str]) -> str:
    """16 hex digits that identify a dialogue by its supporter's utterances, white space and case folded."""
    folded = "\n".join(fold(text).lower() for text in supporter_texts)
    return hashlib.sha256(folded.encode()).hexdigest()[:16]


def read_manifest(path: Path = MANIFEST) -> dict[str, tuple[int, Split]]:
    """Hash -> (number, split) for the 1,300 dialogues."""
    found: dict[str, tuple[int, Split]] = {}
    file = DataFile(path, "restore it with git")
    for line in file.text().splitlines():
        if line and not line.startswith("#"):
            digest, _, split = line.partition("\t")
            if split not in ("train", "validation", "test") or digest in found:
                raise file.odd("no new hash and split", repr(line))
            found[digest] = len(found), split
    return found


def manifest_digests(path: Path = MANIFEST) -> dict[str, str]:
    """Name -> ``Corpus.digest`` of the published data that this book's results were made from."""
    lines = DataFile(path, "restore it with git").text().splitlines()
    return {name: digest for _, _, name, digest in (line.split() for line in lines if line.startswith("# digest "))}


def assign(dialogues: Iterable[Dialogue], manifest: dict[str, tuple[int, Split]]) -> list[Dialogue]:
    """The same dialogues with the manifest's ids and splits, in id order.

    Raises CorpusError when a dialogue is not in the manifest, or one of the manifest is missing.
    """
    numbered = {}
    for dialogue in dialogues:
        digest = dialogue_hash(u.text for u in dialogue.utterances if u.role == "supporter")
        if digest not in manifest:
            raise CorpusError("not one of ESConv's 1,300 dialogues", dialogue=dialogue.id, remedy=_REMEDY)
        if digest in numbered:
            raise CorpusError("stands in the data twice", file="ESConv", dialogue=dialogue.id, remedy=_REMEDY)
        number, split = manifest[digest]
        id = f"esconv/{number:04d}"
        utterances = tuple(replace(u, id=f"{id}/{i:02d}") for i, u in enumerate(dialogue.utterances))
        numbered[digest] = replace(dialogue, id=id, split=split, utterances=utterances)
    if len(numbered) != len(manifest):
        problem = f"{len(numbered):,} of {len(manifest):,} dialogues found"
        raise CorpusError(problem, file="ESConv", remedy=_REMEDY)
    return sorted(numbered.values(), key=lambda d: d.id)


def assign_by_position(dialogues: list[Dialogue]) -> list[Dialogue]:
    """An 8:1:1 split by position, for a corpus without a published one (the miniature)."""
    tenth = max(1, len(dialogues) // 8)
    first_validation, first_test = len(dialogues) - 2 * tenth, len(dialogues) - tenth
    return [
        replace(d, split="test" if i >= first_test else "validation" if i >= first_validation else "train")
        for i, d in enumerate(dialogues)
    ]


_REMEDY = "check the files with: decoupled-esc data verify esconv"

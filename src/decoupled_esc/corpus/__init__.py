"""Dialogues: where they come from, how they are read, split, put in chat form and counted."""

from decoupled_esc.corpus import extes
from decoupled_esc.corpus.chat import BLANK, OPENING, chat_form, tagged, turns
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.fetch import Located, locate
from decoupled_esc.corpus.readers import fold, read_hub, read_raw
from decoupled_esc.corpus.split import assign, assign_by_position, manifest_digests, read_manifest
from decoupled_esc.corpus.types import Corpus, Dialogue, Flaw, Message, Split, Survey, Turn, Utterance


def load(name: str, *, download: bool = True) -> Corpus:
    """A data set in memory: ``esconv`` (with the paper's split), ``failed_esconv`` or ``extes`` (no split).

    ``download=False`` keeps off the network.  The miniature stands in, with a notice, where the real data cannot be
    had; its corpus is then named ``miniature``.  Raises CorpusError for anything wrong with the data.
    """
    found = locate(name, download=download)
    synthetic = found.origin == "miniature"
    prefix = f"miniature-{name}" if synthetic else name
    if found.format == "hub":
        dialogues, flaws = read_hub(found.paths, prefix)
    elif found.format == "raw":
        dialogues, flaws = read_raw(found.paths[0], prefix)
    elif found.format == "extes":
        dialogues, flaws = extes.read(found.paths[0])
    else:
        raise CorpusError(f"{name} is no data set of dialogues", remedy="use esconv, failed_esconv or extes")
    if name == "esconv":
        dialogues = assign_by_position(dialogues) if synthetic else assign(dialogues, read_manifest())
    return Corpus("miniature" if synthetic else name, tuple(dialogues), tuple(flaws), found.origin)

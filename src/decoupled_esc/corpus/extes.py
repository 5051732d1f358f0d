"""ExTES (Zheng et al. 2024), whose dialogues CSO's search starts from, under the eight strategies of ESConv.

It is not downloaded: `ExTES.json` is in a zip of pandazzh2020/ExTES, and a copy of yours is read where the registry
says (`extes/ExTES.json` in the folder of DECOUPLED_ESC_DATA or in the cache).
"""

from pathlib import Path

from decoupled_esc.corpus.readers import DataFile, fold
from decoupled_esc.corpus.types import Dialogue, Flaw, Utterance

TO_ESCONV = {
    "Clarification": "Question",
    "Reflective Statements": "Restatement or Paraphrasing",
    "Emotional Validation": "Reflection of feelings",
    "Empathetic Statements": "Reflection of feelings",
    "Affirmation": "Affirmation and Reassurance",
    "Offer Hope": "Affirmation and Reassurance",
    "Avoid Judgment and Criticism": "Affirmation and Reassurance",
    "Normalize Experiences": "Affirmation and Reassurance",
    "Reframe Negative Thoughts": "Affirmation and Reassurance",
    "Suggest Options": "Providing Suggestions",
    "Collaborative Planning": "Providing Suggestions",
    "Stress Management": "Providing Suggestions",
    "Promote Self-Care Practices": "Providing Suggestions",
    "Provide Different Perspectives": "Information",
    "Share Information": "Information",
}
"""The fifteen strategies of ExTES, eight of which are CSO's -> those of ESConv.  Our reading of both definitions."""

_BY_NAME = {name.lower(): strategy for name, strategy in TO_ESCONV.items()}


def esconv_strategy(name: str) -> str | None:
    """The strategy of ESConv for one of ExTES or CSO, white space and case folded; None for another name."""
    return _BY_NAME.get(fold(name).lower())


def read(path: Path) -> tuple[list[Dialogue], list[Flaw]]:
    """The dialogues of ``ExTES.json``, and what it has wrong; ids ``extes/0000`` by position, no split.

    A dialogue with a strategy that is none of the fifteen, or in which no supporter speaks, is skipped and counted; so
    is an utterance without text.  Raises CorpusError naming file, dialogue and field for anything of another form.
    """
    found, flaws = [], []
    file = DataFile(path, "put ExTES.json of pandazzh2020/ExTES there, a JSON list of {scene, description, content}")
    for number, entry in enumerate(file.rows("dialogues")):
        id, where, utterances, odd = f"extes/{number:04d}", f"dialogue {number}", [], []
        lines = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(lines, list):
            raise file.odd("expected a list", f"{where}, content")
        for place, line in enumerate(lines):
            at = f"{where}, content[{place}]"
            said = {key.lower(): value for key, value in line.items()} if isinstance(line, dict) else None
            seeker = said and "user" in said
            text = fold(file.text_of(said, "user" if seeker else "ai", at))
            strategy = None if seeker else esconv_strategy(named := file.text_of(said, "ai strategy", at))
            if not text:
                flaws.append(Flaw(path.name, id, "utterance without text"))
                continue
            if not seeker and strategy is None:
                odd.append(f"unknown strategy {fold(named)!r}")
            role = "seeker" if seeker else "supporter"
            utterances.append(Utterance(f"{id}/{len(utterances):02d}", role, text, strategy))
        if not any(utterance.role == "supporter" for utterance in utterances):
            odd.append("no supporter speaks")
        if odd:
            flaws.append(Flaw(path.name, id, odd[0]))
            continue
        own = (fold(file.text_of(entry, key, where)) if key in entry else "" for key in ("scene", "description"))
        scene, situation = own
        found.append(Dialogue(id, tuple(utterances), problem_type=scene, situation=situation))
    return found, flaws

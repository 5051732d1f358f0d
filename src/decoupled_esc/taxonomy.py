"""The closed vocabularies of both papers: support strategies, psychological errors, dialogue stages.

Names are spelled as ESConv spells them, because models are trained to print them and metrics compare them
letter by letter.  The order is that of Table 6 of DecoupledESC and is the order of every 8-vector and 8 x 8
matrix in this library.
"""

from typing import NamedTuple


class Strategy(NamedTuple):
    """One of the eight helping skills annotated in ESConv (Liu et al. 2021, after Hill 1999)."""

    name: str
    abbreviation: str
    meaning: str


ESCONV: tuple[Strategy, ...] = (
    Strategy("Question", "Qu", "asks about the problem, to help the seeker put it into words"),
    Strategy("Restatement or Paraphrasing", "RP", "says the seeker's point back, shorter and clearer"),
    Strategy("Reflection of feelings", "RF", "names what the seeker feels"),
    Strategy("Self-disclosure", "Sd", "shares an experience or feeling of the supporter's own"),
    Strategy("Affirmation and Reassurance", "AR", "points to the seeker's strengths and encourages"),
    Strategy("Providing Suggestions", "PS", "offers something to try, without telling what to do"),
    Strategy("Information", "In", "gives facts, resources or answers"),
    Strategy("Others", "Ot", "greets, thanks, or does anything not named above"),
)

STRATEGIES: tuple[str, ...] = tuple(s.name for s in ESCONV)
"""The eight names; position ``i`` is index ``i`` of every strategy vector and confusion matrix."""

# Earlier spellings, found in FailedESConv (196 dialogues collected before the names settled).
STRATEGY_SYNONYMS: dict[str, str] = {
    "Questions": "Question",
    "Restatement": "Restatement or Paraphrasing",
    "Reflection of Feelings": "Reflection of feelings",
    "Approval and Reassurance": "Affirmation and Reassurance",
    "Direct Guidance": "Providing Suggestions",
    "Other": "Others",
}


class PsychologicalError(NamedTuple):
    """One way in which a supporter's reply can fail (DecoupledESC, appendix A.2; definitions in our words)."""

    name: str
    abbreviation: str
    meaning: str


PSYCHOLOGICAL_ERRORS: tuple[PsychologicalError, ...] = (
    PsychologicalError("Strategy Mismatch", "SM", "the kind of help offered does not fit where the seeker is now"),
    PsychologicalError("Lack of Empathy", "LE", "what the seeker feels is passed over, or waved away"),
    PsychologicalError("Early Emotion Shift", "ES", "it turns to comfort or solutions before the feeling has been met"),
    PsychologicalError("Template Response", "TR", "a stock phrase that could stand in any conversation"),
    PsychologicalError("Emotion Misread", "EM", "it answers a feeling that the seeker does not have"),
)

ERRORS: tuple[str, ...] = tuple(e.name for e in PSYCHOLOGICAL_ERRORS)
"""The five names, in the paper's order."""

NO_ERROR = "None"
"""The sixth answer of an error judge: nothing is wrong with the reply."""

STAGES = 6
"""A turn's relative position falls in one of six stages, 0 to 5, in steps of 0.2 (CSO, section 4.3)."""


def stage(position: int, length: int) -> int:
    """Stage 0..5 of the turn at ``position`` (0-based) in a dialogue of ``length`` turns.

    The relative position t/T with t counted from 0 and T the last index is rounded to the nearest multiple of
    0.2; halves round up.  A one-turn dialogue is all stage 0.

    Raises ValueError when ``position`` lies outside the dialogue.
    """
    if not 0 <= position < length:
        raise ValueError(f"position {position} lies outside a dialogue of {length} turns")
    if length == 1:
        return 0
    return int(position / (length - 1) * (STAGES - 1) + 0.5)

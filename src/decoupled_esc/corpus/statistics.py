"""Counts behind Tables 1 and 6 and Figure 8 of DecoupledESC.  Pure functions of the dialogues."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus.chat import chat_form, tagged
from decoupled_esc.corpus.types import Dialogue


def size(dialogues: Sequence[Dialogue]) -> dict[str, dict[str, float]]:
    """Table 1's ESConv half: counts and means over the chat form, for all messages and for each side.

    Characters of the supporter (the paper's "assistant") include the strategy tag, as in the paper.
    """
    messages = [message for dialogue in dialogues for message in chat_form(dialogue)]
    seeker = [len(message.text) for message in messages if message.role == "seeker"]
    supporter = [len(tagged(message)) for message in messages if message.role == "supporter"]
    return {
        side: {
            "utterances": len(lengths),
            "turns_per_dialogue": len(lengths) / len(dialogues),
            "characters_per_utterance": float(np.mean(lengths)),
        }
        for side, lengths in (("total", seeker + supporter), ("assistant", supporter), ("user", seeker))
    }


def strategy_counts(dialogues: Iterable[Dialogue]) -> dict[str, int]:
    """Supporter utterances per strategy (Table 6), in the order of ``taxonomy.STRATEGIES``."""
    counts = Counter(utterance.strategy for dialogue in dialogues for utterance in dialogue.utterances)
    return {name: counts[name] for name in taxonomy.STRATEGIES}


def strategy_by_stage(dialogues: Iterable[Sequence[str | None]]) -> list[list[int]]:
    """Counts [6 stages][8 strategies] of supporters' turns (Figure 8; CSO, Figures 3 and 9).

    A dialogue is the strategies of its turns, None for a seeker's, which takes its place and is not counted.
    """
    counts = [[0] * len(taxonomy.STRATEGIES) for _ in range(taxonomy.STAGES)]
    for names in dialogues:
        for place, name in enumerate(names):
            if name is not None:
                counts[taxonomy.stage(place, len(names))][taxonomy.STRATEGIES.index(name)] += 1
    return counts


def blank_contexts(dialogues: Iterable[Dialogue]) -> tuple[int, int]:
    """(turns whose last seeker message is blank, all turns): what a judge shown only that message never sees."""
    messages = [chat_form(dialogue)[::2] for dialogue in dialogues]
    return sum(not m.text.strip() for side in messages for m in side), sum(map(len, messages))


def survey(dialogues: Iterable[Dialogue]) -> dict[str, dict]:
    """Mean and count of each survey answer (1 to 5) over the dialogues that gave it; None where none did.

    ``fall`` is the initial minus the final intensity, over the dialogues that gave both.
    """
    answers: dict[str, list[int]] = {}
    for dialogue in dialogues:
        for question, rating in vars(dialogue.survey).items():
            answers.setdefault(question, []).extend([] if rating is None else [rating])
        before, after = dialogue.survey.initial_intensity, dialogue.survey.final_intensity
        answers.setdefault("fall", []).extend([] if None in (before, after) else [before - after])
    return {
        question: {"mean": float(np.mean(ratings)) if ratings else None, "answers": len(ratings)}
        for question, ratings in answers.items()
    }

"""A strategy test set after Kang et al. (2024): short windows of dialogues, every strategy as often as any other.

The examples that Kang et al. published with their metric show the form of a window: some utterances from anywhere in a
conversation, the last of them the seeker's, and the supporter's next one is asked for.  That strategies are evenly spread
is our reading; CSO says only that its set follows theirs.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from decoupled_esc.corpus.chat import turns
from decoupled_esc.corpus.types import Dialogue, Turn

SHORTEST, LONGEST = 5, 15
"""Utterances before the supporter's."""


def strategy_test(dialogues: Sequence[Dialogue], seed: int = 0) -> list[Turn]:
    """Turns after ``SHORTEST`` to ``LONGEST`` utterances ending on the seeker's, as many per strategy as of the rarest.

    A turn's id is its utterance's, as in `corpus.turns`; its context is the chat form of the window alone.  ``seed``
    samples the turns and where each window begins.  A strategy without such turns is left out.  In the order of ids.
    """
    places: dict[str, list[tuple[Dialogue, int]]] = {}
    for dialogue in dialogues:
        said = dialogue.utterances
        for place in range(SHORTEST, len(said)):
            if said[place].role == "supporter" and said[place - 1].role == "seeker":
                places.setdefault(said[place].strategy, []).append((dialogue, place))
    rng, found = random.Random(seed), []
    each = min(map(len, places.values()), default=0)
    for strategy in sorted(places):
        for dialogue, place in rng.sample(places[strategy], each):
            length = rng.randint(SHORTEST, min(LONGEST, place))
            window = replace(dialogue, utterances=dialogue.utterances[place - length : place + 1])
            found.append(turns(window)[-1])
    return sorted(found, key=lambda turn: turn.id)

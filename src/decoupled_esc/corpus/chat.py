"""The chat form of a dialogue, exactly as DecoupledESC published its test split, and the turns cut from it."""

from decoupled_esc.corpus.types import Dialogue, Message, Turn

OPENING = "Hi"
"""Stands in for the seeker where the supporter speaks first."""
BLANK = " "
"""Stands in for the seeker between two supporter utterances in a row."""


def chat_form(dialogue: Dialogue) -> tuple[Message, ...]:
    """Alternating seeker and supporter messages, ending on the supporter.

    Consecutive seeker utterances are joined by one blank; each supporter utterance is a message of its own, with a
    blank seeker message between two in a row; what the seeker says after the last supporter utterance is dropped.
    """
    messages: list[Message] = []
    waiting: list[str] = []
    for utterance in dialogue.utterances:
        if utterance.role == "seeker":
            waiting.append(utterance.text)
            continue
        said = " ".join(waiting) if waiting else BLANK if messages else OPENING
        messages += [Message("seeker", said), Message("supporter", utterance.text, utterance.strategy)]
        waiting = []
    return tuple(messages)


def turns(dialogue: Dialogue) -> list[Turn]:
    """Every supporter message of the chat form as a turn, with the messages before it as its context.

    A turn's id is that of the supporter's utterance, so ``esconv/0123/07`` is the eighth utterance of dialogue 123.
    """
    messages = chat_form(dialogue)
    ids = [u.id for u in dialogue.utterances if u.role == "supporter"]
    return [
        Turn(id, dialogue.id, messages[: 2 * k + 1], messages[2 * k + 1].strategy, messages[2 * k + 1].text)
        for k, id in enumerate(ids)
    ]


def tagged(message: Message) -> str:
    """What the vanilla layout shows of a supporter's message: ``[Strategy] text``."""
    return f"[{message.strategy}] {message.text}"

"""The four roles played by models of our own in this process, for profiles that have no server to ask.

Supporter: the generator, under the strategy that is asked for.  Strategy: the planner's log-probabilities of all eight, so that
with a prior temperature of 1 the priors are the planner's probabilities.  Seeker: a model fine-tuned on what people who
sought support said next.  Reward: any function of replies, such as the offline judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from decoupled_esc.corpus import Dialogue, Message, Turn, chat_form, fold
from decoupled_esc.generate.local import Sampling, TransformersEngine
from decoupled_esc.prompts import Layout, Prompt, PromptTooLong, fit
from decoupled_esc.prompts import planner as planner_layout
from decoupled_esc.search.grow import RoleError
from decoupled_esc.search.roles import LocalRoles
from decoupled_esc.search.tree import Quality, Said, Task

SEEKER_ROLE = "You are a person who is having a hard time, talking with a peer supporter."
ENDS = "[ends]"
"""What the seeker model prints where a person said nothing more."""

Asked = tuple[str, Task, int]
"""(name of the tree, task, attempt)."""


def seeker(turn: Turn) -> Prompt:
    """The seeker's layout: the supporter is the user, the seeker the assistant; target what the seeker says next."""
    chat = tuple(("assistant" if m.role == "seeker" else "user", m.text) for m in turn.context)
    return Prompt(turn.id, (("system", SEEKER_ROLE), *chat), turn.reply)


def seeker_turns(dialogue: Dialogue) -> list[Turn]:
    """What the seeker does after each supporter's message, as turns from the other side.

    After the last one the seeker ends the talk (``ENDS``).  Where the supporter goes on without an answer there is nothing
    to learn, and no turn.
    """
    messages, found = chat_form(dialogue), []
    for k in range(1, len(messages), 2):
        said = messages[k + 1].text if k + 1 < len(messages) else ENDS
        if said.strip():
            found.append(Turn(f"{dialogue.id}/after-{k:02d}", dialogue.id, messages[: k + 1], "", said))
    return found


def parse_seeker(text: str) -> Said:
    """What a seeker model's answer means.  Raises RoleError where it is empty."""
    said = fold(text)
    if said.startswith(ENDS):
        return Said(fold(said[len(ENDS) :]) or None, True)
    if not said:
        raise RoleError("says nothing")
    return Said(said, False)


def roles(
    *, supporter: TransformersEngine, planner: TransformersEngine, seeker_model: TransformersEngine,
    reward: Callable[[list[Turn]], list[Quality]], generator_layout: Layout, strategies: Sequence[str], sampling: Sampling, window: int, seed: int,
) -> LocalRoles:  # fmt: skip
    """The four roles; an answer depends on ``seed``, the tree, the task and the attempt alone."""

    def prompts(engine: TransformersEngine, layout: Layout, asked: list[Asked]) -> tuple[list[Prompt], dict[str, object]]:
        """What to ask the model, and by id the errors of those that are too long for it."""
        found, errors = [], {}
        for one in asked:
            try:
                found.append(fit(_turn(*one), layout, engine.count, window - sampling.max_new_tokens)[0])
            except PromptTooLong:
                errors[_id(*one)] = RoleError("the talk does not fit into the window")
        return found, errors

    def spoken(engine: TransformersEngine, layout: Layout, asked: list[Asked], read: Callable[[str], object]) -> list:
        to_ask, answers = prompts(engine, layout, asked)
        for batch in engine.complete(to_ask, sampling, seed=seed):
            for completion in batch:
                answers[completion.id] = _usable(completion, read)
        return [answers[_id(*one)] for one in asked]

    def scored(asked: list[Asked]) -> list:
        to_ask, answers = prompts(planner, planner_layout, asked)
        for ids, rows in planner.score_choices(to_ask, strategies):
            answers |= {id: [round(value, 4) for value in row] for id, row in zip(ids, rows.tolist(), strict=True)}
        return [answers[_id(*one)] for one in asked]

    def paid(asked: list[Asked]) -> list:
        last = [(one, one[1].history[-1]) for one in asked]
        return reward([replace(_turn(*one), context=one[1].history[:-1], strategy=m.strategy, reply=m.text) for one, m in last])

    return LocalRoles(
        {
            "supporter": lambda asked: spoken(supporter, generator_layout, asked, _reply),
            "seeker": lambda asked: spoken(seeker_model, seeker, asked, parse_seeker),
            "strategies": scored,
            "reward": paid,
        }
    )


def _id(tree: str, task: Task, attempt: int) -> str:
    return f"{tree}/{task.id}" + f"+{attempt}" * (attempt > 0)


def _turn(tree: str, task: Task, attempt: int) -> Turn:
    context: tuple[Message, ...] = task.history
    return Turn(_id(tree, task, attempt), tree, context, task.strategy or "", "")


def _reply(text: str) -> str:
    if not fold(text):
        raise RoleError("says nothing")
    return fold(text)


def _usable(completion, read: Callable[[str], object]):
    """What was said, or the RoleError that says why not."""
    if not completion.finished:
        return RoleError("finds no end")
    try:
        return read(completion.text)
    except RoleError as error:
        return error

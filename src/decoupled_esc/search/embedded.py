"""The four roles of the search as models of our own in this process, for profiles that have no server to ask.

Supporter: the generator.  Strategies: the planner's log-probabilities, which with a prior temperature of 1 make its
probabilities the priors.  Seeker: a model fine-tuned on what seekers said next.  Reward: any function of replies.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from decoupled_esc.corpus import Dialogue, Turn, chat_form, fold
from decoupled_esc.generate.engine import Engine, Sampling
from decoupled_esc.prompts import Layout, Prompt, PromptTooLong, fit
from decoupled_esc.prompts import planner as planner_layout
from decoupled_esc.search.grow import RoleError
from decoupled_esc.search.roles import Asked, LocalRoles
from decoupled_esc.search.tree import Quality, SeekerTurn, Task

SEEKER_ROLE = "You are a person who is having a hard time, talking with a peer supporter."
ENDS = "[ends]"
"""What the seeker model prints where a person said nothing more."""


def seeker(turn: Turn) -> Prompt:
    """The seeker's layout: the supporter is the user, the seeker the assistant; target what the seeker says next."""
    chat = tuple(("assistant" if m.role == "seeker" else "user", m.text) for m in turn.context)
    return Prompt(turn.id, (("system", SEEKER_ROLE), *chat), turn.reply)


def seeker_turns(dialogue: Dialogue) -> list[Turn]:
    """What the seeker does after each supporter's message, as turns from the other side.

    After the last one that is what the seeker still says (the chat form drops it), or ``ENDS`` where that is nothing.
    Where the supporter goes on without an answer there is no turn.
    """
    messages, found = chat_form(dialogue), []
    after = itertools.takewhile(lambda utterance: utterance.role == "seeker", reversed(dialogue.utterances))
    last = " ".join(reversed([utterance.text for utterance in after])) or ENDS
    for k in range(1, len(messages), 2):
        said = messages[k + 1].text if k + 1 < len(messages) else last
        if said.strip():
            found.append(Turn(f"{dialogue.id}/after-{k:02d}", dialogue.id, messages[: k + 1], "", said))
    return found


def parse_seeker(text: str) -> SeekerTurn:
    """What a seeker model's answer means.  Raises RoleError where it is empty."""
    said = fold(text)
    if said.startswith(ENDS):
        return SeekerTurn(fold(said[len(ENDS) :]) or None, True)
    return SeekerTurn(_something(said), False)


def _something(text: str) -> str:
    if not fold(text):
        raise RoleError("says nothing")
    return fold(text)


def roles(
    *,
    supporter: Engine,
    planner: Engine,
    seeker_model: Engine,
    reward: Callable[[list[Turn]], list[Quality]],
    generator_layout: Layout,
    strategies: Sequence[str],
    sampling: Sampling,
    max_length: int,
    seed: int,
) -> LocalRoles:
    """The four roles; an answer depends on ``seed``, the tree, the task and the attempt alone."""

    def prompts(engine: Engine, layout: Layout, asked: list[Asked]) -> tuple[list[Prompt], dict]:
        """Prompts for the model, and by id the errors of those that are too long for it."""
        found, answers = [], {}
        for turn in map(_turn, asked):
            try:
                found.append(fit(turn, layout, engine.count, max_length - sampling.max_new_tokens)[0])
            except PromptTooLong:
                answers[turn.id] = RoleError("the conversation does not fit into max_length")
        return found, answers

    def complete(engine: Engine, layout: Layout, asked: list[Asked], read: Callable, role: str) -> list:
        found, answers = prompts(engine, layout, asked)
        for batch in engine.complete(found, sampling, seed=seed, purpose=f"GrowTrees/{role}"):
            for completion in batch:
                try:
                    answers[completion.id] = read(completion.text) if completion.finished else RoleError("finds no end")
                except RoleError as error:
                    answers[completion.id] = error
        return [answers[_turn(one).id] for one in asked]

    def score(asked: list[Asked]) -> list:
        found, answers = prompts(planner, planner_layout, asked)
        for ids, rows in planner.score_choices(found, strategies):
            answers |= {id: [round(x, 4) for x in row] for id, row in zip(ids, rows.tolist(), strict=True)}
        return [answers[_turn(one).id] for one in asked]

    def judge(asked: list[Asked]) -> list:
        turns = []
        for one in asked:
            *before, last = one[1].history
            turns.append(replace(_turn(one), context=tuple(before), strategy=last.strategy, reply=last.text))
        return reward(turns)

    return LocalRoles(
        {
            "supporter": lambda asked: complete(supporter, generator_layout, asked, _something, "supporter"),
            "seeker": lambda asked: complete(seeker_model, seeker, asked, parse_seeker, "seeker"),
            "strategies": score,
            "reward": judge,
        }
    )


def _turn(asked: tuple[str, Task, int]) -> Turn:
    """The turn that is asked for; its id names the tree, the task and a second or third attempt."""
    tree, task, attempt = asked
    return Turn(f"{tree}/{task.id}" + f"+{attempt}" * (attempt > 0), tree, task.history, task.strategy or "", "")

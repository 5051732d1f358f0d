"""From a turn to what a model is shown, and from what it prints back to a strategy and a reply.

Three layouts, after DecoupledESC section 5 (wording ours):

* *vanilla*: one model says ``[Strategy] reply``; the supporter's earlier messages carry their tags.
* *planner*: one user message holds the transcript; the target is the strategy's name.
* *generator*: the system message names the strategy; the dialogue follows as chat, without tags.

The generator has a second form, *trunk*, in which the strategy stands after the dialogue.  A dialogue's turns then share
all that comes before, and can be trained and sampled in one pass (``turn_trees``); the paper's form shares almost nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message, Turn, fold, tagged


@dataclass(frozen=True)
class Prompt:
    """What a model is shown for one turn: chat messages as (role, content), and the target it is trained on."""

    id: str
    messages: tuple[tuple[str, str], ...]
    target: str
    begun: str = ""
    """What the answer already begins with, so that a model goes on from there."""

    def chat(self) -> list[dict[str, str]]:
        """The messages in the form that ``tokenizer.apply_chat_template`` takes."""
        return [{"role": role, "content": content} for role, content in self.messages]


Layout = Callable[[Turn], Prompt]

_NAMES = ", ".join(taxonomy.STRATEGIES)

VANILLA_INSTRUCTION = (
    "You are a peer supporter talking with someone who is having a hard time. "
    "Begin each answer with the support strategy you chose, in square brackets, then give the answer itself. "
    f"Strategies: {_NAMES}."
)
PLANNER_INSTRUCTION = (
    "You advise a peer supporter. Read the talk so far and name the one strategy the supporter should use next. "
    f"Strategies: {_NAMES}. Answer with the name alone."
)
GENERATOR_ROLE = "You are a peer supporter talking with someone who is having a hard time."
GENERATOR_STRATEGY = "Your next answer uses the strategy {strategy}."


def vanilla(turn: Turn, *, with_tags: bool = True) -> Prompt:
    """The coupled layout: target ``[Strategy] reply``.  ``with_tags``: of the supporter's earlier messages."""
    messages = (("system", VANILLA_INSTRUCTION), *_chat(turn.context, with_tags=with_tags))
    return Prompt(turn.id, messages, tagged(Message("supporter", turn.reply, turn.strategy)))


def vanilla_under(turn: Turn) -> Prompt:
    """The coupled layout with the tag of ``turn.strategy`` printed already: target the reply."""
    return replace(vanilla(turn), target=turn.reply, begun=f"[{turn.strategy}]")


def planner(turn: Turn, *, with_tags: bool = False) -> Prompt:
    """The planner's layout: target the strategy's name.  ``with_tags``: of the supporter's earlier messages."""
    said = [(m.role, tagged(m) if with_tags and m.role == "supporter" else m.text) for m in turn.context]
    transcript = "\n".join(f"{role}: {text}" for role, text in said)
    return Prompt(turn.id, (("system", PLANNER_INSTRUCTION), ("user", transcript)), turn.strategy)


def generator(turn: Turn) -> Prompt:
    """The generator's layout under ``turn.strategy``, as in the paper: target the reply.

    To generate under another strategy, pass the turn with that strategy (``dataclasses.replace``).
    """
    instruction = f"{GENERATOR_ROLE} {GENERATOR_STRATEGY.format(strategy=turn.strategy)}"
    return Prompt(turn.id, (("system", instruction), *_chat(turn.context, with_tags=False)), turn.reply)


def generator_trunk(turn: Turn) -> Prompt:
    """The generator's layout with the strategy in a second system message, after the dialogue."""
    strategy = ("system", GENERATOR_STRATEGY.format(strategy=turn.strategy))
    return Prompt(turn.id, (("system", GENERATOR_ROLE), *_chat(turn.context, with_tags=False), strategy), turn.reply)


LAYOUTS: dict[str, Layout] = {
    "vanilla": vanilla,
    "planner": planner,
    "generator": generator,
    "generator-trunk": generator_trunk,
    "vanilla-no-tags": partial(vanilla, with_tags=False),
    "planner-tags": partial(planner, with_tags=True),
}
"""The last two are controls of chapter 19: who sees the earlier strategies is turned round."""


def _chat(context: tuple[Message, ...], *, with_tags: bool) -> list[tuple[str, str]]:
    return [
        ("user", m.text) if m.role == "seeker" else ("assistant", tagged(m) if with_tags else m.text) for m in context
    ]


class PromptTooLong(ValueError):
    """One message and the instruction alone exceed the window."""


def fit(turn: Turn, layout: Layout, count: Callable[[Prompt], int], window: int) -> tuple[Prompt, int]:
    """The prompt for ``turn`` with the oldest messages cut until ``count(prompt) <= window``; and how many were cut.

    Messages go in pairs (seeker, supporter), so that the context still opens with the seeker.  ``count`` gives
    tokens, and includes whatever must fit beside the prompt.  Raises PromptTooLong when one message alone is too long.
    """
    for start in range(0, len(turn.context), 2):
        prompt = layout(replace(turn, context=turn.context[start:]))
        if count(prompt) <= window:
            return prompt, start
    raise PromptTooLong(
        f"{turn.id}: the last message and the instruction do not fit in {window} tokens. Raise data.window in the profile"
    )


def chat_for(prompt: Prompt, tokenizer) -> list[dict[str, str]]:
    """The messages of ``prompt`` as this tokenizer's template takes them.

    Some templates know no system role (Gemma 2's is one): what would be said there stands before the user message that
    follows it, or after the last one.
    """
    known = _knows_system(tokenizer, getattr(tokenizer, "chat_template", None))
    return prompt.chat() if known else _without_system(prompt.chat())


@lru_cache(maxsize=8)
def _knows_system(tokenizer, template: str | None) -> bool:
    """Whether ``template``, which stands here for the cache's sake, renders a system message."""
    from jinja2.exceptions import TemplateError

    probe = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    try:
        return "be brief" in tokenizer.apply_chat_template(probe, tokenize=False)
    except TemplateError:
        return False


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            found.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            found.append(message)
    if waiting:
        last = max(n for n, message in enumerate(found) if message["role"] == "user")
        found[last] = {"role": "user", "content": "\n\n".join([found[last]["content"], *waiting])}
    return found


def render(prompt: Prompt, tokenizer) -> tuple[str, str]:
    """(what the model reads, what it should print) as text in the tokenizer's chat template.

    The second ends with the template's end of turn.  Raises ValueError for a template that renders a prompt
    differently once it is answered.
    """
    messages = chat_for(prompt, tokenizer)
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    said = {"role": "assistant", "content": prompt.target}
    answered = tokenizer.apply_chat_template([*messages, said], tokenize=False)
    if not answered.startswith(asked):
        raise ValueError(f"{prompt.id}: this chat template changes the prompt when the answer is added")
    return asked, answered[len(asked) :].rstrip("\n")


def ids(text: str, tokenizer) -> list[int]:
    """Token ids of ``text``, adding nothing: the template has put in every special token."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


_TAG = re.compile(r"^\s*\[([^\]\n]*)\]\s*(.*)$", re.DOTALL)
_BY_LOWER = {name.lower(): name for name in taxonomy.STRATEGIES}


def parse_strategy(text: str) -> str | None:
    """The strategy that ``text`` names, or None.

    Case, white space, brackets and a closing full stop are forgiven; anything else that is not exactly one of the
    eight names is invalid, and is counted as such by the metrics.
    """
    return _BY_LOWER.get(fold(text).strip("[]. ").lower())


def parse_tagged(text: str) -> tuple[str | None, str]:
    """(strategy or None, reply) of a vanilla model's answer ``[Strategy] reply``.

    Without brackets the whole answer is the reply; a tag that names no strategy is left out of it.
    """
    match = _TAG.match(text)
    if not match:
        return None, fold(text)
    return parse_strategy(match.group(1)), fold(match.group(2))

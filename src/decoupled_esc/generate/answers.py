"""Reading what a chat server sent: the completion in its response, and the answer in the completion's text."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ValidationError

from decoupled_esc.generate.record import Stored

MAX_COUNTED = 10**9
"""Tokens: a server that counts more for one answer does not know what it took."""
_ENDS = {"length": ", cut at the token limit", "content_filter": ", stopped by the server's content filter"}
_BEGUN = re.compile(r'\{\s*"[^"]*"\s*:')


class Misshapen(Exception):
    """Not a chat completion."""


@dataclass(frozen=True)
class Readable:
    """How many questions of one kind were answered in the form asked for."""

    questions: int
    first: int
    """At the first try."""
    read: int
    """Within ``client.MAX_PARSE_ATTEMPTS``."""
    calls: int
    """Answers of the server, those among them that were asked for again."""
    replaced: int = 0
    """Questions without a readable answer that a fixed answer stands in for."""


def readable(answers: Sequence[tuple[bool, int]], replaced: int = 0) -> Readable:
    """Counts over questions, each (whether its answer was read, tries)."""
    first = sum(was_read and tries == 1 for was_read, tries in answers)
    read = sum(was_read for was_read, _ in answers)
    return Readable(len(answers), first, read, sum(tries for _, tries in answers), replaced)


def chat_completion(text: str, model: str, worst: tuple[int, int]) -> Stored:
    """The chat completion in ``text``; one that does not say what it took is put down with the most it can have been.

    Raises Misshapen.
    """
    try:
        response = json.loads(text)
        # Half an emoji, where a reply was cut, could be written into no file.
        response = json.loads(json.dumps(response, ensure_ascii=False).encode(errors="replace"))
        _choice(response)
    except (ValueError, RecursionError):
        raise Misshapen from None
    usage = response.get("usage") if isinstance(response.get("usage"), dict) else {}
    taken = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    tokens = [n if type(n) is int and 0 <= n <= MAX_COUNTED else most for n, most in zip(taken, worst, strict=True)]
    return Stored(200, response, *tokens, str(response.get("model") or model))


def _choice(response: dict) -> dict:
    """The first choice of ``response``, whose message is a mapping.  Raises Misshapen."""
    try:
        choice = response["choices"][0]
        choice["message"].get("content"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Misshapen from None
    return choice


def read(stored: Stored, answer: type[BaseModel]) -> tuple[BaseModel | None, str | None, str]:
    """(what the answer says or None, why not, its text)."""
    if stored.status != 200:
        return None, str(stored.response.get("error")), ""
    try:
        choice = _choice(stored.response)
    except Misshapen:
        return None, "not a chat completion", ""
    text = choice["message"].get("content")
    text = text if isinstance(text, str) else ""
    if refusal := choice["message"].get("refusal"):
        return None, f"refused: {refusal}", text
    reason = choice.get("finish_reason")
    stopped = _ENDS.get(reason, "") if isinstance(reason, str) else ""
    found = list(_fitting(_objects(text), answer))
    if not found and not stopped:  # of what was cut, the last digit may be missing
        found = list(_fitting(_bare(text, answer), answer))[:1]
    if not found:
        return None, f"no answer in the form asked for{stopped}", text
    if any(one != found[0] for one in found):
        return None, "several answers that differ", text
    return found[0], None, text


def _fitting(values: Iterable[dict], answer: type[BaseModel]) -> Iterator[BaseModel]:
    for value in values:
        with suppress(ValidationError):
            yield answer.model_validate(value)


def _objects(text: str) -> Iterator[dict]:
    """The JSON objects in ``text``; what stands inside one is none of its own, nor is what follows one that breaks off."""
    decoder, end = json.JSONDecoder(), 0
    for start in (match.start() for match in re.finditer(r"\{", text)):
        if start < end:
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            if _BEGUN.match(text, start):
                return
            continue  # a brace in a sentence
        yield value


def _bare(text: str, answer: type[BaseModel]) -> Iterator[dict]:
    """What a text without objects may mean to an answer with one field: all of it, or the one number in it."""
    if len(answer.model_fields) != 1 or "{" in text:
        return
    (field,) = answer.model_fields
    yield {field: text.strip().strip("\"'`.")}
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    if len(numbers) == 1:
        yield {field: numbers[0]}


def masked(text: str, secret: str, least: int = 6) -> str:
    """``text`` with *** in place of ``secret`` and of any part of it of ``least`` characters: some servers repeat a wrong key."""
    least = min(least, len(secret))
    if len(secret) < 8:  # a placeholder
        return text
    parts = {secret[i : i + least] for i in range(len(secret) - least + 1)}
    hidden = {i + k for i in range(len(text) - least + 1) if text[i : i + least] in parts for k in range(least)}
    if not hidden:
        return text
    return re.sub("\0+", "***", "".join("\0" if i in hidden else letter for i, letter in enumerate(text)))


@lru_cache
def schema(answer: type[BaseModel]) -> dict:
    """The answer's form alone: a reworded docstring must not turn what was paid for into another request."""
    return _bare_form(answer.model_json_schema())


def _bare_form(node):
    if isinstance(node, list):
        return [_bare_form(part) for part in node]
    if not isinstance(node, dict):
        return node
    # A field may itself be called "title": what stands for a form there is a mapping, never text.
    return {
        key: _bare_form(part)
        for key, part in node.items()
        if not (key in ("title", "description") and isinstance(part, str))
    }

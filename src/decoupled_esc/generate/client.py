"""Asking any server that speaks OpenAI's chat protocol: many requests at once, each paid for once, within a budget.

    client = Client(Endpoint(model="gpt-4.1-mini-2025-04-14", max_dollars=5.0, ...), Record(path))
    answers = client.ask([Request("esconv/0123/07/empathy", messages, Score, max_new_tokens=20)])

Faults of the way (429, 5xx, silence, a connection cut) are tried again after a pause.  An answer that can't be read is asked
for again, and then missing for that request alone.  A stopped run goes on from its record.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from decoupled_esc import progress
from decoupled_esc.generate.record import Record, Stored, key

Mode = Literal["record", "replay", "live"]
"""``record``: stored answers are used, the others asked for and stored.  ``replay``: one that is not stored is an error.
``live``: everything is asked anew, and nothing stored answers or is stored."""

READINGS = 3
"""How often an answer that can't be read is asked for, in all."""
LONGEST_PAUSE = 120.0
"""Seconds: a server that wants a longer one has run out of quota for today."""
_PUBLIC = "https://api.openai.com/v1"


class Endpoint(BaseModel):
    """A server, what it costs, and how far it may be used.  The key itself stands in no file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    base_url: str | None = None
    """None: the environment's OPENAI_BASE_URL, or OpenAI's own."""
    key_from: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    in_flight: int = 32
    timeout_seconds: float = 120.0
    """For one whole answer."""
    attempts: int = 8
    """For one answer, faults of the way included."""
    dollars_per_million_in: float | None = None
    dollars_per_million_out: float | None = None
    max_tokens: int | None = None
    """Budget of tokens, in and out, over everything in the record."""
    max_dollars: float | None = None

    @property
    def address(self) -> str:
        """Where requests go."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or _PUBLIC


@dataclass(frozen=True)
class Request:
    """One question.  ``answer``: the pydantic model that the answer must fit, as JSON."""

    id: str
    messages: tuple[tuple[str, str], ...]
    answer: type[BaseModel]
    max_new_tokens: int
    temperature: float = 0.0
    sample: int = 0
    """Tells apart several draws of the same request."""

    def body(self, model: str) -> dict:
        """What identifies this request: all that its answer depends on."""
        return {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "schema": self.answer.model_json_schema(),
        }


@dataclass(frozen=True)
class Answer:
    """What came of one request; ``parsed`` None where nothing readable did, and ``why`` then says why."""

    id: str
    parsed: BaseModel | None
    why: str | None
    model: str
    text: str
    tokens_in: int
    tokens_out: int


class EndpointError(RuntimeError):
    """The server can't be used, or left requests unanswered; one line."""


class BudgetExceeded(EndpointError):
    """The next request could have gone beyond the budget."""


class ReplayMiss(EndpointError):
    """A record was to be replayed and lacks an answer."""


class Client:
    """Asks ``endpoint``, through ``record``."""

    def __init__(self, endpoint: Endpoint, record: Record, mode: Mode = "record"):
        if endpoint.max_dollars is not None and None in (endpoint.dollars_per_million_in, endpoint.dollars_per_million_out):
            raise EndpointError("max_dollars needs dollars_per_million_in and dollars_per_million_out")
        self.endpoint, self.record, self.mode = endpoint, record, mode
        self._format: Literal["json_schema", "json_object", "none"] = "json_schema"

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of ``requests``, shown with a bar; the worst cost is said first where anything must be asked.

        Raises BudgetExceeded, ReplayMiss, or EndpointError (no key, refused outright, or some requests unanswered after
        all attempts); what was received until then is in the record.
        """
        missing = [request for request in requests if self.mode == "live" or self._stored(request, 0) is None]
        if missing and self.mode == "replay":
            raise ReplayMiss(f"{len(missing)} of {len(requests)} answers are not in {self.record.path}, {missing[0].id} first; use mode record")
        if missing:
            print(self.estimate(missing), file=sys.stderr, flush=True)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_Run(self).all(requests))
        with ThreadPoolExecutor(1) as apart:  # a notebook has a loop of its own, which can't be waited in
            return apart.submit(lambda: asyncio.run(_Run(self).all(requests))).result()

    def estimate(self, requests: Sequence[Request]) -> str:
        """How many calls ``requests`` are, and what they take: about so much read, at most so much written, and paid."""
        read = sum(len(content) for request in requests for _, content in request.messages) // 4
        written = sum(request.max_new_tokens for request in requests)
        line = f"{self.endpoint.model}: {len(requests):,} calls, about {read:,} tokens in, at most {written:,} out"
        if self.endpoint.dollars_per_million_in is None or self.endpoint.dollars_per_million_out is None:
            return line
        return f"{line}, about ${self._dollars(read, written):.2f} at most"

    def _dollars(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.endpoint.dollars_per_million_in + tokens_out * self.endpoint.dollars_per_million_out) / 1e6

    def _stored(self, request: Request, attempt: int) -> Stored | None:
        if self.mode == "live":
            return None
        return self.record.get(key(request.body(self.endpoint.model)), request.sample, attempt)


class _Run:
    """One call of ``Client.ask``, in one event loop."""

    def __init__(self, client: Client):
        self.client, self.endpoint = client, client.endpoint
        self.pending: dict[tuple, asyncio.Future] = {}
        self.reserved = [0, 0]
        self.spent = list(client.record.spent())
        self.settled = asyncio.Condition()
        self.places = asyncio.Semaphore(client.endpoint.in_flight)
        self.stopped: EndpointError | None = None

    async def all(self, requests: Sequence[Request]) -> list[Answer]:
        import openai

        secret = os.environ.get(self.endpoint.key_from)
        if not secret and self.client.mode != "replay" and self.endpoint.address.startswith("https://api.openai.com"):
            raise EndpointError(f"set {self.endpoint.key_from} to your key, or base_url to a server of your own")
        async with openai.AsyncOpenAI(
            api_key=secret or "none", base_url=self.endpoint.address, max_retries=0, timeout=self.endpoint.timeout_seconds
        ) as self.server:
            with progress.bar(len(requests), f"asking {self.endpoint.model}") as bar:

                async def one(request: Request) -> Answer | EndpointError:
                    try:
                        return await self.answer(request)
                    except EndpointError as error:
                        return error
                    finally:
                        bar.update()

                found = await asyncio.gather(*map(one, requests))
        if self.stopped:
            raise self.stopped
        failed = [error for error in found if isinstance(error, EndpointError)]
        if failed:
            raise EndpointError(f"{len(failed)} of {len(requests)} requests were not answered, the first because {failed[0]}; run again to ask only these")
        return found

    async def answer(self, request: Request) -> Answer:
        for attempt in range(READINGS):
            stored = self.client._stored(request, attempt) or await self.fetched(request, attempt)
            parsed, why, text = read(stored, request.answer)
            if parsed is not None or stored.status != 200:
                break
        return Answer(request.id, parsed, why, stored.model, text, stored.tokens_in, stored.tokens_out)

    async def fetched(self, request: Request, attempt: int) -> Stored:
        """The answer from the server; the same question asked twice at once is sent once."""
        if self.client.mode == "replay":
            raise ReplayMiss(f"{request.id}: its answer is not in {self.client.record.path}; use mode record")
        name = (key(request.body(self.endpoint.model)), request.sample, attempt)
        if name in self.pending:
            return await asyncio.shield(self.pending[name])
        future = self.pending[name] = asyncio.get_running_loop().create_future()
        try:
            stored = await self.paid(request, attempt, "-".join(map(str, name)))
        except BaseException as error:
            self.pending.pop(name)
            future.set_exception(error)
            future.exception()  # looked at, so that asyncio does not complain where nobody else waits
            raise
        future.set_result(stored)
        if self.client.mode != "live":
            self.pending.pop(name)
        return stored

    async def paid(self, request: Request, attempt: int, name: str) -> Stored:
        """Send within the budget, and write down before anybody reads."""
        # A token is at least one byte, and a few more frame each message.
        worst = (sum(len(content.encode()) + 16 for _, content in request.messages) + 16, request.max_new_tokens)
        await self.reserve(worst)
        try:
            stored = await self.sent(request, name)
            if self.client.mode != "live":
                self.client.record.put(request.body(self.endpoint.model), request.sample, attempt, stored)
            self.spent[0] += stored.tokens_in
            self.spent[1] += stored.tokens_out
            return stored
        finally:
            async with self.settled:
                self.reserved[0] -= worst[0]
                self.reserved[1] -= worst[1]
                self.settled.notify_all()

    async def reserve(self, worst: tuple[int, int]) -> None:
        async with self.settled:
            while not self.stopped and self.beyond(worst, self.reserved):
                if not any(self.reserved):
                    spent = f"{sum(self.spent):,} tokens" if self.endpoint.max_dollars is None else f"${self.client._dollars(*self.spent):.2f}"
                    limit = "max_dollars" if self.endpoint.max_tokens is None else "max_tokens"
                    self.stopped = BudgetExceeded(f"the next request could exceed the budget ({spent} spent); raise {limit} and run again")
                    self.settled.notify_all()
                    break
                await self.settled.wait()  # what is in flight may turn out cheaper than feared
            if self.stopped:
                raise self.stopped
            self.reserved[0] += worst[0]
            self.reserved[1] += worst[1]

    def beyond(self, worst: tuple[int, int], reserved: Sequence[int]) -> bool:
        tokens = [self.spent[i] + reserved[i] + worst[i] for i in (0, 1)]
        if self.endpoint.max_tokens is not None and sum(tokens) > self.endpoint.max_tokens:
            return True
        return self.endpoint.max_dollars is not None and self.client._dollars(*tokens) > self.endpoint.max_dollars

    async def sent(self, request: Request, name: str) -> Stored:
        import openai

        why = ""
        for attempt in range(self.endpoint.attempts):
            pause = min(0.5 * 2**attempt, 8.0) * random.uniform(0.75, 1.0)
            try:
                async with self.places:  # a pause takes none
                    if self.stopped:
                        raise self.stopped
                    form = self.client._format
                    async with asyncio.timeout(self.endpoint.timeout_seconds):  # a server that drips is as bad as a silent one
                        raw = await self.server.chat.completions.with_raw_response.create(
                            **self.body(request, form), extra_headers={"Idempotency-Key": name}
                        )
                return _stored(json.loads(raw.http_response.text), self.endpoint.model)
            except (TimeoutError, openai.APITimeoutError):
                why = f"no answer within {self.endpoint.timeout_seconds:g} s"
            except openai.APIConnectionError as error:
                why = f"no connection ({error.__cause__ or error})"
            except openai.APIStatusError as error:
                why = _said(error)
                if self._falls_back(error, form):
                    continue
                if refusal := _refusal(error, self.endpoint.model):
                    return refusal
                wanted = _wanted_pause(error)
                if error.status_code not in (408, 409, 429) and error.status_code < 500 or wanted > LONGEST_PAUSE or "insufficient_quota" in why:
                    self.stopped = EndpointError(f"{self.endpoint.model} at {self.endpoint.address}: {why}")
                    raise self.stopped from None
                pause = wanted or pause
            except (ValueError, KeyError, TypeError, IndexError):
                why = "its answer was not in the form of a chat completion"
            if attempt + 1 < self.endpoint.attempts:
                await asyncio.sleep(pause)
        raise EndpointError(why)

    def body(self, request: Request, form: str) -> dict:
        body = request.body(self.endpoint.model)
        schema = body.pop("schema")
        if form == "json_schema":
            schema = {**schema, "additionalProperties": False}
            body["response_format"] = {"type": form, "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        elif form == "json_object":
            body["response_format"] = {"type": form}
        return body

    def _falls_back(self, error, form: str) -> bool:
        """Whether the server can't do what was asked of it about the answer's form, and is now asked for less."""
        weaker = {"json_schema": "json_object", "json_object": "none"}
        about = re.search(r"response_format|json_schema|json_object|schema|guided|extra|unsupported", _said(error), re.IGNORECASE)
        if error.status_code not in (400, 404, 415, 422, 501) or form not in weaker or not about:
            return False
        if self.client._format == form:
            self.client._format = weaker[form]
        return True


def _stored(response: dict, model: str) -> Stored:
    """Raises KeyError, IndexError or TypeError where ``response`` is no chat completion."""
    response["choices"][0]["message"]["content"]
    usage = response.get("usage") or {}
    return Stored(200, response, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), response.get("model") or model)


def _said(error) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or body.get("detail") or error.message
    code = body.get("code")
    return " ".join(f"status {error.status_code}: {said}{f' ({code})' if code else ''}".split())[:300]


def _refusal(error, model: str) -> Stored | None:
    """An error that is this request's answer: its content is refused, or too long."""
    if error.status_code == 400 and re.search(r"content_filter|content_policy|context_length|maximum context", _said(error)):
        return Stored(400, {"error": _said(error)}, 0, 0, model)
    return None


def _wanted_pause(error) -> float:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def read(stored: Stored, answer: type[BaseModel]) -> tuple[BaseModel | None, str | None, str]:
    """(what the answer says or None, why not, its text)."""
    if stored.status != 200:
        return None, stored.response["error"], ""
    choice = stored.response["choices"][0]
    text = choice["message"].get("content") or ""
    if refusal := choice["message"].get("refusal"):
        return None, f"refused: {refusal}", text
    for value in _candidates(text, answer):
        try:
            return answer.model_validate(value), None, text
        except ValidationError:
            continue
    cut = ", cut at the token limit" if choice.get("finish_reason") == "length" else ""
    return None, f"no answer in the form asked for{cut}", text


def _candidates(text: str, answer: type[BaseModel]):
    """Everything in ``text`` that may be meant: JSON objects first, then a bare value for an answer with one field."""
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            yield decoder.raw_decode(text, start)[0]
        except ValueError:
            continue
    if len(answer.model_fields) == 1 and "{" not in text:  # of an object cut short, the last digit may be missing
        (field,) = answer.model_fields
        yield {field: text.strip().strip("\"'`.")}
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
        if len(numbers) == 1:
            yield {field: numbers[0]}

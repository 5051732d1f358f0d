"""Asking any server that speaks OpenAI's chat protocol: many requests at once, none that was answered asked again, within a budget.

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
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from decoupled_esc import progress
from decoupled_esc.generate.record import Record, Stored, canonical, key

if TYPE_CHECKING:
    import openai

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
    base_url: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Of several servers of one model: each call goes to the next, and so does one that is tried again.  None: the
    environment's OPENAI_BASE_URL, or OpenAI's own."""
    key_from: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    in_flight: PositiveInt = 32
    """Calls at once, over all its servers."""
    timeout_seconds: PositiveFloat = 120.0
    """For one whole answer."""
    attempts: PositiveInt = 8
    """For one answer, faults of the way included."""
    dollars_per_million_in: NonNegativeFloat | None = None
    dollars_per_million_out: NonNegativeFloat | None = None
    max_tokens: int | None = None
    """Budget of tokens, in and out, over everything that this model answered in the record.

    A call whose answer never came may have been paid all the same: until the program ends, it counts with the most it
    could have cost.  So does, for good, an answer that does not say what it took.
    """
    max_dollars: float | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where requests go."""
        if isinstance(self.base_url, tuple):
            return self.base_url
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or _PUBLIC,)


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
            "schema": _schema(self.answer),
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
        self._unrecorded = [0, 0]  # tokens in and out that the record knows nothing of

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of ``requests``, shown with a bar; the worst cost is said first where anything must be asked.

        Raises BudgetExceeded, ReplayMiss, EndpointError (no key, refused outright, or some requests unanswered after all
        attempts), or RecordError; what was received until then is in the record.
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
        run = _Run(self)
        with ThreadPoolExecutor(1) as apart:  # a notebook has a loop of its own, which can't be waited in
            answers = apart.submit(lambda: asyncio.run(run.all(requests)))
            try:
                return answers.result()
            except KeyboardInterrupt:  # it reaches this thread alone, and the other one would go on spending
                run.interrupt()
                raise

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Callable[[Request], Awaitable[Answer]]]:
        """A function that asks one request, for callers that learn from each answer what to ask next.

        To be used in a running event loop, by as many tasks as there are; they share one budget and one bound on what is in
        flight.  The function raises as `ask` does.
        """
        run = _Run(self)
        async with run.connected():
            yield run.answer

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
        self.secret = (os.environ.get(self.endpoint.key_from) or "").strip()
        self.pending: dict[tuple, asyncio.Future] = {}
        self.reserved = [0, 0]
        self.recorded = list(client.record.spent(client.endpoint.model))
        self.settled = asyncio.Condition()
        self.places = asyncio.Semaphore(client.endpoint.in_flight)
        self.stopped: EndpointError | None = None
        self.stopping = asyncio.Event()
        # Asked anew is not repeated: a server that knows the name again would give the old answer.
        self.prefix = f"{secrets.token_hex(8)}-" if client.mode == "live" else ""
        self.interrupted, self.task = False, None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        import openai

        addresses = self.endpoint.addresses
        if not self.secret and self.client.mode != "replay" and any(address.startswith("https://api.openai.com") for address in addresses):
            raise EndpointError(
                f"{self.endpoint.model}: set {self.endpoint.key_from} to your key, or base_url to a server of your own "
                "(a profile without a judge has `judge: null`, one whose own models play the search's roles `roles: null`)"
            )
        async with AsyncExitStack() as stack:
            asked = [
                openai.AsyncOpenAI(api_key=self.secret or "none", base_url=address, max_retries=0, timeout=self.endpoint.timeout_seconds)
                for address in addresses
            ]
            self.servers = cycle([await stack.enter_async_context(server) for server in asked])
            yield

    async def all(self, requests: Sequence[Request]) -> list[Answer]:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        if self.interrupted:
            raise asyncio.CancelledError
        async with self.connected():
            with progress.bar(len(requests), f"asking {self.endpoint.model}") as bar:

                async def one(request: Request) -> Answer | EndpointError:
                    try:
                        return await self.answer(request)
                    except EndpointError as error:
                        return error
                    finally:
                        bar.update()

                found = await asyncio.gather(*map(one, requests))
        failed = [error for error in found if isinstance(error, EndpointError)]
        if self.stopped:
            raise type(self.stopped)(f"{self.stopped} ({len(failed)} of {len(requests)} requests are left to ask)")
        if failed and self.client.mode == "replay":
            raise failed[0]
        if failed:
            raise EndpointError(f"{len(failed)} of {len(requests)} requests were not answered, the first because {failed[0]}; run again to ask only these")
        return found

    def interrupt(self) -> None:
        """Called from another thread: send nothing more, and wait for nothing."""
        self.interrupted = True
        if self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)

    def stop(self, error: EndpointError) -> None:
        """Send nothing more; what is in flight is waited for.  To be called with ``settled`` held."""
        self.stopped = self.stopped or error
        self.stopping.set()
        self.settled.notify_all()

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
        """The server's answer, asked for again where the way is at fault; written down before anybody reads it."""
        import openai

        why, failures = "", 0
        while failures < self.endpoint.attempts:
            pause = min(0.5 * 2**failures, 8.0) * random.uniform(0.75, 1.0)
            try:
                async with self.places:  # a pause takes none
                    if self.stopped:
                        raise self.stopped
                    form, server = self.client._format, next(self.servers)
                    return await self.call(server, request, attempt, name, form)
            except (TimeoutError, openai.APITimeoutError):
                why = f"no answer within {self.endpoint.timeout_seconds:g} s"
            except openai.APIConnectionError as error:
                why = self._discreet(f"no connection ({error.__cause__ or error})")
            except openai.APIStatusError as error:
                why = self._discreet(_said(error))
                if _REFUSED.search(why) and error.status_code == 400:
                    refusal = Stored(400, {"error": why}, 0, 0, self.endpoint.model)
                    if self.client.mode != "live":
                        self.client.record.put(request.body(self.endpoint.model), request.sample, attempt, refusal)
                    return refusal
                if self._falls_back(error.status_code, why, form):
                    continue
                wanted = _wanted_pause(error.response.headers.get("retry-after", ""))
                if error.status_code not in (408, 409, 429) and error.status_code < 500 or wanted > LONGEST_PAUSE or "insufficient_quota" in why:
                    patience = f", and to wait {wanted:,.0f} s" if wanted > LONGEST_PAUSE else ""
                    async with self.settled:
                        self.stop(EndpointError(f"{self.endpoint.model} at {_shown(str(server.base_url))}: {why}{patience}"))
                    raise self.stopped from None
                pause = wanted or pause
            except _Misshapen:
                why = "its answer was not in the form of a chat completion"
            failures += 1
            if failures < self.endpoint.attempts:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), pause)
        raise EndpointError(why)

    async def call(self, server: openai.AsyncOpenAI, request: Request, attempt: int, name: str, form: str) -> Stored:
        """One call to ``server``, within the budget, its answer on the disk."""
        import openai

        body = self.body(request, form)
        # A token is at least one byte of what is sent; servers put some of their own around each message and before all.
        worst = (len(canonical(body).encode()) + 16 * len(request.messages) + 128, request.max_new_tokens)
        await self.reserve(worst)
        taken = worst  # until known better: what does not come back may have been paid
        try:
            # Of another form is another request: a server that knows the name again would give the old one's error.
            headers = {"Idempotency-Key": self.prefix + name + ("" if form == "json_schema" else f"-{form}")}
            async with asyncio.timeout(self.endpoint.timeout_seconds):  # a server that drips is as bad as a silent one
                raw = await server.chat.completions.with_raw_response.create(**body, extra_headers=headers)
            stored = _stored(raw.http_response.text, self.endpoint.model, worst)
            if self.client.mode == "live":
                taken = (stored.tokens_in, stored.tokens_out)
            else:
                self.client.record.put(request.body(self.endpoint.model), request.sample, attempt, stored)
                self.recorded[0] += stored.tokens_in
                self.recorded[1] += stored.tokens_out
                taken = (0, 0)
            return stored
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__.startswith("Connect"):  # nobody was there
                taken = (0, 0)
            raise
        except openai.APIStatusError as error:
            # A gateway's error may hide an answer that came too late for it; no other is paid.
            if error.status_code in (500, 503) or error.status_code < 500 and error.status_code != 408:
                taken = (0, 0)
            raise
        finally:
            for i in (0, 1):
                self.client._unrecorded[i] += taken[i]
                self.reserved[i] -= worst[i]
            async with self.settled:
                self.settled.notify_all()

    async def reserve(self, worst: tuple[int, int]) -> None:
        """Set ``worst`` (tokens in, out) aside in the budget, once there is room.  Raises BudgetExceeded where none will be."""
        async with self.settled:
            while not self.stopped and (limit := self.beyond(worst)):
                if not any(self.reserved):
                    spent = [self.recorded[i] + self.client._unrecorded[i] for i in (0, 1)]
                    said = f"{sum(spent):,} tokens" if limit == "max_tokens" else f"${self.client._dollars(*spent):.2f}"
                    self.stop(BudgetExceeded(f"the next request could exceed the budget ({said} spent); raise {limit} and run again"))
                    break
                await self.settled.wait()  # what is in flight may turn out cheaper than feared
            if self.stopped:
                raise self.stopped
            for i in (0, 1):
                self.reserved[i] += worst[i]

    def beyond(self, worst: tuple[int, int]) -> str | None:
        """The setting that another call of ``worst`` could go beyond, or None."""
        tokens = [self.recorded[i] + self.client._unrecorded[i] + self.reserved[i] + worst[i] for i in (0, 1)]
        if self.endpoint.max_tokens is not None and sum(tokens) > self.endpoint.max_tokens:
            return "max_tokens"
        if self.endpoint.max_dollars is not None and self.client._dollars(*tokens) > self.endpoint.max_dollars:
            return "max_dollars"
        return None

    def body(self, request: Request, form: str) -> dict:
        import openai

        body = request.body(self.endpoint.model)
        del body["schema"]
        if form == "json_schema":
            schema = openai.pydantic_function_tool(request.answer)["function"]["parameters"]  # as ``strict`` wants it
            body["response_format"] = {"type": form, "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        elif form == "json_object":
            body["response_format"] = {"type": form}
        return body

    def _falls_back(self, status: int, why: str, form: str) -> bool:
        """Whether the server can't do what was asked of it about the answer's form, and is now asked for less."""
        weaker = {"json_schema": "json_object", "json_object": "none"}
        about = re.search(r"response_format|json_schema|json_object|schema|guided|extra|unsupported", why, re.IGNORECASE)
        if status not in (400, 404, 415, 422, 501) or form not in weaker or not about:
            return False
        if self.client._format == form:
            self.client._format = weaker[form]
        return True

    def _discreet(self, text: str) -> str:
        """``text`` without the key: some servers repeat a wrong one."""
        return text.replace(self.secret, "***") if len(self.secret) > 7 else text  # shorter ones are placeholders


class _Misshapen(Exception):
    """Not a chat completion."""


_REFUSED = re.compile(r"content_filter|content_policy|context_length|maximum context")
"""In an error that is this request's answer: its content is refused, or too long."""


@lru_cache
def _schema(answer: type[BaseModel]) -> dict:
    """The answer's form alone: a reworded docstring must not turn what was paid for into another request."""
    return _bare_form(answer.model_json_schema())


def _bare_form(node):
    if isinstance(node, list):
        return [_bare_form(part) for part in node]
    if not isinstance(node, dict):
        return node
    # A field may itself be called "title": what stands for a form there is a mapping, never text.
    return {key: _bare_form(part) for key, part in node.items() if not (key in ("title", "description") and isinstance(part, str))}


def _stored(text: str, model: str, worst: tuple[int, int]) -> Stored:
    """The chat completion in ``text``; one that does not say what it took is put down with the most it can have been."""
    try:
        response = json.loads(text)
        # Half an emoji, where a reply was cut, could be written into no file.
        response = json.loads(json.dumps(response, ensure_ascii=False).encode(errors="replace"))
        response["choices"][0]["message"].get("content")
        usage = response.get("usage") if isinstance(response.get("usage"), dict) else {}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Misshapen from None
    taken = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    tokens = [said if type(said) is int and said >= 0 else most for said, most in zip(taken, worst, strict=True)]
    return Stored(200, response, *tokens, str(response.get("model") or model))


def _said(error) -> str:
    body = error.body if isinstance(error.body, dict) else {"message": error.body}  # some servers say it in bare text
    said = body.get("message") or body.get("detail") or error.message
    code = body.get("code")
    return " ".join(f"status {error.status_code}: {said}{f' ({code})' if code else ''}".split())[:300]


def _shown(address: str) -> str:
    """``address`` without a password or a key that may stand in it."""
    parts = urlsplit(address.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _wanted_pause(header: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date (RFC 9110 §10.2.3); 0 where it does neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def read(stored: Stored, answer: type[BaseModel]) -> tuple[BaseModel | None, str | None, str]:
    """(what the answer says or None, why not, its text)."""
    if stored.status != 200:
        return None, stored.response["error"], ""
    choice = stored.response["choices"][0]
    text = choice["message"].get("content")
    text = text if isinstance(text, str) else ""
    if refusal := choice["message"].get("refusal"):
        return None, f"refused: {refusal}", text
    end = {"length": ", cut at the token limit", "content_filter": ", stopped by the server's content filter"}
    stopped = end.get(choice.get("finish_reason"), "")
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


_BEGUN = re.compile(r'\{\s*"[^"]*"\s*:')


def _bare(text: str, answer: type[BaseModel]) -> Iterator[dict]:
    """What a text without objects may mean to an answer with one field: all of it, or the one number in it."""
    if len(answer.model_fields) != 1 or "{" in text:
        return
    (field,) = answer.model_fields
    yield {field: text.strip().strip("\"'`.")}
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    if len(numbers) == 1:
        yield {field: numbers[0]}

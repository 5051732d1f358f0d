"""Asking any server that speaks OpenAI's chat protocol: many requests at once, none that was answered asked again, within a budget.

    client = Client(Endpoint(model="gpt-4.1-mini-2025-04-14", max_dollars=5.0, ...), Record(path))
    answers = client.ask([Request("esconv/0123/07/empathy", messages, Score, max_new_tokens=20)])

Faults of the way (429, 5xx, silence, a connection cut) are tried again after a pause.  An answer that can't be read is asked
for again, and then missing for that request alone.  A stopped run goes on from its record.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import cycle
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from decoupled_esc import progress
from decoupled_esc.errors import KnownError
from decoupled_esc.generate.answers import Misshapen, chat_completion, masked, read, schema
from decoupled_esc.generate.record import Record, Stored, canonical, key

if TYPE_CHECKING:
    import openai

Mode = Literal["record", "replay"]
"""``record``: stored answers are used, the others asked for and stored.  ``replay``: one that is not stored is an error."""

MAX_PARSE_ATTEMPTS = 3
"""How often an answer that can't be read is asked for, in all."""
FIRST_PAUSE, LAST_PAUSE = 0.5, 8.0
"""Seconds between two tries; each pause is twice the one before, up to the last."""
LONGEST_PAUSE = 120.0
"""Seconds: a server that wants a longer one has run out of quota for today."""
_PUBLIC = "https://api.openai.com/v1"
_REFUSED = re.compile(r"content_filter|content_policy|context_length|maximum context")
"""In an error that is this request's answer: its content is refused, or too long."""
_ABOUT_FORM = re.compile(r"response_format|json_schema|json_object|schema|guided|extra|unsupported", re.IGNORECASE)
_WEAKER = {"json_schema": "json_object", "json_object": "none"}

Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
Dollars = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Endpoint(BaseModel):
    """A server, what it costs, and how far it may be used.  The key itself stands in no file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    base_url: Url | Annotated[tuple[Url, ...], Field(min_length=1)] | None = None
    """Of several servers of one model: each call goes to the next, and so does one that is tried again.  None: the
    environment's OPENAI_BASE_URL, or OpenAI's own."""
    api_key_env: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key."""
    max_concurrency: int = Field(32, ge=1, le=4096)
    """Calls at once, over all its servers."""
    timeout_seconds: float = Field(120.0, gt=0, le=86400)
    """For one whole answer."""
    attempts: int = Field(8, ge=1, le=100)
    """For one answer, faults of the way included."""
    dollars_per_million_in: Dollars | None = None
    dollars_per_million_out: Dollars | None = None
    max_tokens: int | None = Field(None, ge=1)
    """Budget of tokens, in and out, over everything that this model answered in the record.

    A call whose answer never came may have been paid all the same: until the program ends, it counts with the most it
    could have cost.  So does, for good, an answer that does not say what it took.
    """
    max_dollars: float | None = Field(None, gt=0, le=1e9)

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
    """Tells apart several samples of the same request."""

    def body(self, model: str) -> dict:
        """What identifies this request: all that its answer depends on."""
        return {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "schema": schema(self.answer),
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
    tries: int = 1
    """How often it was asked for until it could be read, or was given up."""


class EndpointError(KnownError, RuntimeError):
    """The server can't be used, or left requests unanswered; one line."""


class BudgetExceeded(EndpointError):
    """The next request could have gone beyond the budget."""


class ReplayMiss(EndpointError):
    """A record was to be replayed and lacks an answer."""


class _Fault(EndpointError):
    """Of the way: asking again may help, after ``pause`` seconds where the server named them."""

    def __init__(self, why: str, pause: float = 0.0):
        super().__init__(why)
        self.pause = pause


class Client:
    """Asks ``endpoint``, through ``record``."""

    def __init__(self, endpoint: Endpoint, record: Record, mode: Mode = "record"):
        if endpoint.max_dollars and None in (endpoint.dollars_per_million_in, endpoint.dollars_per_million_out):
            raise EndpointError("max_dollars needs dollars_per_million_in and dollars_per_million_out")
        self.endpoint, self.record, self.mode = endpoint, record, mode
        self.form: Literal["json_schema", "json_object", "none"] = "json_schema"
        self.unrecorded = [0, 0]  # tokens in and out that the record knows nothing of

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of ``requests``, shown with a bar; the worst cost is said first where anything must be asked.

        Raises BudgetExceeded, ReplayMiss, EndpointError (no key, refused outright, or some requests unanswered after all
        attempts), or RecordError; what was received until then is in the record.
        """
        from anyio.from_thread import start_blocking_portal

        missing = [request for request in requests if self.stored(request, 0) is None]
        if missing and self.mode == "replay":
            count = f"{len(missing)} of {len(requests)} answers are not in {self.record.path}"
            raise ReplayMiss(f"{count}, {missing[0].id} first; use mode record")
        if missing:
            print(self.estimate(missing), file=sys.stderr, flush=True)
        with start_blocking_portal() as portal:  # a loop of its own: a notebook's can't be waited in
            return portal.call(_Run(self).all, requests)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Callable[[Request], Awaitable[Answer]]]:
        """A function that asks one request, for callers that learn from each answer what to ask next.

        To be used in a running event loop, by as many tasks as there are; they share one budget and one bound on calls
        at once.  The function raises as `ask` does.
        """
        run = _Run(self)
        async with run.connected():
            yield run.answer

    def estimate(self, requests: Sequence[Request]) -> str:
        """How many calls ``requests`` are, and what they take: about so much read, at most so much written, and paid."""
        read = sum(len(content) for request in requests for _, content in request.messages) // 4
        written = sum(request.max_new_tokens for request in requests)
        line = f"{self.endpoint.model}: {len(requests):,} calls, about {read:,} tokens in, at most {written:,} out"
        if None in (self.endpoint.dollars_per_million_in, self.endpoint.dollars_per_million_out):
            return line
        return f"{line}, about ${self.dollars(read, written):.2f} at most"

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        prices = (self.endpoint.dollars_per_million_in, self.endpoint.dollars_per_million_out)
        return (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6

    def stored(self, request: Request, attempt: int) -> Stored | None:
        """What the record has for ``request``."""
        return self.record.get(key(request.body(self.endpoint.model)), request.sample, attempt)

    def keep(self, request: Request, attempt: int, stored: Stored) -> None:
        """Put ``stored`` into the record."""
        self.record.put(request.body(self.endpoint.model), request.sample, attempt, stored)


class _Run:
    """One call of ``Client.ask``, in one event loop."""

    def __init__(self, client: Client):
        self.client, self.endpoint = client, client.endpoint
        self.secret = (os.environ.get(self.endpoint.api_key_env) or "").strip()
        self.pending: dict[tuple, asyncio.Future] = {}
        self.reserved = [0, 0]
        self.recorded = list(client.record.spent(client.endpoint.model))
        self.settled = asyncio.Condition()
        self.places = asyncio.Semaphore(client.endpoint.max_concurrency)
        self.stopped: EndpointError | None = None
        self.stopping = asyncio.Event()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        import openai

        end, addresses = self.endpoint, self.endpoint.addresses
        if not self.secret and self.client.mode != "replay" and any(a.startswith(_PUBLIC[:-3]) for a in addresses):
            without = "a profile without a judge has `judge: null`, one whose own models play the search's roles `roles: null`"
            remedy = f"set {end.api_key_env} to your key, or base_url to a server of your own"
            raise EndpointError(f"{end.model}: {remedy} ({without})")
        if not re.fullmatch(r"[!-~]*", self.secret):
            raise EndpointError(f"{end.model}: {end.api_key_env} holds what no key can hold; set it to your key alone")
        settings = {"api_key": self.secret or "none", "max_retries": 0, "timeout": end.timeout_seconds}
        async with AsyncExitStack() as stack:
            servers = [openai.AsyncOpenAI(base_url=address, **settings) for address in addresses]
            self.servers = cycle([await stack.enter_async_context(server) for server in servers])
            yield

    async def all(self, requests: Sequence[Request]) -> list[Answer]:
        with progress.bar(len(requests), f"asking {self.endpoint.model}") as bar:

            async def one(request: Request) -> Answer | EndpointError:
                try:
                    return await self.answer(request)
                except EndpointError as error:
                    return error
                finally:
                    bar.update()

            async with self.connected():
                found = await asyncio.gather(*map(one, requests))
        failed = [error for error in found if isinstance(error, EndpointError)]
        if self.stopped:
            raise type(self.stopped)(f"{self.stopped} ({len(failed)} of {len(requests)} requests are left to ask)")
        if failed and self.client.mode == "replay":
            raise failed[0]
        if failed:
            count = f"{len(failed)} of {len(requests)} requests were not answered"
            raise EndpointError(f"{count}, the first because {failed[0]}; run again to ask only these")
        return found

    def stop(self, error: EndpointError) -> None:
        """Send nothing more; what is under way is waited for.  To be called with ``settled`` held."""
        self.stopped = self.stopped or error
        self.stopping.set()
        self.settled.notify_all()

    async def answer(self, request: Request) -> Answer:
        for attempt in range(MAX_PARSE_ATTEMPTS):
            stored = self.client.stored(request, attempt) or await self.fetched(request, attempt)
            parsed, why, text = read(stored, request.answer)
            if parsed is not None or stored.status != 200:
                break
        return Answer(request.id, parsed, why, stored.model, text, stored.tokens_in, stored.tokens_out, attempt + 1)

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
            future.set_exception(error)
            future.exception()  # looked at, so that asyncio does not complain where nobody else waits
            raise
        finally:
            self.pending.pop(name)
        future.set_result(stored)
        return stored

    async def paid(self, request: Request, attempt: int, name: str) -> Stored:
        """The server's answer, asked for again where the way is at fault; written down before anybody reads it."""
        import tenacity

        def wait(state) -> float:
            pause = min(FIRST_PAUSE * 2 ** (state.attempt_number - 1), LAST_PAUSE) * random.uniform(0.75, 1.0)
            return state.outcome.exception().pause or pause

        async def sleep(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)

        faulty, enough = tenacity.retry_if_exception_type(_Fault), tenacity.stop_after_attempt(self.endpoint.attempts)
        again = tenacity.AsyncRetrying(retry=faulty, stop=enough, wait=wait, sleep=sleep, reraise=True)
        return await again(self.once, request, attempt, name)

    async def once(self, request: Request, attempt: int, name: str) -> Stored:
        """One try; a form that the server does not know is no fault, and a weaker one is asked for at once."""
        import openai

        while True:
            async with self.places:  # a pause takes none
                if self.stopped:
                    raise self.stopped
                form, server = self.client.form, next(self.servers)
                try:
                    return await self.call(server, request, attempt, name, form)
                except (TimeoutError, openai.APITimeoutError):
                    raise _Fault(f"no answer within {self.endpoint.timeout_seconds:g} s") from None
                except openai.APIConnectionError as error:
                    raise _Fault(masked(f"no connection ({error.__cause__ or error})", self.secret)) from None
                except Misshapen:
                    raise _Fault("its answer was not in the form of a chat completion") from None
                except openai.APIStatusError as error:
                    status, why = error.status_code, masked(_said(error), self.secret)[:300]
                    wanted = _wanted_pause(error.response.headers.get("retry-after", ""))
            if _REFUSED.search(why) and status == 400:
                refusal = Stored(400, {"error": why}, 0, 0, self.endpoint.model)
                self.client.keep(request, attempt, refusal)
                return refusal
            if status in (400, 404, 415, 422, 501) and form in _WEAKER and _ABOUT_FORM.search(why):
                self.client.form = _WEAKER[form] if self.client.form == form else self.client.form
                continue
            passing = status in (408, 409, 429) or status >= 500
            if not passing or wanted > LONGEST_PAUSE or "insufficient_quota" in why:
                patience = f", and to wait {wanted:,.0f} s" if wanted > LONGEST_PAUSE else ""
                async with self.settled:
                    self.stop(
                        EndpointError(f"{self.endpoint.model} at {_shown(str(server.base_url))}: {why}{patience}")
                    )
                raise self.stopped from None
            raise _Fault(why, wanted)

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
            headers = {"Idempotency-Key": name + ("" if form == "json_schema" else f"-{form}")}
            async with asyncio.timeout(self.endpoint.timeout_seconds):  # a server that drips is as bad as a silent one
                raw = await server.chat.completions.with_raw_response.create(**body, extra_headers=headers)
            stored = chat_completion(masked(raw.http_response.text, self.secret, 16), self.endpoint.model, worst)
            self.client.keep(request, attempt, stored)
            self.recorded = [self.recorded[0] + stored.tokens_in, self.recorded[1] + stored.tokens_out]
            taken = (0, 0)  # the record knows of them
            return stored
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__.startswith("Connect"):  # nobody was there
                taken = (0, 0)
            raise
        except openai.APIStatusError as error:
            # A gateway's error may hide an answer that came too late for it; no other is paid.
            if error.status_code in (500, 503) or (error.status_code < 500 and error.status_code != 408):
                taken = (0, 0)
            raise
        finally:
            for i in (0, 1):
                self.client.unrecorded[i] += taken[i]
                self.reserved[i] -= worst[i]
            async with self.settled:
                self.settled.notify_all()

    async def reserve(self, worst: tuple[int, int]) -> None:
        """Set ``worst`` (tokens in, out) aside in the budget, once there is room.  Raises BudgetExceeded where none will be."""
        async with self.settled:
            while not self.stopped and (limit := self.beyond(worst)):
                if not any(self.reserved):
                    spent = [self.recorded[i] + self.client.unrecorded[i] for i in (0, 1)]
                    said = f"{sum(spent):,} tokens" if limit == "max_tokens" else f"${self.client.dollars(*spent):.2f}"
                    why = f"the next request could exceed the budget ({said} spent); raise {limit} and run again"
                    self.stop(BudgetExceeded(why))
                    break
                await self.settled.wait()  # what is under way may turn out cheaper than feared
            if self.stopped:
                raise self.stopped
            self.reserved = [known + more for known, more in zip(self.reserved, worst, strict=True)]

    def beyond(self, worst: tuple[int, int]) -> str | None:
        """The setting that another call of ``worst`` could go beyond, or None."""
        tokens = [self.recorded[i] + self.client.unrecorded[i] + self.reserved[i] + worst[i] for i in (0, 1)]
        if self.endpoint.max_tokens is not None and sum(tokens) > self.endpoint.max_tokens:
            return "max_tokens"
        if self.endpoint.max_dollars is not None and self.client.dollars(*tokens) > self.endpoint.max_dollars:
            return "max_dollars"
        return None

    def body(self, request: Request, form: str) -> dict:
        import openai

        body = request.body(self.endpoint.model)
        del body["schema"]
        if form == "json_schema":
            strict = openai.pydantic_function_tool(request.answer)["function"]["parameters"]  # as ``strict`` wants it
            named = {"name": "answer", "strict": True, "schema": strict}
            body["response_format"] = {"type": form, "json_schema": named}
        elif form == "json_object":
            body["response_format"] = {"type": form}
        return body


def _said(error) -> str:
    body = error.body if isinstance(error.body, dict) else {"message": error.body}  # some servers say it in bare text
    said = body.get("message") or body.get("detail") or error.message
    code = body.get("code")
    return " ".join(f"status {error.status_code}: {said}{f' ({code})' if code else ''}".split())


def _shown(address: str) -> str:
    """``address`` without a password or a key that may stand in it."""
    parts = urlsplit(address.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _wanted_pause(header: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date (RFC 9110 §10.2.3); 0 where it does neither."""
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return 0.0

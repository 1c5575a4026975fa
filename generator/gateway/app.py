"""The web application: chat completions, models, health, what the steps have spent, and a page to try it all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from generator.gateway import completion
from generator.gateway.completion import Answer
from generator.gateway.deltas import Delta, deltas
from generator.gateway.disconnect import Gone, unless_gone
from generator.gateway.messages import ChatFormat
from generator.gateway.refusal import BadRequest, Refusal, TritonError, no_model
from generator.gateway.triton import Triton

CLOSED = 499  # the status that servers log for a client that has gone
INLINE = "'unsafe-inline'"
PAGE_POLICY = (
    f"default-src 'none'; connect-src 'self'; img-src data:; media-src data:; style-src {INLINE}; script-src {INLINE}"
)


@dataclass(frozen=True)
class Model:
    """The model as its clients see it.

    Attributes:
        name: what clients ask for. chat: how it writes conversations; None = single turns only.
        max_tokens: length of an answer unless asked. max_model_len: of prompt and answer. None = not known.
    """

    name: str
    chat: ChatFormat | None
    max_tokens: int | None = None
    max_model_len: int | None = None

    def description(self) -> dict[str, Any]:
        """As /v1/models gives it; the last two are not OpenAI's."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "gen-repo",
            "max_model_len": self.max_model_len,
            "several_turns": bool(self.chat and self.chat.following),
        }


def create(triton: Triton, model: Model, *, max_body: int) -> FastAPI:
    """The application over one server; a request's body has at most `max_body` bytes."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await triton.close()

    app = FastAPI(title="gen-repo openai", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    gate = Gate(triton, model, max_body)
    app.get("/")(page)
    app.get("/health")(gate.health)
    app.get("/metrics")(gate.metrics)
    app.get("/steps")(gate.steps)
    app.get("/v1/models")(gate.models)
    app.get("/v1/models/{name:path}")(gate.model)
    app.post("/v1/chat/completions")(gate.chat_completions)
    app.exception_handler(Refusal)(_refused)
    app.exception_handler(HTTPException)(_unknown_path)
    app.exception_handler(Gone)(_nobody_there)
    app.exception_handler(ClientDisconnect)(_nobody_there)
    app.exception_handler(Exception)(_defect)
    return app


async def page() -> Response:
    """The playground. It needs nothing from elsewhere, and may load nothing from there."""
    content = Path(__file__).with_name("playground.html").read_text("utf-8")
    return HTMLResponse(content, headers={"Content-Security-Policy": PAGE_POLICY})


class Gate:
    def __init__(self, triton: Triton, model: Model, max_body: int) -> None:
        self._triton = triton
        self._model = model
        self._max_body = max_body

    async def health(self) -> Response:
        """200 when the repository can answer, else 503."""
        await self._triton.check()
        return Response(status_code=200)

    async def metrics(self) -> Response:
        """Triton's own metrics, in Prometheus' format."""
        return PlainTextResponse(await self._triton.metrics())

    async def steps(self) -> dict[str, Any]:
        """What each step has spent since the server started."""
        return {"steps": await self._triton.steps()}

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._model.description()]}

    async def model(self, name: str) -> dict[str, Any]:
        if name != self._model.name:
            raise no_model(name, self._model.name)
        return self._model.description()

    async def chat_completions(self, request: Request) -> Response:
        """One completion, whole or as server-sent events."""
        asked = completion.Request.read(await self._body(request), self._model.name, self._model.chat)
        if asked.stream:
            return await self._streamed(request, asked)
        answers, prompt_tokens = await unless_gone(request, self._whole(asked))
        usage = completion.usage(prompt_tokens, sum(count for _, count, _ in answers))
        told = [(text, self._finish(asked, count, stopped)) for text, count, stopped in answers]
        return JSONResponse(Answer(self._model.name).whole(told, usage))

    async def _body(self, request: Request) -> Any:
        """The JSON of the body, which is not read further than it may be long."""
        body = bytearray()
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        if size <= self._max_body:
            async for part in request.stream():
                body += part
                if (size := len(body)) > self._max_body:
                    break
        if size > self._max_body:
            remedy = "send smaller images, or start the gateway with a larger --max-body"
            raise BadRequest(f"the body is larger than {self._max_body} bytes: {remedy}", status=413)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error

    async def _whole(self, asked: completion.Request) -> tuple[list[tuple[str, int, bool]], int]:
        """Of each choice the text, its number of tokens, and whether a stop word ended it; and the prompt's tokens."""
        answers, prompt_tokens = [("", 0, False)] * asked.choices, 0
        async with contextlib.aclosing(deltas(self._triton, asked, stream=False)) as parts:
            async for part in parts:
                prompt_tokens = prompt_tokens or part.prompt_tokens
                text, tokens, stopped = answers[part.choice]
                answers[part.choice] = (text + part.text, tokens + part.tokens, stopped or part.stopped)
        return answers, prompt_tokens

    async def _streamed(self, request: Request, asked: completion.Request) -> Response:
        """The first piece is waited for, so that a refusal still has a status of its own."""
        parts = deltas(self._triton, asked, stream=True)
        try:
            first = await unless_gone(request, anext(parts))
        except BaseException:
            await parts.aclose()
            raise
        return StreamingResponse(self._events(asked, first, parts), media_type="text/event-stream")

    async def _events(
        self, asked: completion.Request, first: Delta, parts: AsyncGenerator[Delta, None]
    ) -> AsyncIterator[str]:
        answer = Answer(self._model.name)
        tokens, prompt_tokens = [0] * asked.choices, 0
        begun: set[int] = set()
        try:
            async for part in _and_then(first, parts):
                tokens[part.choice] += part.tokens
                prompt_tokens = prompt_tokens or part.prompt_tokens
                if part.text or part.choice not in begun:
                    role = {} if part.choice in begun else {"role": "assistant"}
                    begun.add(part.choice)
                    yield _event(answer.chunk(part.choice, {**role, "content": part.text}))
                if part.last:
                    finish = self._finish(asked, tokens[part.choice], part.stopped)
                    yield _event(answer.chunk(part.choice, {}, finish))
            if asked.wants_usage:
                yield _event(answer.last(completion.usage(prompt_tokens, sum(tokens))))
        except TritonError as error:
            yield _event(completion.problem(error))
        finally:
            await parts.aclose()
        yield "data: [DONE]\n\n"

    def _finish(self, asked: completion.Request, tokens: int, stopped: bool) -> str:
        """Triton does not tell why an answer ended; one that fills its limit was cut."""
        limit = asked.max_tokens or self._model.max_tokens
        return "length" if not stopped and limit is not None and tokens >= limit else "stop"


async def _and_then(first: Delta, rest: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in rest:
        yield delta


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - what the handler is registered for
    headers = {"Retry-After": str(error.retry_seconds)} if error.status in (429, 503) else None
    return JSONResponse(completion.problem(error), error.status, headers)


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return await _refused(request, Refusal(f"there is no {request.method} {request.url.path}", error.status_code))


async def _nobody_there(_: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED)


async def _defect(request: Request, _: Exception) -> Response:
    """The server around the application logs the traceback."""
    return await _refused(request, Refusal("internal error: the gateway's log has the reason", 500))

"""The web application: chat completions, models, health, and a page to try them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from generator.gateway import completion
from generator.gateway.completion import Answer
from generator.gateway.messages import BadRequest, ChatFormat
from generator.gateway.triton import Piece, Triton, TritonError


def create(triton: Triton, model: str, chat: ChatFormat | None) -> FastAPI:
    """The application over one server.

    Args:
        model: the name that clients ask for.
        chat: how the model writes conversations; None = single turns only.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await triton.open()
        yield
        await triton.close()

    app = FastAPI(title="gen-repo openai", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    gate = Gate(triton, model, chat)
    app.get("/", response_class=HTMLResponse)(page)
    app.get("/health")(gate.health)
    app.get("/v1/models")(gate.models)
    app.get("/v1/models/{name:path}")(gate.model)
    app.post("/v1/chat/completions")(gate.chat_completions)
    app.exception_handler(TritonError)(_triton_error)
    app.exception_handler(BadRequest)(_bad_request)
    app.exception_handler(404)(_unknown_path)
    return app


async def page() -> str:
    """The playground."""
    return Path(__file__).with_name("playground.html").read_text("utf-8")


class Gate:
    def __init__(self, triton: Triton, model: str, chat: ChatFormat | None) -> None:
        self._triton = triton
        self._model = model
        self._chat = chat

    async def health(self) -> Response:
        """200 when the repository can answer, else 503."""
        await self._triton.check()
        return Response(status_code=200)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._description()]}

    async def model(self, name: str) -> Response:
        if name != self._model:
            content = completion.problem(f"the model {name!r} does not exist", 404, "model", "model_not_found")
            return JSONResponse(content, 404)
        return JSONResponse(self._description())

    async def chat_completions(self, request: Request) -> Response:
        """One completion, whole or as server-sent events."""
        try:
            body = await request.json()
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        asked = completion.Request.read(body, self._model, self._chat)
        if asked.stream:
            return await self._streamed(asked)
        pieces, tokens = await asyncio.gather(self._whole(asked), self._prompt_tokens(asked))
        text = "".join(piece.text for piece in pieces)
        usage = completion.usage(tokens, sum(piece.tokens for piece in pieces))
        return JSONResponse(Answer(self._model).whole(text, self._finish(asked, usage), usage))

    async def _whole(self, asked: completion.Request) -> list[Piece]:
        return [piece async for piece in self._triton.answer(asked.values, stream=False)]

    async def _streamed(self, asked: completion.Request) -> Response:
        """The first piece is waited for, so that a refusal still has a status of its own."""
        pieces = self._triton.answer(asked.values, stream=True)
        counting = asyncio.ensure_future(self._prompt_tokens(asked))
        try:
            first = await anext(pieces, Piece("", 0))
        except BaseException:
            counting.cancel()
            raise
        return StreamingResponse(self._events(asked, first, pieces, counting), media_type="text/event-stream")

    async def _events(
        self, asked: completion.Request, first: Piece, pieces: AsyncIterator[Piece], counting: asyncio.Future[int]
    ) -> AsyncIterator[str]:
        answer = Answer(self._model)
        tokens = first.tokens
        try:
            yield _event(answer.chunk({"role": "assistant", "content": first.text}))
            async for piece in pieces:
                tokens += piece.tokens
                if piece.text:
                    yield _event(answer.chunk({"content": piece.text}))
            usage = completion.usage(await counting, tokens)
            yield _event(answer.chunk({}, self._finish(asked, usage)))
            if asked.wants_usage:
                yield _event(answer.last(usage))
        except TritonError as error:
            yield _event(completion.problem(str(error), error.status))
        finally:
            counting.cancel()
            await pieces.aclose()  # type: ignore[attr-defined]
        yield "data: [DONE]\n\n"

    async def _prompt_tokens(self, asked: completion.Request) -> int:
        return await self._triton.prompt_tokens(asked.values) if asked.wants_usage else 0

    @staticmethod
    def _finish(asked: completion.Request, usage: dict[str, int]) -> str:
        """Triton does not tell why an answer ended; one that fills its limit was cut."""
        return "length" if asked.max_tokens is not None and usage["completion_tokens"] >= asked.max_tokens else "stop"

    def _description(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": 0, "owned_by": "gen-repo"}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _triton_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, TritonError)  # noqa: S101 - what the handler is registered for
    return JSONResponse(completion.problem(str(error), error.status), error.status)


async def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)  # noqa: S101
    status = 404 if error.parameter == "model" else 400
    code = "model_not_found" if error.parameter == "model" else None
    return JSONResponse(completion.problem(str(error), status, error.parameter, code), status)


async def _unknown_path(request: Request, _: Exception) -> Response:
    return JSONResponse(completion.problem(f"there is no {request.method} {request.url.path}", 404), 404)

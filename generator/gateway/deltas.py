"""One answered request: its choices asked for at once, their pieces in the order in which they arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from generator.gateway.completion import Request
from generator.gateway.stops import Stops
from generator.gateway.triton import Triton

MOST_WAITING = 64  # pieces that a slow reader may leave waiting before the answers wait for it


@dataclass(frozen=True)
class Delta:
    """What a choice's text grows by, and the tokens that it came from; `last` of the choice, and whether a stop word
    ended it; with the first of it the tokens of the prompt."""

    choice: int
    text: str
    tokens: int
    last: bool = False
    stopped: bool = False
    prompt_tokens: int = 0


async def deltas(triton: Triton, asked: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
    """The pieces of all choices. Closing the generator cancels what still runs. Raises TritonError."""
    arrived: asyncio.Queue[Delta | Exception] = asyncio.Queue(MOST_WAITING)
    tasks = [asyncio.create_task(_answer(triton, asked, choice, stream, arrived)) for choice in range(asked.choices)]
    left = asked.choices
    try:
        while left:
            delta = await arrived.get()
            if isinstance(delta, Exception):
                raise delta
            left -= delta.last
            yield delta
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(
    triton: Triton, asked: Request, choice: int, stream: bool, arrived: asyncio.Queue[Delta | Exception]
) -> None:
    stops = Stops(asked.stop)
    try:
        async with contextlib.aclosing(triton.answer(asked.values_of(choice), stream=stream)) as pieces:
            async for piece in pieces:
                text = stops.push(piece.text)
                await arrived.put(Delta(choice, text, piece.tokens, prompt_tokens=piece.prompt_tokens))
                if stops.hit:
                    break
        await arrived.put(Delta(choice, stops.finish(), 0, last=True, stopped=stops.hit))
    except Exception as error:  # belongs to the request, which waits at the other end
        await arrived.put(error)

"""Noticing that a client has gone, so that nothing goes on working for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

T = TypeVar("T")


class Gone(Exception):
    """The client has closed its connection; nobody reads an answer."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives. When the client goes first, `work` is cancelled and Gone raised.

    The request's body must have been read: what comes after it is the disconnection only.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Sends requests from several clients at once and judges each answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks.soak.asks import FINAL, Ask

ERROR_ID = re.compile(r"\[error [0-9a-f]{8}\]")
TIMEOUT = 120.0
LINGER_SECONDS = 0.01
MOST_KEPT = 50  # examples of what went wrong


class Wrong(Exception):
    """An answer that is not the right one."""


@dataclass
class Tally:
    """Requests by kind and outcome; `right` also counts refusals that had to come."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.right.total() + self.wrong.total() + self.unexpected.total()

    def note(self, outcome: Counter[str], ask: Ask, error: BaseException) -> None:
        outcome[ask.kind] += 1
        if len(self.examples) < MOST_KEPT:
            self.examples.append(f"{ask.kind}, {ask.name}: {type(error).__name__} {str(error)[:400]}")


def shuffled(asks: Sequence[Ask], shares: Mapping[str, float], seed: int) -> Iterator[Ask]:
    """An endless mix: kinds by their share, the requests of a kind in turn."""
    generator = random.Random(seed)
    turns = {kind: itertools.cycle([ask for ask in asks if ask.kind == kind]) for kind in {ask.kind for ask in asks}}
    kinds, weights = zip(*((kind, shares[kind]) for kind in sorted(turns)), strict=True)
    while True:
        [kind] = generator.choices(kinds, weights)
        yield next(turns[kind])


async def drive(url: str, mix: Iterator[Ask], tally: Tally, requests: int, clients: int, deadline: float) -> None:
    """Send `requests` of `mix` by `clients` at once, or as many as fit until the loop's clock shows `deadline`."""
    loop = asyncio.get_running_loop()
    end = tally.sent + requests
    started = tally.sent

    async def client(number: int) -> None:
        nonlocal started
        async with grpc.aio.insecure_channel(url, options=[("client", number)]) as channel:  # a connection of its own
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while started < end and loop.time() < deadline:
                started += 1
                ask = next(mix)
                try:
                    await asyncio.wait_for(judge(stub, ask), TIMEOUT)
                    tally.right[ask.kind] += 1
                except Wrong as error:
                    tally.note(tally.wrong, ask, error)
                except Exception as error:
                    tally.note(tally.unexpected, ask, error)
                    await asyncio.sleep(0.1)  # a server that is gone must not be counted thousands of times a second

    await asyncio.gather(*(client(number) for number in range(clients)))


async def judge(stub: Any, ask: Ask) -> None:
    """Send one request. Raises Wrong when its answer is not right."""
    if not ask.streams:
        try:
            response = await stub.ModelInfer(ask.request)
        except grpc.aio.AioRpcError as error:
            return refusal(ask, error.details() or "", error)
        return compare(ask, {0: texts_of(response)[0]})
    call = stub.ModelStreamInfer(one(ask.request))
    pieces: dict[int, str] = dict.fromkeys(range(len(ask.texts)), "")
    final, refused = False, ""
    try:
        async for answer in call:
            if final:
                raise Wrong("a response came after the final one")
            refused = refused or answer.error_message
            final = answer.infer_response.parameters[FINAL].bool_param
            if refused:
                continue  # to the end: a client's cancel costs tritonserver memory
            add(pieces, answer.infer_response)
            if ask.kind == "slow":
                await asyncio.sleep(LINGER_SECONDS)
            if ask.kind == "cancelled" and not final:
                return compare(ask, pieces, prefix=True)
    finally:
        call.cancel()  # of one that is left, or wrong; others have ended
    if refused:
        return refusal(ask, refused, None)
    if not final:
        raise Wrong("the stream ended without a final response")
    return compare(ask, pieces)


async def one(request: Any) -> AsyncIterator[Any]:
    yield request


def add(pieces: dict[int, str], response: Any) -> None:
    contents = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    if "text_output" in contents:
        row = struct.unpack("<i", contents["batch_index"])[0] if "batch_index" in contents else 0
        pieces[row] = pieces.get(row, "") + texts_of(response)[0]


def texts_of(response: Any) -> list[str]:
    """The BYTES of text_output: each entry has its length before it, four bytes."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "text_output":
            texts, place = [], 0
            while place < len(raw):
                [length] = struct.unpack_from("<I", raw, place)
                texts.append(raw[place + 4 : place + 4 + length].decode())
                place += 4 + length
            return texts
    raise Wrong("no text_output")


def compare(ask: Ask, pieces: Mapping[int, str], *, prefix: bool = False) -> None:
    if ask.refusal:
        raise Wrong(f"answered instead of refused: {pieces}")
    for row, right in enumerate(ask.texts):
        text = pieces.get(row, "")
        if not (right.startswith(text) if prefix else right == text):
            raise Wrong(f"row {row} is {text!r}, right is {right!r}")


def refusal(ask: Ask, message: str, error: Exception | None) -> None:
    if not ask.refusal:
        raise error or RuntimeError(message)
    if not all(word in message for word in ask.refusal) or "Traceback" in message:
        raise Wrong(f"refused with {message!r}, which lacks one of {ask.refusal}")
    if not ERROR_ID.search(message):
        raise Wrong(f"refused without an id: {message!r}")

"""The served repository, asked over gRPC without blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from grpc.aio import AioRpcError
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from generator.ask import TEXT, inputs_of, times_of
from generator.gateway.refusal import TritonError
from generator.server import CHANNEL, DIRECTLY, ServerError

TOKENS, PROMPT_TOKENS = "output_tokens", "input_tokens"
STEPS = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
BUSY = "send again later"  # what a step says that has too many requests
ENDED = "is not healthy"  # what Triton says of a Python step that has ended


@dataclass(frozen=True)
class Piece:
    """A part of an answer, how many tokens it came from, and, of the first part, the tokens of the prompt."""

    text: str
    tokens: int
    prompt_tokens: int


STATUS = {
    "StatusCode.INVALID_ARGUMENT": 400,
    "StatusCode.NOT_FOUND": 404,
    "StatusCode.UNAVAILABLE": 503,
    "StatusCode.RESOURCE_EXHAUSTED": 429,
    "StatusCode.CANCELLED": 499,
}


@dataclass(frozen=True)
class Face:
    """The model of the repository that answers clients."""

    config: Any  # of Triton's own protobuf class ModelConfig
    streams: bool

    @property
    def decoupled(self) -> bool:
        return bool(self.config.model_transaction_policy.decoupled)

    def inputs(self, values: Mapping[str, Any]) -> list[InferInput]:
        """Raises TritonError for an input that the model does not have, or a value that its type cannot hold."""
        try:
            return inputs_of(self.config, values)
        except ServerError as error:
            raise TritonError(error.message, 400) from error
        except (ValueError, OverflowError) as error:  # a lone surrogate, for one, has no UTF-8
            raise TritonError(f"the request cannot be written for Triton: {error}", 400) from error


@dataclass(frozen=True)
class Place:
    """Where a server is: host:port of its gRPC service, and of its metrics where that is known."""

    grpc: str
    metrics: str | None = None


@dataclass(frozen=True)
class Nowhere:
    """There is no server now, and may be one in about so many seconds."""

    seconds: int


class Triton:
    """The server at `place`, which any thread may change; all else belongs to the event loop that asks."""

    def __init__(self, place: Place | Nowhere, names: Mapping[str, str]) -> None:
        """`names` are the models per role."""
        self.place = place
        self._names = {role: names.get(role, role) for role in ("ensemble", "tensorrt_llm_bls", *STEPS)}
        self._asked: Place | None = None  # that the client and the face are of
        self._client: InferenceServerClient | None = None
        self._face: Face | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def client(self) -> InferenceServerClient:
        """A client of the server that there is now. Raises TritonError when there is none."""
        place = self._here()
        if self._client is None or self._asked != place:
            old, self._client = self._client, InferenceServerClient(place.grpc, channel_args=CHANNEL)
            self._asked, self._face = place, None
            if old is not None:
                await old.close()
        return self._client

    async def face(self) -> Face:
        """The front of a streaming repository, else its ensemble. Raises TritonError while the server is not ready."""
        client = await self.client()
        if self._face is None:
            front = self._names["tensorrt_llm_bls"]
            try:
                streams = await client.is_model_ready(front)
                name = front if streams else self._names["ensemble"]
                config = (await client.get_model_config(name)).config
            except InferenceServerException as error:
                raise self._not_ready(error) from error
            face = Face(config, streams)
            if self._client is client:  # else another server has come meanwhile
                self._face = face
            return face
        return self._face

    async def check(self) -> None:
        """Ask whether the face is ready now. Raises TritonError when it is not."""
        face = await self.face()
        try:
            ready = await (await self.client()).is_model_ready(face.config.name)
        except InferenceServerException as error:
            raise self._not_ready(error) from error
        if not ready:
            raise TritonError(f"{face.config.name} at {self._here().grpc} is not ready", 503)

    def _here(self) -> Place:
        place = self.place
        if isinstance(place, Nowhere):
            what = f"the server has ended and is started again: send the request again in about {place.seconds} s"
            raise TritonError(what, 503, retry_seconds=place.seconds)
        return place

    def _not_ready(self, error: InferenceServerException) -> TritonError:
        return TritonError(f"no ready server at {self._here().grpc}: {error.message()}", 503)

    async def answer(self, values: Mapping[str, Any], *, stream: bool) -> AsyncGenerator[Piece, None]:
        """The answer, in pieces as they arrive when `stream` and the repository streams, else whole.

        `values` are inputs of the face by name, each a value or a list of values. Leaving the iterator early cancels
        the request. Raises TritonError.
        """
        face, client = await self.face(), await self.client()
        inputs = face.inputs({**values, "stream": True} if stream and face.streams else values)
        outputs = [InferRequestedOutput(name) for name in (TEXT, TOKENS, PROMPT_TOKENS)]
        try:
            if not face.decoupled:
                yield _piece(await client.infer(face.config.name, inputs, outputs=outputs))
                return

            async def one() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": face.config.name, "inputs": inputs, "outputs": outputs}

            responses = client.stream_infer(one())
            refused = None
            try:
                async for result, error in responses:  # to the end, also of a refusal: a cancel costs the server memory
                    refused = refused or error
                    if result is not None and refused is None:
                        yield _piece(result)
            finally:
                responses.cancel()  # where it has not ended
            if refused is not None:
                raise refused
        except InferenceServerException as error:
            raise _refused(error) from error
        except AioRpcError as error:  # of a stream that breaks off tritonclient makes no exception of its own
            code = STATUS.get(str(error.code()), 500)
            raise TritonError(f"the server broke off its answer: {error.details()}", code) from error

    async def steps(self) -> list[dict[str, Any]]:
        """What each step has spent on requests since the server started, by Triton's statistics. Raises TritonError.

        Of a step that streams (`decoupled`) Triton measures only how long it took to accept its requests.
        """
        face = await self.face()
        try:
            spent = times_of(await (await self.client()).get_inference_statistics())
        except InferenceServerException as error:
            raise _refused(error) from error
        known = [(role, self._names[role]) for role in STEPS]
        return [
            {"step": role, "decoupled": face.streams and role == "tensorrt_llm", **asdict(spent[name])}
            for role, name in known
            if name in spent
        ]

    async def metrics(self) -> str:
        """The server's metrics. Raises TritonError where its address is not known, or nobody answers."""
        place = self._here()
        if place.metrics is None:
            raise TritonError("the gateway did not start the server: ask its own metrics port, by default 8002", 404)
        return await asyncio.to_thread(_read, f"http://{place.metrics}/metrics")


def _read(url: str) -> str:
    try:
        with DIRECTLY.open(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError as error:
        raise TritonError(f"no metrics at {url}: {error}", 503) from error


def _refused(error: InferenceServerException) -> TritonError:
    """Errors within a stream carry no code, and a busy step's code is that of a bad request: the messages tell."""
    message = error.message()
    if BUSY in message:
        return TritonError(message, 429)
    if ENDED in message:
        return TritonError("a step of the server has ended: send the request again", 503)
    return TritonError(message, STATUS.get(str(error.status()), 500 if "internal error" in message else 400))


def _piece(result: InferResult) -> Piece:
    texts = result.as_numpy(TEXT)
    text = "" if texts is None else "\n".join(value.decode("utf-8", "replace") for value in texts.reshape(-1))
    tokens, prompt_tokens = (
        0 if (own := result.as_numpy(name)) is None else int(own.sum()) for name in (TOKENS, PROMPT_TOKENS)
    )
    return Piece(text, tokens, prompt_tokens)

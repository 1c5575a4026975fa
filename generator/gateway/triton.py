"""The served repository, asked over gRPC without blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from generator.ask import TEXT, inputs_of
from generator.server import ServerError

TOKENS = "output_tokens"


@dataclass(frozen=True)
class Piece:
    """A part of an answer, and how many tokens it came from."""

    text: str
    tokens: int


class TritonError(RuntimeError):
    """Triton refused or failed. `status` is the HTTP status that says the same."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


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
        """Raises TritonError for an input that the model does not have."""
        try:
            return inputs_of(self.config, values)
        except ServerError as error:
            raise TritonError(error.message, 400) from error


class Triton:
    """One server. `open` it in the event loop that will use it, `close` it there when done."""

    def __init__(self, url: str, ensemble: str, front: str, preprocessing: str) -> None:
        self._url = url
        self._names = (ensemble, front, preprocessing)
        self._face: Face | None = None

    async def open(self) -> None:
        self._client = InferenceServerClient(self._url)  # gRPC belongs to the loop that is running now

    async def close(self) -> None:
        await self._client.close()

    async def face(self) -> Face:
        """The front of a streaming repository, else its ensemble. Raises TritonError while the server is not ready."""
        if self._face is None:
            ensemble, front, _ = self._names
            try:
                streams = await self._client.is_model_ready(front)
                name = front if streams else ensemble
                config = (await self._client.get_model_config(name)).config
            except InferenceServerException as error:
                raise TritonError(f"no ready server at {self._url}: {error.message()}", 503) from error
            self._face = Face(config, streams)
        return self._face

    async def check(self) -> None:
        """Ask whether the face is ready now. Raises TritonError when it is not."""
        face = await self.face()
        try:
            ready = await self._client.is_model_ready(face.config.name)
        except InferenceServerException as error:
            raise TritonError(f"no ready server at {self._url}: {error.message()}", 503) from error
        if not ready:
            raise TritonError(f"{face.config.name} at {self._url} is not ready", 503)

    async def answer(self, values: Mapping[str, Any], *, stream: bool) -> AsyncIterator[Piece]:
        """The answer, in pieces as they arrive when `stream` and the repository streams, else whole.

        `values` are inputs of the face by name, each a value or a list of values. Leaving the iterator early cancels
        the request. Raises TritonError.
        """
        face = await self.face()
        inputs = face.inputs({**values, "stream": True} if stream and face.streams else values)
        outputs = [InferRequestedOutput(name) for name in (TEXT, TOKENS)]
        try:
            if not face.decoupled:
                yield _piece(await self._client.infer(face.config.name, inputs, outputs=outputs))
                return

            async def one() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": face.config.name, "inputs": inputs, "outputs": outputs}

            responses = self._client.stream_infer(one())
            try:
                async for result, error in responses:
                    if error is not None:
                        raise error
                    if result is not None:
                        yield _piece(result)
            finally:
                responses.cancel()
        except InferenceServerException as error:
            raise _refused(error) from error

    async def prompt_tokens(self, values: Mapping[str, Any]) -> int:
        """Tokens of the prompt, image tokens included, as preprocessing counts them. Raises TritonError."""
        face = await self.face()
        _, _, preprocessing = self._names
        try:
            known = {"text_input", "image_url_input", "apply_chat_template"}
            inputs = face.inputs({name: value for name, value in values.items() if name in known})
            wanted = [InferRequestedOutput("input_lengths")]
            result = await self._client.infer(preprocessing, inputs, outputs=wanted)
        except InferenceServerException as error:
            raise _refused(error) from error
        return int(result.as_numpy("input_lengths").reshape(-1)[0])


def _refused(error: InferenceServerException) -> TritonError:
    """Errors within a stream carry no code; there, a step's message of its own defect begins with "internal error"."""
    message = error.message()
    return TritonError(message, STATUS.get(str(error.status()), 500 if "internal error" in message else 400))


def _piece(result: InferResult) -> Piece:
    texts, tokens = result.as_numpy(TEXT), result.as_numpy(TOKENS)
    text = "" if texts is None else "\n".join(value.decode("utf-8", "replace") for value in texts.reshape(-1))
    return Piece(text, 0 if tokens is None else int(tokens.sum()))

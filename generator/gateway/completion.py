"""The bodies of the OpenAI API: what a chat completion request asks for, and what goes back."""

from __future__ import annotations

import math
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from generator.gateway.messages import ChatFormat, question
from generator.gateway.refusal import BadRequest, Refusal, no_model

INT32 = 2**31 - 1
MOST_CHOICES = 128  # as in OpenAI's API


class Number(NamedTuple):
    """What a parameter may be: from `low` to `high`, both included."""

    low: float
    high: float
    whole: bool = False


# Parameters of the API, and of vLLM's, that are inputs of the same name in Triton.
SAMPLING = {
    "temperature": Number(0, 100),
    "top_p": Number(0, 1),
    "top_k": Number(-1, INT32, whole=True),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "repetition_penalty": Number(0, 100),
    "seed": Number(-(2**63), 2**64 - 1, whole=True),
    "min_tokens": Number(0, INT32, whole=True),
}
# Accepted with these values only: anything else would change the answer, and cannot be done here.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}


@dataclass(frozen=True)
class Request:
    """A chat completion request, checked.

    Attributes:
        values: Triton's inputs besides `stream`, as the first choice has them.
        stop: texts that end the answer and are no part of it.
        wants_usage: at the end of a stream; a whole answer has it always.
    """

    values: dict[str, Any]
    max_tokens: int | None
    stop: tuple[str, ...]
    choices: int
    stream: bool
    wants_usage: bool

    @classmethod
    def read(cls, body: Any, served: str, chat: ChatFormat | None) -> Request:
        """From the JSON body. Raises BadRequest, naming the parameter. Unknown parameters are ignored."""
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        model, messages = body.get("model"), body.get("messages")
        if model not in (None, served):
            raise no_model(model, served)
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise BadRequest("messages must be a list of messages", "messages")
        for name, allowed in NEUTRAL.items():
            if body.get(name) not in allowed:
                raise BadRequest(f"{name} is not supported: leave it out", name)
        asked = question(messages, chat)
        stop = _stop(body)
        # The newer name takes precedence, as in OpenAI's API.
        given = [_integer(body, name, INT32) for name in ("max_completion_tokens", "max_tokens")]
        max_tokens = next((value for value in given if value is not None), None)
        values: dict[str, Any] = {
            **asked.inputs,
            **({} if max_tokens is None else {"max_tokens": max_tokens}),
            **_sampling(body),
            **({"stop_words": list(stop)} if stop else {}),
        }
        stream = _flag(body, "stream")
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise BadRequest("stream_options must be an object", "stream_options")
        return cls(
            values=values,
            max_tokens=max_tokens,
            stop=stop,
            choices=_integer(body, "n", MOST_CHOICES) or 1,
            stream=stream,
            wants_usage=_flag(options, "include_usage"),
        )

    def values_of(self, choice: int) -> dict[str, Any]:
        """Triton's inputs for one of the choices: each samples with a seed of its own."""
        seed = self.values.get("seed")
        return self.values if seed is None else {**self.values, "seed": (seed + choice) % 2**64}


def _integer(body: Mapping[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
        raise BadRequest(f"{name} is {value!r}: it must be an integer from 1 to {most}", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"{name} is {value!r}: it must be true or false", name)
    return bool(value)


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling inputs. The API samples by its temperature alone; Triton's LLM does so only with top_k or top_p.

    The LLM draws the same numbers for each request without a seed; so one that samples gets a random one.
    """
    given = {name: _number(body[name], name, SAMPLING[name]) for name in SAMPLING if body.get(name) is not None}
    if given.get("top_k") in (-1, 0):  # how vLLM's clients switch it off
        del given["top_k"]
    if given.get("temperature") == 0:
        given = {name: value for name, value in given.items() if name not in ("temperature", "top_p", "top_k")}
    elif "temperature" in given and not given.keys() & {"top_p", "top_k"}:
        given["top_p"] = 1.0
    if given.keys() & {"top_p", "top_k"}:
        given.setdefault("seed", secrets.randbits(63))
    if "seed" in given:
        given["seed"] %= 2**64  # Triton's are unsigned
    return given


def _number(value: object, name: str, may_be: Number) -> Any:
    kinds = int if may_be.whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not may_be.low <= value <= may_be.high:
        shown = repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
        kind = "an integer" if may_be.whole else "a number"
        raise BadRequest(f"{name} is {shown}: it must be {kind} from {may_be.low} to {may_be.high}", name)
    return value


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise BadRequest("stop must be a text or a list of texts", "stop")
    return tuple(words)


@dataclass(frozen=True)
class Answer:
    """Makes the objects that answer one request."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: list[tuple[str, str]], usage: Mapping[str, int]) -> dict[str, Any]:
        """`answers`: text and finish reason of each choice."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": finish,
            }
            for index, (text, finish) in enumerate(answers)
        ]
        return self._object("chat.completion", choices) | {"usage": dict(usage)}

    def chunk(self, index: int, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def last(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """The chunk after the last text that only tells the usage."""
        return self._object("chat.completion.chunk", []) | {"usage": dict(usage)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def problem(error: Refusal) -> dict[str, Any]:
    """An error as the API writes it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.parameter, "code": error.code}}

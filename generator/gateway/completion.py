"""The bodies of the OpenAI API: what a chat completion request asks for, and what goes back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from generator.gateway.messages import BadRequest, ChatFormat, Question, question

# Parameters of the API that a Triton repository has under another name.
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
    "min_tokens": "min_tokens",
}
# Accepted with these values only: anything else would change the answer, and cannot be done here.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
}


@dataclass(frozen=True)
class Request:
    """A chat completion request, checked. `values` are Triton's inputs besides `stream`."""

    question: Question
    values: dict[str, Any]
    max_tokens: int | None
    stream: bool
    wants_usage: bool

    @classmethod
    def read(cls, body: Any, served: str, chat: ChatFormat | None) -> Request:
        """From the JSON body. Raises BadRequest, naming the parameter."""
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        model, messages = body.get("model"), body.get("messages")
        if model != served:
            raise BadRequest(f"the model {model!r} does not exist: this server has {served!r}", "model")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise BadRequest("messages must be a list of messages", "messages")
        for name, allowed in NEUTRAL.items():
            if body.get(name) not in allowed:
                raise BadRequest(f"{name} is not supported: leave it out", name)
        asked = question(messages, chat)
        max_tokens = _integer(body, "max_completion_tokens") or _integer(body, "max_tokens")
        values: dict[str, Any] = {"text_input": asked.text, "apply_chat_template": asked.apply_chat_template}
        if asked.images:
            values["image_url_input"] = list(asked.images)
        if max_tokens is not None:
            values["max_tokens"] = max_tokens
        values |= _sampling(body) | _stop(body)
        options = body.get("stream_options") or {}
        stream = bool(body.get("stream"))
        return cls(asked, values, max_tokens, stream, not stream or bool(options.get("include_usage")))


def _integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadRequest(f"{name} is {value!r}: it must be a positive integer", name)
    return value


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling inputs. The API samples by its temperature alone; Triton's LLM does so only with top_k or top_p."""
    given = {name: body[name] for name in SAMPLING if body.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadRequest(f"{name} is {value!r}: it must be a number", name)
    if given.get("temperature") == 0:
        given = {name: value for name, value in given.items() if name not in ("temperature", "top_p", "top_k")}
    elif "temperature" in given and not given.keys() & {"top_p", "top_k"}:
        given["top_p"] = 1.0
    return {SAMPLING[name]: value for name, value in given.items()}


def _stop(body: Mapping[str, Any]) -> dict[str, Any]:
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise BadRequest("stop must be a text or a list of texts", "stop")
    return {"stop_words": words} if words else {}


@dataclass(frozen=True)
class Answer:
    """Makes the objects that answer one request."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish: str, usage: Mapping[str, int]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion", [choice]) | {"usage": dict(usage)}

    def chunk(self, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def last(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """The chunk after the last text that only tells the usage."""
        return self._object("chat.completion.chunk", []) | {"usage": dict(usage)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def problem(message: str, status: int, parameter: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as the API writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}

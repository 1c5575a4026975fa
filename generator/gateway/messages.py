"""Chat messages of the OpenAI API to one text and its images or videos, in the repository's own conversation format."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.gateway.refusal import BadRequest

FORMAT = "chat.json"


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written for the model (chat.json of a repository).

    Attributes:
        template: a first turn; holds {text}. following: what continues it; holds {answer} and {text}, "" = the model
            has no form for a second turn.
        image_prefix: stands before a turn's text, once per image of that turn.
    """

    model: str
    template: str
    following: str
    image_prefix: str

    @classmethod
    def read(cls, repository: Path) -> ChatFormat:
        """Of a generated repository. Raises OSError, ValueError or KeyError when the file is not one of ours."""
        values = json.loads((repository / FORMAT).read_text("utf-8"))
        return cls(**{name: str(values[name]) for name in ("model", "template", "following", "image_prefix")})


@dataclass(frozen=True)
class Question:
    """What goes to Triton: the text, its images (data URIs or web addresses, in order) and videos (files), and whether
    the text is still to be put into the model's template."""

    text: str
    images: tuple[str, ...]
    videos: tuple[bytes, ...]
    apply_chat_template: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """Triton's inputs by name."""
        media = {"image_url_input": list(self.images), "video_encoded_input": list(self.videos)}
        given = {name: values for name, values in media.items() if values}
        return {"text_input": self.text, "apply_chat_template": self.apply_chat_template, **given}


@dataclass(frozen=True)
class _Turn:
    role: str
    text: str
    images: tuple[str, ...] = ()
    videos: tuple[bytes, ...] = ()


def question(messages: Sequence[Mapping[str, Any]], chat: ChatFormat | None) -> Question:
    """The question that a conversation asks; a single turn is left to the server's own template.

    A system message stands before the first turn's text. Images stand before the text of their own turn, as the chat
    templates of these models put them.

    Raises:
        BadRequest: roles that do not take turns, content of an unknown kind, or several turns where the model's format
            is unknown or has no second turn.
    """
    turns = [_turn(message, f"messages[{i}]") for i, message in enumerate(messages)]
    system = [turn.text for turn in turns if turn.role in ("system", "developer")]
    turns = [turn for turn in turns if turn.role not in ("system", "developer")]
    _check_order(turns)
    first = "\n".join([*system, turns[0].text])
    images = tuple(image for turn in turns for image in turn.images)
    videos = tuple(video for turn in turns for video in turn.videos)
    if len(turns) == 1:
        return Question(first, images, videos, apply_chat_template=True)
    if chat is None:
        raise BadRequest(
            "several turns need the repository's own template: start the gateway with its folder", "messages"
        )
    if not chat.following:
        raise BadRequest(f"{chat.model} has no form for a second turn: send one user message", "messages")
    # The pieces are joined, never formatted: braces in a message are text.
    text = _filled(chat.template, text=chat.image_prefix * len(turns[0].images) + first)
    for answer, user in zip(turns[1::2], turns[2::2], strict=True):
        text += _filled(chat.following, answer=answer.text, text=chat.image_prefix * len(user.images) + user.text)
    return Question(text, images, videos, apply_chat_template=False)


def _filled(template: str, **values: str) -> str:
    parts: list[str] = [template]
    for name, value in values.items():
        before, mark, after = parts.pop().partition("{" + name + "}")
        if not mark:
            raise ValueError(f"{FORMAT}: {template!r} lacks {{{name}}}")
        parts += [before, value, after]
    return "".join(parts)


def _check_order(turns: Sequence[_Turn]) -> None:
    if not turns:
        raise BadRequest("messages holds no user message", "messages")
    for index, turn in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise BadRequest(f"turn {index + 1} is of role {turn.role!r}: user and assistant take turns", "messages")
        if turn.role == "assistant" and (turn.images or turn.videos):
            raise BadRequest("an assistant message cannot hold images or videos", "messages")
    if turns[-1].role != "user":
        raise BadRequest("the last message must be the user's", "messages")


def _turn(message: Mapping[str, Any], where: str) -> _Turn:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise BadRequest(f"{where}.role is {role!r}: known are system, developer, user and assistant", where)
    if isinstance(content, str):
        return _Turn(role, content)
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content must be a text or a list of parts", where)
    texts: list[str] = []
    images: list[str] = []
    videos: list[bytes] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_url(part.get(kind), f"{where}.content[{index}].{kind}"))
        elif kind == "video_url":
            videos.append(_file(part.get(kind), f"{where}.content[{index}].{kind}"))
        else:
            known = "text, image_url and video_url"
            raise BadRequest(f"{where}.content[{index}] is of type {kind!r}: known are {known}", where)
    return _Turn(role, "\n".join(texts), tuple(images), tuple(videos))


def _url(value: object, where: str) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise BadRequest(f"{where} has no url: send a data URI or a web address", where)
    return url


def _file(value: object, where: str) -> bytes:
    """The file in a data URI. Triton fetches images only."""
    header, comma, payload = _url(value, where).partition(",")
    if not comma or not header.lower().startswith("data:video/") or not header.lower().endswith(";base64"):
        raise BadRequest(f"{where} is no video as base64: send data:video/mp4;base64,...", where)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where} is not valid base64: check characters and padding", where) from None

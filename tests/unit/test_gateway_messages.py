"""Chat messages to one text and its images, and the parameters of a request."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.gateway.completion import Request
from generator.gateway.messages import ChatFormat, question
from generator.gateway.refusal import BadRequest

CHAT = ChatFormat("tiny", "SYS USER: {text} ASSISTANT:", " {answer}</s>USER: {text} ASSISTANT:", "<image>\n")
SINGLE = ChatFormat("single", "{text}", "", "")
URI = "data:image/png;base64,AAAA"


def user(text: str, *images: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_one_turn_is_left_to_the_server() -> None:
    asked = question([user("What?", URI, "https://a/b.png")], CHAT)
    assert (asked.text, asked.images, asked.apply_chat_template) == ("What?", (URI, "https://a/b.png"), True)
    assert question([{"role": "user", "content": "plain"}], None).text == "plain"


def test_several_turns_are_written_in_the_models_format() -> None:
    asked = question([user("a", URI), said("b"), user("c", URI, URI), said("d"), user("e")], CHAT)
    assert asked.text == (
        "SYS USER: <image>\na ASSISTANT: b</s>USER: <image>\n<image>\nc ASSISTANT: d</s>USER: e ASSISTANT:"
    )
    assert asked.images == (URI,) * 3 and not asked.apply_chat_template


def test_a_system_message_stands_before_the_first_text() -> None:
    assert question([{"role": "system", "content": "Be brief."}, user("a")], CHAT).text == "Be brief.\na"
    asked = question([{"role": "developer", "content": "Be brief."}, user("a"), said("b"), user("c")], CHAT)
    assert asked.text.startswith("SYS USER: Be brief.\na ASSISTANT:")


@given(st.text(), st.text(), st.text())
def test_braces_in_messages_are_text(first: str, answer: str, second: str) -> None:
    asked = question([user(first), said(answer), user(second)], CHAT)
    assert asked.text == f"SYS USER: {first} ASSISTANT: {answer}</s>USER: {second} ASSISTANT:"


def test_videos_are_files_in_data_uris() -> None:
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAEC"}}
    asked = question([{"role": "user", "content": [part, {"type": "text", "text": "a"}]}], SINGLE)
    assert asked.inputs == {"text_input": "a", "apply_chat_template": True, "video_encoded_input": [b"\0\1\2"]}


@pytest.mark.parametrize(
    "url", ["https://a/b.mp4", "data:image/png;base64,AAEC", "data:video/mp4,AAEC", "data:video/mp4;base64,A"]
)
def test_other_videos_are_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="base64") as refused:
        question([{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]}], SINGLE)
    assert refused.value.parameter == "messages[0].content[0].video_url"


@pytest.mark.parametrize(
    ("messages", "chat", "part"),
    [
        ([], CHAT, "no user message"),
        ([said("b")], CHAT, "'assistant'"),
        ([user("a"), user("b")], CHAT, "take turns"),
        ([user("a"), said("b")], CHAT, "last message"),
        ([user("a"), {"role": "assistant", "content": [{"type": "image_url", "image_url": URI}]}, user("c")], CHAT, "hold images"),
        ([{"role": "tool", "content": "x"}], CHAT, "'tool'"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], CHAT, "'input_audio'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], CHAT, "no url"),
        ([{"role": "user", "content": None}], CHAT, "a text or a list"),
        ([user("a"), said("b"), user("c")], SINGLE, "no form for a second turn"),
        ([user("a"), said("b"), user("c")], None, "start the gateway with its folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(messages: list[Any], chat: ChatFormat | None, part: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(part)):
        question(messages, chat)


def read(**body: Any) -> Request:
    return Request.read({"model": "tiny", "messages": [user("a")], **body}, "tiny", CHAT)


def test_parameters_become_inputs() -> None:
    asked = read(max_completion_tokens=7, stop="\n", seed=3, temperature=0.5, top_p=0.9, presence_penalty=1)
    assert asked.values == {
        "text_input": "a",
        "apply_chat_template": True,
        "max_tokens": 7,
        "stop_words": ["\n"],
        "seed": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
    }


def test_temperature_alone_samples_and_zero_is_greedy() -> None:
    assert read(temperature=0.7).values["top_p"] == 1.0
    greedy = read(temperature=0, top_p=0.9).values
    assert not greedy.keys() & {"temperature", "top_p"}


def test_top_k_of_minus_one_is_none_and_the_newer_limit_takes_precedence() -> None:
    asked = read(temperature=0.7, top_k=-1, max_tokens=9, max_completion_tokens=5)
    assert asked.values["top_p"] == 1.0 and "top_k" not in asked.values and asked.max_tokens == 5


def test_each_choice_has_a_seed_of_its_own() -> None:
    asked = read(n=3, temperature=1, seed=-1)
    assert [asked.values_of(choice)["seed"] for choice in range(3)] == [2**64 - 1, 0, 1]
    assert "seed" not in read(n=3).values_of(2)
    drawn = [read(temperature=1).values["seed"] for _ in range(8)]
    assert len(set(drawn)) == 8 and all(0 <= seed < 2**64 for seed in drawn)


def test_a_stream_tells_its_usage_when_it_is_asked_to() -> None:
    assert not read(stream=True).wants_usage
    assert read(stream=True, stream_options={"include_usage": True}).wants_usage


@pytest.mark.parametrize(
    "body",
    [{"n": 0}, {"n": 129}, {"logprobs": True}, {"tools": [{}]}, {"max_tokens": 0}, {"max_tokens": "8"}, {"stop": [""]}, {"seed": "x"},
     {"temperature": True}, {"model": "other"}, {"messages": "hi"}, {"response_format": {"type": "json_object"}}],
)  # fmt: skip
def test_parameters_that_cannot_be_honoured_are_refused_by_name(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**body)
    assert refused.value.parameter == next(iter(body))

"""What clients of the OpenAI API may ask for besides an answer: each parameter against what Triton itself answers."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.parity.client import MAX_TOKENS, Case, ask_stream
from tests.parity.conftest import Served
from tests.parity.openai_gateway import client_of, message, streamed, whole

pytestmark = pytest.mark.parametrize("streaming", ["vila"], indirect=True)
PLAIN_TEXT = Case("no image", "Tell me a story.")


def choices_of(stream: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Texts and finish reasons of the choices of a stream."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons


def post(url: str, body: bytes) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers of a raw request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), dict(answer.headers)


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ({"temperature": 0.8, "seed": 5}, {"temperature": 0.8, "top_p": 1.0, "seed": 5}),
        ({"top_p": 0.9, "seed": 6, "max_completion_tokens": 9}, {"top_p": 0.9, "seed": 6, "max_tokens": 9}),
        ({"temperature": 1.5, "seed": 7, "extra_body": {"top_k": 20}}, {"temperature": 1.5, "top_k": 20, "seed": 7}),
        ({"temperature": 1, "seed": -1}, {"temperature": 1.0, "top_p": 1.0, "seed": 2**64 - 1}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
        ({"extra_body": {"repetition_penalty": 3.0}}, {"repetition_penalty": 3.0}),
    ],
)
def test_a_parameter_is_tritons_own(
    streaming: Served, streamed_url: str, asked: dict[str, Any], values: dict[str, Any]
) -> None:
    client, model = client_of(streamed_url)
    types = {"seed": np.uint64, "max_tokens": np.int32, "top_k": np.int32}
    tensors = {name: np.array([[value]], types.get(name, np.float32)) for name, value in values.items()}
    length = int(tensors.pop("max_tokens", np.array(24)).item())
    ([pieces], errors) = ask_stream(streaming.grpc, "tensorrt_llm_bls", [PLAIN_TEXT], length, **tensors)
    ([default], _) = ask_stream(streaming.grpc, "tensorrt_llm_bls", [PLAIN_TEXT], length)
    limit = {} if "max_completion_tokens" in asked else {"max_tokens": 24}
    answer = whole(client, model, [message(PLAIN_TEXT.text)], **limit, **asked)
    assert not errors and answer.choices[0].message.content == "".join(pieces) != "".join(default)


def test_an_answer_ends_before_a_stop_word(streaming: Served, streamed_url: str) -> None:
    client, model = client_of(streamed_url)
    for index in range(0, len(streaming.cases), 30):
        case, text = streaming.cases[index], streaming.expected[index]
        stop = text[len(text) // 2 :][:3]
        wanted = text[: text.index(stop)]
        asked = [message(case.text, case.images)]
        answer = whole(client, model, asked, stop=[stop, "never said"])
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (wanted, "stop"), case.name
        texts, reasons = choices_of(whole(client, model, asked, stop=stop, stream=True))
        assert (texts, reasons) == ({0: wanted}, {0: "stop"}), case.name


def test_choices_sample_with_seeds_of_their_own(streaming: Served, streamed_url: str) -> None:
    client, model = client_of(streamed_url)
    asked = [message(PLAIN_TEXT.text)]
    single = [whole(client, model, asked, temperature=1, seed=7 + i).choices[0].message.content for i in range(3)]
    answer = whole(client, model, asked, temperature=1, seed=7, n=3)
    assert [choice.message.content for choice in answer.choices] == single and len(set(single)) == 3
    assert answer.usage.completion_tokens == 3 * MAX_TOKENS
    texts, reasons = choices_of(whole(client, model, asked, temperature=1, seed=7, n=3, stream=True))
    assert texts == dict(enumerate(single)) and reasons == dict.fromkeys(range(3), "length")


def test_sampling_without_a_seed_differs_each_time(streaming: Served, streamed_url: str) -> None:
    client, model = client_of(streamed_url)
    sampled = {"".join(streamed(client, model, [message(PLAIN_TEXT.text)], temperature=1)[0]) for _ in range(4)}
    assert len(sampled) == 4


def test_an_answer_of_the_default_length_was_cut(streaming: Served, streamed_url: str) -> None:
    client, model = client_of(streamed_url)
    answer = client.chat.completions.create(model=model, messages=[message(PLAIN_TEXT.text)])
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", MAX_TOKENS)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ('"messages": [{"role": "user", "content": "\\ud800"}]', 400, "surrogates"),
        ('"stream_options": "x"', 400, "stream_options must be an object"),
        ('"stream_options": {"include_usage": "x"}', 400, "include_usage"),
        ('"stream": "yes"', 400, "stream is 'yes'"),
        ('"temperature": NaN', 400, "temperature is nan"),
        ('"temperature": -1', 400, "from 0 to 100"),
        ('"top_p": 1e400', 400, "top_p is inf"),
        ('"top_k": 1.5', 400, "an integer"),
        ('"seed": 100000000000000000000000', 400, "seed is 1000"),
        ('"max_tokens": 4294967296', 400, "from 1 to 2147483647"),
        ('"min_tokens": 4294967296', 400, "min_tokens"),
        ('"n": 0', 400, "n is 0"),
        ('"logprobs": true', 400, "logprobs is not supported"),
        ('"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]', 400, "known are text"),
        ('"messages": [{"role": "user", "content": [7]}]', 400, "known are text"),
        ('"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]', 400, "base64"),
        ('"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]', 400, "neither a data URI"),
        ('"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]}]', 400, "does not apply"),
        ('"nested": ' + "[" * 100_000, 400, "not JSON"),
        ('"model": "other"', 404, "does not exist"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_said(
    streaming: Served, streamed_url: str, fields: str, status: int, said: str, stream: bool
) -> None:
    given = "" if "messages" in fields else '"messages": [{"role": "user", "content": "x"}], '
    streams = "" if '"stream"' in fields else f'"stream": {json.dumps(stream)}, '
    code, content, _ = post(streamed_url, ("{" + streams + given + fields + "}").encode())
    assert code == status and said in content["error"]["message"], content
    assert content["error"]["type"] == "invalid_request_error"


def test_unknown_parameters_are_ignored(streaming: Served, streamed_url: str) -> None:
    client, model = client_of(streamed_url)
    case, wanted = streaming.cases[0], streaming.expected[0]
    extra = {"parallel_tool_calls": True, "user": "me", "store": False, "metadata": {"a": "b"}, "no_such_thing": [1]}
    answer = whole(client, model, [message(case.text, case.images)], extra_body=extra)
    assert answer.choices[0].message.content == wanted


def test_too_large_a_body_is_refused_unread(streaming: Served, streamed_url: str) -> None:
    megabyte = b" " * (1 << 20)
    connection = http.client.HTTPConnection(urlsplit(streamed_url).netloc, timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(65 << 20))
    connection.endheaders()
    declared = connection.getresponse()
    assert declared.status == 413 and b"--max-body" in declared.read()
    connection = http.client.HTTPConnection(urlsplit(streamed_url).netloc, timeout=60)
    with pytest.raises((ConnectionError, AssertionError)):  # the gateway closes while the client still sends
        connection.request("POST", "/v1/chat/completions", (megabyte for _ in range(200)), encode_chunked=True)
        assert connection.getresponse().status != 413
    client, model = client_of(streamed_url)
    case, wanted = streaming.cases[0], streaming.expected[0]
    assert whole(client, model, [message(case.text, case.images)]).choices[0].message.content == wanted


def test_a_busy_server_is_a_429_that_clients_retry(streaming: Served, streamed_url: str) -> None:
    body = {"messages": [message("Go on")], "n": 128, "max_tokens": 60, "temperature": 1}
    status, content, headers = post(streamed_url, json.dumps(body).encode())
    assert status == 429 and headers["retry-after"] == "1" and "send again later" in content["error"]["message"]
    client, model = client_of(streamed_url)
    patient = client.with_options(max_retries=5)  # until the 64 that were let in have been cancelled
    case, wanted = streaming.cases[0], streaming.expected[0]
    assert whole(patient, model, [message(case.text, case.images)]).choices[0].message.content == wanted


def test_clients_that_leave_before_anything_came_end_their_answers(streaming: Served, streamed_url: str) -> None:
    """Forty answers of 2000 tokens, four at a time, and nobody waits for them: the next one is not behind them."""
    where = urlsplit(streamed_url)
    for number in range(40):
        body = {"messages": [message("Go on")], "max_tokens": 2000, "min_tokens": 2000, "stream": bool(number % 2)}
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection((where.hostname or "", where.port or 0)) as leaving:
            leaving.sendall(head.encode() + content)
            time.sleep(0.02)
    client, model = client_of(streamed_url)
    patient = client.with_options(timeout=20)
    case, wanted = streaming.cases[0], streaming.expected[0]
    assert whole(patient, model, [message(case.text, case.images)]).choices[0].message.content == wanted


def test_curl_reads_a_stream(streaming: Served, streamed_url: str) -> None:
    index = next(i for i, case in enumerate(streaming.cases) if case.images)
    case, wanted = streaming.cases[index], streaming.expected[index]
    body = {"model": "vila1.5-3b", "messages": [message(case.text, case.images)], "max_tokens": MAX_TOKENS}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    command = ["curl", "-sSN", "--fail-with-body", f"{streamed_url}/v1/chat/completions"]
    command += ["-H", "Content-Type: application/json", "-d", "@-"]
    ran = subprocess.run(command, input=json.dumps(body).encode(), capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    *events, empty = ran.stdout.decode().split("\n\n")
    assert empty == "" and all(event.startswith("data: ") for event in events) and events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"} and len(chunks) > 4
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant" and "".join(delta.get("content", "") for delta in deltas) == wanted
    assert chunks[-1]["usage"]["prompt_tokens"] == len(streaming.oracle.ids(case.text, case.images))


def test_a_failed_curl_says_why(streaming: Served, streamed_url: str) -> None:
    command = ["curl", "-sS", "--fail-with-body", f"{streamed_url}/v1/chat/completions", "-d", "{}"]
    ran = subprocess.run(command, capture_output=True, timeout=60)
    assert ran.returncode == 22 and b"messages must be a list" in ran.stdout


def test_the_steps_tell_what_they_have_spent(streaming: Served, streamed_url: str) -> None:
    def steps() -> dict[str, dict[str, Any]]:
        connection = http.client.HTTPConnection(urlsplit(streamed_url).netloc, timeout=20)
        connection.request("GET", "/steps")
        return {step["step"]: step for step in json.loads(connection.getresponse().read())["steps"]}

    before = steps()
    assert list(before) == ["preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing"]
    client, model = client_of(streamed_url)
    case = streaming.cases[-1]
    streamed(client, model, [message(case.text, case.images)])
    after = steps()
    counts = {name: after[name]["count"] - before[name]["count"] for name in after}
    # The front decodes streamed tokens itself.
    assert counts == {"preprocessing": 1, "vision_encoder": 1, "tensorrt_llm": 1, "postprocessing": 0}
    assert after["vision_encoder"]["compute_ms"] > before["vision_encoder"]["compute_ms"]
    assert [name for name in after if after[name]["decoupled"]] == ["tensorrt_llm"]

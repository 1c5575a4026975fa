"""The OpenAI gateway before a served repository: the official client gets exactly the oracle's answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import photos
from tests.parity.conftest import MAX_TOKENS, SUBJECTS, Served, repository
from tests.parity.openai_gateway import client_of, gateway, message, streamed, whole
from tests.parity.playground import ANSWERED, playground, turn
from tests.server.harness import triton

STREAMED = "vila"
PLAIN = "llava"


@pytest.mark.parametrize("streaming", [STREAMED], indirect=True)
class TestStreamingRepository:
    def test_answers_whole_and_streamed(self, streaming: Served, streamed_url: str) -> None:
        client, model = client_of(streamed_url)
        for index in range(0, len(streaming.cases), 8):
            case, wanted = streaming.cases[index], streaming.expected[index]
            answer = whole(client, model, [message(case.text, case.images)])
            pieces, usage = streamed(client, model, [message(case.text, case.images)])
            assert answer.choices[0].message.content == wanted == "".join(pieces), case.name
            assert answer.usage == usage and usage.prompt_tokens == len(streaming.oracle.ids(case.text, case.images))
            assert usage.completion_tokens <= MAX_TOKENS and len(pieces) > 1
            assert answer.choices[0].finish_reason == ("length" if usage.completion_tokens == MAX_TOKENS else "stop")

    def test_a_second_turn(self, streaming: Served, streamed_url: str) -> None:
        client, model = client_of(streamed_url)
        photo, other = photos.encoded("china"), photos.encoded("flower")
        messages = [
            message("What?", (photo,)),
            {"role": "assistant", "content": "A {roof}."},
            message("This?", (other,)),
        ]
        first = streaming.oracle.prompt("What?", 1)
        raw = f"{first} A {{roof}}.</s>USER: <image>\nThis? ASSISTANT:"
        wanted = streaming.oracle.generate(raw, [photo, other], MAX_TOKENS, raw=True)[1]
        assert whole(client, model, messages).choices[0].message.content == wanted

    def test_16_clients_at_once(self, streaming: Served, streamed_url: str) -> None:
        client, model = client_of(streamed_url)
        with ThreadPoolExecutor(16) as pool:
            asked = [message(case.text, case.images) for case in streaming.cases[:32]]
            answers = list(pool.map(lambda one: "".join(streamed(client, model, [one])[0]), asked))
        assert answers == streaming.expected[:32]

    def test_errors_are_openais(self, streaming: Served, streamed_url: str) -> None:
        client, model = client_of(streamed_url)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            whole(client, "gpt-4o", [message("x")])
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="max_seq_len") as refused:
                client.chat.completions.create(model=model, messages=[message("x")], max_tokens=99999, stream=stream)
            assert refused.value.body["type"] == "invalid_request_error"  # type: ignore[index,call-overload]
        with pytest.raises(openai.BadRequestError, match="not among the image hosts"):
            parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
            whole(client, model, [{"role": "user", "content": parts}])
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{streamed_url}/v1/chat/completions", b"{", {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as broken:
            urllib.request.urlopen(request, timeout=10)  # noqa: S310 - our own server
        assert broken.value.code == 400 and "not JSON" in json.load(broken.value)["error"]["message"]

    def test_clients_that_leave_end_their_answers(self, streaming: Served, streamed_url: str) -> None:
        """Forty answers of 2000 tokens each: the LLM takes four at a time, so the last would wait for minutes."""
        client, model = client_of(streamed_url)
        patient = client.with_options(timeout=20)
        for _ in range(40):
            asked: dict[str, Any] = {
                "messages": [message("Go on")],
                "max_tokens": 2000,
                "extra_body": {"min_tokens": 2000},
            }
            stream = patient.chat.completions.create(model=model, **asked, stream=True)
            next(iter(stream))
            stream.close()
        case, wanted = streaming.cases[0], streaming.expected[0]
        assert whole(patient, model, [message(case.text, case.images)]).choices[0].message.content == wanted

    def test_the_page_is_there(self, streaming: Served, streamed_url: str) -> None:
        with urllib.request.urlopen(f"{streamed_url}/", timeout=10) as page:  # noqa: S310 - our own server
            assert b"v1/chat/completions" in page.read()


@pytest.mark.parametrize("served", [PLAIN], indirect=True)
def test_a_plain_repository_streams_its_answer_in_one_piece(served: Served, plain_url: str) -> None:
    client, model = client_of(plain_url)
    index = next(i for i, case in enumerate(served.cases) if case.images)
    case, wanted = served.cases[index], served.expected[index]
    assert whole(client, model, [message(case.text, case.images)]).choices[0].message.content == wanted
    pieces, usage = streamed(client, model, [message(case.text, case.images)])
    assert pieces == [wanted] and usage.prompt_tokens == len(served.oracle.ids(case.text, case.images))


@pytest.mark.parametrize("served", ["blip2-opt"], indirect=True)
def test_the_playground_before_a_plain_repository_of_single_turns(
    served: Served, plain_url: str, tmp_path: Path
) -> None:
    """Triton measures all four steps; each question stands alone, and is about the same picture."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(served.cases[0].images[0])
    client, model = client_of(plain_url)
    with playground(plain_url, model, tmp_path) as page:
        page.choose("#file", photo)
        page.until("document.querySelectorAll('#pictures img').length === 1")
        for number, text in enumerate(("What?", "Why?")):
            page.type("#text", text)
            page.press_enter()
            page.until(ANSWERED.format(number + 1))
            shown = turn(page, number)
            answer = whole(client, model, [message(text, (photo.read_bytes(),))])
            assert (shown["answer"], shown["pictures"]) == (answer.choices[0].message.content, 1)
            names = [row[0] for row in shown["rows"]]
            assert names == ["preprocessing", "vision encoder", "language model", "postprocessing"]
            assert not any("≈" in row[1] for row in shown["rows"])


def test_health_tells_when_the_server_has_gone(tmp_path: Path) -> None:
    folder = repository(SUBJECTS[PLAIN], tmp_path / "repository", streaming=True)
    with triton(folder) as server, gateway(folder, server.grpc) as url:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:  # noqa: S310 - our own server
            assert answer.status == 200
        client, model = client_of(url)
        lasting = {"max_tokens": 400, "extra_body": {"min_tokens": 400}}
        chunks = iter(whole(client, model, [message("Go on")], stream=True, **lasting))
        next(chunks)
        server.process.kill()
        server.process.wait()
        with pytest.raises(openai.APIError):
            list(chunks)
        with pytest.raises(urllib.error.HTTPError) as gone:
            urllib.request.urlopen(f"{url}/health", timeout=30)  # noqa: S310 - our own server
        assert gone.value.code == 503 and "no ready server" in json.load(gone.value)["error"]["message"]

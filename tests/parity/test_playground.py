"""The playground in a real browser, before a gateway that has started its own server.

A browser is not a package: where there is none on PATH, these tests are skipped, and say so. SCREENSHOT=FILE keeps a
picture of the page.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator import demo, models
from generator.generate import generate
from generator.options import Options
from tests import browser, photos
from tests.parity.client import MAX_TOKENS
from tests.parity.conftest import SUBJECTS, repository
from tests.parity.openai_gateway import client_of, gateway, message, whole
from tests.parity.playground import ANSWERED, playground, turn

pytestmark = pytest.mark.xdist_group("playground")  # one worker: its server starts once
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = repository(SUBJECTS["vila"], tmp_path_factory.mktemp("playground") / "vila", streaming=True)
    with gateway(folder, None) as found:
        yield found
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # a process that ends meanwhile
            assert str(folder).encode() not in command.read_bytes(), "the gateway left its server behind"


@pytest.fixture
def page(url: str, tmp_path: Path) -> Iterator[browser.Page]:
    with playground(url, "vila1.5-3b", tmp_path) as opened:
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "china.jpg"
    file.write_bytes(photos.encoded("china"))
    return file


def test_a_conversation_about_a_dropped_picture(page: browser.Page, url: str, photo: Path) -> None:
    client, model = client_of(url)
    asked = [message(QUESTION, (photo.read_bytes(),))]
    first_answer = whole(client, model, asked).choices[0].message.content
    page.drop("#drop", photo)
    page.until("document.querySelectorAll('#pictures img').length === 1")
    page.value("""window.lengths = []; new MutationObserver(() => {
        const answer = document.querySelector('.answer');
        if (answer) window.lengths.push(answer.textContent.length);
    }).observe(document.body, {subtree: true, childList: true, characterData: true})""")
    page.type("#text", QUESTION)
    page.press_enter()
    page.until(ANSWERED.format(1))
    first = turn(page, 0)
    assert (first["state"], first["pictures"], first["loaded"], first["answer"]) == ("answered", 1, True, first_answer)
    assert len(set(page.value("lengths"))) > 3, "the answer came at once"
    names = [row[0] for row in first["rows"]]
    assert names == ["preprocessing", "vision encoder", "language model"]  # the front decodes streamed tokens itself
    assert all(float(row[1].removeprefix("≈ ").removesuffix(" ms")) > 0 for row in first["rows"])
    assert f"{MAX_TOKENS} out" in first["times"] and "cut at the limit" in first["times"]

    asked += [{"role": "assistant", "content": first_answer}, message("And what else?")]
    second_answer = whole(client, model, asked).choices[0].message.content
    page.type("#text", "And what else?")
    page.click("#send")
    page.until(ANSWERED.format(2))
    second = turn(page, 1)
    assert (second["state"], second["pictures"], second["answer"]) == ("answered", 0, second_answer)

    page.click("#clear")
    assert page.value("document.querySelectorAll('.turn, #pictures img').length") == 0
    alone = whole(client, model, [message("And what else?")]).choices[0].message.content
    page.type("#text", "And what else?")
    page.press_enter()
    page.until(ANSWERED.format(1))
    assert turn(page, 0)["answer"] == alone != second_answer


def test_the_trained_model_answers_rightly_in_the_page(tmp_path: Path) -> None:
    options = Options(
        model="vila",
        hf_model_dir=demo.checkpoint("vila"),
        runtime="torch",
        output=tmp_path / "vila",
        streaming=True,
        max_tokens=demo.MAX_TOKENS,
    )
    assert not generate(options).failed
    asked = [
        one for one in demo.questions(models.find("vila")[0]) if "ow many" in one.question or len(one.pictures) > 1
    ]
    with gateway(tmp_path / "vila", None) as url, playground(url, "vila1.5-3b", tmp_path) as page:
        for number, one in enumerate(asked, 1):
            for picture in one.pictures:
                page.choose("#file", picture)
            page.until(f"document.querySelectorAll('#pictures img').length === {len(one.pictures)}")
            page.type("#text", one.question)
            page.press_enter()
            page.until(ANSWERED.format(1))
            assert turn(page, 0)["answer"] == one.answer
            if number < len(asked):
                page.click("#clear")
        if file := os.environ.get("SCREENSHOT"):
            Path(file).write_bytes(page.screenshot())


def test_chosen_pictures(page: browser.Page, url: str, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "flower.jpg"
    other.write_bytes(photos.encoded("flower"))
    for number, file in enumerate((photo, other), 1):
        page.choose("#file", file)
        page.until(f"document.querySelectorAll('#pictures img').length === {number}")
    page.click("#send")  # asks what the empty input suggests
    page.until(ANSWERED.format(1))
    client, model = client_of(url)
    asked = [message(QUESTION, (photo.read_bytes(), other.read_bytes()))]
    shown = turn(page, 0)
    assert (shown["answer"], shown["pictures"]) == (whole(client, model, asked).choices[0].message.content, 2)


def test_an_answer_can_be_stopped(page: browser.Page, url: str) -> None:
    page.type("#limit", "2000")
    # The page itself watches for the first words: on a busy machine the answer could end before we look again.
    page.value("""new MutationObserver(() => {
        const answer = document.querySelector('.turn:not([data-state]) .answer');
        if (answer && answer.textContent.length > 20) document.getElementById('stop').click();
    }).observe(document.body, {subtree: true, childList: true, characterData: true})""")
    page.type("#text", "Go on")
    page.press_enter()
    page.until(ANSWERED.format(1))
    stopped = turn(page, 0)
    assert stopped["state"] == "stopped" and stopped["answer"] and stopped["error"] is None
    page.until("document.getElementById('stop').disabled && !document.getElementById('send').disabled")


def test_errors_are_shown_and_the_page_goes_on(page: browser.Page, url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos.encoded("china")[:400])
    page.choose("#file", broken)
    page.until("document.querySelectorAll('#pictures img').length === 1")
    page.click("#send")
    page.until(ANSWERED.format(1))
    assert "truncated or damaged" in turn(page, 0)["error"] or "not a readable" in turn(page, 0)["error"]
    page.click("#clear")
    page.type("#limit", "99999")
    page.click("#send")
    page.until(ANSWERED.format(1))
    assert "max_seq_len" in turn(page, 0)["error"] and turn(page, 0)["state"] == "failed"
    page.type("#limit", "3")
    page.click("#send")
    page.until(ANSWERED.format(2))
    assert turn(page, 1)["state"] == "answered"


def test_text_is_never_markup(page: browser.Page, url: str) -> None:
    page.type("#text", "<img src=x onerror='window.broken=1'>")
    page.press_enter()
    page.until(ANSWERED.format(1))
    assert turn(page, 0)["pictures"] == 0 and page.value("window.broken") is None


def test_a_gateway_with_its_own_server_passes_its_metrics_on(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:  # noqa: S310 - our own server
        assert b'nv_inference_request_success{model="preprocessing"' in answer.read()
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:  # noqa: S310
        [model] = json.load(answer)["data"]
    assert (model["id"], model["several_turns"]) == ("vila1.5-3b", True) and model["max_model_len"] > 0

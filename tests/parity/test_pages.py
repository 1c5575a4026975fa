"""Pages through a real Triton: pixels, features, greedy text and Markdown equal the oracle's; so do PDFs by the client."""

from __future__ import annotations

import contextlib
import random
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator import ask as client_side
from generator.generate import generate
from generator.options import Options
from generator.oracle.common import open_image
from generator.oracle.nougat import NougatOracle
from generator.verify.command import Verify, run
from tests import pages
from tests.checkpoints import cached
from tests.parity.client import Case, ask, ask_stream, floats, inputs, passed_on, refusal, strings, tensor, tokens
from tests.server.harness import triton

pytestmark = pytest.mark.xdist_group("pages")  # one worker, so that each server starts once

MAX_TOKENS = 24
NAMES = pages.names()


@dataclass
class Pages:
    folder: Path
    grpc: str
    oracle: NougatOracle
    expected: dict[str, str]

    @contextlib.contextmanager
    def client(self) -> Iterator[InferenceServerClient]:
        with InferenceServerClient(self.grpc) as client:
            yield client


def case(name: str, text: str = "") -> Case:
    return Case(name, text, (pages.encoded(name),))


@pytest.fixture(scope="module")
def oracle() -> NougatOracle:
    return NougatOracle(cached("nougat"))


@pytest.fixture(scope="module")
def expected(oracle: NougatOracle) -> dict[str, str]:
    return {name: oracle.generate("", [pages.encoded(name)], MAX_TOKENS)[1] for name in NAMES}


def repository(folder: Path, **options: object) -> Path:
    chosen = Options(
        model="nougat",
        hf_model_dir=cached("nougat"),
        runtime="torch",
        output=folder,
        **options,  # type: ignore[arg-type]
    )
    outcome = generate(chosen)
    assert not outcome.failed, outcome.findings
    return outcome.output


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, oracle: NougatOracle, expected: dict[str, str]) -> Iterator[Pages]:
    where = repository(tmp_path_factory.mktemp("pages") / "plain")
    with triton(where) as server:
        yield Pages(where, server.grpc, oracle, expected)


@pytest.fixture(scope="module")
def streaming(
    tmp_path_factory: pytest.TempPathFactory, oracle: NougatOracle, expected: dict[str, str]
) -> Iterator[Pages]:
    where = repository(tmp_path_factory.mktemp("pages") / "streaming", streaming=True, route="encoder_features")
    with triton(where) as server:
        yield Pages(where, server.grpc, oracle, expected)


def test_the_oracle_distinguishes_the_pages(served: Pages) -> None:
    assert len(set(served.expected.values())) >= 0.9 * len(NAMES) >= 18


def test_ids_pixels_and_features(served: Pages) -> None:
    with served.client() as client:
        for name in NAMES:
            made = client.infer("preprocessing", inputs([case(name)]))
            assert made.as_numpy("input_ids").tolist() == [[served.oracle.start_id]]
            assert made.as_numpy("input_lengths").tolist() == [[1]]
            assert made.as_numpy("bad_words_list").tolist() == [[[served.oracle.tokenizer.unk_token_id], [1]]]
            pixels, truth = floats(made, "pixel_values")[0], served.oracle.pixels([pages.encoded(name)])
            assert pixels.shape == truth.shape and pixels.tobytes() == truth.tobytes(), name
            step = [passed_on(made, tensor) for tensor in ("pixel_values", "num_images", "num_rows")]
            result = client.infer("vision_encoder", step)
            features, wanted = floats(result, "encoder_input_features"), served.oracle.features([pages.encoded(name)])
            assert result.as_numpy("encoder_output_lengths").tolist() == [[features.shape[1]]] == [[588]]
            assert features.shape == wanted.shape and features.tobytes() == wanted.tobytes(), name


def test_text_and_markdown_asked_singly(served: Pages) -> None:
    with served.client() as client:
        for name in NAMES:
            result = client.infer("ensemble", inputs([case(name)], max_tokens=tokens(MAX_TOKENS)))
            text, markdown = (result.as_numpy(output).item().decode() for output in ("text_output", "markdown"))
            assert text == served.expected[name], name
            assert markdown == served.oracle.markdown(text), name


def test_text_at_concurrency_8(served: Pages) -> None:
    order = NAMES * 2
    random.Random(3).shuffle(order)

    def one(name: str) -> str:
        with served.client() as client:
            return ask(client, case(name), MAX_TOKENS)

    with ThreadPoolExecutor(8) as pool:
        for name, text in zip(order, pool.map(one, order), strict=True):
            assert text == served.expected[name], name


@pytest.mark.parametrize("text", ["What is this?", "<image> <s>", "word " * 5000])
def test_text_is_not_looked_at(served: Pages, text: str) -> None:
    with served.client() as client:
        assert ask(client, case("a4", text), MAX_TOKENS) == served.expected["a4"]
        raw = np.array([[False]])
        assert ask(client, case("a4", text), MAX_TOKENS, apply_chat_template=raw) == served.expected["a4"]


def test_text_may_be_absent(served: Pages) -> None:
    request = inputs([case("letter")], max_tokens=tokens(MAX_TOKENS))[1:]
    assert "text_input" not in {made.name() for made in request}
    with served.client() as client:
        text = client.infer("ensemble", request).as_numpy("text_output").item().decode()
    assert text == served.expected["letter"]


def test_every_image_transport_gives_the_same_answer(served: Pages) -> None:
    uri = "data:image/png;base64," + b64encode(pages.encoded("a4")).decode()
    given = {
        "image_url_input": strings([[uri.encode()]]),
        "image_bytes_input": np.asarray(open_image(pages.encoded("a4")))[None, None],
        "image_input": served.oracle.pixels([pages.encoded("a4")])[None],
    }
    with served.client() as client:
        for name, value in given.items():
            assert ask(client, Case(name, ""), MAX_TOKENS, **{name: value}) == served.expected["a4"], name


def test_an_answer_is_as_long_as_fits_unless_asked(served: Pages) -> None:
    positions = served.oracle.model.config.decoder.max_position_embeddings
    with served.client() as client:
        for wanted, request in ((positions - 1, {}), (7, {"max_tokens": tokens(7)})):
            made = client.infer("preprocessing", inputs([case("a4")], **request))
            assert made.as_numpy("request_output_len").item() == wanted
        message = refusal(client, "ensemble", inputs([case("a4")], max_tokens=tokens(positions)))
        assert str(positions) in message and f"at most {positions - 1}" in message


def test_beams_equal_the_oracles(served: Pages) -> None:
    with served.client() as client:
        for name in NAMES[:4]:
            options = {"max_tokens": tokens(MAX_TOKENS), "beam_width": np.array([[3]], np.int32)}
            result = client.infer("ensemble", inputs([case(name)], **options))
            rows = served.oracle.rows(served.oracle.pixels([pages.encoded(name)]))
            beams = served.oracle.decoded(
                [served.oracle.start_id], rows, MAX_TOKENS, num_beams=3, num_return_sequences=3, length_penalty=1.0
            )
            found = [text.decode() for text in result.as_numpy("text_output").reshape(-1)]
            assert found == [served.oracle.text(beam) for beam in beams], name


def test_a_page_is_needed_and_one_only(served: Pages) -> None:
    with served.client() as client:
        assert "needs an image" in refusal(client, "ensemble", inputs([Case("none", "")]))
        two = Case("two", "", (pages.encoded("a4"), pages.encoded("letter")))
        assert "2 images, allowed are 1" in refusal(client, "ensemble", inputs([two]))
        line = np.full((1, 1, 3000, 3000, 3), 255, np.uint8)
        line[0, 0, :, 7] = 0  # all that is not margin is one pixel wide
        message = refusal(client, "ensemble", [tensor("image_bytes_input", line)])
        assert "1x3000 pixels is too elongated" in message
        assert ask(client, case("a4"), MAX_TOKENS) == served.expected["a4"]


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_streamed(streaming: Pages, model: str) -> None:
    for name in NAMES[:6]:
        whole, errors = ask_stream(streaming.grpc, model, [case(name)], MAX_TOKENS)
        assert not errors and "".join(whole[0]) == streaming.expected[name]
        if model != "ensemble":
            pieces, errors = ask_stream(streaming.grpc, model, [case(name)], MAX_TOKENS, stream=True)
            assert not errors and len(pieces[0]) > 3 and "".join(pieces[0]) == streaming.expected[name]


def test_a_pdf_page_by_page(served: Pages, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The pages' texts in order; those of the pictures that the client makes of them."""
    from generator import pdf

    file = tmp_path / "three.pdf"
    file.write_bytes(pages.pdf(3))
    pictures = [image for _, image in pdf.pages(file)]
    wanted = [served.oracle.generate("", [picture], MAX_TOKENS)[1] for picture in pictures]
    assert len(set(wanted)) == len(pictures) == 3
    given = {"images": [], "pdf": file, "max_tokens": MAX_TOKENS}
    assert client_side.run(served.grpc, "ensemble", "", output="text_output", **given) == 0
    assert capsys.readouterr().out == "\n\n".join(wanted) + "\n"
    assert client_side.run(served.grpc, "ensemble", "", output="markdown", **given) == 0
    assert capsys.readouterr().out == "\n\n".join(map(served.oracle.markdown, wanted)) + "\n"


def test_verify(served: Pages) -> None:
    found = run(Verify(served.folder, cached("nougat"), url=served.grpc, max_tokens=8), tell=print)
    assert found.right and len(found.stages) == 3
    assert {stage.verdict for _, stages in found.stages for stage in stages} == {"equal"}

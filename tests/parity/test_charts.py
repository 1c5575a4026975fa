"""Charts through a real Triton: patches, rows, greedy text and the table as CSV equal the oracle's."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.findings import Refused
from generator.generate import generate
from generator.options import Options
from generator.oracle.common import open_image
from generator.oracle.deplot import DeplotOracle
from generator.verify.command import Verify, run
from tests import charts, photos
from tests.checkpoints import cached
from tests.parity.client import Case, ask, ask_stream, inputs, passed_on, refusal, strings, tokens
from tests.parity.conftest import MAX_TOKENS
from tests.server.harness import triton

CASES = range(charts.COUNT)
ORIENTED = ("rotated", "palette", "grey_alpha", "bilevel", "cmyk", "wide", "tiny")
"""Photographs whose files need care: they go through the same inputs."""


@dataclass
class Charts:
    folder: Path
    grpc: str
    oracle: DeplotOracle
    expected: list[str]


def case(number: int) -> Case:
    return Case(f"chart {number}", charts.question(number), (charts.encoded(number),))


def asked(number: int) -> str:
    """What is drawn above the chart: an empty question stands for the usual one."""
    return charts.question(number) or charts.QUESTIONS[0]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> DeplotOracle:
    font = tmp_path_factory.mktemp("font") / "free.ttf"
    font.write_bytes(charts.font_bytes())
    return DeplotOracle(cached("deplot"), font)


@pytest.fixture(scope="module")
def expected(oracle: DeplotOracle) -> list[str]:
    return [oracle.generate(asked(i), [charts.encoded(i)], MAX_TOKENS)[1] for i in CASES]


def repository(folder: Path, font: Path, **options: object) -> Path:
    chosen = Options(
        model="deplot",
        hf_model_dir=cached("deplot"),
        header_font=font,
        runtime="torch",
        output=folder,
        **options,  # type: ignore[arg-type]
    )
    outcome = generate(chosen)
    assert not outcome.failed, outcome.findings
    return outcome.output


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, oracle: DeplotOracle, expected: list[str]) -> Iterator[Charts]:
    where = repository(tmp_path_factory.mktemp("charts") / "plain", oracle.font)
    with triton(where) as server:
        yield Charts(where, server.grpc, oracle, expected)


def assert_same_patches(found: np.ndarray, truth: np.ndarray) -> None:
    """Lines, columns and padding equal; of the pixels one in ten thousand may be off by its last bit.

    torch's interpolation differs that much between processors; where these tests were written, none is off.
    """
    assert found.shape == truth.shape and found.dtype == truth.dtype == np.float16
    np.testing.assert_array_equal(found[..., :2], truth[..., :2])
    np.testing.assert_array_max_ulp(found, truth, maxulp=1, dtype=np.float16)
    assert (found != truth).mean() <= 1e-4


def test_the_oracle_distinguishes_the_charts(served: Charts) -> None:
    assert len(set(served.expected)) >= 0.9 * len(CASES)
    assert sum("\n" in text or "|" in text for text in served.expected) >= 5


def test_ids_patches_and_features(served: Charts) -> None:
    with InferenceServerClient(served.grpc) as client:
        for number in CASES:
            made = client.infer("preprocessing", inputs([case(number)]))
            assert made.as_numpy("input_ids").tolist() == [[served.oracle.start_id]]
            assert made.as_numpy("input_lengths").tolist() == [[1]]
            chart = [charts.encoded(number)]
            assert_same_patches(made.as_numpy("pixel_values")[0], served.oracle.pixels(chart, asked(number)))
            valid = int(served.oracle.mask(chart, asked(number)).sum())
            assert made.as_numpy("num_rows").item() == valid
            if number % 4 == 0:
                step = [passed_on(made, name) for name in ("pixel_values", "num_images", "num_rows")]
                result = client.infer("vision_encoder", step)
                assert result.as_numpy("encoder_output_lengths").tolist() == [[valid]]
                truth = served.oracle.rows(made.as_numpy("pixel_values")[0])
                np.testing.assert_array_equal(result.as_numpy("encoder_input_features"), truth)


def test_text_at_concurrency_8(served: Charts) -> None:
    def one(number: int) -> str:
        with InferenceServerClient(served.grpc) as client:
            return ask(client, case(number), MAX_TOKENS)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, CASES)) == served.expected


def test_text_and_table_asked_singly(served: Charts) -> None:
    with InferenceServerClient(served.grpc) as client:
        for number in CASES:
            result = client.infer("ensemble", inputs([case(number)], max_tokens=tokens(MAX_TOKENS)))
            text, table = (result.as_numpy(name).item().decode() for name in ("text_output", "table_csv"))
            assert text == served.expected[number]
            lines = [line for line in text.split("\n") if line.strip()]
            wanted = [[cell.strip() for cell in line.split("|")] for line in lines]
            assert list(csv.reader(io.StringIO(table))) == wanted


def test_files_that_need_care(served: Charts) -> None:
    with InferenceServerClient(served.grpc) as client:
        for name in ORIENTED:
            photo = photos.encoded(name)
            made = client.infer("preprocessing", inputs([Case(name, "Which?", (photo,))]))
            assert_same_patches(made.as_numpy("pixel_values")[0], served.oracle.pixels([photo], "Which?"))


def test_every_image_transport_gives_the_same_answer(served: Charts) -> None:
    uri = "data:image/png;base64," + b64encode(charts.encoded(0)).decode()
    decoded = np.asarray(open_image(charts.encoded(0)))[None, None]
    bare = Case("bare", charts.question(0))
    with InferenceServerClient(served.grpc) as client:
        for name, value in {"image_url_input": strings([[uri.encode()]]), "image_bytes_input": decoded}.items():
            assert ask(client, bare, MAX_TOKENS, **{name: value}) == served.expected[0], name


def test_white_space_alone_is_no_question(served: Charts) -> None:
    with InferenceServerClient(served.grpc) as client:
        assert ask(client, Case("blank", " \n ", (charts.encoded(0),)), MAX_TOKENS) == served.expected[0]


def test_bad_requests_are_refused(served: Charts) -> None:
    chart = charts.encoded(0)
    thin = charts.file_of(charts.drawn(0, 4, 3000), "PNG")
    bad = {
        "needs a chart": Case("", "What?"),
        "2 images": Case("", "What?", (chart, chart)),
        "not a readable": Case("", "What?", (b"no image",)),
        "4000: shorten": Case("", "x" * 4001, (chart,)),
        "with the text above": Case("", "Why is this chart so long and so thin?", (thin,)),
    }
    with InferenceServerClient(served.grpc) as client:
        for message, wrong in bad.items():
            assert message in refusal(client, "ensemble", inputs([wrong])), message
        pixels = np.zeros((1, 1, 3, 8, 8), np.float16)
        assert "image_input" in refusal(client, "ensemble", inputs([bad["needs a chart"]], image_input=pixels))
        assert ask(client, case(0), MAX_TOKENS) == served.expected[0]


def test_streamed_pieces_join_to_the_whole_text(oracle: DeplotOracle, expected: list[str], tmp_path: Path) -> None:
    """On the other route: the answers of the torch runtime are the same on both, and this one streams."""
    where = repository(tmp_path / "streaming", oracle.font, route="encoder_features", streaming=True)
    with triton(where) as server:
        for number in (0, 9, 12):
            streamed = ask_stream(server.grpc, "tensorrt_llm_bls", [case(number)], MAX_TOKENS, stream=True)
            whole = ask_stream(server.grpc, "tensorrt_llm_bls", [case(number)], MAX_TOKENS)
            assert (streamed[1], whole[1]) == ([], [])
            assert "".join(streamed[0][0]) == "".join(whole[0][0]) == expected[number]
            assert len(streamed[0][0]) > 3


def test_verify(served: Charts) -> None:
    wanted = Verify(served.folder, cached("deplot"), url=served.grpc, max_tokens=8, font=served.oracle.font)
    found = run(wanted, tell=print)
    assert found.right and len(found.stages) == 3
    assert {stage.verdict for _, stages in found.stages for stage in stages if stage.name != "pixels"} == {"equal"}
    with pytest.raises(Refused, match="takes a font"):
        run(replace(wanted, font=None), tell=print)

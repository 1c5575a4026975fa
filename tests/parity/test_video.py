"""Clips through a real Triton: ids, pixels, rows and greedy text equal the oracle's; bad requests are refused."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from generator.cli import main
from generator.generate import Outcome, generate
from generator.options import Options
from generator.oracle.common import open_image
from generator.oracle.video_neva import VideoNevaOracle
from generator.verify.command import Verify, run
from tests import photos
from tests.checkpoints import cached
from tests.parity.client import Case, ask, ask_stream, floats, inputs, passed_on, refusal, strings
from tests.parity.conftest import MAX_TOKENS
from tests.parity.openai_gateway import client_of, gateway, message, whole
from tests.server.harness import triton

SIZES = ((320, 240), (200, 360), (224, 224), (150, 100))
LENGTHS = (1, 3, 4, 9, 17)
CASES = range(20)


@cache
def clip(number: int) -> NDArray[np.uint8]:
    """A slide show of photographs, [T, H, W, 3]; sizes and lengths take turns, shorter ones than a clip among them."""
    names, size, length = photos.names(), SIZES[number % len(SIZES)], LENGTHS[number % len(LENGTHS)]
    shown = (open_image(photos.encoded(names[(number * 3 + i) % len(names)])) for i in range(length))
    return np.stack([np.asarray(image.resize(size)) for image in shown])


@cache
def file(number: int) -> bytes:
    """The clip as a video file whose codec loses nothing."""
    content, frames = BytesIO(), clip(number)
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


@dataclass
class Videos:
    folder: Path
    grpc: str
    oracle: VideoNevaOracle
    vocab_size: int
    expected: list[str]


@pytest.fixture(scope="module")
def oracle() -> VideoNevaOracle:
    return VideoNevaOracle(cached("video-neva"))


@pytest.fixture(scope="module")
def expected(oracle: VideoNevaOracle) -> list[str]:
    return [oracle.generate(photos.PROMPTS[i], [clip(i)], MAX_TOKENS)[1] for i in CASES]


def repository(folder: Path, **options: Any) -> Outcome:
    checkpoint = cached("video-neva")
    given = Options(
        model="video-neva",
        hf_model_dir=checkpoint / "nemotron.nemo",
        projector=checkpoint / "projector.nemo",
        runtime="torch",
        output=folder / "repository",
    )
    outcome = generate(replace(given, **options))
    assert not outcome.failed, outcome.findings
    return outcome


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, oracle: VideoNevaOracle, expected: list[str]) -> Iterator[Videos]:
    outcome = repository(tmp_path_factory.mktemp("video"))
    with triton(outcome.output) as server:
        yield Videos(outcome.output, server.grpc, oracle, outcome.plan.vocab_size, expected)


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of a --streaming repository that was told that frames are to be BGR."""
    outcome = repository(tmp_path_factory.mktemp("streaming"), streaming=True, frame_order="bgr")
    with triton(outcome.output) as server:
        yield server.grpc


def request(number: int) -> tuple[Case, dict[str, Any]]:
    return Case(str(number), photos.PROMPTS[number]), {"video_encoded_input": strings([[file(number)]])}


def test_the_oracle_distinguishes_the_clips(served: Videos) -> None:
    assert len(set(served.expected)) >= 0.9 * len(CASES)


def test_ids_pixels_and_rows(served: Videos) -> None:
    with InferenceServerClient(served.grpc) as client:
        for number in CASES:
            case, video = request(number)
            made = client.infer("preprocessing", inputs([case], **video))
            ids, truth = made.as_numpy("input_ids")[0], served.oracle.pixels([clip(number)])
            masked = np.where(ids >= served.vocab_size, served.oracle.image_id, ids)
            assert masked.tolist() == served.oracle.ids(case.text, [clip(number)])
            pixels = floats(made, "pixel_values")[0]
            assert pixels.shape == truth.shape and pixels.tobytes() == truth.tobytes(), number
            if number % 4 == 0:
                step = [passed_on(made, name) for name in ("pixel_values", "num_images", "num_rows")]
                table = floats(client.infer("vision_encoder", step), "prompt_embedding_table")[0]
                selected = table[ids[ids >= served.vocab_size] - served.vocab_size]
                np.testing.assert_allclose(selected, served.oracle.selected([clip(number)]), rtol=0, atol=0)


def test_text_singly_and_at_concurrency_8(served: Videos) -> None:
    def one(number: int) -> str:
        case, video = request(number)
        with InferenceServerClient(served.grpc) as client:
            return ask(client, case, MAX_TOKENS, **video)

    assert [one(number) for number in CASES] == served.expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, CASES)) == served.expected


def test_decoded_frames_in_either_order_of_axes(served: Videos) -> None:
    with InferenceServerClient(served.grpc) as client:
        for number in (1, 3):
            case, _ = request(number)
            frames = clip(number)[None]
            for array in (frames, np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))):
                assert ask(client, case, MAX_TOKENS, video_bytes_input=array) == served.expected[number]


def test_ask_sends_a_video(served: Videos, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(file(4))
    arguments = ["ask", "--url", served.grpc, "--video", str(path), "--text", photos.PROMPTS[4]]
    assert main([*arguments, "--max-tokens", str(MAX_TOKENS)]) == 0
    assert capsys.readouterr().out == served.expected[4] + "\n"


def test_openai_clients_send_a_video(served: Videos) -> None:
    """To a gateway that knows nothing but the server's address."""
    address = "data:video/x-matroska;base64," + base64.b64encode(file(4)).decode()
    asked = [{"type": "text", "text": photos.PROMPTS[4]}, {"type": "video_url", "video_url": {"url": address}}]
    with gateway(served.grpc) as url:
        client, model = client_of(url)
        answer = whole(client, model, [{"role": "user", "content": asked}])
        assert (model, answer.choices[0].message.content) == ("ensemble", served.expected[4])
        assert answer.usage.prompt_tokens == len(served.oracle.ids(photos.PROMPTS[4], [clip(4)]))
        with pytest.raises(openai.BadRequestError, match="image_url_input does not apply"):
            whole(client, model, [message("What?", (photos.encoded("china"),))])


def test_streamed_pieces_join_to_the_whole_text(streaming: str, expected: list[str]) -> None:
    """Frames go in with red and blue exchanged, as the repository exchanges them again."""
    for number in (0, 1, 7, 13):
        frames = np.ascontiguousarray(clip(number)[None, ..., ::-1])
        case = Case(str(number), photos.PROMPTS[number])
        pieces, errors = ask_stream(
            streaming, "tensorrt_llm_bls", [case], MAX_TOKENS, stream=True, video_bytes_input=frames
        )
        assert not errors and len(pieces[0]) > 3 and "".join(pieces[0]) == expected[number]


@pytest.mark.parametrize("stream", [True, False])
def test_rows_of_a_batch_equal_single_requests(
    streaming: str, oracle: VideoNevaOracle, expected: list[str], stream: bool
) -> None:
    """Clips of one size, one played backwards, and questions of unequal length."""
    clips = [clip(9), clip(9)[::-1], clip(9)]
    cases = [Case("", photos.PROMPTS[9]), Case("", photos.PROMPTS[9]), Case("", photos.PROMPTS[2])]
    truth = [oracle.generate(case.text, [frames], MAX_TOKENS)[1] for case, frames in zip(cases, clips, strict=True)]
    assert len(set(truth)) == 3 and truth[0] == expected[9]
    frames = np.ascontiguousarray(np.stack(clips)[..., ::-1])
    pieces, errors = ask_stream(
        streaming, "tensorrt_llm_bls", cases, MAX_TOKENS, stream=stream, video_bytes_input=frames
    )
    assert not errors and ["".join(own) for own in pieces] == truth


def test_bad_requests_are_refused(served: Videos) -> None:
    case, video = request(0)
    photo = photos.encoded("china")
    bad: dict[str, tuple[Case, dict[str, Any]]] = {
        "needs a video": (case, {}),
        "image_encoded_input does not apply": (Case("", "What?", (photo,)), {}),
        "image_url_input does not apply": (case, {"image_url_input": strings([[b"http://x"]])}),
        "not a readable MP4, WebM, Matroska or AVI file": (
            case,
            {"video_encoded_input": strings([[b"this is no video"]])},
        ),
        "send one of them": (case, video | {"video_bytes_input": clip(0)[None]}),
        "no channel axis": (case, {"video_bytes_input": np.zeros((1, 2, 5, 5, 4), np.uint8)}),
        "fixed place": (Case("", "A <image> here"), video),
    }
    with InferenceServerClient(served.grpc) as client:
        for message, (wrong, values) in bad.items():
            assert message in refusal(client, "ensemble", inputs([wrong], **values)), message
        assert ask(client, case, MAX_TOKENS, **video) == served.expected[0]


def test_the_vision_side_is_where_the_option_says(tmp_path: Path) -> None:
    missing = Options(model="video-neva", projector=tmp_path / "nowhere.nemo", working_dir=tmp_path)
    with pytest.raises(Exception, match="nowhere"):
        generate(missing)


def test_verify(served: Videos) -> None:
    checkpoint = cached("video-neva")
    given = {"projector": checkpoint / "projector.nemo", "url": served.grpc}
    found = run(Verify(served.folder, checkpoint / "nemotron.nemo", max_tokens=8, **given), tell=print)  # type: ignore[arg-type]
    [(question, stages)] = found.stages
    assert len(question.videos) == 1 and found.right
    assert {stage.verdict for stage in stages} == {"equal"}

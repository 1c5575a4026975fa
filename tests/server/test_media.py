"""Images on a real Triton: cache ids, the cache of rows, refused addresses, and exact counts on the metrics page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from generator.generate import generate
from generator.options import Options
from generator.oracle import VilaOracle
from tests import photos
from tests.checkpoints import cached
from tests.parity.client import Case, ask_stream, inputs, passed_on, refusal, strings, tensor
from tests.server.harness import Kept, triton
from tests.server.metrics_page import Page, number, numbers

MAX_TOKENS, MAX_IMAGES = 8, 3
FRONT, PREPROCESSING, VISION = "tensorrt_llm_bls", "preprocessing", "vision_encoder"
CHINA, FLOWER, OTHER = (photos.encoded(name) for name in photos.names()[:3])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    options = Options(
        model="vila",
        hf_model_dir=cached("vila"),
        runtime="torch",
        output=tmp_path_factory.mktemp("media") / "vila",
        streaming=True,
        max_tokens=MAX_TOKENS,
        max_images=MAX_IMAGES,
        kv_cache_reuse=True,
        client_cache_ids=True,
        vision_cache=1 << 20,
        image_hosts=("http://localhost:9",),
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    with triton(outcome.output) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Kept) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc) as connection:
        yield connection


@pytest.fixture(scope="module")
def oracle() -> VilaOracle:
    return VilaOracle(cached("vila"))


def prepared(client: InferenceServerClient, case: Case, **values: NDArray[Any]) -> Any:
    return client.infer(PREPROCESSING, inputs([case], **values))


def image_ids(client: InferenceServerClient, *images: bytes, **values: NDArray[Any]) -> list[int]:
    """The cache ids of the images of one prompt; at text they must be 0, and there must be one for each token."""
    case = Case("ids", "What is this?", images)
    made = prepared(client, case, **values)
    ids, extra = (made.as_numpy(name)[0] for name in ("input_ids", "prompt_table_extra_ids"))
    assert extra.dtype == np.uint64 and extra.shape == ids.shape
    vocab_size = min(ids[extra != 0]) if extra.any() else ids.max() + 1
    assert ((extra != 0) == (ids >= vocab_size)).all()
    rows = made.as_numpy("num_rows").item() // len(images)
    found = extra[extra != 0].reshape(len(images), rows)
    assert (found == found[:, :1]).all(), "one id for all rows of an image"
    return [int(own) for own in found[:, 0]]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_cache_ids_follow_the_decoded_image(client: InferenceServerClient) -> None:
    image = Image.open(io.BytesIO(CHINA)).convert("RGB").resize((90, 70))
    changed = image.copy()
    changed.paste((0, 0, 0), (30, 30, 45, 45))
    same = [
        saved(image, "PNG", compress_level=0),
        saved(image, "PNG", compress_level=9),
        saved(image, "WEBP", lossless=True),
    ]
    assert len(set(same)) == 3
    first, second, third = (image_ids(client, file)[0] for file in same)
    assert first == second == third
    other = saved(changed, "PNG")
    assert image_ids(client, same[0], other, same[2]) == [first, image_ids(client, other)[0], first]
    assert image_ids(client, other) != [first]
    ask = Case("same text", "What is this?", (same[0],)), Case("same text", "What is this?", (other,))
    one, two = (prepared(client, case).as_numpy("input_ids") for case in ask)
    assert (one == two).all(), "without cache ids the two prompts would be one"


def test_clients_keep_their_blocks_apart_but_cannot_make_images_alike(client: InferenceServerClient) -> None:
    def ids(image: bytes, number: int | None = None, salt: bytes | None = None) -> int:
        values: dict[str, NDArray[Any]] = {}
        if number is not None:
            values["prompt_table_extra_id"] = np.array([[number]], np.uint64)
        if salt is not None:
            values["cache_salt"] = strings([[salt]])
        return image_ids(client, image, **values)[0]

    salts = [(None, None), (7, None), (8, None), (None, b"tenant a"), (None, b"tenant b"), (7, b"tenant a")]
    found = [ids(image, *salt) for image in (CHINA, FLOWER) for salt in salts]
    assert len(set(found)) == len(found)
    assert found == [ids(image, *salt) for image in (CHINA, FLOWER) for salt in salts]
    assert ids(CHINA, 0, b"") == found[0], "nothing said is nothing mixed in"


def encoded(client: InferenceServerClient, case: Case) -> NDArray[Any]:
    made = prepared(client, case)
    step = [passed_on(made, name) for name in ("pixel_values", "num_images", "num_rows")]
    table: NDArray[Any] = client.infer(VISION, step).as_numpy("prompt_embedding_table")
    return table


def test_cached_rows_are_those_of_the_oracle(server: Kept, client: InferenceServerClient, oracle: VilaOracle) -> None:
    one, two = (saved(Image.effect_noise((60, 40), sigma), "PNG") for sigma in (20, 90))
    page = Page(server.metrics)
    hits, misses = (number(f"vision_cache_{what}_total", model=VISION) for what in ("hits", "misses"))
    kept = number("vision_cache_bytes", model=VISION)
    for images, wanted in [
        ((one,), {misses: 1}),
        ((one,), {hits: 1}),
        ((one, two), {misses: 2}),  # on a CPU a row's images are encoded together, as transformers does
        ((one, two), {hits: 2}),
        ((), {}),
    ]:
        table = encoded(client, Case("rows", "What?", images))
        truth = oracle.rows(oracle.pixels(images)) if images else np.zeros((1, 1, table.shape[-1]), np.float16)
        assert table.tobytes() == truth.tobytes()
        if misses in wanted:
            wanted[kept] = table.nbytes
        changes = page.changes()
        assert {name: value for name, value in changes.items() if name.name.startswith("vision_")} == wanted


def test_answers_with_hits_and_misses_in_one_batch_are_the_oracle_s(
    server: Kept, client: InferenceServerClient, oracle: VilaOracle
) -> None:
    cases = [Case("a", "What is this?", (OTHER,)), Case("b", "Who?", (FLOWER, OTHER)), Case("c", "Why is it so?")]
    wanted = [oracle.generate(case.text, list(case.images), MAX_TOKENS) for case in cases]
    encoded(client, cases[0])
    page = Page(server.metrics)
    for hits, misses in ((1, 2), (3, 0)):
        pieces, errors = ask_stream(server.grpc, FRONT, cases, MAX_TOKENS, stream=True)
        assert not errors
        assert ["".join(own) for own in pieces] == [text for _, text in wanted]
        changes = page.changes()
        assert changes.get(number("vision_cache_hits_total", model=VISION), 0) == hits
        assert changes.get(number("vision_cache_misses_total", model=VISION), 0) == misses
        assert changes[number("tokens_streamed_total", model=FRONT)] == sum(len(ids) for ids, _ in wanted)
        assert changes[number("prompts_total", model=PREPROCESSING)] == 3


def refused(client: InferenceServerClient, case: Case, **values: NDArray[Any]) -> str:
    return refusal(client, PREPROCESSING, inputs([case], **values))


def test_counts_of_preprocessing_are_exact(server: Kept, client: InferenceServerClient) -> None:
    page = Page(server.metrics)
    made = [prepared(client, Case("x", text, images)) for text, images in (("a b c", (CHINA,)), ("d", (CHINA, FLOWER)))]
    raw = np.asarray(Image.open(io.BytesIO(CHINA)).convert("RGB"))[None, None]
    made.append(prepared(client, Case("raw", "e"), image_bytes_input=raw))
    made.append(prepared(client, Case("text", "e")))
    failures = {
        "image": [Case("broken", "?", (b"no image",)), Case("truncated", "?", (CHINA[: len(CHINA) // 2],))],
        "limit": [Case("many", "?", (CHINA,) * (MAX_IMAGES + 1)), Case("long", "word and " * 9000)],
        "request": [Case("marks", "<image> <image>", (CHINA,))],
    }
    for cases in failures.values():
        for case in cases:
            refused(client, case)
    refused(client, Case("video", "?"), video_encoded_input=strings([[b"x"]]))
    urls = [b"http://localhost:9/x.png", b"https://example.com/x.png", b"http://localhost:9\xff"]
    messages = [refused(client, Case("url", "?"), image_url_input=strings([[url]])) for url in urls]
    assert "localhost is not a public address" in messages[0]
    assert "https://example.com:443 is not among the image hosts" in messages[1]

    changes = page.changes()
    times = {name: value for name, value in changes.items() if name.name.endswith("_us_total")}
    both = number("image_decode_us_total", model=PREPROCESSING, input="image_encoded_input")
    assert times[both] > 100 and times[number("tokenize_us_total", model=PREPROCESSING)] > 10
    counted = {name: value for name, value in changes.items() if name not in times}

    def one(name: str, value: float, **labels: str) -> tuple[Any, float]:
        return number(name, model=PREPROCESSING, **labels), value

    assert counted == dict(
        [
            one("prompts_total", 4),
            one("prompt_tokens_total", sum(result.as_numpy("input_lengths").item() for result in made)),
            one("image_rows_total", sum(result.as_numpy("num_rows").item() for result in made)),
            one("images_decoded_total", 3 + 1, input="image_encoded_input"),
            one("images_decoded_total", 1, input="image_bytes_input"),
            one("requests_refused_total", 2, reason="image"),
            one("requests_refused_total", 2, reason="limit"),
            one("requests_refused_total", 2, reason="request"),
            one("requests_refused_total", 3, reason="url"),
        ]
    )


def test_the_page_and_its_documentation_name_the_same_numbers(server: Kept, client: InferenceServerClient) -> None:
    prepared(client, Case("a", "?", (CHINA,)))
    found = numbers(server.metrics)
    text = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    documented = {row[1].split("`")[1]: row[2].strip(" `") for row in rows if "gen_repo_" in row[1]}
    shown = {
        f"gen_repo_{own.name}": {label.partition("=")[0] for label in own.labels} - {"model", "version"}
        for own in found
    }
    assert {name: {label} - {""} for name, label in documented.items()} == shown
    reasons = [name for row in rows if "gen_repo_" not in row[1] for name in row[1].split("`")[1::2]]
    assert set(reasons) == {
        label.partition("=")[2]
        for own in found
        if own.name == "requests_refused_total"
        for label in own.labels
        if label.startswith("reason=")
    }


def test_a_salt_must_be_text(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="cache_salt is not valid UTF-8"):
        prepared(client, Case("salt", "?", (CHINA,)), cache_salt=strings([[b"\xff"]]))


def test_a_batch_has_a_salt_for_each_row(client: InferenceServerClient) -> None:
    cases: Sequence[Case] = [Case("a", "?", (CHINA,)), Case("b", "?", (CHINA,))]
    made = client.infer(PREPROCESSING, [*inputs(cases), tensor("cache_salt", strings([[b"x"], [b"y"]]))])
    one, two = made.as_numpy("prompt_table_extra_ids")
    assert set(one.tolist()) != set(two.tolist()) and (one != 0).tolist() == (two != 0).tolist()

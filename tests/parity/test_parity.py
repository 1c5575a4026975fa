"""Ids, pixels and greedy text of a served repository equal the oracle's, bit for bit and token for token."""

from __future__ import annotations

import json
import random
import urllib.request
from base64 import b64encode

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.oracle import open_image
from tests import photos
from tests.parity.client import (
    Case,
    ask,
    ask_all,
    ask_stream,
    floats,
    inputs,
    passed_on,
    refusal,
    strings,
    tensor,
    tokens,
)
from tests.parity.conftest import MAX_TOKENS, Served


def test_the_oracle_distinguishes_the_cases(served: Served) -> None:
    assert len(set(served.expected)) >= 0.9 * len(served.cases)


def test_ids_and_pixels_equal_bit_for_bit(served: Served) -> None:
    with served.client() as client:
        for case in served.cases:
            result = client.infer("preprocessing", inputs([case]))
            ids = result.as_numpy("input_ids")[0]
            masked = np.where(ids >= served.vocab_size, served.oracle.image_id, ids)
            assert masked.tolist() == served.oracle.ids(case.text, case.images), case.name
            assert result.as_numpy("input_lengths").item() == len(ids), case.name
            if case.images:
                pixels, truth = floats(result, "pixel_values")[0], served.oracle.pixels(case.images)
                assert pixels.shape == truth.shape and pixels.dtype == truth.dtype, case.name
                assert pixels.tobytes() == truth.tobytes(), case.name


def test_rows_that_the_ids_select_equal_bit_for_bit(served: Served) -> None:
    with served.client() as client:
        for case in [c for c in served.cases if c.images][::4]:
            made = client.infer("preprocessing", inputs([case]))
            step = [passed_on(made, name) for name in ("pixel_values", "num_images", "num_rows")]
            table = floats(client.infer("vision_encoder", step), "prompt_embedding_table")[0]
            ids = made.as_numpy("input_ids")[0]
            selected = table[ids[ids >= served.vocab_size] - served.vocab_size]
            truth = served.oracle.selected(case.images)
            assert selected.shape == truth.shape and selected.tobytes() == truth.tobytes(), case.name


def test_text_equals_asked_singly(served: Served) -> None:
    with served.client() as client:
        for case, wanted in zip(served.cases, served.expected, strict=True):
            assert ask(client, case, MAX_TOKENS) == wanted, case.name


def test_text_equals_at_concurrency_8_with_text_only_requests_among_them(served: Served) -> None:
    order = list(range(len(served.cases)))
    random.Random(8).shuffle(order)
    texts = ask_all(served.grpc, [served.cases[i] for i in order], MAX_TOKENS, threads=8)
    for i, text in zip(order, texts, strict=True):
        assert text == served.expected[i], served.cases[i].name


def test_every_image_transport_gives_the_same_answer(served: Served) -> None:
    index = next(i for i, c in enumerate(served.cases) if c.images)
    case, wanted = served.cases[index], served.expected[index]
    uri = "data:image/jpeg;base64," + b64encode(case.images[0]).decode()
    decoded = np.asarray(open_image(case.images[0]))[None, None]
    bare = Case(case.name, case.text)
    with served.client() as client:
        for name, value in {"image_url_input": strings([[uri.encode()]]), "image_bytes_input": decoded}.items():
            assert ask(client, bare, MAX_TOKENS, **{name: value}) == wanted, name


def test_pixels_made_by_the_client(served: Served) -> None:
    index = next(i for i, c in enumerate(served.cases) if c.images)
    case, wanted = served.cases[index], served.expected[index]
    bare = Case(case.name, case.text)
    with served.client() as client:
        if served.subject.client_pixels:
            pixels = served.oracle.pixels(case.images)[None].astype(np.float16)  # exact: bf16 has fewer digits
            assert ask(client, bare, MAX_TOKENS, image_input=pixels) == wanted
        else:
            pixels = np.zeros((1, 1, 3, 8, 8), np.float16)
            assert "image_input" in refusal(client, "ensemble", inputs([bare], image_input=pixels))


def test_http_generate_answers_the_same(served: Served) -> None:
    index = next(i for i, c in enumerate(served.cases) if len(c.images) == 1)
    case = served.cases[index]
    body = {
        "text_input": case.text,
        "image_url_input": "data:image/jpeg;base64," + b64encode(case.images[0]).decode(),
        "max_tokens": MAX_TOKENS,
    }
    request = urllib.request.Request(f"http://{served.http}/v2/models/ensemble/generate", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own server
        assert json.load(response)["text_output"] == served.expected[index]


def test_marks_place_the_image_in_the_text(served: Served) -> None:
    photo = photos.encoded("china")
    mark = served.mark
    case = Case("mark", f"Here {mark} is the picture. What is it?", (photo,))
    with served.client() as client:
        if served.subject.marks:
            wanted = served.oracle.generate(case.text, [photo], MAX_TOKENS)[1]
            assert ask(client, case, MAX_TOKENS) == wanted
        elif mark:
            assert mark in refusal(client, "ensemble", inputs([case]))


def test_without_the_chat_template_the_text_is_taken_as_it_is(served: Served) -> None:
    photo = photos.encoded("flower")
    marked = served.subject.marks or served.subject.raw_marks
    case = Case("raw", f"Look: {served.mark} so" if marked else "Look, so", (photo,))
    with served.client() as client:
        wanted = served.oracle.generate(case.text, [photo], MAX_TOKENS, raw=True)[1]
        assert ask(client, case, MAX_TOKENS, apply_chat_template=np.array([[False]])) == wanted


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_rows_of_a_batch_equal_single_requests(streaming: Served, model: str) -> None:
    order = list(range(len(streaming.cases)))
    random.Random(5).shuffle(order)
    for start in range(0, 24, 6):
        chosen = order[start : start + 6]
        pieces, errors = ask_stream(streaming.grpc, model, [streaming.cases[i] for i in chosen], MAX_TOKENS)
        assert not errors
        for row, i in enumerate(chosen):
            assert "".join(pieces[row]) == streaming.expected[i], streaming.cases[i].name


def test_streamed_pieces_join_to_the_whole_text(streaming: Served) -> None:
    for i in range(0, len(streaming.cases), 3):
        case = streaming.cases[i]
        pieces, errors = ask_stream(streaming.grpc, "tensorrt_llm_bls", [case], MAX_TOKENS, stream=True)
        assert not errors
        assert "".join(pieces[0]) == streaming.expected[i], case.name


def test_streaming_comes_in_pieces(streaming: Served) -> None:
    pieces, errors = ask_stream(streaming.grpc, "tensorrt_llm_bls", [streaming.cases[0]], MAX_TOKENS, stream=True)
    assert not errors and len(pieces[0]) > 3


def test_single_requests_through_the_decoupled_ensemble(streaming: Served) -> None:
    for i in range(0, len(streaming.cases), 10):
        pieces, errors = ask_stream(streaming.grpc, "ensemble", [streaming.cases[i]], MAX_TOKENS)
        assert not errors and "".join(pieces[0]) == streaming.expected[i]


def test_two_names_of_the_same_input_reach_the_llm(served: Served) -> None:
    case = served.cases[0]
    with served.client() as client:
        one = ask(client, case, MAX_TOKENS, temperature=_value(5.0), top_k=_int(50), seed=_seed(7))
        same = ask(client, case, MAX_TOKENS, temperature=_value(5.0), top_k=_int(50), random_seed=_seed(7))
        other = ask(client, case, MAX_TOKENS, temperature=_value(5.0), top_k=_int(50), seed=_seed(8))
    assert one == same != other


def _value(number: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([[number]], np.float32)


def _int(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    return np.array([[number]], np.int32)


def _seed(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    return np.array([[number]], np.uint64)


def test_a_client_of_the_official_ensemble_is_understood(served: Served) -> None:
    """What tools/multimodal/client.py of tensorrtllm_backend sends: own pixels, end_id -1, pad_id 1, stream false."""
    index = next(i for i, c in enumerate(served.cases) if c.images)
    case = served.cases[index]
    if served.subject.client_pixels:
        image = tensor("image_input", served.oracle.pixels(case.images)[None].astype(np.float16))
    else:
        image = tensor("image_bytes_input", np.asarray(open_image(case.images[0]))[None, None])
    request = [
        tensor("text_input", strings([[case.text.encode()]])),
        image,
        tensor("max_tokens", tokens(MAX_TOKENS)),
        tensor("beam_width", _int(1)),
        tensor("temperature", _value(1.0)),
        tensor("end_id", _int(-1)),
        tensor("pad_id", _int(1)),
        tensor("top_k", _int(1)),
        tensor("top_p", _value(0.0)),
        tensor("stream", np.array([[False]])),
        tensor("repetition_penalty", _value(1.0)),
        tensor("prompt_table_extra_id", np.array([[1]], np.uint64)),
    ]
    with InferenceServerClient(served.grpc) as client:
        text = client.infer("ensemble", request).as_numpy("text_output").reshape(-1)[0].decode()
    assert text == served.expected[index]

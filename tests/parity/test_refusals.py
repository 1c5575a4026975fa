"""Bad requests: a clear error for that request alone, while good ones beside it are answered exactly."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests import photos
from tests.parity.client import Case, ask, inputs, refusal, strings, tensor, tokens
from tests.parity.conftest import MAX_TOKENS, Served

PHOTO = photos.encoded("china")


def _gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    return buffer.getvalue()


BROKEN = {
    "no image at all": b"this is no image",
    "truncated": PHOTO[: len(PHOTO) // 2],
    "unsupported format": _gif(),
    "only a header": PHOTO[:20],
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_image_is_refused_by_number(served: Served, what: str) -> None:
    with served.client() as client:
        message = refusal(client, "ensemble", inputs([Case(what, "What?", (BROKEN[what],))]))
    assert "image" in message.lower() and "Traceback" not in message and "/" not in message.replace("and/or", ""), (
        message
    )


def test_image_count_names_both_numbers(served: Served) -> None:
    if not served.subject.marks:
        return  # no marks to count: such a prompt has one place for one image
    with served.client() as client:
        text = f"{served.mark} and {served.mark}?"
        message = refusal(client, "ensemble", inputs([Case("marks", text, (PHOTO,))]))
        assert "2" in message and "1" in message, message


def test_missing_image_is_refused_where_the_model_needs_one(served: Served) -> None:
    if 0 in served.subject.images:
        return  # text only is among this model's cases
    with served.client() as client:
        assert "needs an image" in refusal(client, "ensemble", inputs([Case("text only", "What?")]))


def test_too_many_images_names_the_limit(served: Served) -> None:
    limit = served.settings["limits"]["max_images"]
    with served.client() as client:
        message = refusal(client, "ensemble", inputs([Case("many", "?", (PHOTO,) * (limit + 1))]))
        assert str(limit) in message and str(limit + 1) in message, message


def test_text_beyond_the_limit_names_the_numbers(served: Served) -> None:
    with served.client() as client:
        message = refusal(client, "ensemble", inputs([Case("long", "word and " * 3000, (PHOTO,))]))
        assert str(served.settings["limits"]["max_input_len"]) in message and "tokens" in message, message


def test_invalid_utf8_is_refused(served: Served) -> None:
    with served.client() as client:
        message = refusal(client, "ensemble", [tensor("text_input", strings([[b"\xff\xfe broken"]]))])
        assert "text_input" in message and "UTF-8" in message, message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("video_bytes_input", np.zeros((1, 2, 4, 4, 3), np.uint8)),
        ("video_encoded_input", strings([[b"x"]])),
        ("decoder_text_input", strings([[b"x"]])),
        ("image_sizes_input", np.ones((1, 1, 2), np.int64)),
    ],
)
def test_inputs_of_other_models_are_refused_by_name(
    served: Served, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    with served.client() as client:
        assert name in refusal(client, "ensemble", inputs([Case("other", "What?")], **{name: value}))


def test_web_address_is_refused_without_an_allowlist(served: Served) -> None:
    with served.client() as client:
        url = strings([[b"http://127.0.0.1:1/x.jpg"]])
        message = refusal(client, "ensemble", inputs([Case("url", "What?")], image_url_input=url))
        assert "image_url_input" in message or "image-host" in message, message


def test_batch_on_a_repository_that_is_not_streaming_says_what_to_do(served: Served) -> None:
    two = [Case("one", "a", (PHOTO,)), Case("two", "b", (PHOTO,))]
    with served.client() as client:
        message = refusal(client, "ensemble", inputs(two, max_tokens=tokens(4, 2)))
        assert "2" in message and "request" in message, message


def test_max_tokens_beyond_the_sequence_is_refused(served: Served) -> None:
    with served.client() as client:
        message = refusal(client, "ensemble", inputs([served.cases[0]], max_tokens=tokens(100000)))
        assert "100000" in message, message


def test_an_input_that_the_torch_llm_cannot_honour_is_refused_by_name(served: Served) -> None:
    with served.client() as client:
        made = client.infer("preprocessing", inputs([served.cases[0]]))
        request = [tensor(n, made.as_numpy(n)) for n in ("input_ids", "input_lengths", "request_output_len")]
        request.append(tensor("lora_task_id", np.array([[1]], np.uint64)))
        assert "lora_task_id" in refusal(client, "tensorrt_llm", request)


def test_bad_requests_do_not_harm_good_ones_beside_them(served: Served) -> None:
    good = served.cases[:: max(1, len(served.cases) // 24)]
    wanted = [served.expected[served.cases.index(case)] for case in good]
    bad = [Case(name, "What?", (content,)) for name, content in BROKEN.items()] * 6
    mixed: list[Case] = [case for pair in zip(good, bad, strict=False) for case in pair] + good[len(bad) :]

    def one(case: Case) -> str | None:
        with InferenceServerClient(served.grpc) as client:
            try:
                return ask(client, case, MAX_TOKENS)
            except InferenceServerException:
                return None

    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip((c.name for c in mixed), pool.map(one, mixed), strict=True))
    assert all(answers[case.name] is None for case in bad if case in mixed)
    assert [answers[case.name] for case in good] == wanted
    with InferenceServerClient(served.grpc) as client:
        assert client.is_server_ready()

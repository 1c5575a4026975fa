"""The preprocessing step as requests see it: outputs, errors, image inputs and the fetching of URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils

from tests.unit import serving
from tests.unit.serving import ROWS, VOCAB_SIZE, data_uri, file, make_request, refusal, run, texts, words


def load(folder: Path, **changes: Any) -> Any:
    return serving.load_step("preprocessing", folder, serving.settings(**{"pixels": serving.SMALL_PIXELS, **changes}))


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tmp_path_factory.mktemp("pre"))


def test_outputs_of_one_request(step: Any) -> None:
    got = run(step, text_input=texts("city"), image_encoded_input=words([file(1), b"", file(2)]))
    length = got["input_ids"].shape[1]
    described = {name: (array.dtype.name, array.shape) for name, array in got.items()}
    assert described == {
        "pixel_values": ("float16", (1, 2, 3, 8, 8)),
        "num_images": ("int32", (1, 1)),
        "num_rows": ("int32", (1, 1)),
        "input_ids": ("int32", (1, length)),
        "input_lengths": ("int32", (1, 1)),
        "request_output_len": ("int32", (1, 1)),
        "end_id": ("int32", (1, 1)),
        "pad_id": ("int32", (1, 1)),
        "stop_words_list": ("int32", (1, 2, 0)),
        "bad_words_list": ("int32", (1, 2, 0)),
        "embedding_bias": ("float32", (1, 0)),
        "min_length": ("int32", (1, 1)),
        "random_seed": ("uint64", (1, 1)),
        "prompt_table_extra_ids": ("uint64", (1, length)),
    }
    assert (got["num_images"].item(), got["num_rows"].item()) == (2, 2 * ROWS)
    assert (got["input_lengths"].item(), got["request_output_len"].item()) == (length, 128)
    assert (got["end_id"].item(), got["min_length"].item(), got["random_seed"].item()) == (2, 0, 0)
    visual = got["input_ids"][got["input_ids"] >= VOCAB_SIZE]
    assert visual.tolist() == list(range(VOCAB_SIZE, VOCAB_SIZE + 2 * ROWS))
    assert len(set(got["prompt_table_extra_ids"][got["input_ids"] >= VOCAB_SIZE].tolist())) == 2


def test_text_only(step: Any) -> None:
    got = run(step, text_input=texts("city"), image_encoded_input=words([b""]), video_encoded_input=words([b""]))
    assert got["pixel_values"].shape == (1, 0, 3, 8, 8)
    assert (got["num_images"].item(), got["num_rows"].item()) == (0, 0)
    assert not got["prompt_table_extra_ids"].any() and (got["input_ids"] < VOCAB_SIZE).all()


def test_an_encoder_that_takes_no_fewer_than_one_image_gets_a_blank_one(tmp_path: Path) -> None:
    step = load(tmp_path, pixels={"least_entries": 1})
    got = run(step, text_input=texts("city"))
    assert got["pixel_values"].shape == (1, 1, 3, 336, 336) and not got["pixel_values"].any()
    assert (got["num_images"].item(), got["num_rows"].item()) == (0, 0)
    assert not got["prompt_table_extra_ids"].any() and (got["input_ids"] < VOCAB_SIZE).all()
    images = words([file(1), file(2)])
    assert run(step, text_input=texts("city"), image_encoded_input=images)["pixel_values"].shape[1] == 2


def test_cache_ids_of_clients_count_only_where_the_repository_was_made_for_them(tmp_path: Path) -> None:
    def ids(step: Any, **more: Any) -> list[int]:
        extra = run(step, text_input=texts("a"), image_encoded_input=words([file(1)]), **more)["prompt_table_extra_ids"]
        return [int(value) for value in extra[0]]

    said = [{"prompt_table_extra_id": np.array([[7]], np.uint64)}, {"cache_salt": words(["tenant"])}]
    own = {flag: load(tmp_path, release={"client_cache_ids": flag}) for flag in (False, True)}
    assert all(ids(own[False], **more) == ids(own[False]) for more in said)
    assert len({tuple(ids(own[True], **more)) for more in [{}, *said, said[0] | said[1]]}) == 4


def test_names_of_a_later_release(tmp_path: Path) -> None:
    later = load(tmp_path, release={"min_tokens": "min_tokens", "seed": "seed", "extra_ids": False})
    got = run(
        later,
        text_input=texts("a"),
        min_length=np.array([[3]], np.int32),
        seed=np.array([[2**64 - 1]], np.uint64),
    )
    assert (got["min_tokens"].item(), got["seed"].item()) == (3, 2**64 - 1)
    assert not {"min_length", "random_seed", "prompt_table_extra_ids"} & set(got)


def test_rows_of_a_batch_equal_single_requests(step: Any) -> None:
    rows = [
        ("which city", [file(1), file(2)], 5),
        ("a", [b"", file(3)], 50),
        ("the long street there", [b"", b""], 9),
    ]
    pad, stop = [600, 601, -1], [["USER", "dog"], ["", ""], ["city", ""]]
    bias_words, bias = [["dog"], [""], [""]], [[2.0], [0.0], [0.0]]
    batch = run(
        step,
        text_input=texts(*(text for text, _, _ in rows)),
        image_encoded_input=words(*(files for _, files, _ in rows)),
        max_tokens=np.array([[tokens] for *_, tokens in rows], np.int32),
        pad_id=np.array(pad, np.int32)[:, None],
        stop_words=words(*stop),
        embedding_bias_words=words(*bias_words),
        embedding_bias_weights=np.array(bias, np.float32),
    )
    assert batch["pixel_values"].shape == (3, 2, 3, 8, 8)
    assert batch["embedding_bias"].shape == (3, VOCAB_SIZE) and not batch["embedding_bias"][1:].any()
    for index, (text, files, tokens) in enumerate(rows):
        single = run(
            step,
            text_input=texts(text),
            image_encoded_input=words(files),
            max_tokens=np.array([[tokens]], np.int32),
            pad_id=np.array([[pad[index]]], np.int32),
            stop_words=words(stop[index]),
            embedding_bias_words=words(bias_words[index]),
            embedding_bias_weights=np.array([bias[index]], np.float32),
        )
        length = single["input_lengths"].item()
        for name in ("input_ids", "prompt_table_extra_ids"):
            np.testing.assert_array_equal(batch[name][index, :length], single[name][0], err_msg=name)
        padding = single["pad_id"].item()
        assert set(batch["input_ids"][index, length:].tolist()) <= {padding}
        assert not batch["prompt_table_extra_ids"][index, length:].any()
        count = single["num_images"].item()
        np.testing.assert_array_equal(batch["pixel_values"][index, :count], single["pixel_values"][0])
        assert not batch["pixel_values"][index, count:].any()
        for name in ("num_images", "num_rows", "input_lengths", "request_output_len", "end_id", "pad_id"):
            assert batch[name][index] == single[name][0], name
        words_len = single["stop_words_list"].shape[2]
        np.testing.assert_array_equal(batch["stop_words_list"][index, :, :words_len], single["stop_words_list"][0])


def test_client_values_win_where_they_are_given(step: Any) -> None:
    def one(name: str, value: int, dtype: Any = np.int32) -> dict[str, Any]:
        return {name: np.array([[value]], dtype)}

    got = run(step, text_input=texts("a"), **one("end_id", 7), **one("pad_id", 0), **one("min_tokens", 4))
    assert (got["end_id"].item(), got["pad_id"].item(), got["min_length"].item()) == (7, 0, 4)
    got = run(step, text_input=texts("a"), **one("end_id", VOCAB_SIZE - 1))
    assert got["end_id"].item() == VOCAB_SIZE - 1
    message = refusal(step, text_input=texts("a"), **one("end_id", VOCAB_SIZE))
    assert message.startswith(f"end_id is {VOCAB_SIZE}, the vocabulary has {VOCAB_SIZE} tokens: send one of them")
    got = run(step, text_input=texts("a"), **one("end_id", -1), **one("min_tokens", 4), **one("min_length", 4))
    assert (got["end_id"].item(), got["min_length"].item()) == (2, 4)
    template = run(step, text_input=texts("a"), apply_chat_template=np.array([[True]]))
    bare = run(step, text_input=texts("a"), apply_chat_template=np.array([[False]]))
    assert bare["input_lengths"].item() < template["input_lengths"].item()
    assert "min_tokens is 4 but min_length is 5" in refusal(step, **one("min_tokens", 4), **one("min_length", 5))
    assert "seed is 1 but random_seed is 2" in refusal(
        step, **one("seed", 1, np.uint64), **one("random_seed", 2, np.uint64)
    )


def test_stop_words_of_the_model_are_always_there(tmp_path: Path) -> None:
    chat = load(tmp_path, prompt={"stop_words": ["</s>"]})
    assert run(chat, text_input=texts("a"))["stop_words_list"].tolist() == [[[2], [1]]]
    layout = run(chat, text_input=texts("a"), stop_words=words(["dog"]))["stop_words_list"]
    assert layout[0, :, 0].tolist() == [2, 1] and layout.shape[2] > 1


def test_a_bad_request_harms_no_neighbour(step: Any) -> None:
    good = {"text_input": texts("city"), "image_encoded_input": words([file(1)])}
    bad = [
        {"text_input": texts("city"), "image_encoded_input": words([b"not an image"])},
        {"text_input": words([b"\xff\xfe"])},
        {},
        {"text_input": texts("city"), "max_tokens": np.array([[0]], np.int32)},
    ]
    alone = run(step, **good)
    responses = step.execute([make_request(**inputs) for inputs in (good, *bad, good)])
    assert [response.has_error() for response in responses] == [False, True, True, True, True, False]
    for response in (responses[0], responses[-1]):
        for name, value in serving.outputs(response).items():
            np.testing.assert_array_equal(value, alone[name], err_msg=name)
    assert "text_input is not valid UTF-8" in responses[2].error().message()
    assert "text_input is missing" in responses[3].error().message()


def test_refused_inputs_are_named(step: Any) -> None:
    video = np.zeros((1, 1, 4, 4, 3), np.uint8)
    assert "video_bytes_input does not apply to tiny-llava" in refusal(step, video_bytes_input=video)
    assert "video_encoded_input does not apply" in refusal(step, video_encoded_input=words(["x"]))
    assert "decoder_text_input does not apply" in refusal(step, decoder_text_input=texts("x"))
    assert "image_sizes_input does not apply" in refusal(step, image_sizes_input=np.ones((1, 1, 2), np.int64))
    both = {"image_encoded_input": words([file()]), "image_url_input": words([data_uri(file())])}
    assert "images came in image_encoded_input and image_url_input" in refusal(step, **both)


def test_wrong_shapes_are_named(step: Any) -> None:
    assert "image 0 in image_input has shape [3, 9, 8]: send [3, 8, 8]" in refusal(
        step, image_input=np.zeros((1, 1, 3, 9, 8), np.float16)
    )
    assert "image_input has shape [2, 1, 3, 8, 8]" in refusal(step, image_input=np.zeros((2, 1, 3, 8, 8), np.float16))
    assert "image 0 in image_bytes_input: shape [4, 5, 1] has no channel axis" in refusal(
        step, image_bytes_input=np.zeros((1, 1, 4, 5, 1), np.uint8)
    )
    assert "image_bytes_input has shape [1, 4, 5, 3]" in refusal(
        step, image_bytes_input=np.zeros((1, 4, 5, 3), np.uint8)
    )
    assert "max_tokens holds 2 values for 1 row" in refusal(step, max_tokens=np.array([[1, 2]], np.int32))
    assert "stop_words has shape [2, 1]: send [1,k]" in refusal(step, stop_words=words(["a"], ["b"]))
    assert "embedding_bias_weights has shape [2, 1]" in refusal(
        step, embedding_bias_words=words(["a"]), embedding_bias_weights=np.ones((2, 1), np.float32)
    )
    assert "1 embedding_bias_words but 0 embedding_bias_weights" in refusal(step, embedding_bias_words=words(["a"]))
    assert "text_input has shape [1, 2]" in refusal(step, text_input=words(["a", "b"]))


def test_batch_limits(tmp_path: Path, step: Any) -> None:
    single = load(tmp_path, limits={"max_batch": 1})
    assert "the request has 2 rows: send 2 requests of one row each, which the server runs together" in refusal(
        single, text_input=texts("a", "b")
    )
    assert "the request has 9 rows: send at most 8 rows" in refusal(step, text_input=texts(*"abcdefghi"))


def test_without_tokenizer_it_refuses_to_load(tmp_path: Path) -> None:
    with pytest.raises(pb_utils.TritonModelException, match="gen-repo --model tiny-llava --hf-model-dir DIR") as why:
        serving.load_step("preprocessing", tmp_path, serving.settings(), with_tokenizer=False)
    assert str(tmp_path) not in str(why.value)


def test_banned_tokens_stand_before_the_requests_own_words(tmp_path: Path) -> None:
    chosen = serving.settings()
    chosen["prompt"]["banned_ids"] = [2, 5]
    step = serving.load_step("preprocessing", tmp_path, chosen)
    assert serving.run(step, text_input=texts("city"))["bad_words_list"].tolist() == [[[2, 5], [1, 2]]]
    [[ids, ends]] = serving.run(step, text_input=texts("city"), bad_words=words(["dog"]))["bad_words_list"].tolist()
    assert ids[:2] == [2, 5] and ends[:2] == [1, 2] and len(ids) > 2 and ends[2] > 2


def test_a_model_without_a_prompt_does_not_look_at_the_text(tmp_path: Path) -> None:
    chosen = serving.settings()
    chosen["prompt"] |= {"text_required": False, "module": "sequence_prompt", "before": [{"ids": [1]}], "after": []}
    step = serving.load_step("preprocessing", tmp_path, chosen)
    rows = np.array([[4], [4]], np.int32)
    for given in ({}, {"text_input": texts("city", "dog")}, {"text_input": np.empty((2, 0), np.object_)}):
        assert serving.run(step, max_tokens=rows, **given)["input_ids"].tolist() == [[1], [1]]
    with pytest.raises(serving.RequestFailed, match="text_input is not valid UTF-8"):
        serving.run(step, text_input=np.array([[b"\xff"]], np.object_))

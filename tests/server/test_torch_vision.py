"""The torch `vision_encoder` step on a real Triton: its rows are the oracle's, bit by bit, in any company."""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from generator.oracle import LlavaOracle, VilaOracle
from tests import checkpoints
from tests.server.harness import executions, triton

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"llava": "hf_llava", "vila": "vila_layout"}
ORACLES = {"llava": LlavaOracle, "vila": VilaOracle}


def _write_model(repository: Path, name: str, checkpoint: str, truth: Any, table_dtype: str = "float16") -> None:
    version = repository / name / "1"
    shutil.copytree(ROOT / "templates" / "torch" / "vision_encoder" / "1", version)
    for module in (
        "freed_memory.py",
        "staging.py",
        "tensors.py",
        "torch_device.py",
        "vision_answers.py",
        "vision_rows.py",
    ):
        shutil.copy(ROOT / "templates" / "shared" / module, version)
    image = _pixels(truth, 1, 0)
    _, rows, hidden = truth.rows(image).shape
    settings = {
        "model": name,
        "module": MODULES[checkpoint],
        "checkpoint": str(checkpoints.cached(checkpoint)),
        "dtype": "float16",
        "table_dtype": table_dtype,
        "rows_per_image": rows,
        "constant_rows": 0,
        "output": "prompt_embedding_table",
        "hidden_size": hidden,
        "image_shape": image.shape[1:],
        "device": "cpu",
        "threads": 1,
    }
    (version / "settings.json").write_text(json.dumps(settings))
    table_type = {"float16": "FP16", "bfloat16": "BF16"}[table_dtype]
    (repository / name / "config.pbtxt").write_text(
        f"""backend: "python" max_batch_size: 8
        input [
          {{ name: "pixel_values" data_type: TYPE_FP16 dims: [ -1, -1, -1, -1 ] allow_ragged_batch: true }},
          {{ name: "num_images" data_type: TYPE_INT32 dims: [ 1 ] }},
          {{ name: "num_rows" data_type: TYPE_INT32 dims: [ 1 ] }}
        ]
        output [ {{ name: "prompt_embedding_table" data_type: TYPE_{table_type} dims: [ -1, -1 ] }} ]
        instance_group [ {{ kind: KIND_CPU }} ]
        dynamic_batching {{ max_queue_delay_microseconds: 300000 }}"""
    )


def _pixels(truth: Any, count: int, seed: int) -> NDArray[np.float16]:
    """Pixels [count, 3, S, S] of random pictures, as the oracle makes them."""
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)
    pixels: NDArray[np.float16] = truth.pixels(list(pictures))
    return pixels


@pytest.fixture(scope="module")
def truths() -> dict[str, Any]:
    return {name: ORACLES[name](checkpoints.cached(name)) for name in MODULES}


@pytest.fixture(scope="module")
def client(
    truths: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpcclient.InferenceServerClient]:
    repository = tmp_path_factory.mktemp("repository")
    for name, truth in truths.items():
        _write_model(repository, name, name, truth)
    _write_model(repository, "llava_bf16", "llava", truths["llava"], table_dtype="bfloat16")
    with triton(repository) as server, grpcclient.InferenceServerClient(server.grpc) as connection:
        yield connection


def inputs(pixels: NDArray[np.float16], images: list[int], rows: list[int]) -> list[grpcclient.InferInput]:
    """Request tensors of a batch: pixels [B, n, 3, S, S], and the two counts of each row."""
    tensors = []
    for name, array, kind in (
        ("pixel_values", pixels, "FP16"),
        ("num_images", np.array([images], dtype=np.int32).T, "INT32"),
        ("num_rows", np.array([rows], dtype=np.int32).T, "INT32"),
    ):
        tensor = grpcclient.InferInput(name, array.shape, kind)
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        tensors.append(tensor)
    return tensors


def in_one_call(truth: Any, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
    """The oracle's rows [n * N, hidden] of the images of one prompt, which transformers runs together."""
    rows: NDArray[np.float16] = truth.rows(pixels)
    return rows.reshape(-1, rows.shape[-1])


@pytest.mark.parametrize("name", MODULES)
def test_rows_equal_the_oracles(client: Any, truths: dict[str, Any], name: str) -> None:
    truth = truths[name]
    pixels = _pixels(truth, 2, seed=1)
    expected = in_one_call(truth, pixels)
    result = client.infer(name, inputs(pixels[None], [2], [len(expected)]))
    np.testing.assert_array_equal(result.as_numpy("prompt_embedding_table"), expected[None])
    assert len(np.unique(expected, axis=0)) == len(expected)


def test_rows_of_a_batch_hold_their_own_images(client: Any, truths: dict[str, Any]) -> None:
    """Three rows with 1, 0 and 2 images: padding pixels are not run, tables are padded with zeros."""
    truth = truths["llava"]
    pixels = _pixels(truth, 3, seed=2)
    batch = np.full((3, 2, *pixels.shape[1:]), np.nan, dtype=np.float16)
    batch[0, 0], batch[2] = pixels[0], pixels[1:]
    per_image = len(truth.rows(pixels[:1])[0])
    result = client.infer("llava", inputs(batch, [1, 0, 2], [per_image, 0, 2 * per_image]))
    table = result.as_numpy("prompt_embedding_table")
    np.testing.assert_array_equal(table[0, :per_image], in_one_call(truth, pixels[:1]))
    np.testing.assert_array_equal(table[2], in_one_call(truth, pixels[1:]))
    assert not table[1].any() and not table[0, per_image:].any()


def test_text_only_gets_one_zero_row(client: Any, truths: dict[str, Any]) -> None:
    shape = _pixels(truths["llava"], 1, 0).shape[1:]
    result = client.infer("llava", inputs(np.zeros((2, 0, *shape), dtype=np.float16), [0, 0], [0, 0]))
    table = result.as_numpy("prompt_embedding_table")
    assert table.shape[:2] == (2, 1) and not table.any()


def test_a_bad_request_does_not_harm_its_neighbours(client: Any, truths: dict[str, Any]) -> None:
    """Four requests of one dynamic batch: one image, a wrong num_rows, none, a wrong size."""
    truth = truths["llava"]
    pixels = _pixels(truth, 1, seed=3)
    per_image = len(truth.rows(pixels)[0])
    none = np.zeros((1, 0, *pixels.shape[1:]), dtype=np.float16)
    requests = [
        inputs(pixels[None], [1], [per_image]),
        inputs(pixels[None], [1], [per_image + 1]),
        inputs(none, [0], [0]),
        inputs(pixels[None, :, :, :-2], [1], [per_image]),
    ]
    before = executions(client, "llava")
    answers: list[queue.Queue[Any]] = []
    for request in requests:
        answers.append(queue.Queue())
        client.async_infer("llava", request, lambda result, error, own=answers[-1]: own.put(error or result))
    good, wrong_rows, text, wrong_size = (own.get(timeout=30) for own in answers)
    assert executions(client, "llava") == before + 1
    np.testing.assert_array_equal(good.as_numpy("prompt_embedding_table")[0], in_one_call(truth, pixels))
    assert not text.as_numpy("prompt_embedding_table").any()
    with pytest.raises(InferenceServerException, match=f"num_rows is {per_image + 1}, but 1 image.* {per_image} rows"):
        raise wrong_rows
    with pytest.raises(InferenceServerException, match="pixel_values has images of shape"):
        raise wrong_size


def test_bfloat16_tables_cross_by_dlpack(client: Any, truths: dict[str, Any]) -> None:
    import torch

    truth = truths["llava"]
    pixels = _pixels(truth, 1, seed=4)
    expected = torch.from_numpy(in_one_call(truth, pixels)).bfloat16()
    result = client.infer("llava_bf16", inputs(pixels[None], [1], [len(expected)]))
    assert result.get_output("prompt_embedding_table").datatype == "BF16"
    raw = np.frombuffer(result.get_response().raw_output_contents[0], dtype=np.int16)
    np.testing.assert_array_equal(raw, expected.view(torch.int16).numpy().reshape(-1))

"""The vision step of the trtllm runtime, its engine run by the stand-in for TensorRT (rows = 2 x pixels).

No CUDA here: tensors stay on the host, and a stream only knows whether it was synchronized since it was last
used. What this cannot show (the real API, GPU memory, the order of work on a GPU) is left to a run on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorrt as trt
import torch
import triton_python_backend_utils as pb_utils
from safetensors.torch import save_file

from tests.unit import engine_step, executor_requests, serving
from tests.unit.engine_step import (
    FOLDER,
    HIDDEN,
    ROWS,
    SHAPE,
    DlpackTensor,
    engine_file,
    execute,
    photos,
    request,
    rows_of,
    step,
    table,
    without_cuda,
)

__all__ = ["without_cuda"]  # a fixture of every test here


@pytest.mark.parametrize(
    ("counts", "calls"),
    [
        ([1], [1]),
        ([0], []),
        ([0, 0, 0], []),
        ([1, 2, 0, 3], [6]),
        ([0, 5, 0], [5]),
        ([8], [8]),
        ([3, 3, 3], [8, 1]),
        ([9, 0, 8, 2], [8, 8, 3]),
    ],
)
def test_images_of_all_requests_share_engine_calls(tmp_path: Path, counts: list[int], calls: list[int]) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    batches = [photos(1, count, seed=seed) for seed, count in enumerate(counts)]
    responses = execute(model, [request(pixels, [pixels.shape[1]]) for pixels in batches])
    assert trt.IExecutionContext.calls == calls
    for response, pixels in zip(responses, batches, strict=True):
        expected = rows_of(pixels[0]) if pixels.shape[1] else torch.zeros((1, HIDDEN)).half()
        assert torch.equal(table(response), expected[None])


@pytest.mark.parametrize(
    ("profile", "max_batch", "images", "calls"),
    [
        ({"least": 4}, None, 1, [4]),
        ({"least": 3, "most": 4}, None, 6, [4, 3]),
        ({"most": 8}, 2, 5, [2, 2, 1]),
        ({"most": 4}, 100, 5, [4, 1]),
        ({"least": 4, "most": 8}, 2, 5, [4, 4]),
        ({"most": 1, "static": True}, None, 3, [1, 1, 1]),
        ({"most": 4, "static": True}, None, 5, [4, 4]),
    ],
)
def test_calls_stay_inside_the_profile(
    tmp_path: Path, profile: dict[str, Any], max_batch: int | None, images: int, calls: list[int]
) -> None:
    model = step(tmp_path, engine_file(tmp_path, **profile), max_batch=max_batch)
    pixels = photos(1, images)
    [response] = execute(model, [request(pixels, [images])])
    assert trt.IExecutionContext.calls == calls
    assert torch.equal(table(response), rows_of(pixels[0])[None])


def test_rows_of_a_batched_request_are_padded(tmp_path: Path) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    pixels, alone = photos(3, 2), photos(1, 1, seed=1)
    batched, single = execute(model, [request(pixels, [1, 0, 2]), request(alone, [1])])
    found = table(batched)
    assert found.shape == (3, 2 * ROWS, HIDDEN)
    assert torch.equal(found[0, :ROWS], rows_of(pixels[0, :1]))
    assert not found[0, ROWS:].any()
    assert not found[1].any()
    assert torch.equal(found[2], rows_of(pixels[2]))
    assert torch.equal(table(single)[0], rows_of(alone[0]))
    [of_text] = execute(model, [request(photos(2, 0), [0, 0])])
    assert torch.equal(table(of_text), torch.zeros((2, 1, HIDDEN)).half())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(photos(1, 2), [2], [5]), r"num_rows is 5, but 2 image\(s\) of tiny-llava give 6 rows"),
        (request(photos(1, 0), [0], [ROWS]), r"num_rows is 3, but 0 image\(s\) .* give 0 rows"),
        (request(photos(1, 1), [2]), r"num_images is 2, but pixel_values holds 1"),
        (request(photos(1, 1), [-1]), r"num_images is -1"),
        (request(photos(2, 1), [1]), r"num_images holds 1 values for 2 row"),
        (request(torch.zeros(1, 1, 3, 8, 8), [1]), r"\(3, 8, 8\); tiny-llava takes \(3, 4, 4\)"),
        (executor_requests.Request([], ""), r"pixel_values is not present"),
    ],
)
def test_a_bad_request_leaves_its_neighbours_alone(
    tmp_path: Path, bad: executor_requests.Request, message: str
) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    first, last = photos(1, 2, seed=1), photos(1, 1, seed=2)
    responses = execute(model, [request(first, [2]), bad, request(last, [1])])
    assert trt.IExecutionContext.calls == [3]
    assert torch.equal(table(responses[0])[0], rows_of(first[0]))
    assert torch.equal(table(responses[2])[0], rows_of(last[0]))
    with pytest.raises(serving.RequestFailed, match=message) as failure:
        table(responses[1])
    assert failure.value.code == pb_utils.TritonError.INVALID_ARG


@pytest.mark.parametrize("dtypes", [("HALF", "HALF"), ("FLOAT", "FLOAT"), ("BF16", "BF16"), ("HALF", "FLOAT")])
@pytest.mark.parametrize("table_dtype", ["float16", "bfloat16", "float32"])
def test_pixels_and_rows_are_cast(tmp_path: Path, dtypes: tuple[str, str], table_dtype: str) -> None:
    model = step(tmp_path, engine_file(tmp_path, dtypes=dtypes), table_dtype=table_dtype)
    kinds = {"HALF": torch.float16, "FLOAT": torch.float32, "BF16": torch.bfloat16}
    pixels = photos(1, 2)
    with_images, text_only = execute(model, [request(pixels, [2]), request(photos(1, 0), [0])])
    engine_rows = (2 * pixels[0].to(kinds[dtypes[0]]).float()).to(kinds[dtypes[1]])
    wanted = getattr(torch, table_dtype)
    assert table(with_images).dtype == table(text_only).dtype == wanted
    assert torch.equal(table(with_images)[0], engine_rows.to(wanted).reshape(-1, HIDDEN))


def test_levels_go_to_the_engine_as_they_are(tmp_path: Path) -> None:
    model = step(tmp_path, engine_file(tmp_path, dtypes=("UINT8", "HALF")))
    levels = torch.randint(0, 256, (1, 2, *SHAPE), dtype=torch.uint8)
    [response] = execute(model, [request(levels, [2])])
    assert torch.equal(table(response)[0], rows_of(levels[0].half()))


def test_a_table_outlives_the_next_calls(tmp_path: Path) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    tables = [table(execute(model, [request(photos(1, 1, seed=seed), [1])])[0]) for seed in range(4)]
    for seed, found in enumerate(tables):
        assert torch.equal(found[0], rows_of(photos(1, seed=seed)))


def test_a_failed_engine_call_fails_its_batch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    good = request(photos(1, 1), [1])
    bad = request(photos(1, 1), [1], [7])
    with monkeypatch.context() as broken:
        broken.setattr(trt.IExecutionContext, "execute_async_v3", lambda self, stream: False)
        responses = execute(model, [good, bad])
    with pytest.raises(serving.RequestFailed, match=serving.INTERNAL_ERROR):
        table(responses[0])
    with pytest.raises(serving.RequestFailed, match="num_rows is 7"):
        table(responses[1])
    assert any("refused a call with shape (1, 3, 4, 4)" in text for _, text in pb_utils.Logger.messages)
    assert torch.equal(table(execute(model, [request(photos(1, 1), [1])])[0])[0], rows_of(photos(1)))


def test_a_lost_gpu_fails_what_it_computes_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = step(tmp_path, engine_file(tmp_path))

    def lost(*arguments: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", lost)
    monkeypatch.setattr(engine_step.Stream, "record_event", lost)
    computed, refused = execute(model, [request(photos(1, 1), [1]), request(photos(1, 1), [1], [7])])
    with pytest.raises(serving.RequestFailed, match=serving.INTERNAL_ERROR):
        table(computed)
    with pytest.raises(serving.RequestFailed, match="num_rows is 7"):
        table(refused)


def test_a_table_that_cannot_be_sent_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = step(tmp_path, engine_file(tmp_path))
    left = iter([False, True, False])

    def from_dlpack(name: str, tensor: torch.Tensor) -> Any:
        if next(left):
            raise MemoryError("/dev/shm/region is full")
        return DlpackTensor.from_dlpack(name, tensor)

    monkeypatch.setattr(pb_utils.Tensor, "from_dlpack", from_dlpack)
    responses = execute(model, [request(photos(1, 1, seed=seed), [1]) for seed in range(3)])
    for seed in (0, 2):
        assert torch.equal(table(responses[seed])[0], rows_of(photos(1, seed=seed)))
    with pytest.raises(serving.RequestFailed, match=serving.INTERNAL_ERROR):
        table(responses[1])


@pytest.mark.parametrize("num_rows", [0, -2, 5])
def test_features_are_cut_to_rows_that_there_are(tmp_path: Path, num_rows: int) -> None:
    model = step(tmp_path, engine_file(tmp_path), output="encoder_input_features")
    [response] = execute(model, [request(photos(1, 1), [1], [num_rows])])
    with pytest.raises(serving.RequestFailed, match=f"num_rows is {num_rows}, but 1 image"):
        table(response)


@pytest.mark.parametrize("settings", [{"rows_per_image": ROWS + 1}, {"hidden_size": HIDDEN * 2}])
def test_an_engine_of_other_rows_does_not_load(tmp_path: Path, settings: dict[str, int]) -> None:
    expected = (8, settings.get("rows_per_image", ROWS), settings.get("hidden_size", HIDDEN))
    message = f"model.engine gives rows of shape (8, 3, 16) for 8 image(s), but .* generated for {expected}"
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ValueError, match=pattern):
        step(tmp_path, engine_file(tmp_path), **settings)


@pytest.mark.parametrize("names", [("input", "encoder_output"), ("pixel_values", "image_features"), ("b", "a")])
def test_tensors_are_found_by_role(tmp_path: Path, names: tuple[str, str]) -> None:
    model = step(tmp_path, engine_file(tmp_path, names=names))
    [response] = execute(model, [request(photos(1, 1), [1])])
    assert torch.equal(table(response)[0], rows_of(photos(1)))


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"mask": {"mode": "INPUT", "dtype": "BOOL", "shape": [-1, 7]}}, "input 'mask' BOOL (-1, 7)"),
        ({"pooled": {"mode": "OUTPUT", "dtype": "HALF", "shape": [-1, 9]}}, "output 'pooled' HALF (-1, 9)"),
        ({"input": {"mode": "INPUT", "dtype": "INT32", "shape": [-1, 5]}}, "input 'input' INT32 (-1, 5)"),
        ({"output": {"mode": "INPUT", "dtype": "HALF", "shape": [-1, 5]}}, "input 'output' HALF (-1, 5)"),
    ],
)
def test_an_engine_of_other_tensors_is_listed(tmp_path: Path, tensors: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(found)) as failure:
        step(tmp_path, engine_file(tmp_path, **tensors))
    assert "one input for images (-1, 3, 4, 4) and one output" in str(failure.value)


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (
            {"version": "8.6.0"},
            RuntimeError,
            r"TensorRT 10\.7\.0 cannot load .*model\.engine.*build_engines\.sh",
        ),
        ({"shape": (3, 6, 6)}, ValueError, r"takes images of shape \(3, 6, 6\) .* generated for \(3, 4, 4\)"),
        ({"dtypes": ("INT8", "HALF")}, ValueError, "'input' of .* is INT8"),
        ({"dtypes": ("HALF", "UINT8")}, ValueError, "'output' of .* is UINT8"),
        ({"dtypes": ("HALF", "FP8")}, ValueError, "'output' of .* is FP8"),
    ],
)
def test_an_unfit_engine_does_not_load(
    tmp_path: Path, engine: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        step(tmp_path, engine_file(tmp_path, **engine))


def test_what_is_missing_at_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.engine does not exist: build it with build_engines\.sh"):
        step(tmp_path, tmp_path / "gone.engine")
    with monkeypatch.context() as full:
        full.setattr(trt.ICudaEngine, "memory_is_full", True)
        with pytest.raises(RuntimeError, match="kv_cache_free_gpu_mem_fraction"):
            step(tmp_path, engine_file(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"no GPU is visible.*--runtime torch"):
        step(tmp_path, engine_file(tmp_path))


def test_a_missing_tensorrt_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    spec = importlib.util.spec_from_file_location("engine_without_tensorrt", FOLDER / "engine.py")
    assert spec and spec.loader
    with pytest.raises(ImportError, match=r"package tensorrt cannot be imported.*trtllm-python-py3"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_rows_that_an_engine_gives_as_a_grid_are_read_line_by_line(tmp_path: Path) -> None:
    pixels = photos(1, 2)
    flat = step(tmp_path, engine_file(tmp_path))
    [expected] = execute(flat, [request(pixels, [2])])
    grid = step(tmp_path, engine_file(tmp_path, rows=(1, ROWS, HIDDEN)))
    [response] = execute(grid, [request(pixels, [2])])
    assert torch.equal(table(response), table(expected))


def test_constant_rows_stand_before_those_of_the_images(tmp_path: Path) -> None:
    rows = {"separator": torch.full((1, HIDDEN), 3.0).half(), "newline": torch.full((1, 1, HIDDEN), 5.0).half()}
    save_file(rows, tmp_path / "rows.safetensors")
    constants = {
        "module": "constants_file",
        "file": str(tmp_path / "rows.safetensors"),
        "names": ["newline", "separator"],
    }
    model = step(tmp_path, engine_file(tmp_path), constant_rows=2, constants=constants)
    pixels = photos(2, 1)
    [response] = execute(model, [request(pixels, [1, 0], [2 + ROWS, 0])])
    found = table(response)
    assert torch.equal(
        found[0], torch.cat([torch.full((1, HIDDEN), 5.0), torch.full((1, HIDDEN), 3.0), rows_of(pixels[0])])
    )
    assert not found[1].any()
    [refused] = execute(model, [request(pixels, [1, 0], [ROWS, 0])])
    with pytest.raises(serving.RequestFailed, match=f"num_rows is {ROWS}"):
        table(refused)


def test_missing_file_of_constant_rows_names_the_remedy(tmp_path: Path) -> None:
    constants = {"module": "constants_file", "file": str(tmp_path / "none.safetensors"), "names": ["newline"]}
    with pytest.raises(
        FileNotFoundError, match=r"none\.safetensors does not exist: remove its folder .*build_engines\.sh"
    ):
        step(tmp_path, engine_file(tmp_path), constant_rows=1, constants=constants)


def test_images_of_several_sizes_go_through_calls_of_their_own(tmp_path: Path) -> None:
    """Patches: one row each, as many as the image has; an engine whose third axis is open."""
    file = engine_file(tmp_path, shape=(1, 12, HIDDEN), rows=(12, HIDDEN))
    content = json.loads(file.read_text())
    content["tensors"]["input"]["shape"] = [-1, 1, -1, HIDDEN]
    content["profile"] = [[1, 1, 1, HIDDEN], [8, 1, 12, HIDDEN], [8, 1, 12, HIDDEN]]
    content["tensors"]["output"]["shape"] = [-1, -1, HIDDEN]
    file.write_text(json.dumps(content))
    model = step(tmp_path, file, image_shape=[1, -1, HIDDEN], rows_per_image=None)
    small, large = torch.rand(1, 1, 1, 3, HIDDEN), torch.rand(1, 1, 1, 12, HIDDEN)
    responses = execute(model, [request(small, [1], [3]), request(large, [1], [12])])
    assert [tuple(table(response).shape) for response in responses] == [(1, 3, HIDDEN), (1, 12, HIDDEN)]
    assert torch.equal(table(responses[1])[0], 2 * large[0, 0, 0].half())
    too_large, empty = (
        request(torch.rand(1, 1, 1, 13, HIDDEN), [1], [13]),
        request(torch.rand(1, 1, 1, 0, HIDDEN), [1], [0]),
    )
    answers = execute(model, [request(small, [1], [3]), too_large, empty, request(large, [1], [12])])
    assert torch.equal(table(answers[0])[0], 2 * small[0, 0, 0].half())
    assert torch.equal(table(answers[3])[0], 2 * large[0, 0, 0].half())
    for answer, message in ((answers[1], "exceeds the engine's"), (answers[2], "must be at least 1")):
        with pytest.raises(serving.RequestFailed, match=message):
            table(answer)

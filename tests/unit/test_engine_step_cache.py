"""The vision step of the trtllm runtime with --vision-cache: the engine sees only images that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorrt as trt
import torch

from tests.unit import serving
from tests.unit.engine_step import (
    HIDDEN,
    ROWS,
    Stream,
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
ONE_IMAGE = ROWS * HIDDEN * 2


def cached(folder: Path, images: int) -> Any:
    return step(
        folder,
        engine_file(folder),
        cache={"module": "row_cache", "bytes": images * ONE_IMAGE, "entry_bytes": ONE_IMAGE},
    )


def test_only_images_that_are_not_kept_go_to_the_engine(tmp_path: Path) -> None:
    model = cached(tmp_path, 10)
    first, second = photos(1, 2, seed=1), photos(1, 3, seed=2)
    mixed = torch.cat([second[:, :1], first[:, 1:], photos(1, 1, seed=3), second[:, 2:]], dim=1)
    for rows, calls in [
        ([first], [2]),
        ([first, second], [3]),
        ([mixed, photos(1, 0), first], [1]),
        ([first, second], []),
    ]:
        trt.IExecutionContext.calls.clear()
        batch = [request(pixels, [pixels.shape[1]]) for pixels in rows]
        responses = execute(model, batch)
        assert trt.IExecutionContext.calls == calls
        assert not Stream.pending
        for own, response in zip(batch, responses, strict=True):
            pixels = own.inputs()[0].tensor  # type: ignore[attr-defined]
            wanted = rows_of(pixels[0]) if pixels.shape[1] else torch.zeros((1, HIDDEN)).half()
            assert torch.equal(table(response), wanted[None])


def test_the_run_at_load_is_not_kept(tmp_path: Path) -> None:
    model = cached(tmp_path, 10)
    execute(model, [request(torch.zeros_like(photos(1, 1)), [1])])
    assert trt.IExecutionContext.calls == [1]


def test_equal_images_of_one_batch_are_encoded_once(tmp_path: Path) -> None:
    model = cached(tmp_path, 10)
    pixels = photos(1, 1)
    responses = execute(model, [request(pixels, [1]) for _ in range(3)])
    assert trt.IExecutionContext.calls == [1]
    assert all(torch.equal(table(response)[0], rows_of(pixels[0])) for response in responses)


def test_a_row_of_images_of_which_some_are_kept_is_whole(tmp_path: Path) -> None:
    """Rows [B, ...] of one request, padded, the constant rows of the model before them."""
    model = cached(tmp_path, 2)  # fewer than there are: they come and go
    pixels = photos(3, 2)
    for _ in range(3):
        found = table(execute(model, [request(pixels, [2, 0, 1])])[0])
        assert torch.equal(found[0], rows_of(pixels[0]))
        assert torch.equal(found[2, :ROWS], rows_of(pixels[2, :1])) and not found[2, ROWS:].any()
        assert not found[1].any()


def test_a_failed_call_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cached(tmp_path, 10)
    known, new = photos(1, 1, seed=1), photos(1, 1, seed=2)
    execute(model, [request(known, [1])])
    with monkeypatch.context() as patch:
        patch.setattr(trt.IExecutionContext, "execute_async_v3", lambda self, stream: False)
        [failed] = execute(model, [request(new, [1])])
        with pytest.raises(serving.RequestFailed, match="internal error"):
            table(failed)
        assert torch.equal(table(execute(model, [request(known, [1])])[0])[0], rows_of(known[0]))
    assert torch.equal(table(execute(model, [request(new, [1])])[0])[0], rows_of(new[0]))

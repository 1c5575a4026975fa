"""The vision step of the trtllm runtime outside of a server, its engine run by the stand-in for TensorRT."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorrt as trt
import torch
import torch_device
import triton_python_backend_utils as pb_utils
from torch.utils import dlpack

from tests.unit import executor_requests, serving

SHAPE = (3, 4, 4)
ROWS, HIDDEN = 3, 16  # of one image: as many values as it has pixels
FOLDER = serving.ROOT / "templates/trtllm/vision_encoder/1"


class Stream:
    cuda_stream = 7
    pending = False

    def synchronize(self) -> None:
        Stream.pending = False

    def record_event(self, event: Event) -> Event:
        return event


class Event:
    def __init__(self, blocking: bool) -> None:
        assert blocking

    def synchronize(self) -> None:
        Stream.pending = False


@contextlib.contextmanager
def entered(stream: Stream) -> Iterator[None]:
    Stream.pending = True
    yield


class DlpackTensor(pb_utils.Tensor):
    """A tensor of the server that may only be passed on by DLPack, as one in GPU memory."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self._name, self.tensor = name, tensor

    @staticmethod
    def from_dlpack(name: str, tensor: torch.Tensor) -> DlpackTensor:
        assert tensor.is_contiguous(), "the server takes contiguous tensors only"
        assert not Stream.pending, "handed over before the stream was synchronized"
        return DlpackTensor(name, tensor)

    def to_dlpack(self) -> Any:
        return dlpack.to_dlpack(self.tensor)

    def as_numpy(self) -> Any:
        raise AssertionError(f"{self._name} was copied to the host")

    def shape(self) -> list[int]:
        return list(self.tensor.shape)

    def is_cpu(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch_device, "prepare", lambda settings, args: torch.device("cpu"))
    monkeypatch.setattr(pb_utils.Tensor, "from_dlpack", DlpackTensor.from_dlpack, raising=False)
    monkeypatch.setattr(trt.IExecutionContext, "calls", [])


def engine_file(
    folder: Path,
    *,
    least: int = 1,
    most: int = 8,
    shape: Sequence[int] = SHAPE,
    dtypes: tuple[str, str] = ("HALF", "HALF"),
    version: str = trt.__version__,
    static: bool = False,
    names: tuple[str, str] = ("input", "output"),
    rows: Sequence[int] = (ROWS, HIDDEN),
    **more: dict[str, Any],
) -> Path:
    """An engine file of the stand-in; `more` are further tensors."""
    batch = most if static else -1
    tensors = {
        names[0]: {"mode": "INPUT", "dtype": dtypes[0], "shape": [batch, *shape]},
        names[1]: {"mode": "OUTPUT", "dtype": dtypes[1], "shape": [batch, *rows]},
    }
    profile = [[count, *shape] for count in (most if static else least, most, most)]
    path = folder / "model.engine"
    path.write_text(json.dumps({"version": version, "tensors": {**tensors, **more}, "profile": profile}))
    return path


def step(folder: Path, engine: Path, **changes: Any) -> Any:
    """The loaded step; `changes` replace entries of its settings."""
    settings = {
        "model": "tiny-llava",
        "engine": str(engine),
        "dtype": "float16",
        "table_dtype": "float16",
        "rows_per_image": ROWS,
        "constant_rows": 0,
        "output": "prompt_embedding_table",
        "hidden_size": HIDDEN,
        "image_shape": list(SHAPE),
        "max_batch": None,
    }
    model = serving.load_step("trtllm/vision_encoder", folder, {**settings, **changes}, with_tokenizer=False)
    trt.IExecutionContext.calls.clear()  # the run at load
    return model


def request(
    pixels: torch.Tensor, num_images: Sequence[int], num_rows: Sequence[int] | None = None
) -> executor_requests.Request:
    """pixels [B, n, C, H, W]; num_rows is what fits num_images unless given."""
    columns = {"num_images": num_images, "num_rows": num_rows or [count * ROWS for count in num_images]}
    integers = [
        pb_utils.Tensor(name, torch.tensor(values, dtype=torch.int32).reshape(-1, 1).numpy())
        for name, values in columns.items()
    ]
    return executor_requests.Request([DlpackTensor("pixel_values", pixels), *integers], "")


def execute(model: Any, requests: Sequence[executor_requests.Request]) -> list[pb_utils.InferenceResponse]:
    """What the step sends for each of the requests, which it does on a thread of its own."""
    assert model.execute(requests) is None
    for one in requests:
        assert one.sender.done.wait(30) and len(one.sender.responses) == 1
    return [one.sender.responses[0] for one in requests]


def photos(*sizes: int, seed: int = 0) -> torch.Tensor:
    """Random pixels [*sizes, C, H, W], each value its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*sizes, *SHAPE), generator=generator).half()


def rows_of(pixels: torch.Tensor) -> torch.Tensor:
    """What the stand-in computes for images [n, C, H, W]: [n * ROWS, HIDDEN]."""
    return (2 * pixels).reshape(-1, HIDDEN)


def table(response: pb_utils.InferenceResponse) -> torch.Tensor:
    error = response.error()
    if error is not None:
        raise serving.RequestFailed(error)
    [output] = response.output_tensors()
    assert output.name() == "prompt_embedding_table"
    return output.tensor  # type: ignore[attr-defined]

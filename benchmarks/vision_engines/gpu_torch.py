"""As much of torch as the engine step uses, over CUDA's runtime: the packed Python that has TensorRT has no torch.

It lets templates/trtllm/vision_encoder/1/engine.py, as it is, run a real engine. `install()` before importing that.
"""

from __future__ import annotations

import contextlib
import math
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.vision_engines.cuda import Buffer, Stream


class GpuTensor:
    """A contiguous array in GPU memory, or a part of one along its first axis."""

    is_cuda = True

    def __init__(self, buffer: Buffer, shape: Sequence[int], dtype: Any, offset: int = 0) -> None:
        self.buffer, self.shape, self.dtype, self.offset = buffer, tuple(shape), np.dtype(dtype), offset

    @property
    def _bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def data_ptr(self) -> int:
        return self.buffer.address + self.offset

    def view(self, shape: Sequence[int]) -> GpuTensor:
        assert math.prod(shape) == math.prod(self.shape)
        return GpuTensor(self.buffer, shape, self.dtype, self.offset)

    def flatten(self, first: int, last: int) -> GpuTensor:
        end = len(self.shape) + last
        middle = math.prod(self.shape[first : end + 1])
        return self.view((*self.shape[:first], middle, *self.shape[end + 1 :]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: int | slice) -> GpuTensor:
        start, stop, _ = (part if isinstance(part, slice) else slice(part, part + 1)).indices(len(self))
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:]) if isinstance(part, slice) else self.shape[1:]
        return GpuTensor(self.buffer, shape, self.dtype, self.offset + start * row)

    def __iter__(self) -> Iterator[GpuTensor]:
        return (self[index] for index in range(len(self)))

    def copy_(self, image: GpuTensor | NDArray[Any], non_blocking: bool = False) -> None:
        """By way of the host."""
        values = image.numpy() if isinstance(image, GpuTensor) else image
        assert values.shape == self.shape
        self.buffer.write(values.astype(self.dtype), self.offset)

    def numpy(self) -> NDArray[Any]:
        return self.buffer.read(self.shape, self.dtype, self.offset)


def from_numpy(values: NDArray[Any]) -> GpuTensor:
    """On the GPU at once, as this has no tensors on the host."""
    made = empty(values.shape, values.dtype)
    made.copy_(values)
    return made


def empty(shape: int | Sequence[int], dtype: Any, device: Any = None) -> GpuTensor:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return GpuTensor(Buffer(max(1, math.prod(sizes) * np.dtype(dtype).itemsize)), sizes, dtype)


def zeros(shape: int | Sequence[int], dtype: Any, device: Any = None) -> GpuTensor:
    made = empty(shape, dtype)
    made.copy_(np.zeros(made.shape, dtype))
    return made


def cat(parts: Sequence[GpuTensor]) -> GpuTensor:
    """By way of the host, after what made the parts is done: enough for a check."""
    sys.modules["torch"].cuda.Stream.last.synchronize()
    whole = np.concatenate([part.numpy() for part in parts])
    made = empty(whole.shape, whole.dtype)
    made.copy_(whole)
    return made


class CudaStream:
    last: CudaStream

    def __init__(self, device: Any) -> None:
        self._stream = Stream()
        self.cuda_stream = self._stream.handle
        CudaStream.last = self

    def synchronize(self) -> None:
        self._stream.synchronize()


def install() -> None:
    """Makes `import torch` give this."""
    torch, cuda = types.ModuleType("torch"), types.ModuleType("torch.cuda")
    dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": None, "uint8": np.uint8}
    for name, value in {**dtypes, "device": str, "Tensor": GpuTensor}.items():
        setattr(torch, name, value)
    for made in (empty, zeros, cat, from_numpy):
        setattr(torch, made.__name__, made)
    vars(cuda).update(Stream=CudaStream, stream=lambda stream: contextlib.nullcontext(), is_available=lambda: True)
    vars(torch)["cuda"] = cuda
    sys.modules.update({"torch": torch, "torch.cuda": cuda})

"""The few calls of CUDA's runtime that a TensorRT engine needs, by ctypes: no torch beside the packed TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_library = ctypes.CDLL("libcudart.so.12")
TO_DEVICE, TO_HOST = 1, 2
OF_THIS_THREAD = 1  # cudaStreamCaptureModeThreadLocal


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_library, name)(*arguments)
    if code:
        raise RuntimeError(f"{name} failed with CUDA error {code}")


class Buffer:
    """Memory on the GPU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pointer = ctypes.c_void_p()
        _call("cudaMalloc", ctypes.byref(self._pointer), ctypes.c_size_t(size))

    @property
    def address(self) -> int:
        return int(self._pointer.value or 0)

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        whole = np.ascontiguousarray(array)
        assert offset + whole.nbytes <= self.size
        target = ctypes.c_void_p(self.address + offset)
        _call("cudaMemcpy", target, ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(whole.nbytes), TO_DEVICE)

    def read(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> NDArray[Any]:
        array = np.empty(shape, dtype)
        source = ctypes.c_void_p(self.address + offset)
        _call("cudaMemcpy", ctypes.c_void_p(array.ctypes.data), source, ctypes.c_size_t(array.nbytes), TO_HOST)
        return array

    def free(self) -> None:
        _call("cudaFree", self._pointer)


class Stream:
    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        _call("cudaStreamCreate", ctypes.byref(self._handle))

    @property
    def handle(self) -> int:
        return int(self._handle.value or 0)

    def synchronize(self) -> None:
        _call("cudaStreamSynchronize", self._handle)

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        """What `call` does on this stream, as a graph: the same again for one launch."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaStreamBeginCapture", self._handle, OF_THIS_THREAD)
        call()
        _call("cudaStreamEndCapture", self._handle, ctypes.byref(graph))
        _call("cudaGraphInstantiate", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        return lambda: _call("cudaGraphLaunch", ready, self._handle)

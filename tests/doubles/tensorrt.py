"""Stand-in for the part of TensorRT's Python API that the vision step uses, on host memory.

TensorRT needs an NVIDIA GPU. This keeps its rules (an engine of another version does not load, shapes stay
inside the profile, buffers are aligned and all given) and computes rows = 2 x pixels, so that each value can be
followed. An engine file is JSON: {"version", "tensors": {name: {"mode", "dtype", "shape"}}, "profile"}.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

__version__ = "10.7.0"
ALIGNMENT = 64  # bytes; 256 on a GPU, but host tensors get no more
TORCH_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "UINT8": torch.uint8}


class Dims:
    """A shape, which in TensorRT is no tuple."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16 = range(8)


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


class Logger(ILogger):
    WARNING: ClassVar[ILogger.Severity] = ILogger.Severity.WARNING

    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        self.min_severity = min_severity


class IExecutionContext:
    calls: ClassVar[list[int]] = []
    """The batch of each executed call, over all contexts."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        lowest, _, highest = self._engine.get_tensor_profile_shape(name, 0)
        if len(shape) != len(lowest):
            return False
        if not all(low <= size <= high for low, size, high in zip(lowest, shape, highest, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """Sizes are -1 until the input's shape is set; then the output's open axes are the input's, in order."""
        sizes = list(self._shapes.get(name, self._engine.get_tensor_shape(name)))
        for given, shape in self._shapes.items():
            declared = self._engine.get_tensor_shape(given)
            found = iter([size for size, stated in zip(shape, declared, strict=True) if stated == -1])
            sizes = [next(found) if size == -1 else size for size in sizes]
        return Dims(sizes)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine.tensors or memory == 0 or memory % ALIGNMENT:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        names = list(self._engine.tensors)
        if stream_handle == 0 or any(name not in self._addresses for name in names):
            return False
        source, target = (self._memory(name) for name in names)
        target.copy_((2 * source.float()).reshape(target.shape))
        self.calls.append(len(source))
        return True

    def _memory(self, name: str) -> torch.Tensor:
        shape = tuple(self.get_tensor_shape(name))
        dtype = TORCH_DTYPES[self._engine.get_tensor_dtype(name).name]
        count = math.prod(shape) * dtype.itemsize
        return torch.frombuffer((ctypes.c_uint8 * count).from_address(self._addresses[name]), dtype=dtype).reshape(
            shape
        )


class ICudaEngine:
    memory_is_full: ClassVar[bool] = False

    def __init__(self, described: dict[str, Any]) -> None:
        self.tensors: dict[str, dict[str, Any]] = described["tensors"]
        self._profile: list[list[int]] = described["profile"]

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self.tensors[name]["mode"]]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.tensors[name]["dtype"]]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self.tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if self.get_tensor_mode(name) is not TensorIOMode.INPUT or profile_index != 0:
            raise RuntimeError(f"no profile {profile_index} of input {name}")
        return [Dims(sizes) for sizes in self._profile]

    def create_execution_context(self) -> IExecutionContext | None:
        return None if self.memory_is_full else IExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        described = json.loads(serialized_engine)
        return ICudaEngine(described) if described["version"] == __version__ else None

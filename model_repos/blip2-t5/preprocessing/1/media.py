"""What image and video inputs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


class Source(NamedTuple):
    """One image or video as the client sent it: `value` is bytes, uint8 pixels, or float pixels for the engine."""

    tensor: str
    label: str
    value: Any


class Reader(Protocol):
    """Decodes sources."""

    def __call__(self, source: Source) -> Any: ...

    def fetching(self, requests: Sequence[pb_utils.InferenceRequest]) -> AbstractContextManager[None]:
        """While it is open, what the requests name but do not hold is fetched; none waits for each other's in turn."""


def carries_something(array: NDArray[Any] | None) -> bool:
    """Whether an input holds any value; an empty string counts as none."""
    if array is None or array.size == 0:
        return False
    return array.dtype != np.object_ or any(array.reshape(-1).tolist())

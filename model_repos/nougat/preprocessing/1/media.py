"""What image and video inputs have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Source(NamedTuple):
    """One image or video as the client sent it: `value` is bytes, uint8 pixels, or float pixels for the engine."""

    tensor: str
    label: str
    value: Any


def carries_something(array: NDArray[Any] | None) -> bool:
    """Whether an input holds any value; an empty string counts as none."""
    if array is None or array.size == 0:
        return False
    return array.dtype != np.object_ or any(array.reshape(-1).tolist())

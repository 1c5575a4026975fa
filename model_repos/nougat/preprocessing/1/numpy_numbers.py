"""Pixel values of the types that numpy has; a type that it lacks has a module of its own with the same functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


def array_dtype(name: str) -> np.dtype[Any]:
    """What an array of values of the type `name` has."""
    return np.dtype(name)


def rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Float `values` in an array of `dtype`."""
    return values.astype(dtype)


def tensor(name: str, values: NDArray[Any]) -> pb_utils.Tensor:
    """A tensor of `values`."""
    return pb_utils.Tensor(name, values)

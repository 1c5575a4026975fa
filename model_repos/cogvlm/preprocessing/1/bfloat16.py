"""bfloat16 pixel values without torch. numpy has no such type: an array holds the values' bits as uint16, and DLPack,
by which tensors change hands, gives them their name. See numpy_numbers for types that numpy has."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

BITS = np.dtype(np.uint16)

# dlpack.h: where DLManagedTensor has the code of its type (after the address, the device and the rank), and the code.
TYPE_CODE_OFFSET = 20
BFLOAT = 4
NAME, USED_NAME = b"dltensor", b"used_dltensor"

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)


def array_dtype(name: str) -> np.dtype[Any]:
    """What an array of bfloat16 values has."""
    return BITS


def rounded(values: NDArray[Any], dtype: np.dtype[Any] = BITS) -> NDArray[np.uint16]:
    """The bits of finite `values`, any float type, rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(dtype)


def tensor(name: str, bits: NDArray[np.uint16]) -> pb_utils.Tensor:
    """A BF16 tensor over the memory of `bits`, which must be writable (numpy shares no other)."""
    capsule: Any = bits.__dlpack__()
    ctypes.c_uint8.from_address(_pointer(capsule, NAME) + TYPE_CODE_OFFSET).value = BFLOAT
    made = pb_utils.Tensor.from_dlpack(name, capsule)
    # Triton marks the capsule as used by a name that numpy does not know, and numpy would then free it twice.
    _rename(capsule, USED_NAME)
    return made

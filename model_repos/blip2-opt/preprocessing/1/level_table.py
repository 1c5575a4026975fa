"""The values of normalised pixels. An 8-bit level of a channel has one, so they are a table of 3 x 256 numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def level_table(rescale_factor: float, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """[3,256] float32: the normalised value of each level of each channel, as Hugging Face's PIL processors round it.

    The order of roundings is part of the contract: scaled in float64, rounded to float32, then normalised.
    """
    levels = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    means, deviations = (np.array(values, dtype=np.float32)[:, None] for values in (mean, std))
    table: NDArray[np.float32] = (levels - means) / deviations
    return table

"""Where a prompt with visual experts has its image, and the positions that follow from it.

An image is one run of prompt table rows: its begin row, its patches, its end row. All patches share one position, while
begin and end rows count as tokens do. Source: `build_position_ids` of the code that THUDM/cogvlm-chat-hf comes with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tensors import RequestError


def positions(ids: Sequence[int], vocab_size: int, rows_per_image: int) -> NDArray[np.int32]:
    """The position of each id of a prompt, int32 [L]: with an image 0, 1, 2, 2, ..., 2, 3, 4, ...

    Ids from `vocab_size` on are rows of the prompt table. Raises RequestError unless they are the `rows_per_image` rows
    of one image, in order and side by side, or none at all.
    """
    rows = np.asarray(ids, dtype=np.int64) - vocab_size
    (places,) = np.nonzero(rows >= 0)
    if len(places):
        first = int(places[0])
        whole = np.arange(rows_per_image)
        if not np.array_equal(places, first + whole) or not np.array_equal(rows[places], whole):
            raise RequestError(
                f"input_ids has {len(places)} rows of the prompt table; this model takes the {rows_per_image} rows of "
                "one image, in their order and side by side"
            )
    shared = (rows >= 2) & (rows <= rows_per_image - 2)  # every patch but the first
    return (np.cumsum(~shared) - (not shared[:1].any())).astype(np.int32)

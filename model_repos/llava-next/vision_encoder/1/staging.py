"""Images of many requests as one batch on the encoder's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def fill(batch: torch.Tensor, images: Sequence[torch.Tensor]) -> None:
    """Copies `images` [...] of one shape and dtype into the first of `batch` [n, ...], on the current stream.

    Those that lie on the host cross to a GPU together and through pinned memory: each copy out of pageable memory would
    have the driver move it through a small buffer of its own, while the GPU waits. Until the stream was synchronized,
    images that lie on a GPU are still read.
    """
    if batch.is_cuda and not any(image.is_cuda for image in images):
        pinned = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=True)
        torch.stack(list(images), out=pinned)
        batch[: len(images)].copy_(pinned, non_blocking=True)  # torch reuses what is pinned once this is done
        return
    for slot, image in zip(batch, images, strict=False):
        slot.copy_(image, non_blocking=True)

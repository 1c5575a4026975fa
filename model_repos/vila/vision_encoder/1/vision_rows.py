"""From the requests of a dynamic batch to images, and from the encoder's rows back to one table per request.

Every vision step does this around its encoder, whatever runs the encoder. No table is copied to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from tensors import RequestError, column, failed
from torch.utils import dlpack

ImagesByRow = list[torch.Tensor]
"""The images of one request: for each of its B rows a tensor [n, C, H, W], n = 0 for a row of text only."""


@dataclass(frozen=True)
class VisionRows:
    """What the repository was generated for: an image of `image_shape` gives `rows_per_image` rows.

    `encoder` is the path of the encoder's engine or checkpoint, for messages; `device` is where it runs.
    """

    model: str
    encoder: str
    image_shape: tuple[int, ...]
    rows_per_image: int
    hidden_size: int
    table_dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, settings: dict[str, Any], encoder: str, device: torch.device) -> VisionRows:
        """From the settings of a vision step."""
        return cls(
            model=settings["model"],
            encoder=encoder,
            image_shape=tuple(settings["image_shape"]),
            rows_per_image=settings["rows_per_image"],
            hidden_size=settings["hidden_size"],
            table_dtype=getattr(torch, settings["table_dtype"]),
            device=device,
        )

    def images(self, request: pb_utils.InferenceRequest) -> ImagesByRow:
        """The images of each row of the request, where they lie (host or GPU), without the zero padding.

        Raises RequestError when shapes or counts do not fit the model or each other.
        """
        tensor = pb_utils.get_input_tensor_by_name(request, "pixel_values")
        if tensor is None:
            raise RequestError("pixel_values is not present in the request: send [B, 0, ...] for text only")
        shape = tuple(tensor.shape())
        if shape[2:] != self.image_shape:
            raise RequestError(f"pixel_values has images of shape {shape[2:]}; {self.model} takes {self.image_shape}")
        batch, most = shape[:2]
        num_images = column(request, "num_images", batch, 0)
        for count, num_rows in zip(num_images, column(request, "num_rows", batch, 0), strict=True):
            self._check_counts(count, most, num_rows)
        if most == 0:
            return [torch.empty((0, *self.image_shape))] * batch
        pixels = dlpack.from_dlpack(tensor.to_dlpack())
        return [row[:count] for row, count in zip(pixels, num_images, strict=True)]

    def tables(self, rows: torch.Tensor | None, requests: Sequence[ImagesByRow]) -> list[torch.Tensor]:
        """One table [B, rows, hidden] per request, of the table's dtype on the encoder's device.

        `rows` [n, rows_per_image, hidden] are those of all images in order, None when there is no image. The
        table of a single row is a view of them where it can be. Where rows of a request differ in their
        number of images, the shorter are padded with zeros; text only gives one zero row, never referred to.
        Raises ValueError when the encoder gave another number of rows than the repository was generated for.
        """
        if rows is not None:
            self.check(rows, sum(len(images) for request in requests for images in request))
            rows = rows.to(self.table_dtype)
        tables = []
        start = 0
        for request in requests:
            counts = [len(images) for images in request]
            tables.append(self._table(rows, start, counts))
            start += sum(counts)
        return tables

    def check(self, rows: torch.Tensor, images: int) -> None:
        """Raise ValueError unless `rows` has the shape that `images` images must give."""
        expected = (images, self.rows_per_image, self.hidden_size)
        if tuple(rows.shape) != expected:
            raise ValueError(
                f"{self.encoder} gives rows of shape {tuple(rows.shape)} for {images} image(s), but this "
                f"repository of {self.model} was generated for {expected}: generate it again for this encoder"
            )

    def _check_counts(self, count: int, most: int, num_rows: int) -> None:
        if not 0 <= count <= most:
            raise RequestError(f"num_images is {count}, but pixel_values holds {most} image(s) for each row")
        produced = count * self.rows_per_image
        if produced != num_rows:
            raise RequestError(
                f"num_rows is {num_rows}, but {count} image(s) of {self.model} give {produced} rows: "
                "preprocessing and vision_encoder are of different models; generate the repository again"
            )

    def _table(self, rows: torch.Tensor | None, start: int, counts: list[int]) -> torch.Tensor:
        """The table of the request whose images begin at rows[start], counts[b] of them for row b."""
        longest = max(1, max(counts, default=0) * self.rows_per_image)
        if rows is not None and len(counts) == 1 and counts[0]:
            return rows[start : start + counts[0]].reshape(1, longest, self.hidden_size)
        shape = (len(counts), longest, self.hidden_size)
        table = torch.zeros(shape, dtype=self.table_dtype, device=self.device)
        for row, count in zip(table, counts, strict=True):
            if rows is not None and count:
                row[: count * self.rows_per_image] = rows[start : start + count].reshape(-1, self.hidden_size)
            start += count
        return table


def answer_together(
    requests: Sequence[pb_utils.InferenceRequest],
    read: Callable[[pb_utils.InferenceRequest], ImagesByRow],
    encode: Callable[[list[ImagesByRow]], list[torch.Tensor]],
) -> list[pb_utils.InferenceResponse]:
    """One response per request, in order, out of one call of `encode` for all requests that `read` accepts.

    An error of `read` fails its own request; one of `encode` fails all that were to be encoded. The tables
    that `encode` returns must be complete: they are read outside of any stream of this process.
    """
    accepted: list[ImagesByRow] = []
    errors: list[Exception | None] = []
    for request in requests:
        try:
            accepted.append(read(request))
            errors.append(None)
        except Exception as error:
            errors.append(error)
    try:
        tables = iter(encode(accepted))
    except Exception as error:
        return [failed(own or error) for own in errors]
    return [failed(own) if own else _table_response(next(tables)) for own in errors]


def _table_response(table: torch.Tensor) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor.from_dlpack("prompt_embedding_table", table)])

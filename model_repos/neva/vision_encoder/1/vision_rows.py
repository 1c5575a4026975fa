"""From the requests of a dynamic batch to images, and from the encoder's rows back to one table per request.

Every vision step does this around its encoder, whatever runs the encoder. No table is copied to the host.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from tensors import RequestError, column
from torch.utils import dlpack

ImagesByRow = list[torch.Tensor]
"""The images of one request: for each of its B rows a tensor [n, ...] of entries, n = 0 for a row of text only."""

Encode = Callable[[list[torch.Tensor]], torch.Tensor]
"""Entries of one shape, at least one, on any device -> their rows [n, N, hidden] on the encoder's device."""


class Cache(Protocol):
    """What keeps rows: row_cache.RowCache."""

    def rows(
        self, groups: Sequence[torch.Tensor], encode: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
    ) -> list[torch.Tensor]: ...


@dataclass(frozen=True)
class VisionRows:
    """What the repository was generated for.

    Attributes:
        image_shape: of one entry of pixel_values; -1 where images differ.
        rows_per_image: rows of one entry; None = as many as the entry's open axis is long.
        constants: [c, hidden], rows that stand before those of the images in every table; None = none.
        encoder: path of the engine or checkpoint, for messages. device: where it runs.
        largest: the largest entry that the encoder takes, where images differ; None = any.
        output: prompt_embedding_table, or encoder_input_features, which are cut to the rows that are valid.
    """

    model: str
    encoder: str
    image_shape: tuple[int, ...]
    rows_per_image: int | None
    hidden_size: int
    table_dtype: torch.dtype
    device: torch.device
    constants: torch.Tensor | None = None
    largest: tuple[int, ...] | None = None
    output: str = "prompt_embedding_table"

    @classmethod
    def of(
        cls, settings: dict[str, Any], encoder: str, device: torch.device, constants: torch.Tensor | None = None
    ) -> VisionRows:
        """From the settings of a vision step.

        Raises ValueError when the constant rows are not as many as the repository was generated for.
        """
        table_dtype: torch.dtype = getattr(torch, settings["table_dtype"])
        expected = (settings["constant_rows"], settings["hidden_size"])
        found = (0, settings["hidden_size"]) if constants is None else tuple(constants.shape)
        if found != expected:
            raise ValueError(
                f"{encoder} has constant rows of shape {found}, this repository of {settings['model']} was generated "
                f"for {expected}: generate it again for this encoder"
            )
        return cls(
            model=settings["model"],
            encoder=encoder,
            image_shape=tuple(settings["image_shape"]),
            rows_per_image=settings["rows_per_image"],
            hidden_size=settings["hidden_size"],
            table_dtype=table_dtype,
            device=device,
            constants=None if constants is None else constants.to(device, table_dtype),
            output=settings["output"],
        )

    def lengths(self, request: pb_utils.InferenceRequest, batch: int) -> list[int] | None:
        """How many rows of each of the `batch` rows' features are valid; None for a table, which has no such limit."""
        if self.output == "prompt_embedding_table":
            return None
        lengths: list[int] = column(request, "num_rows", batch, 0)
        return lengths

    def response(self, table: torch.Tensor, lengths: list[int] | None) -> pb_utils.InferenceResponse:
        """The response to a request whose table [B, rows, hidden] is complete.

        Features [B, most, hidden] come with `lengths`, the valid rows of each row of the request, as INT32 [B, 1].
        """
        if lengths is None:
            return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(self.output, table)])
        features = pb_utils.Tensor.from_dlpack(self.output, table[:, : max(lengths)].contiguous())
        return pb_utils.InferenceResponse(
            [features, pb_utils.Tensor("encoder_output_lengths", np.array(lengths, dtype=np.int32)[:, None])]
        )

    def images(self, request: pb_utils.InferenceRequest) -> ImagesByRow:
        """The images of each row of the request, where they lie (host or GPU), without the zero padding.

        Raises RequestError when shapes or counts do not fit the model or each other.
        """
        tensor = pb_utils.get_input_tensor_by_name(request, "pixel_values")
        if tensor is None:
            raise RequestError("pixel_values is not present in the request: send [B, 0, ...] for text only")
        batch, most, *shape = tuple(tensor.shape())
        if not self._fits(tuple(shape)):
            raise RequestError(
                f"pixel_values has images of shape {tuple(shape)}; {self.model} takes {self.image_shape}"
            )
        num_images = column(request, "num_images", batch, 0)
        for count, num_rows in zip(num_images, column(request, "num_rows", batch, 0), strict=True):
            self._check_counts(count, most, num_rows, tuple(shape))
        if most == 0:
            return [torch.empty((0, *shape))] * batch
        self._check_sides(tuple(shape))
        pixels = dlpack.from_dlpack(tensor.to_dlpack())
        return [row[:count] for row, count in zip(pixels, num_images, strict=True)]

    def tables(
        self, requests: Sequence[ImagesByRow], encode: Encode, cache: Cache | None = None, *, together: bool = True
    ) -> list[torch.Tensor]:
        """One table [B, rows, hidden] per request, of the table's dtype on the encoder's device.

        Entries of equal shape share a call of `encode`, of whatever request if `together`, else those of one row. The
        table of a single row is a view of what `encode` gave where it can be. Where rows of a request differ in their
        number of images, the shorter are padded with zeros; text only gives one zero row, never referred to.
        A cache keeps apart what calls keep apart: the entries of one row unless `together`, else each entry.
        Raises ValueError when the encoder gave another number of rows than the repository was generated for.
        """

        def encoded(blocks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            if together:
                return self._encoded(blocks, encode)
            return [rows for block in blocks for rows in self._encoded([block], encode)]

        blocks = [block for request in requests for block in request if len(block)]
        if cache is None:
            found = iter(encoded(blocks))
        else:
            groups = [list(block.split(1)) if together else [block] for block in blocks]
            rows = iter(cache.rows([part for group in groups for part in group], encoded))
            found = iter([_joined([next(rows) for _ in group]) for group in groups])
        return [self._table([next(found) if len(block) else None for block in request]) for request in requests]

    def smallest(self) -> tuple[int, ...]:
        """The shape of the smallest entry."""
        return tuple(1 if side < 0 else side for side in self.image_shape)

    def _encoded(self, blocks: Sequence[torch.Tensor], encode: Encode) -> list[torch.Tensor]:
        """The rows [n * N, hidden] of each block, which has at least one image."""
        found: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(tuple(block.shape[1:]) for block in blocks):
            members = [i for i, block in enumerate(blocks) if tuple(block.shape[1:]) == shape]
            rows = encode([image for i in members for image in blocks[i]])
            self._check_rows(rows, sum(len(blocks[i]) for i in members), shape)
            parts = rows.to(self.table_dtype).split([len(blocks[i]) for i in members])
            for i, part in zip(members, parts, strict=True):
                found[i] = part.reshape(-1, self.hidden_size)
        return [found[i] for i in range(len(blocks))]

    def _table(self, rows: list[torch.Tensor | None]) -> torch.Tensor:
        """The table of one request from the rows of each of its rows."""
        if self.constants is not None:
            rows = [None if own is None else torch.cat([self.constants, own]) for own in rows]
        if len(rows) == 1 and rows[0] is not None:
            return rows[0][None]
        longest = max((len(own) for own in rows if own is not None), default=1)
        shape = (len(rows), longest, self.hidden_size)
        table = torch.zeros(shape, dtype=self.table_dtype, device=self.device)
        for out, own in zip(table, rows, strict=True):
            if own is not None:
                out[: len(own)] = own
        return table

    def _fits(self, shape: tuple[int, ...]) -> bool:
        pairs = zip(shape, self.image_shape, strict=False)
        return len(shape) == len(self.image_shape) and all(side in (own, -1) or own == -1 for own, side in pairs)

    def _check_sides(self, shape: tuple[int, ...]) -> None:
        """One image that the encoder cannot take would fail all that share its call."""
        if any(side < 1 for side in shape):
            raise RequestError(f"pixel_values has images of shape {shape}: every side must be at least 1")
        if self.largest and any(side > most for side, most in zip(shape, self.largest, strict=True)):
            raise RequestError(f"an image of shape {shape} exceeds the engine's {self.largest}: send a smaller one")

    def _rows_of(self, shape: tuple[int, ...]) -> int:
        """Rows of one entry of this shape."""
        return self.rows_per_image or shape[self.image_shape.index(-1)]

    def _check_rows(self, rows: torch.Tensor, images: int, shape: tuple[int, ...]) -> None:
        expected = (images, self._rows_of(shape), self.hidden_size)
        if tuple(rows.shape) != expected:
            raise ValueError(
                f"{self.encoder} gives rows of shape {tuple(rows.shape)} for {images} image(s), but this "
                f"repository of {self.model} was generated for {expected}: generate it again for this encoder"
            )

    def _check_counts(self, count: int, most: int, num_rows: int, shape: tuple[int, ...]) -> None:
        if not 0 <= count <= most:
            raise RequestError(f"num_images is {count}, but pixel_values holds {most} image(s) for each row")
        shared = 0 if self.constants is None or not count else len(self.constants)
        produced = shared + count * self._rows_of(shape)
        # Rows to spare: features are cut, and where images differ in size, one may be padded to its neighbour's.
        spare = self.rows_per_image is None or self.output != "prompt_embedding_table"
        if produced != num_rows and not (spare and 0 < num_rows < produced):
            raise RequestError(
                f"num_rows is {num_rows}, but {count} image(s) of {self.model} give {produced} rows: "
                "preprocessing and vision_encoder are of different models; generate the repository again"
            )


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def cache_of(settings: dict[str, Any], args: dict[str, str], device: torch.device) -> Cache | None:
    """The cache that the settings of a vision step ask for."""
    if "cache" not in settings:
        return None
    module = importlib.import_module(settings["cache"]["module"])
    cache: Cache = module.RowCache(settings["cache"], args.get("model_name", settings["model"]), device)
    return cache

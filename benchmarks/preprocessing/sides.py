"""The two sides: the generated preprocessing step's own modules, and transformers' image processors."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import load_image

from generator.oracle.deplot import font_found
from generator.oracle.phi3_vision import SIDE, hd_transform
from tests import charts

ROOT = Path(__file__).parents[2]
MODELS = ("llava", "vila", "kosmos-2", "llava-next", "phi-3-vision", "fuyu", "deplot", "nougat")
ONE_SIZE = {"llava": 336, "vila": 384, "kosmos-2": 224}  # scaled to one size: the side that --decode-scale keeps
QUESTION = "Which year had the highest sales?"

Side = Callable[[bytes], NDArray[Any]]


def use_the_step() -> None:
    """Let the step's modules be imported by their bare names, as the server does."""
    for folder in ("tests/doubles", "templates/shared", "templates/preprocessing/1"):
        if str(ROOT / folder) not in sys.path:
            sys.path.insert(0, str(ROOT / folder))


def ours(model: str, decode_edge: int | None = None) -> Side:
    """From a file to what the vision engine gets, as the generated step makes it."""
    use_the_step()
    settings = json.loads((ROOT / "model_repos" / model / "preprocessing/1/settings.json").read_text())
    settings["pixels"]["decode_edge"] = decode_edge
    layout = importlib.import_module(settings["layout"]["module"]).ImageLayout(settings)
    source, encoded = importlib.import_module("media").Source, importlib.import_module("images").ENCODED
    if settings["media"]["module"] == "headed_images":
        headed = importlib.import_module("headed_images")
        read = headed.HeadedReader(importlib.import_module("images").reader(settings), _font(), "")

        def entry(file: bytes) -> Any:
            return source(encoded, "image 0", headed.Headed(source(encoded, "image 0", file), QUESTION))
    else:
        read = importlib.import_module("images").reader(settings)

        def entry(file: bytes) -> Any:
            return source(encoded, "image 0", file)

    def made(file: bytes) -> NDArray[Any]:
        image = read(entry(file))
        placed = layout.place(*image.size)
        out = np.zeros(placed.shape, dtype=layout.dtype)
        layout.draw(image, out)
        return out

    return made


def theirs(model: str, backend: str = "pil") -> Side:
    """The same from transformers, rounded to the engine's dtype by torch; `backend` torchvision needs that package.
    Of Phi-3-vision, the original repository's steps (it is not part of transformers)."""
    process = _PROCESSORS[model](backend)

    def made(file: bytes) -> NDArray[Any]:
        values: torch.Tensor = process(load_image(Image.open(BytesIO(file))))
        return values.to(torch.float16).numpy()  # type: ignore[no-any-return]

    return made


def _processor(family: str, name: str, backend: str, **options: Any) -> Any:
    module, suffix = ("image_processing_pil_", "Pil") if backend == "pil" else ("image_processing_", "")
    found = importlib.import_module(f"transformers.models.{family}.{module}{family}")
    return getattr(found, f"{name}ImageProcessor{suffix}")(**options)


def _pixels(processor: Any) -> Callable[[Image.Image], torch.Tensor]:
    return lambda image: processor(image, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]


def _clip(side: int, backend: str) -> Callable[[Image.Image], torch.Tensor]:
    crop = {"height": side, "width": side}
    return _pixels(_processor("clip", "CLIP", backend, size={"shortest_edge": side}, crop_size=crop))


def _kosmos(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    square = {"height": 224, "width": 224}
    return _pixels(_processor("clip", "CLIP", backend, size=square, do_center_crop=False))


def _vila(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    """Its own code squashes the image before the processor sees it."""
    processor = _processor("siglip", "Siglip", backend, size={"height": 384, "width": 384})
    return lambda image: _pixels(processor)(image.resize((384, 384)))


def _llava_next(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    grids = json.loads((ROOT / "model_repos/llava-next/preprocessing/1/settings.json").read_text())["layout"]["grids"]
    crop = {"height": 336, "width": 336}
    processor = _processor(
        "llava_next", "LlavaNext", backend, size={"shortest_edge": 336}, crop_size=crop, image_grid_pinpoints=grids
    )
    return lambda image: _pixels(processor)(image)[0]


def _phi_3_vision(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    settings = json.loads((ROOT / "model_repos/phi-3-vision/preprocessing/1/settings.json").read_text())
    mean, std = (torch.tensor(settings["pixels"][name]).view(3, 1, 1) for name in ("mean", "std"))

    def views(image: Image.Image) -> torch.Tensor:
        levels = torch.from_numpy(np.array(hd_transform(image, settings["layout"]["max_crops"])))
        pixels = levels.permute(2, 0, 1).contiguous().float().div(255).sub(mean).div(std)
        whole = torch.nn.functional.interpolate(pixels.unsqueeze(0), size=(SIDE, SIDE), mode="bicubic")
        rows = [row.split(SIDE, dim=2) for row in pixels.split(SIDE, dim=1)]
        return torch.cat([whole, *(crop.unsqueeze(0) for row in rows for crop in row)])

    return views


def _fuyu(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    processor = _processor("fuyu", "Fuyu", backend)

    def patches(image: Image.Image) -> torch.Tensor:
        made = processor(image, return_tensors="pt")
        [[padded]], [[height]], [[width]] = (
            made[name] for name in ("images", "image_unpadded_heights", "image_unpadded_widths")
        )
        padded = torch.as_tensor(padded)[:, : -(-int(height) // 30) * 30, : -(-int(width) // 30) * 30]
        cut = padded.unfold(1, 30, 30).unfold(2, 30, 30).permute(1, 2, 3, 4, 0)
        return cut.reshape(1, 1, -1, 2700)

    return patches


@cache
def _font() -> Path:
    import tempfile

    file = Path(tempfile.mkdtemp(prefix="font-")) / "free.ttf"
    file.write_bytes(charts.font_bytes())
    return file


def _deplot(backend: str) -> Callable[[Image.Image], torch.Tensor]:
    processor = _processor("pix2struct", "Pix2Struct", backend, is_vqa=True)

    def patches(image: Image.Image) -> torch.Tensor:
        with font_found(_font()):
            made = processor(images=image, header_text=QUESTION, return_tensors="pt")
        return made["flattened_patches"]  # type: ignore[no-any-return]

    return patches


_PROCESSORS: dict[str, Callable[[str], Callable[[Image.Image], torch.Tensor]]] = {
    "llava": lambda backend: _clip(336, backend),
    "vila": _vila,
    "kosmos-2": _kosmos,
    "llava-next": _llava_next,
    "phi-3-vision": _phi_3_vision,
    "fuyu": _fuyu,
    "deplot": _deplot,
    "nougat": lambda backend: _pixels(_processor("nougat", "Nougat", backend)),
}

"""Pixels equal Hugging Face's PIL image processors, bit for bit, after the rounding that the engine sees."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from images import ENCODED, ImageReader, Source
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform
from tensors import RequestError

from tests.unit import serving

SIGLIP = {
    "steps": [["on_white"], ["resize", 384, 384]],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "shape": [3, 384, 384],
}
PADDED = {"steps": [["on_white"], ["pad_square", 122, 116, 104], *serving.CLIP_STEPS[1:]]}
VILA = {**SIGLIP, "steps": [["resize", 384, 384], ["on_white"]]}  # it squashes before the processor
PNG_MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "I;16")


def noise(width: int, height: int, seed: int, mode: str = "RGB") -> Image.Image:
    """A picture with structure at several scales and sharp noise on it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8), "RGBA").resize((width, height))
    fine = rng.integers(-40, 40, (height, width, 4))
    picture = Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 3)
    return picture if mode == "RGBA" else picture.convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ours(file: bytes, **pixel_settings: Any) -> NDArray[Any]:
    settings = serving.settings(pixels=pixel_settings)
    transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
    out = np.full(transform.shape, np.nan, dtype=transform.dtype)
    transform(ImageReader(settings["limits"], [])(Source(ENCODED, "image 0", file)), out)
    return out


def theirs(processor: Any, file: bytes, squash: int = 0, dtype: str = "float16") -> NDArray[Any]:
    """What Hugging Face makes of the file, rounded by torch to `dtype`; `squash` resizes it before that."""
    load_image = pytest.importorskip("transformers.image_utils").load_image
    torch = pytest.importorskip("torch")
    image = load_image(Image.open(BytesIO(file)))
    if squash:
        image = image.resize((squash, squash))
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    array: NDArray[Any] = pixels.to(getattr(torch, dtype)).numpy()
    return array


@pytest.fixture(scope="module")
def clip() -> Any:
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    return module.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


@pytest.fixture(scope="module")
def siglip() -> Any:
    module = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    return module.SiglipImageProcessorPil(size={"height": 384, "width": 384})


@pytest.fixture(scope="module")
def padded() -> Any:
    module = pytest.importorskip("transformers.models.llava.image_processing_pil_llava")
    crop = {"height": 336, "width": 336}
    return module.LlavaImageProcessorPil(size={"shortest_edge": 336}, crop_size=crop, do_pad=True)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


SIZES = [
    (640, 480),
    (480, 640),
    (336, 336),
    (337, 336),
    (335, 900),
    (1, 1),
    (5, 350),
    (31, 17),
    (1001, 77),
    (500, 499),
    (300, 401),  # odd margins around the crop
    (401, 300),
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: tuple[int, int], clip: Any, siglip: Any, padded: Any) -> None:
    file = encoded(noise(*size, seed=sum(size)), "PNG")
    assert same(ours(file), theirs(clip, file))
    assert same(ours(file, **SIGLIP), theirs(siglip, file))
    assert same(ours(file, **PADDED), theirs(padded, file))


@pytest.mark.parametrize("mode", PNG_MODES)
def test_png_modes(mode: str, clip: Any, siglip: Any) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        width, height = rng.integers(20, 500, 2).tolist()
        file = encoded(noise(width, height, seed, mode), "PNG")
        assert same(ours(file), theirs(clip, file))
        assert same(ours(file, **SIGLIP), theirs(siglip, file))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_modes(mode: str, subsampling: int, progressive: bool, clip: Any) -> None:
    options = {"quality": 70 + 10 * subsampling, "subsampling": subsampling, "progressive": progressive}
    file = encoded(noise(211, 303, subsampling, mode), "JPEG", **options)
    assert same(ours(file), theirs(clip, file))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int, clip: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(noise(90, 60, orientation), kind, exif=exif.tobytes())
    assert same(ours(file), theirs(clip, file))
    upright = ours(encoded(noise(90, 60, orientation), kind))
    assert same(ours(file), upright) == (orientation == 1)


@pytest.mark.parametrize("lossless", [False, True])
def test_webp(lossless: bool, clip: Any) -> None:
    for mode in ("RGB", "RGBA"):
        file = encoded(noise(200, 150, 5, mode), "WEBP", lossless=lossless)
        assert same(ours(file), theirs(clip, file))


def test_first_frame_of_an_animation(clip: Any) -> None:
    frames = [noise(64, 64, seed) for seed in range(3)]
    for kind in ("WEBP", "PNG"):
        file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert same(ours(file), theirs(clip, file))


def test_transparent_colour(clip: Any, siglip: Any) -> None:
    few_colours = noise(50, 40, 3).quantize(8)
    alphas = bytes([0, 90, 255]) + bytes([255] * 5)
    cases = [
        (few_colours, 3),
        (few_colours, alphas),
        (few_colours.convert("L"), np.asarray(few_colours.convert("L"))[1, 1].item()),
    ]
    colour = few_colours.convert("RGB").getpixel((0, 0))
    for image, key in [*cases, (few_colours.convert("RGB"), colour)]:
        file = encoded(image, "PNG", transparency=key)
        assert same(ours(file), theirs(clip, file))
        assert same(ours(file, **VILA), theirs(siglip, file, squash=384))
    white = ours(encoded(Image.new("RGB", (40, 30), "red"), "PNG", transparency=(255, 0, 0)))
    assert same(white, ours(encoded(Image.new("RGB", (40, 30), "white"), "PNG")))


def test_phone_pictures_in_several_parts(clip: Any) -> None:
    file = encoded(noise(80, 60, 1), "MPO", save_all=True, append_images=[noise(40, 30, 2)])
    assert same(ours(file), theirs(clip, file))


def test_float32_and_rounding(clip: Any) -> None:
    file = encoded(noise(300, 200, 8), "PNG")
    full = ours(file, dtype="float32")
    assert same(full, theirs(clip, file, dtype="float32"))
    assert same(full.astype(np.float16), ours(file))


def test_a_level_means_the_same_in_every_place() -> None:
    """Without Hugging Face: one flat colour gives (level / 255 - mean) / std in each channel."""
    file = encoded(Image.new("RGB", (50, 70), (255, 0, 128)), "PNG")
    expected = (np.array([255, 0, 128]) / 255 - serving.CLIP_MEAN) / serving.CLIP_STD
    pixels = ours(file).astype(np.float64)
    np.testing.assert_allclose(pixels, np.broadcast_to(expected[:, None, None], (3, 336, 336)), rtol=1e-3)


def test_elongated_images_are_refused_before_they_grow() -> None:
    with pytest.raises(RequestError, match=r"^1x60000 pixels is too elongated.*crop it$"):
        ours(encoded(Image.new("RGB", (1, 60000)), "PNG"))


def test_settings_are_checked_at_load() -> None:
    for wrong in ({"steps": [["sharpen", 3]]}, {"dtype": "float61"}, {"resample": 77}):
        with pytest.raises((ValueError, TypeError)):
            PixelTransform(serving.settings(pixels=wrong)["pixels"], 1000)

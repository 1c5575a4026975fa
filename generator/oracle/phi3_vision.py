"""Phi-3-vision, which comes with code of its own: tower and language model by transformers, the rest composed here.

What is composed follows microsoft/Phi-3-vision-128k-instruct: its HD transform and global view, its prompt in chunks
that each have a BOS, its arrangement of merged patches and separators.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from generator.oracle.common import MARK, Image, Oracle, checked_marks, open_image, weights_of

TAG = re.compile(r"<\|image_(\d+)\|>")
SIDE = 336
"""Pixels of a view's edge: of the global view, and of each crop."""
TOWER = "model.vision_embed_tokens.img_processor."
VISION = "model.vision_embed_tokens."


class Phi3VisionOracle(Oracle):
    """Truth of a Phi-3-vision checkpoint in `folder`, fp16 on the CPU.

    `pixels` are the views of all images, each image's global view first, [views, 3, 336, 336]; `rows` are the
    projected patches of each view, [views, 144, h]; `packed` is what takes an image's positions in the prompt.
    """

    image_id = -1

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        self.num_crops = int(processor["num_crops"])
        self.mean, self.std = (torch.tensor(processor[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
        weights = weights_of(folder)
        self.tower = _tower({name: weights[name] for name in weights if name.startswith(TOWER)})
        self.weights = {name.removeprefix(VISION): weights[name] for name in weights if name.startswith(VISION)}
        llm = {name: weights[name] for name in weights if not name.startswith(VISION)}
        self.model = _language_model(config, llm)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        stops = ("<|endoftext|>", "<|end|>")
        self.end_ids = [int(self.tokenizer.convert_tokens_to_ids(stop)) for stop in stops]
        self.pad_id = int(self.tokenizer.pad_token_id)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """Marks become the model's own tags, numbered from 1; without marks the tags stand before the text."""
        if not checked_marks(text, images) and not raw:
            text = f"{MARK}\n" * images + text
        tags = iter(range(1, images + 1))
        tagged = re.sub(MARK, lambda _: f"<|image_{next(tags)}|>", text)
        return tagged if raw else f"<|user|>\n{tagged}<|end|>\n<|assistant|>\n"

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        """Each chunk between tags is tokenized alone and keeps its BOS; an empty last chunk is a BOS, too.

        Without images the prompt is one chunk.
        """
        prompt = self.prompt(text, len(images), raw)
        if not images:
            return list(self.tokenizer(prompt).input_ids)
        chunks = TAG.split(prompt)  # text, number of an image, text, ...
        ids: list[int] = []
        for number, chunk in enumerate(chunks):
            if number % 2:
                height, width = self.grid(images[int(chunk) - 1])
                ids += [self.image_id] * ((height * width + 1) * 144 + 1 + (height + 1) * 12)
            else:
                ids += self.tokenizer(chunk).input_ids
        return ids

    def grid(self, image: Image) -> tuple[int, int]:
        """How many crops of an image lie (below each other, beside each other)."""
        transformed = hd_transform(open_image(image), self.num_crops)
        return transformed.height // SIDE, transformed.width // SIDE

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        views = [self.views(open_image(image)) for image in images]
        pixels: NDArray[np.float16] = torch.cat(views).half().numpy()
        return pixels

    def views(self, image: PIL.Image.Image) -> torch.Tensor:
        """Views of one picture before they are rounded, fp32 [1 + crops, 3, 336, 336]."""
        array = np.array(hd_transform(image, self.num_crops))
        pixels = torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)
        pixels = pixels.sub(self.mean).div(self.std)
        whole = functional.interpolate(pixels.unsqueeze(0), size=(SIDE, SIDE), mode="bicubic")
        rows = [row.split(SIDE, dim=2) for row in pixels.split(SIDE, dim=1)]
        return torch.cat([whole, *(crop.unsqueeze(0) for row in rows for crop in row)])

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            views = [self.project(self.merged(view)) for view in torch.from_numpy(pixels).split(1)]
        rows: NDArray[np.float16] = torch.cat(views).numpy()
        return rows

    def merged(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches of views [n, 3, 336, 336], each 2x2 joined along channels: [n, 144, 4c]."""
        patches = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        grid = patches.unflatten(1, (24, 24))
        neighbours = [grid[:, down::2, right::2] for down in (0, 1) for right in (0, 1)]
        return torch.cat(neighbours, dim=-1).flatten(1, 2)

    def project(self, merged: torch.Tensor) -> torch.Tensor:
        """[..., 4c] to [..., h]."""
        layers = [
            (self.weights[f"img_projection.{at}.weight"], self.weights[f"img_projection.{at}.bias"]) for at in "02"
        ]
        return functional.linear(functional.gelu(functional.linear(merged, *layers[0])), *layers[1])

    def packed(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """The rows that the images' positions take, in order, [1, count, h]."""
        with torch.inference_mode():
            line_end, between = (self.project(self.weights[name].flatten(0, -2)) for name in ("sub_GN", "glb_GN"))
        views = [torch.from_numpy(self.rows(self.pixels([image]))) for image in images]
        grids = [self.grid(image) for image in images]
        arranged = [arrange(*placed, line_end, between) for placed in zip(views, grids, strict=True)]
        packed: NDArray[np.float16] = torch.cat(arranged).unsqueeze(0).numpy()
        return packed

    def selected(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """The packed rows [k, h]."""
        packed = self.packed(images)
        return packed.reshape(-1, packed.shape[-1])

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        rows = self.packed(images) if images else None
        new = self.continuation(self.ids(text, images, raw), rows, max_new_tokens)
        return new, self.text(new)


def hd_transform(image: PIL.Image.Image, num_crops: int) -> PIL.Image.Image:
    """The image enlarged or reduced, and padded with white, to the most crops that it can fill.

    An upright image is laid on its side for this, so that its padding lies left and right.
    """
    if image.width < image.height:
        lying = image.transpose(PIL.Image.Transpose.TRANSPOSE)
        return hd_transform(lying, num_crops).transpose(PIL.Image.Transpose.TRANSPOSE)
    ratio = image.width / image.height
    beside = max(n for n in range(1, num_crops + 1) if n * math.ceil(n / ratio) <= num_crops)
    width, height = beside * SIDE, int(beside * SIDE / ratio)
    padded = PIL.Image.new("RGB", (width, math.ceil(height / SIDE) * SIDE), "white")
    padded.paste(image.resize((width, height), PIL.Image.Resampling.BILINEAR), (0, (padded.height - height) // 2))
    return padded


def arrange(views: torch.Tensor, grid: tuple[int, int], line_end: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """One image's views [1 + crops, 144, c], the global one first, as they stand in the prompt: [count, c].

    The crops side by side, line by line of the whole picture, then the global view in the same way; `line_end` [1, c]
    behind each line, `between` [1, c] between the two. With merged patches instead of projected ones this is what
    the original does before it projects.
    """

    def lines(crops: torch.Tensor, down: int, across: int) -> torch.Tensor:
        picture = crops.reshape(down, across, 12, 12, -1).transpose(1, 2).reshape(down * 12, across * 12, -1)
        return torch.cat([picture, line_end.expand(down * 12, 1, -1)], dim=1).flatten(0, 1)

    return torch.cat([lines(views[1:], *grid), between, lines(views[:1], 1, 1)])


def _tower(weights: dict[str, torch.Tensor]) -> Any:
    """CLIP as the original sets it up: its ViT-L/14 at 336 px, here of the width and depth of the weights."""
    width, channels = weights[f"{TOWER}vision_model.embeddings.patch_embedding.weight"].shape[:2]
    layers = {name.split(".layers.")[1].split(".")[0] for name in weights if ".layers." in name}
    config = CLIPVisionConfig(
        hidden_act="quick_gelu",
        hidden_size=width,
        image_size=SIDE,
        intermediate_size=len(weights[f"{TOWER}vision_model.encoder.layers.0.mlp.fc1.bias"]),
        layer_norm_eps=1e-5,
        num_attention_heads=width // 64,
        num_channels=channels,
        num_hidden_layers=len(layers),
        patch_size=14,
    )
    tower = CLIPVisionModel(config)
    prefix = TOWER if any(name.startswith("vision_model.") for name in tower.state_dict()) else f"{TOWER}vision_model."
    tower.load_state_dict({name.removeprefix(prefix): weight for name, weight in weights.items()})
    return tower.half().eval()


def _language_model(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """Phi-3 by transformers, which knows the original's scaling of positions "su" by its later name."""
    scaling = config["rope_scaling"] | {"type": "longrope"}
    phi3 = Phi3Config.from_dict(config | {"model_type": "phi3", "rope_scaling": scaling})
    # Not `.half()`: that would round the frequencies of the positions, too, by a radian at position 2000.
    return Phi3ForCausalLM.from_pretrained(None, config=phi3, state_dict=weights, dtype=torch.float16).eval()

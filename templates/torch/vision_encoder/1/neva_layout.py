"""The vision side of a NeMo checkpoint: the projector in a .nemo archive, the Hugging Face tower in a folder beside."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import nn

PREFIX = "model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector."
TOWERS = {  # model_type of the folder: the class that leaves out a text side
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
PROJECTORS = ("mlp2x_gelu", "linear")
WEIGHTS = ("model_weights.ckpt", "mp_rank_00/model_weights.ckpt")


class NevaVision(nn.Module):  # type: ignore[misc]
    """Images [n, 3, S, S] to rows [n, N, hidden], or clips [n, F, 3, S, S] to [n, F * N, hidden], frame after frame."""

    def __init__(self, tower: nn.Module, projector: nn.Module, layer: int, class_tokens: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.layer = layer
        self.first_patch = class_tokens

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.flatten(0, -4)
        states = self.tower(images, output_hidden_states=True).hidden_states
        rows: torch.Tensor = self.projector(states[self.layer][:, self.first_patch :])
        return rows.reshape(pixels.shape[0], -1, rows.shape[-1])  # no len(): it would be exported as a constant


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side on the CPU, in `dtype`: pixels [n,3,S,S] or [n,F,3,S,S] -> rows [n,N,hidden].

    `checkpoint` is a .nemo file, or a folder with exactly one .nemo file that has a vision side. Nothing in it is
    executed. Raises ValueError, naming file and remedy, for a tower, projector or archive that cannot be run.
    """
    archive, config = _archive(Path(checkpoint))
    multimodal = config["mm_cfg"]
    encoder = multimodal["vision_encoder"]
    # NeMo drops its configured number of tokens even from a tower that has no class token.
    class_tokens = 0 if encoder.get("vision_select_feature") == "cls_patch" else encoder.get("class_token_length", 1)
    return NevaVision(
        _tower(archive, encoder["from_pretrained"], dtype),
        _projector(archive, multimodal["mm_mlp_adapter_type"]).to(dtype),
        encoder.get("vision_select_layer", -2),
        class_tokens,
    )


def _archive(path: Path) -> tuple[Path, dict[str, Any]]:
    """The archive with a vision side, and its configuration."""
    files = sorted(path.glob("*.nemo")) if path.is_dir() else [path]
    configs = {file: _config(file) for file in files}
    multimodal = [file for file in files if "mm_cfg" in configs[file]]
    if len(multimodal) != 1:
        names = ", ".join(file.name for file in multimodal) or "none"
        raise ValueError(f"{path} needs one .nemo file with mm_cfg in its model_config.yaml, found {names}")
    return multimodal[0], configs[multimodal[0]]


def _config(file: Path) -> dict[str, Any]:
    with tarfile.open(file) as archive:
        member = _member(archive, "model_config.yaml")
        stream = archive.extractfile(member) if member else None
        if stream is None:
            raise ValueError(f"{file} holds no model_config.yaml: it is not a NeMo archive")
        config: dict[str, Any] = yaml.safe_load(stream)
    return config


def _member(archive: tarfile.TarFile, *names: str) -> tarfile.TarInfo | None:
    """The first file in the archive that has one of `names`, which lie at its top, with or without "./"."""
    return next((member for member in archive if member.name.removeprefix("./") in names), None)


def _tower(archive: Path, name: str, dtype: torch.dtype) -> nn.Module:
    """The folder beside the archive that has the tower's name, or else the path that the archive gives."""
    beside = archive.parent / Path(name).name
    folder = beside if beside.is_dir() else Path(name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{archive} was made with the tower {name!r}: download it to {beside}")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in TOWERS:
        raise ValueError(
            f"{folder}/config.json: tower {kind!r} is not one of {', '.join(TOWERS)}; use --runtime trtllm"
        )
    tower: nn.Module = getattr(transformers, TOWERS[kind]).from_pretrained(str(folder), torch_dtype=dtype)
    return tower


def _projector(archive: Path, kind: str) -> nn.Module:
    if kind not in PROJECTORS:
        raise ValueError(f"{archive}: projector {kind!r} is not one of {', '.join(PROJECTORS)}; use --runtime trtllm")
    weights = _projector_weights(archive)
    projector: nn.Module
    if kind == "linear":
        projector = nn.Linear(*reversed(weights["weight"].shape))
    else:
        hidden, width = weights["0.weight"].shape
        projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    projector.load_state_dict(weights)
    return projector


def _projector_weights(archive: Path) -> dict[str, torch.Tensor]:
    """Two or four tensors out of a checkpoint of the whole model, which is mapped rather than read."""
    with tarfile.open(archive) as content, tempfile.TemporaryDirectory() as folder:
        member = _member(content, *WEIGHTS)
        stream = content.extractfile(member) if member else None
        if stream is None:
            raise ValueError(f"{archive} holds neither {' nor '.join(WEIGHTS)}: save the model again as one checkpoint")
        with Path(folder, "weights").open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 24)
        # Transformer Engine leaves its extra states as io.BytesIO, which torch does not count as harmless on its own.
        with torch.serialization.safe_globals([io.BytesIO, bytes]):
            state = torch.load(Path(folder, "weights"), map_location="cpu", weights_only=True, mmap=True)
        names = [name for name in state if name.startswith(PREFIX)]
        weights = {name.removeprefix(PREFIX): state[name].clone() for name in names}
    if not weights:
        raise ValueError(f"{archive} has no weights {PREFIX}*: give the archive that the projector was trained into")
    return weights

"""The encoder as the torch vision step loads it, ready to be exported, and a digest of all that it computes with."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
import transformers
from torch import nn

from generator.findings import Refused, error
from generator.render import templates_root
from generator.vision_build.of_requests import OfRequests
from generator.vision_build.subject import Subject

PLAIN = (bool, int, float, str)


@contextlib.contextmanager
def _serving_modules() -> Iterator[None]:
    """Serving modules import each other by bare name, from their own folder and the shared one."""
    folders = [str(templates_root() / folder) for folder in ("torch/vision_encoder/1", "shared")]
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


def load(subject: Subject) -> tuple[nn.Module, torch.Tensor | None]:
    """The encoder, in evaluation mode on the GPU if there is one, and its constant rows [c, hidden] or None.

    Raises:
        Refused: the checkpoint cannot be loaded.
    """
    dtype = getattr(torch, subject.dtype)
    # Its reports list the language model's weights, which are left out on purpose.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with _serving_modules():
            module = importlib.import_module(subject.module)
            tower = module.load(str(subject.source), dtype)
            constants = module.constants(str(subject.source), dtype) if subject.constants[1] else None
            if subject.normalisation:
                tower = importlib.import_module("levels").FromLevels(tower, subject.normalisation, dtype)
    except (ValueError, OSError, KeyError, RuntimeError) as problem:
        what = f"the checkpoint's encoder cannot be loaded: {problem}"
        remedy = "give a complete checkpoint of this model, with the transformers release that its config.json names"
        raise Refused(error("checkpoint-unreadable", what, subject.source, remedy)) from problem
    _plain_attention(tower)
    if subject.requests:
        tower = OfRequests(tower, constants, getattr(torch, subject.requests.table_dtype))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tower.to(device).eval().requires_grad_(False), constants


def _plain_attention(tower: nn.Module) -> None:
    """Attention as matrix products and a softmax: TensorRT fuses those, and any exporter knows them."""
    for part in tower.modules():
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"


def sample(subject: Subject, tower: nn.Module, entries: int = 2) -> torch.Tensor:
    """Random pixels [entries, ...] as the encoder takes them; an open axis has a few. Of requests, so many [n, ...]."""
    axis = (min(2, subject.requests.max_entries),) if subject.requests else ()
    shape = (entries, *axis, *(min(subject.largest, 6) if side < 0 else side for side in subject.entry_shape))
    device = next(tower.parameters()).device
    generator = torch.Generator().manual_seed(entries)
    if subject.pixels == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    pixels = torch.randn(shape, generator=generator)
    if subject.layout == "flattened_patches":
        _number(pixels)
    return pixels.to(device, getattr(torch, subject.dtype))


def _number(patches: torch.Tensor) -> None:
    """Patches [entries, P, 2 + pixels] get the lines and columns of a square image; the last tenth are none."""
    count = patches.shape[1] * 9 // 10
    number, side = torch.arange(patches.shape[1]), int(count**0.5)
    patches[..., 0], patches[..., 1] = 1 + number // side, 1 + number % side
    patches[:, count:] = 0


def check(subject: Subject, tower: nn.Module) -> None:
    """Runs the encoder once.

    Raises:
        Refused: it gives rows of another shape than the plan of a repository would expect.
    """
    pixels = sample(subject, tower)
    with torch.no_grad():
        found = tuple(tower(pixels).flatten(1, -2).shape)
    rows = subject.rows or pixels.shape[1 + subject.entry_shape.index(-1)]
    if subject.requests:
        rows = subject.requests.constant_rows + pixels.shape[1] * rows
    expected = (len(pixels), rows, subject.hidden_size)
    if found != expected:
        what = f"the encoder gives rows of shape {found} for {len(pixels)} entries, its config files say {expected}"
        raise Refused(error("engine-rows", what, subject.source, "give a complete checkpoint of one model"))


def digest(subject: Subject, tower: nn.Module, constants: torch.Tensor | None, versions: dict[str, str]) -> str:
    """Of everything that an engine depends on: weights, structure and settings of the encoder, sizes, tool versions.

    Paths are left out: the same checkpoint elsewhere gives the same engine.
    """
    settings: dict[str, Any] = {**asdict(subject), "source": "", "versions": versions}
    summed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, part in tower.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, PLAIN) or _numbers(value)}
        summed.update(f"{name} {type(part).__qualname__} {sorted(plain.items())}\n".encode())
    tensors = dict(tower.state_dict()) | ({} if constants is None else {"constant rows": constants})
    for name, tensor in sorted(tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        summed.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return summed.hexdigest()


def _numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, PLAIN) for item in value)

"""The language model of a Phi-3-vision checkpoint: transformers' Phi3, none of the checkpoint's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

VISION = "model.vision_embed_tokens."


def load(settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """Phi3ForCausalLM with the checkpoint's weights, on the CPU.

    transformers knows the checkpoint's scaling of positions, "su", by its later name. The weights are handed over as
    they are read, in `dtype`; the frequencies of the positions stay float32, as transformers computes them.
    """
    folder = Path(settings["checkpoint"])
    stated: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if stated.get("rope_scaling"):
        stated["rope_scaling"] = {**stated["rope_scaling"], "type": "longrope"}
    config = transformers.Phi3Config.from_dict({**stated, "model_type": "phi3", "auto_map": {}})
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update((name, w) for name, w in load_file(str(file)).items() if not name.startswith(VISION))
    return transformers.Phi3ForCausalLM.from_pretrained(None, config=config, state_dict=weights, torch_dtype=dtype)

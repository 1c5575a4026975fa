"""What the makers share: scaled random weights, files in the published layout, configurations of common parts.

Weights are seeded and scaled up: at the default initialisation a language model barely sees its picture, so most
requests would give the same text and prove nothing. Scales and seeds were found by experiment: two distant rows
swapped or one id changed nearly always change the text. The price is that rounding shows too: 5 % of the rows'
values off by their last bit change one to four of eight texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.vocabularies import write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WEIGHT_STD = {"position_embedding": 3.0, "self_attn": 0.45, "": 0.3}
"""Standard deviation by a part of the parameter's name; the first part that fits counts."""
HIDDEN = 64
VISION_HIDDEN = 32

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def randomise(model: Any, seed: int, scales: Mapping[str, float] = WEIGHT_STD) -> PreTrainedModel:
    """Fill all weights from one seeded generator, then round them to fp16; activations stay finite in it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(noise_of(name, weight.shape, generator, scales))
    halved: PreTrainedModel = model.half()
    return halved


def noise_of(
    name: str, shape: Sequence[int], generator: torch.Generator, scales: Mapping[str, float] = WEIGHT_STD
) -> torch.Tensor:
    """Random values for the parameter `name`: gains of normalisations near 1, all else around 0."""
    import torch

    noise = torch.randn(tuple(shape), generator=generator)
    if len(shape) == 1 and name.endswith(".weight"):  # the gain of a normalisation
        return 1 + 0.1 * noise
    return noise * next(std for part, std in scales.items() if part in name)


def save(model: PreTrainedModel, folder: Path, config: dict[str, Any], prefixes: dict[str, str]) -> None:
    """Write weights and configuration as published checkpoints spell them, not as this transformers would.

    `prefixes` maps the first part of a parameter's name in this transformers to the published one.
    """
    from safetensors.torch import save_file

    def published(name: str) -> str:
        ours = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        return prefixes[ours] + name.removeprefix(ours)

    folder.mkdir(parents=True, exist_ok=True)
    distinct = {weight.data_ptr(): (name, weight) for name, weight in reversed(model.state_dict().items())}
    weights = {published(name): weight.contiguous() for name, weight in distinct.values()}  # tied ones once
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def llama(vocab_size: int, *, key_value_heads: int = 16, bos: int = 1, eos: int = 2) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": bos,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 16,
        "num_hidden_layers": 3,
        "num_key_value_heads": key_value_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": vocab_size,
    }


def vision(model_type: str, image_size: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": VISION_HIDDEN,
        "image_size": image_size,
        "intermediate_size": 64,
        "model_type": model_type,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 14,
        **more,
    }

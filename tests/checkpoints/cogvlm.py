"""CogVLM: a folder as THUDM/cogvlm-chat-hf, and beside it the one of Vicuna, whose tokenizer it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import vocabularies
from tests.checkpoints.common import HIDDEN, VISION_HIDDEN, noise_of
from tests.vocabularies import write_json

FOLDER, TOKENIZER = "cogvlm-chat-hf", "vicuna-7b-v1.5"
HEADS, LAYERS, GROWN = 8, 3, 128
VISION_HEADS, VISION_LAYERS, VISION_GROWN = 2, 3, 64
PATCH = 14
SCALES = {"position_embedding": 3.0, "inv_freq": 0.0, "self_attn": 0.45, "boi": 1.0, "eoi": 1.0, "": 0.3}


def make(folder: Path, side: int = 490) -> None:
    """490 px -> 1225 patches between two rows of their own; a Llama with two sets of weights, bf16.

    Another `side` of the image makes another number of patches.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(110)
    weights = {name: noise_of(name, shape, generator, SCALES).bfloat16() for name, shape in _shapes(side).items()}
    frequencies = 1 / 10000 ** (torch.arange(0, HIDDEN // HEADS, 2) / (HIDDEN // HEADS))
    weights.update((name, frequencies.bfloat16()) for name in weights if name.endswith("inv_freq"))
    checkpoint = folder / FOLDER
    checkpoint.mkdir(parents=True)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    write_json(checkpoint / "config.json", config(side))
    vocabularies.llama2(folder / TOKENIZER)


def config(side: int) -> dict[str, Any]:
    """config.json by the published names. It states no model_type."""
    return {
        "architectures": ["CogVLMForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_cogvlm.CogVLMConfig",
            "AutoModelForCausalLM": "modeling_cogvlm.CogVLMForCausalLM",
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": GROWN,
        "max_position_embeddings": 2048,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "template_version": "chat",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vision_config": {
            "dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_size": VISION_HIDDEN,
            "image_size": side,
            "in_channels": 3,
            "intermediate_size": VISION_GROWN,
            "layer_norm_eps": 1e-06,
            "num_heads": VISION_HEADS,
            "num_hidden_layers": VISION_LAYERS,
            "num_positions": (side // PATCH) ** 2 + 1,
            "patch_size": PATCH,
        },
        "vocab_size": vocabularies.SENTENCEPIECE_SIZE,
    }


def _shapes(side: int) -> dict[str, tuple[int, ...]]:
    vocabulary = vocabularies.SENTENCEPIECE_SIZE
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for number in range(LAYERS):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in _layer().items()}
    tower = _tower(side)
    return shapes | {f"model.vision.{name}": shape for name, shape in tower.items()}


def _layer() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        "self_attn.rotary_emb.inv_freq": (HIDDEN // HEADS // 2,),
    }
    for expert in ("vision", "language"):
        shapes |= {
            f"self_attn.{expert}_expert_query_key_value.weight": (3 * HIDDEN, HIDDEN),
            f"self_attn.{expert}_expert_dense.weight": (HIDDEN, HIDDEN),
            f"mlp.{expert}_mlp.gate_proj.weight": (GROWN, HIDDEN),
            f"mlp.{expert}_mlp.up_proj.weight": (GROWN, HIDDEN),
            f"mlp.{expert}_mlp.down_proj.weight": (HIDDEN, GROWN),
        }
    return shapes


def _tower(side: int) -> dict[str, tuple[int, ...]]:
    width = VISION_HIDDEN
    shapes: dict[str, tuple[int, ...]] = {
        "boi": (1, 1, HIDDEN),
        "eoi": (1, 1, HIDDEN),
        "linear_proj.dense_4h_to_h.weight": (HIDDEN, GROWN),
        "linear_proj.dense_h_to_4h.weight": (GROWN, HIDDEN),
        "linear_proj.gate_proj.weight": (GROWN, HIDDEN),
        "linear_proj.linear_proj.weight": (HIDDEN, width),
        "linear_proj.norm1.bias": (HIDDEN,),
        "linear_proj.norm1.weight": (HIDDEN,),
        "patch_embedding.cls_embedding": (1, width),
        "patch_embedding.position_embedding.weight": ((side // PATCH) ** 2 + 1, width),
        "patch_embedding.proj.bias": (width,),
        "patch_embedding.proj.weight": (width, 3, PATCH, PATCH),
    }
    layer: dict[str, tuple[int, ...]] = {
        "attention.dense.bias": (width,),
        "attention.dense.weight": (width, width),
        "attention.query_key_value.bias": (3 * width,),
        "attention.query_key_value.weight": (3 * width, width),
        "input_layernorm.bias": (width,),
        "input_layernorm.weight": (width,),
        "mlp.fc1.bias": (VISION_GROWN,),
        "mlp.fc1.weight": (VISION_GROWN, width),
        "mlp.fc2.bias": (width,),
        "mlp.fc2.weight": (width, VISION_GROWN),
        "post_attention_layernorm.bias": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    for number in range(VISION_LAYERS):
        shapes |= {f"transformer.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes

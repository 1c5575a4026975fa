"""NeVA and Video NeVA: NeMo archives with the language model and the projector, the vision tower in a folder beside."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.checkpoints.common import CLIP_MEAN, CLIP_STD, HIDDEN, VISION_HIDDEN, noise_of, randomise, save, vision
from tests.vocabularies import SENTENCEPIECE_SIZE, sentencepiece_model, write_json

if TYPE_CHECKING:
    import torch

SCALES = {
    "mm_projector": 0.3,
    "position_embedding": 3.0,
    "word_embeddings": 1.0,
    "bias": 0.1,
    "layer_norm": 0.1,
    "linear_qkv": 0.8,
    "self_attn": 0.45,
    "": 0.3,
}
LAYERS, HEADS, FFN = 3, 8, 128
PADDED_VOCABULARY = SENTENCEPIECE_SIZE + 128  # NeMo rounds the rows of its embedding up
SYMBOLS = tuple(f"<extra_id_{number}>" for number in range(10))
TOKENIZER = "586f3f51a9cf43bc9369bd53fa08868c_tokenizer.model"
PROJECTOR = "model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector"

Weights = dict[str, "torch.Tensor"]


def make(folder: Path, class_token_length: int = 1) -> None:
    """neva.nemo and siglip-so400m-patch14-384/: 729 patches less `class_token_length`, two projector layers, bf16.

    SigLIP has no class token; training with NeMo's default of one drops the first patch, and so do NVIDIA's engines.
    """
    tower = "siglip-so400m-patch14-384"
    _siglip(folder / tower, seed=90)
    config = _language_model_config() | _multimodal_config(f"google/{tower}", "mlp2x_gelu", class_token_length)
    projector = {
        "0.weight": (HIDDEN, VISION_HIDDEN),
        "0.bias": (HIDDEN,),
        "2.weight": (HIDDEN, HIDDEN),
        "2.bias": (HIDDEN,),
    }
    weights = _language_model(config, seed=91) | _random(
        {f"{PROJECTOR}.{name}": projector[name] for name in projector}, 92
    )
    _archive(folder / "neva.nemo", config, weights)


def make_video(folder: Path, num_frames: int = 4) -> None:
    """nemotron.nemo, projector.nemo and clip-vit-large-patch14/: `num_frames` of 256 rows, a linear projector, bf16.

    The published projector has 8 or 12 frames; fewer keep tests quick.
    """
    tower = "clip-vit-large-patch14"
    _clip(folder / tower, seed=95)
    config = _language_model_config() | {"num_query_groups": 4}
    _archive(folder / "nemotron.nemo", config, _language_model(config, seed=100))
    config |= _multimodal_config(f"openai/{tower}", "linear", class_token_length=1)
    config["data"] = {"conv_template": "nv_steerlm", "media_type": "video", "num_frames": num_frames}
    shapes = {f"{PROJECTOR}.weight": (HIDDEN, VISION_HIDDEN), f"{PROJECTOR}.bias": (HIDDEN,)}
    _archive(folder / "projector.nemo", config, _random(shapes, 97))


def _language_model_config() -> dict[str, Any]:
    """The entries that matter, with the values of NVGPT and Nemotron."""
    return {
        "activation": "squared-relu",
        "bias": False,
        "encoder_seq_length": 4096,
        "ffn_hidden_size": FFN,
        "hidden_size": HIDDEN,
        "kv_channels": None,
        "layernorm_epsilon": 1e-5,
        "make_vocab_size_divisible_by": 128,
        "max_position_embeddings": 4096,
        "mcore_gpt": True,
        "normalization": "layernorm1p",
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "num_query_groups": None,
        "pipeline_model_parallel_size": 1,
        "position_embedding_type": "rope",
        "precision": "bf16",
        "rotary_percentage": 0.5,
        "share_embeddings_and_output_weights": False,
        "tensor_model_parallel_size": 1,
        "tokenizer": {"library": "sentencepiece", "model": f"nemo:{TOKENIZER}", "sentencepiece_legacy": False},
        "transformer_engine": True,
    }


def _multimodal_config(tower: str, adapter: str, class_token_length: int) -> dict[str, Any]:
    return {
        "data": {"conv_template": "nvgpt", "image_aspect_ratio": "square", "media_type": "image"},
        "mm_cfg": {
            "llm": {"freeze": True, "from_pretrained": None, "model_type": "nvgpt"},
            "mm_mlp_adapter_type": adapter,
            "use_im_start_end": False,
            "vision_encoder": {
                "class_token_length": class_token_length,
                "from_hf": True,
                "from_pretrained": tower,
                "hidden_size": VISION_HIDDEN,
                "patch_dim": 14,
                "vision_select_layer": -2,
            },
        },
    }


def _language_model(config: dict[str, Any], seed: int) -> Weights:
    """Megatron core's names. Rows of `linear_qkv` go group by group: its queries, its key, its value."""
    groups = config["num_query_groups"] or HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embedding.word_embeddings.weight": (PADDED_VOCABULARY, HIDDEN),
        "model.decoder.final_layernorm.weight": (HIDDEN,),
        "model.decoder.final_layernorm.bias": (HIDDEN,),
        "model.output_layer.weight": (PADDED_VOCABULARY, HIDDEN),
    }
    layer = {
        "self_attention.linear_qkv.layer_norm_weight": (HIDDEN,),
        "self_attention.linear_qkv.layer_norm_bias": (HIDDEN,),
        "self_attention.linear_qkv.weight": ((HEADS + 2 * groups) * (HIDDEN // HEADS), HIDDEN),
        "self_attention.linear_proj.weight": (HIDDEN, HIDDEN),
        "mlp.linear_fc1.layer_norm_weight": (HIDDEN,),
        "mlp.linear_fc1.layer_norm_bias": (HIDDEN,),
        "mlp.linear_fc1.weight": (FFN, HIDDEN),
        "mlp.linear_fc2.weight": (HIDDEN, FFN),
    }
    for number in range(LAYERS):
        shapes |= {f"model.decoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    weights = _random(shapes, seed)
    weights["model.decoder.final_layernorm.weight"] -= 1  # layernorm1p keeps its gain less one
    weights["model.output_layer.weight"][SENTENCEPIECE_SIZE:] = 0  # no token of the tokenizer
    return weights


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: noise_of(name, shape, generator, SCALES).bfloat16() for name, shape in shapes.items()}


def _archive(file: Path, config: dict[str, Any], weights: Weights) -> None:
    """Write a .nemo file: an uncompressed tar. Layers of Transformer Engine leave an extra state beside the weights."""
    import torch
    import yaml

    layers = {name.rpartition(".")[0] for name in weights if ".linear_" in name}
    extra = {f"{layer}._extra_state": BytesIO(b"" if "fc1" in layer else b"scales") for layer in sorted(layers)}
    content = BytesIO()
    torch.save(weights | extra, content)
    members = {
        "model_config.yaml": yaml.safe_dump(config).encode(),
        "model_weights.ckpt": content.getvalue(),
        TOKENIZER: sentencepiece_model("<s>", "</s>", SYMBOLS),
    }
    with tarfile.open(file, "w") as archive:
        for name, member in members.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(member)
            archive.addfile(entry, BytesIO(member))


def _siglip(folder: Path, seed: int) -> None:
    """The whole of SigLIP, as published, its text side too."""
    from transformers import SiglipConfig, SiglipModel

    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    }
    config = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", **text},
        "torch_dtype": "bfloat16",
        "vision_config": vision("siglip_vision_model", 384),
    }
    _save_tower(SiglipModel(SiglipConfig.from_dict(config)), folder, config, seed)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": 384, "width": 384},
        },
    )


def _clip(folder: Path, seed: int) -> None:
    """The whole of CLIP, as published, its text side too."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    }
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 16,
        "text_config": {"model_type": "clip_text_model", **text},
        "torch_dtype": "bfloat16",
        "vision_config": vision("clip_vision_model", 224, projection_dim=16),
    }
    _save_tower(CLIPModel(CLIPConfig.from_dict(config)), folder, config, seed)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "resample": 3,
            "size": 224,
        },
    )


def _save_tower(model: Any, folder: Path, config: dict[str, Any], seed: int) -> None:
    """Write a tower in bf16; names of its weights are the same in every transformers for these two classes."""
    save(randomise(model, seed, SCALES).bfloat16(), folder, config, {"": ""})

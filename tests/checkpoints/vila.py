"""VILA1.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import vocabularies
from tests.checkpoints.common import HIDDEN, VISION_HIDDEN, llama, noise_of, randomise, save, vision
from tests.vocabularies import write_json


def vicuna(folder: Path) -> dict[str, Any]:
    vocabularies.llama2(folder)
    return llama(vocabularies.SENTENCEPIECE_SIZE)


def llama_3(folder: Path) -> dict[str, Any]:
    """Byte-level tokenizer and grouped key/value heads."""
    vocabularies.llama3(folder)
    base = vocabularies.BYTE_LEVEL_SIZE
    return llama(base + len(vocabularies.LLAMA3_SPECIAL), key_value_heads=4, bos=base, eos=base + 1)


def hermes_2(folder: Path) -> dict[str, Any]:
    """ChatML tokens and a tokenizer that adds no BOS."""
    chat_ml = ("<|im_start|>", "<|im_end|>")
    vocabularies.llama2(folder, bos="<|startoftext|>", eos="<|endoftext|>", add_bos=False, symbols=chat_ml)
    return llama(vocabularies.SENTENCEPIECE_SIZE, key_value_heads=4, eos=2 + len(chat_ml))


def make(folder: Path, language_model: Callable[[Path], dict[str, Any]], seed: int) -> None:
    """VILA1.5: folders llm/, vision_tower/ (SigLIP 384 px -> 729) and mm_projector/ (2x2 merge -> 196 rows).

    `language_model` writes the tokenizer into the given folder and returns the LLM's configuration. The 40b's
    InternViT tower needs remote code, so its sibling here keeps SigLIP and differs in the LLM side alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    llm = language_model(folder / "llm")
    model = LlamaForCausalLM(LlamaConfig.from_dict(llm))
    save(randomise(model, seed), folder / "llm", llm, {"": ""})
    special = {name: llm[name] for name in ("bos_token_id", "eos_token_id")}
    write_json(folder / "llm" / "generation_config.json", special)

    tower = vision("siglip_vision_model", 384, architectures=["SiglipVisionModel"], torch_dtype="float16")
    vision_model = SiglipVisionModel(SiglipVisionConfig.from_dict(tower))
    save(randomise(vision_model, seed + 1), folder / "vision_tower", tower, {"": "vision_model."})
    write_json(
        folder / "vision_tower" / "preprocessor_config.json",
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

    projector = {
        "architectures": ["MultimodalProjector"],
        "mm_projector_type": "mlp_downsample",
        "model_type": "v2l_projector",
        "torch_dtype": "float16",
    }
    _write_projector(folder / "mm_projector", projector, seed + 2)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlavaLlamaModel"],
            "hidden_size": HIDDEN,
            "image_aspect_ratio": "resize",
            "interpolate_mode": "linear",
            "llm_cfg": llm,
            "mm_hidden_size": VISION_HIDDEN,
            "mm_projector_cfg": projector,
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "cls_patch",
            "mm_vision_select_layer": -2,
            "model_dtype": "torch.float16",
            "model_type": "llava_llama",
            "num_video_frames": 8,
            "s2": False,
            "s2_max_split_size": 384,
            "s2_scales": "384,768",
            "vision_resolution": -1,
            "vision_tower_cfg": tower,
        },
    )


def _write_projector(folder: Path, config: dict[str, Any], seed: int) -> None:
    """Layers 0 (2x2 merge) and 3 (GELU) of the original's module list have no weights."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    merged = 4 * VISION_HIDDEN
    shapes = {
        "layers.1.weight": (merged,),
        "layers.1.bias": (merged,),
        "layers.2.weight": (HIDDEN, merged),
        "layers.2.bias": (HIDDEN,),
        "layers.4.weight": (HIDDEN, HIDDEN),
        "layers.4.bias": (HIDDEN,),
    }
    weights = {name: noise_of(name, shape, generator).half() for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)

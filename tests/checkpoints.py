"""Tiny random checkpoints in the layout of the published ones: real configurations, real tokenizers.

`make` writes one, `cached` shares it between test processes. A new model is one maker and one line in
`MAKERS`. Weights are seeded and scaled up: at the default initialisation a language model barely sees its
picture, so most requests would give the same text and prove nothing. Scales and seeds were found by
experiment: two distant rows swapped or one id changed nearly always change the text. The price is that rounding
shows too: 5 % of the rows' values off by their last bit change one to four of eight texts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import vocabularies
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

LLAVA_PREFIXES = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def _randomise(model: Any, seed: int) -> PreTrainedModel:
    """Fill all weights from one seeded generator, then round them to fp16; activations stay finite in it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_noise(name, weight.shape, generator))
    halved: PreTrainedModel = model.half()
    return halved


def _noise(name: str, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    import torch

    noise = torch.randn(tuple(shape), generator=generator)
    if len(shape) == 1 and name.endswith(".weight"):  # the gain of a normalisation
        return 1 + 0.1 * noise
    return noise * next(std for part, std in WEIGHT_STD.items() if part in name)


def _save(model: PreTrainedModel, folder: Path, config: dict[str, Any], prefixes: dict[str, str]) -> None:
    """Write weights and configuration as published checkpoints spell them, not as this transformers would.

    `prefixes` maps the first part of a parameter's name in this transformers to the published one.
    """
    from safetensors.torch import save_file

    def published(name: str) -> str:
        ours = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        return prefixes[ours] + name.removeprefix(ours)

    folder.mkdir(parents=True, exist_ok=True)
    weights = {published(name): weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def _llama(vocab_size: int, *, key_value_heads: int = 16, bos: int = 1, eos: int = 2) -> dict[str, Any]:
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


def _vision(model_type: str, image_size: int, **more: Any) -> dict[str, Any]:
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


def _llava(folder: Path) -> None:
    """llava-hf/llava-1.5-7b-hf: CLIP 336 px -> 576 rows, Llama 2, one `<image>` token, HF processor files."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    image_token_id = vocabularies.SENTENCEPIECE_SIZE
    pad_token_id = image_token_id + 1
    vocab_size = image_token_id + 64  # the next multiple of 64, as 32064 is for 32002 tokens
    config: dict[str, Any] = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": image_token_id,
        "model_type": "llava",
        "pad_token_id": pad_token_id,
        "projector_hidden_act": "gelu",
        "text_config": _llama(vocab_size),
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": _vision("clip_vision_model", 336, projection_dim=32),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config))
    _save(_randomise(model, seed=3), folder, config, LLAVA_PREFIXES)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad_token_id}
    write_json(folder / "generation_config.json", special)
    vocabularies.llava(folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": 336, "width": 336},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 336},
        },
    )
    write_json(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": 14,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        },
    )
    # One turn is "USER: ", a mark and a newline for each picture, the texts with a space behind each.
    template = (
        "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    write_json(folder / "chat_template.json", {"chat_template": template})


def _vicuna(folder: Path) -> dict[str, Any]:
    vocabularies.llama2(folder)
    return _llama(vocabularies.SENTENCEPIECE_SIZE)


def _llama_3(folder: Path) -> dict[str, Any]:
    """Byte-level tokenizer and grouped key/value heads."""
    vocabularies.llama3(folder)
    base = vocabularies.BYTE_LEVEL_SIZE
    return _llama(base + len(vocabularies.LLAMA3_SPECIAL), key_value_heads=4, bos=base, eos=base + 1)


def _hermes_2(folder: Path) -> dict[str, Any]:
    """ChatML tokens and a tokenizer that adds no BOS."""
    chat_ml = ("<|im_start|>", "<|im_end|>")
    vocabularies.llama2(folder, bos="<|startoftext|>", eos="<|endoftext|>", add_bos=False, symbols=chat_ml)
    return _llama(vocabularies.SENTENCEPIECE_SIZE, key_value_heads=4, eos=2 + len(chat_ml))


def _vila(folder: Path, language_model: Callable[[Path], dict[str, Any]], seed: int) -> None:
    """VILA1.5: folders llm/, vision_tower/ (SigLIP 384 px -> 729) and mm_projector/ (2x2 merge -> 196 rows).

    `language_model` writes the tokenizer into the given folder and returns the LLM's configuration. The 40b's
    InternViT tower needs remote code, so its sibling here keeps SigLIP and differs in the LLM side alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    llm = language_model(folder / "llm")
    model = LlamaForCausalLM(LlamaConfig.from_dict(llm))
    _save(_randomise(model, seed), folder / "llm", llm, {"": ""})
    special = {name: llm[name] for name in ("bos_token_id", "eos_token_id")}
    write_json(folder / "llm" / "generation_config.json", special)

    tower = _vision("siglip_vision_model", 384, architectures=["SiglipVisionModel"], torch_dtype="float16")
    vision_model = SiglipVisionModel(SiglipVisionConfig.from_dict(tower))
    _save(_randomise(vision_model, seed + 1), folder / "vision_tower", tower, {"": "vision_model."})
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
    weights = {name: _noise(name, shape, generator).half() for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


MAKERS: dict[str, Callable[[Path], None]] = {
    "llava": _llava,
    "vila": partial(_vila, language_model=_vicuna, seed=70),
    "vila-llama_3": partial(_vila, language_model=_llama_3, seed=80),
    "vila-hermes-2": partial(_vila, language_model=_hermes_2, seed=30),
}


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` (a key of `MAKERS`) into `folder`, which is created; returns `folder`.

    Equal calls give equal bytes. KeyError for an unknown name.
    """
    maker = MAKERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    maker(folder)
    return folder


def cached(name: str) -> Path:
    """Folder of the checkpoint `name`, made once for each version of the makers; treat it as read-only.

    It lies below $TEST_CHECKPOINTS, or else below the temporary folder. Processes that make it at the same
    time each write a private folder, and the first to rename it wins.
    """
    root = Path(os.environ.get("TEST_CHECKPOINTS") or Path(tempfile.gettempdir(), "tiny-checkpoints"))
    target = root / f"{name}-{_sources_digest()}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        make(name, private)
        private.chmod(0o755)
        private.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return target


def _sources_digest() -> str:
    import numpy
    import tokenizers
    import torch
    import transformers

    sources = [Path(module).read_bytes() for module in (__file__, str(vocabularies.__file__))]
    versions = json.dumps([module.__version__ for module in (numpy, tokenizers, torch, transformers)])
    return hashlib.sha256(b"".join(sources) + versions.encode()).hexdigest()[:12]

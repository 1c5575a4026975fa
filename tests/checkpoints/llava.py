"""LLaVA-1.5 and LLaVA-NeXT, which share tower, projector and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import vocabularies
from tests.checkpoints.common import CLIP_MEAN, CLIP_STD, WEIGHT_STD, llama, randomise, save, vision
from tests.vocabularies import write_json

PREFIXES = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


NEXT_PREFIXES = {**PREFIXES, "model.image_newline": "image_newline"}
NEXT_SCALES = {"image_newline": 10.0, **WEIGHT_STD}


def make_1_5(folder: Path) -> None:
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
        "text_config": llama(vocab_size),
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": vision("clip_vision_model", 336, projection_dim=32),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config))
    save(randomise(model, seed=3), folder, config, PREFIXES)
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


# A mark and a newline for each picture, then the texts.
USER = (
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
)
GRID_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def mistral(folder: Path) -> tuple[dict[str, Any], str]:
    """llava-hf/llava-v1.6-mistral-7b-hf: one turn is "[INST] ", the user's part, " [/INST]"."""
    vocabularies.llava(folder, "LlavaNextProcessor")
    text = {
        **llama(vocabularies.SENTENCEPIECE_SIZE + 64, key_value_heads=4),
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rope_theta": 1000000.0,
        "sliding_window": None,
    }
    return text, "{{ '[INST] ' }}" + USER + "{{ ' [/INST]' }}"


def hermes_2(folder: Path) -> tuple[dict[str, Any], str]:
    """llava-hf/llava-v1.6-34b-hf: Yi's architecture, which is Llama's, no BOS, ChatML with a system prompt."""
    chat_ml = ("<|im_start|>", "<|im_end|>")
    names = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "add_bos": False, "symbols": chat_ml}
    vocabularies.llava(folder, "LlavaNextProcessor", **names)  # type: ignore[arg-type]
    text = llama(vocabularies.SENTENCEPIECE_SIZE + 64, key_value_heads=4, eos=2 + len(chat_ml))
    system = "<|im_start|>system\\nAnswer the questions.<|im_end|>"
    return text, (
        f"{{{{ '{system}<|im_start|>user\\n' }}}}{USER}{{{{ '<|im_end|>' }}}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def make_next(folder: Path, language_model: Callable[[Path], tuple[dict[str, Any], str]], seed: int) -> None:
    """llava-hf/llava-v1.6-*: tiles of 336 px -> 576 rows each, a newline row.

    `language_model` writes the tokenizer into the given folder and returns the LLM's configuration and the chat
    template of one turn.
    """
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    text, turn = language_model(folder)
    image_token_id = vocabularies.SENTENCEPIECE_SIZE
    pad_token_id = image_token_id + 1
    config: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": GRID_PINPOINTS,
        "image_token_index": image_token_id,
        "model_type": "llava_next",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_image_newline_parameter": True,
        "vision_config": vision("clip_vision_model", 336, projection_dim=32),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    model = LlavaNextForConditionalGeneration(LlavaNextConfig.from_dict(config))
    save(randomise(model, seed, scales=NEXT_SCALES), folder, config, NEXT_PREFIXES)
    special = {name: text[name] for name in ("bos_token_id", "eos_token_id")}
    write_json(folder / "generation_config.json", {**special, "pad_token_id": pad_token_id})
    write_json(
        folder / "preprocessor_config.json",
        {
            "aspect_ratio_setting": "anyres",
            "crop_size": {"height": 336, "width": 336},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_grid_pinpoints": GRID_PINPOINTS,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "LlavaNextImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "LlavaNextProcessor",
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
            "processor_class": "LlavaNextProcessor",
            "vision_feature_select_strategy": "default",
        },
    )
    template = "{% for message in messages %}" + turn + "{% endfor %}"
    write_json(folder / "chat_template.json", {"chat_template": template})

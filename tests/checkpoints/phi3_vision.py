"""Phi-3-vision: CLIP 336 px over a grid of crops, a separator behind each line of rows, a Phi-3 language model."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.checkpoints.common import CLIP_MEAN, CLIP_STD, HIDDEN, noise_of, randomise
from tests.vocabularies import SENTENCEPIECE_SIZE, llama2, special_token, write_json

SEED = 50
SCALES = {"position_embedding": 3.0, "_GN": 1.0, "qkv_proj": 0.8, "self_attn": 0.8, "": 0.3}
HEADS = 8
TOWER_WIDTH = 128  # two heads of 64 channels: no file of the checkpoint tells their number, only the width

ROLES = {1: "assistant", 6: "system", 7: "end", 10: "user", 44: "image"}
"""Added tokens by their place after <|endoftext|>, which follows the base vocabulary; all others are fillers."""
ADDED = 45


def make(folder: Path, num_crops: int = 16) -> None:
    """microsoft/Phi-3-vision-128k-instruct: up to `num_crops` crops an image, each 144 rows, then one global view.

    The published weights are bf16 and TensorRT-LLM's example makes fp16 engines of them; here both are fp16. As
    there, config.json does not describe the tower, and no code comes with the checkpoint's `auto_map`.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

    end_of_text = _tokenizer(folder)
    config = _config(end_of_text + 64, end_of_text)  # 32064 for 32000 tokens and 45 added ones
    rope = config["rope_scaling"] | {"type": "longrope"}  # transformers 5 knows "su" by its later name only
    llm = Phi3Config.from_dict(config | {"model_type": "phi3", "rope_scaling": rope})
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=TOWER_WIDTH,
            image_size=336,
            intermediate_size=2 * TOWER_WIDTH,
            num_attention_heads=TOWER_WIDTH // 64,
            num_hidden_layers=3,
            patch_size=14,
            projection_dim=32,
        )
    )
    parts = {"": randomise(Phi3ForCausalLM(llm), SEED, SCALES)}
    parts["model.vision_embed_tokens.img_processor.vision_model."] = randomise(tower, SEED + 1, SCALES)
    weights = {prefix + name: weight for prefix, part in parts.items() for name, weight in part.state_dict().items()}
    generator = torch.Generator().manual_seed(SEED + 2)
    merged = 4 * TOWER_WIDTH
    for name, shape in {
        "glb_GN": (1, 1, merged),
        "sub_GN": (1, 1, 1, merged),
        "img_projection.0.bias": (HIDDEN,),
        "img_projection.0.weight": (HIDDEN, merged),
        "img_projection.2.bias": (HIDDEN,),
        "img_projection.2.weight": (HIDDEN, HIDDEN),
    }.items():
        weights[f"model.vision_embed_tokens.{name}"] = noise_of(name, shape, generator, SCALES).half()
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(
        folder / "preprocessor_config.json",
        {
            "auto_map": {
                "AutoImageProcessor": "image_processing_phi3_v.Phi3VImageProcessor",
                "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
            },
            "image_mean": CLIP_MEAN,
            "image_processor_type": "Phi3VImageProcessor",
            "image_std": CLIP_STD,
            "num_crops": num_crops,
            "num_img_tokens": 144,
            "processor_class": "Phi3VProcessor",
        },
    )


def _config(vocab_size: int, pad: int) -> dict[str, Any]:
    pairs = HIDDEN // HEADS // 2
    return {
        "architectures": ["Phi3VForCausalLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3_v.Phi3VConfig",
            "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        },
        "bos_token_id": 1,
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "img_processor": {
            "image_dim_out": TOWER_WIDTH,
            "model_name": "openai/clip-vit-large-patch14-336",
            "name": "clip_vision_model",
            "num_img_tokens": 144,
        },
        "intermediate_size": 128,
        "max_position_embeddings": 131072,
        "model_type": "phi3_v",
        "num_attention_heads": HEADS,
        "num_hidden_layers": 3,
        "num_key_value_heads": HEADS,
        "original_max_position_embeddings": 4096,
        "pad_token_id": pad,  # published: absent, for the class's default of 32000 is right there
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.0 + 16.0 * number for number in range(pairs)],
            "short_factor": [1.05 + 0.5 * number for number in range(pairs)],
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def _tokenizer(folder: Path) -> int:
    """Write tokenizer.json (of the older kind, see `vocabularies.llava`), no tokenizer.model; id of <|endoftext|>.

    After some added tokens white space is swallowed, after <|assistant|> among them.
    """
    from tokenizers import AddedToken, Tokenizer, normalizers
    from transformers import AutoTokenizer

    with TemporaryDirectory() as base:
        llama2(Path(base))
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(base).backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    added = _added_tokens()
    swallows = {name: name not in ("<|endoftext|>", "<|system|>", "<|end|>", "<|user|>") for name in added}
    tokens = [AddedToken(name, rstrip=swallows[name], normalized=False, special=True) for name in added]
    tokenizer.add_special_tokens(tokens)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"][2] |= {"rstrip": True, "special": False}  # </s>, as published; so are merges in one string
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    write_json(folder / "tokenizer.json", content)

    described = [special_token(name) for name in ("<unk>", "<s>", "</s>")]
    described[2] |= {"rstrip": True, "special": False}
    numbered = dict(enumerate(described))
    for number, name in enumerate(added, start=SENTENCEPIECE_SIZE):
        numbered[number] = special_token(name) | {"rstrip": swallows[name]}
    special = {"bos_token": "<s>", "eos_token": added[0], "pad_token": added[0], "unk_token": "<unk>"}
    roles = ["<|system|>", "<|end|>", "<|user|>", "<|end|>"]
    described_special = {name: special_token(token) for name, token in special.items()}
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": roles, **described_special})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {str(number): token for number, token in numbered.items()},
            "additional_special_tokens": roles,
            "chat_template": (
                "{% for message in messages %}"
                "{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
                "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
                "{{- '<|assistant|>\n' -}}{% endif %}"
            ),
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 131072,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "use_default_system_prompt": False,
            **special,
        },
    )
    return SENTENCEPIECE_SIZE


def _added_tokens() -> list[str]:
    fillers = iter(range(1, ADDED))
    names = (ROLES.get(number) or f"placeholder{next(fillers)}" for number in range(1, ADDED))
    return ["<|endoftext|>", *(f"<|{name}|>" for name in names)]

"""BLIP-2 with an OPT or a T5 language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.checkpoints.common import CLIP_MEAN, CLIP_STD, HIDDEN, VISION_HIDDEN, randomise, save, vision
from tests.vocabularies import (
    BYTE_LEVEL_SIZE,
    EXTRA_IDS,
    UNIGRAM_SIZE,
    corpus,
    special_token,
    t5,
    write_config,
    write_json,
)

QUERIES = 32
SCALES = {
    "query_tokens": 1.0,
    "position_embedding": 3.0,
    "embed_positions": 1.0,
    "bias": 0.05,
    "self_attn": 0.6,
    "": 0.3,
}
T5_SCALES = {
    "query_tokens": 1.0,
    "position_embedding": 3.0,
    "relative_attention_bias": 1.0,
    "shared": 1.0,
    "lm_head": 1.0,
    "bias": 0.05,
    "self_attn": 0.6,
    "": 0.3,
}


def make_opt(folder: Path) -> None:
    """Salesforce/blip2-opt-2.7b, hub revision of 2024: ViT 224 px -> 257 tokens, Q-Former -> 32 rows, OPT.

    As there, an answer ends with a newline: that is the `eos_token_id` of the language model, not of the tokenizer.
    """
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    newline_id = _opt_tokenizer(folder)
    text_config = {
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "eos_token_id": newline_id,
        "ffn_dim": 128,
        "hidden_size": HIDDEN,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 16,
        "num_hidden_layers": 3,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "vocab_size": 1024,
        "word_embed_proj_dim": HIDDEN,
    }
    config = _config(text_config, image_token=BYTE_LEVEL_SIZE, dtype="float16", decoder_only=True)
    model = Blip2ForConditionalGeneration(Blip2Config.from_dict(config))
    save(randomise(model, seed=11, scales=SCALES), folder, config, {"": ""})
    write_json(folder / "generation_config.json", {"bos_token_id": 2, "eos_token_id": newline_id, "pad_token_id": 1})
    write_processor(folder)


def make_t5(folder: Path) -> None:
    """Salesforce/blip2-flan-t5-xl, hub revision of 2024: the vision side of the others, Flan-T5 (gated GELU, untied).

    The published weights are float32, of which engines take the vision side in fp16 and the language model in bf16.
    """
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    t5(folder, ["<image>"], processor_class="Blip2Processor")
    text_config = {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": 128,
        "d_kv": 8,
        "d_model": HIDDEN,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "model_type": "t5",
        "num_decoder_layers": 3,
        "num_heads": 8,
        "num_layers": 3,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": 1024,
    }
    config = _config(text_config, image_token=UNIGRAM_SIZE + EXTRA_IDS, dtype="float32", decoder_only=False)
    model = Blip2ForConditionalGeneration(Blip2Config.from_dict(config))
    save(randomise(model, seed=13, scales=T5_SCALES).float(), folder, config, {"": ""})
    write_json(folder / "generation_config.json", {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})
    write_processor(folder)


def _config(text_config: dict[str, Any], image_token: int, dtype: str, decoder_only: bool) -> dict[str, Any]:
    return {
        "architectures": ["Blip2ForConditionalGeneration"],
        "image_text_hidden_size": 256,
        "image_token_index": image_token,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "blip-2",
        "num_query_tokens": QUERIES,
        "qformer_config": _qformer(),
        "text_config": text_config,
        "torch_dtype": dtype,
        "use_decoder_only_language_model": decoder_only,
        "vision_config": vision("blip_2_vision_model", 224, hidden_act="gelu", layer_norm_eps=1e-6, qkv_bias=True),
    }


def _qformer() -> dict[str, Any]:
    return {
        "classifier_dropout": None,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": VISION_HIDDEN,
        "hidden_act": "gelu",
        "hidden_size": 48,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "blip_2_qformer",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "vocab_size": 30522,
    }


def write_processor(folder: Path) -> None:
    """Write the two processor files, which are the same for every BLIP-2."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "BlipImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "Blip2Processor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": 224, "width": 224},
        },
    )
    image_token = {**special_token("<image>"), "__type": "AddedToken"}
    write_json(
        folder / "processor_config.json",
        {"image_token": image_token, "num_query_tokens": QUERIES, "processor_class": "Blip2Processor"},
    )


def _opt_tokenizer(folder: Path) -> int:
    """GPT-2's byte-level BPE with fairseq's four special tokens in front and `</s>` as BOS; returns the newline's id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    reserved = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_SIZE,
        special_tokens=reserved,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s>:1 $B:1", special_tokens=[("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    bpe = json.loads(tokenizer.to_str())["model"]
    write_json(folder / "vocab.json", bpe["vocab"])
    merges = (" ".join(pair) for pair in bpe["merges"])
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")), encoding="utf-8")
    added = {number: token for number, token in enumerate(reserved) if token in ("<pad>", "</s>")}
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    write_config(
        folder,
        "GPT2Tokenizer",
        special,
        {**added, BYTE_LEVEL_SIZE: "<image>"},
        add_bos_token=True,
        add_prefix_space=False,
        errors="replace",
        processor_class="Blip2Processor",
    )
    write_json(folder / "added_tokens.json", {"<image>": BYTE_LEVEL_SIZE})
    newline_id: int = tokenizer.encode("\n", add_special_tokens=False).ids[0]
    return newline_id

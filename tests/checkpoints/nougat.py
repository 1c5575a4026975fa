"""A tiny Nougat in the layout of facebook/nougat-base: Swin encoder of whole pages, mBART decoder, its own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.checkpoints.common import HIDDEN, randomise, save
from tests.vocabularies import BYTE_LEVEL_SIZE, corpus, special_token, write_json

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "[START_REF]", "[END_REF]", "[IMAGE]", "[START_SUP]", "[END_SUP]", "<work>")
STAGES = 4
SCALES = {
    "relative_position_bias": 1.0,
    "bias": 0.05,
    "embed_tokens": 0.1,  # the model multiplies it by 8
    "embed_positions": 3.0,
    "encoder_attn.v_proj": 0.1,  # the features are large, and would drown the tokens
    "encoder_attn.out_proj": 0.1,
    "encoder_attn": 1.0,
    "self_attn": 0.45,
    "patch_embeddings": 0.5,
    "downsample": 0.6,
    "": 0.3,
}


def make(folder: Path) -> None:
    """896 x 672 pixels, patches of 4, four stages: 28 x 21 features of 64 values; weights in float32, as published."""
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    vocab_size = _tokenizer(folder)
    config: dict[str, Any] = {
        "architectures": ["VisionEncoderDecoderModel"],
        "decoder": {
            "activation_function": "gelu",
            "add_cross_attention": True,
            "add_final_layer_norm": True,
            "bos_token_id": 0,
            "d_model": HIDDEN,
            "decoder_attention_heads": 8,
            "decoder_ffn_dim": 128,
            "decoder_layers": 3,
            "decoder_start_token_id": None,
            "eos_token_id": 2,
            "forced_eos_token_id": 2,
            "is_decoder": True,
            "is_encoder_decoder": False,
            "max_position_embeddings": 512,
            "model_type": "mbart",
            "pad_token_id": 1,
            "scale_embedding": True,
            "tie_word_embeddings": False,
            "vocab_size": vocab_size,
        },
        "encoder": {
            "depths": [1, 1, 2, 1],
            "embed_dim": HIDDEN // 2 ** (STAGES - 1),
            "image_size": [896, 672],
            "mlp_ratio": 4.0,
            "model_type": "donut-swin",
            "num_heads": [1, 2, 4, 8],
            "num_layers": STAGES,
            "patch_size": 4,
            "window_size": 7,
        },
        "is_encoder_decoder": True,
        "model_type": "vision-encoder-decoder",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config))
    save(randomise(model, seed=51, scales=SCALES).float(), folder, config, {"": ""})
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "pad_token_id": 1},
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_align_long_axis": False,
            "do_crop_margin": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "do_thumbnail": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "NougatImageProcessor",
            "image_std": [0.229, 0.224, 0.225],
            "processor_class": "NougatProcessor",
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": 896, "width": 672},
        },
    )


def _tokenizer(folder: Path) -> int:
    """Byte-level BPE over digits, brackets and lines of their own, cut and filled up to 4096 ids; returns its size."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[()\[\]{}]|([!-'*-/:-@\\^-`|~])\1*"), behavior="isolated"),
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{line}\n" for line in corpus()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(max_length=4096)
    tokenizer.enable_padding(length=4096, pad_id=1, pad_token="<pad>")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(number): special_token(token) for number, token in enumerate(SPECIAL)},
            "clean_up_tokenization_spaces": False,
            "model_max_length": 3584,
            "processor_class": "NougatProcessor",
            "tokenizer_class": "NougatTokenizer",
            **special,
        },
    )
    size: int = tokenizer.get_vocab_size()
    return size

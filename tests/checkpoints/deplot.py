"""Deplot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tests.checkpoints.common import HIDDEN, randomise, save
from tests.vocabularies import SENTENCEPIECE_SIZE, corpus, write_config, write_json

CELLS = ["TITLE |", "Year | Sales | Costs", "2019 | 12.5 | 7", "Entity | Value", "Asia | 31 %"] * 40
"""Lines of tables, so that bars and numbers become pieces of the vocabulary."""
SEPARATORS = {"<0x0A>": 2.0, "▁|": 1.5}
"""Tokens that are made likelier, so that answers are tables of a kind."""
SCALES = {
    "embeddings.patch_projection": 0.05,  # of 768 values
    "_embedder": 1.0,
    "relative_attention_bias": 1.0,
    "attention.query": 0.15,
    "attention.key": 0.15,  # products are not scaled down by their width
    "attention": 0.3,
    "embed_tokens": 1.0,
    "": 0.3,
}


def make(folder: Path) -> None:
    """google/deplot: patches of 16 px with line and column -> a row each, a T5 decoder that attends to them."""
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    vocabulary = _tokenizer(folder)
    common = {"d_ff": 128, "d_kv": 16, "dropout_rate": 0.0, "hidden_size": HIDDEN}
    config: dict[str, Any] = {
        "architectures": ["Pix2StructForConditionalGeneration"],
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "is_encoder_decoder": True,
        "is_vqa": True,
        "model_type": "pix2struct",
        "pad_token_id": 0,
        "text_config": {
            **common,
            "decoder_start_token_id": 0,
            "dense_act_fn": "gelu_new",
            "eos_token_id": 1,
            "is_decoder": True,
            "layer_norm_epsilon": 1e-06,
            "model_type": "pix2struct_text_model",
            "num_heads": 4,
            "num_layers": 3,
            "pad_token_id": 0,
            "relative_attention_max_distance": 128,
            "relative_attention_num_buckets": 32,
            "tie_word_embeddings": False,
            "use_cache": False,
            "vocab_size": len(vocabulary),
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": {
            **common,
            "attention_dropout": 0.0,
            "dense_act_fn": "gelu_new",
            "layer_norm_eps": 1e-06,
            "model_type": "pix2struct_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_embed_hidden_size": 768,
            "seq_len": 4096,
        },
    }
    model: Any = Pix2StructForConditionalGeneration(Pix2StructConfig.from_dict(config))
    randomise(model, seed=41, scales=SCALES)
    for token, gain in SEPARATORS.items():
        model.decoder.lm_head.weight.data[vocabulary[token]] *= gain
    save(model, folder, config, {"": ""})
    special = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    write_json(folder / "generation_config.json", special)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_normalize": True,
            "image_processor_type": "Pix2StructImageProcessor",
            "is_vqa": True,
            "max_patches": 2048,
            "patch_size": {"height": 16, "width": 16},
            "processor_class": "Pix2StructProcessor",
        },
    )


def _tokenizer(folder: Path) -> dict[str, int]:
    """T5's unigram tokenizer with a piece for each byte, which it spells out; returns the vocabulary."""
    import sentencepiece  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus(), *CELLS]),
        model_writer=trained,
        model_type="unigram",
        vocab_size=SENTENCEPIECE_SIZE,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    word_mark = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**word_mark)]
    )
    tokenizer.decoder = decoders.Metaspace(**word_mark)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    reserved = ["<pad>", "</s>", "<unk>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in reserved])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(trained.getvalue())
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_config(
        folder,
        "T5Tokenizer",
        special,
        dict(enumerate(reserved)),
        additional_special_tokens=[],
        extra_ids=0,
        processor_class="Pix2StructProcessor",
    )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary

"""Fuyu."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tests.checkpoints.common import HIDDEN, randomise, save
from tests.vocabularies import SENTENCEPIECE_SIZE, corpus, write_config, write_json

SYMBOLS = ("|SPEAKER|", "|ENDOFTEXT|", "|NEWLINE|", "|UNUSED|")
SCALES = {"vision_embed_tokens": 0.05, "bias": 0.05, "self_attn": 0.6, "embed_tokens": 1.0, "": 0.2}
SHARPNESS = 3.0
"""Gain of the normalised queries and keys: at 1, attention would average hundreds of patches away."""
PREFIXES = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.vision_embed_tokens.": "vision_embed_tokens.",
}


def make(folder: Path) -> None:
    """adept/fuyu-8b: one linear layer over patches of 30 px, Persimmon, a flat configuration."""
    from transformers import FuyuConfig, FuyuForCausalLM

    vocabulary = _tokenizer(folder)
    config: dict[str, Any] = {
        "architectures": ["FuyuForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary["<s>"],
        "eos_token_id": vocabulary["|ENDOFTEXT|"],
        "hidden_act": "relu2",
        "hidden_dropout": 0.0,
        "hidden_size": HIDDEN,
        "image_size": 300,
        "image_token_id": vocabulary["|SPEAKER|"],
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 16384,
        "model_type": "fuyu",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "patch_size": 30,
        "qk_layernorm": True,
        "rope_scaling": None,
        "rope_theta": 25000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": SENTENCEPIECE_SIZE + 64,
    }
    model = randomise(FuyuForCausalLM(FuyuConfig.from_dict(config)), seed=21, scales=SCALES)
    for name, weight in model.named_parameters():
        if name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
            weight.data *= SHARPNESS
    save(model, folder, config, PREFIXES)
    special = {"bos_token_id": vocabulary["<s>"], "eos_token_id": vocabulary["|ENDOFTEXT|"]}
    write_json(folder / "generation_config.json", special)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": 0.5,
            "image_processor_type": "FuyuImageProcessor",
            "image_std": 0.5,
            "padding_mode": "constant",
            "padding_value": 1.0,
            "patch_size": {"height": 30, "width": 30},
            "processor_class": "FuyuProcessor",
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": 1080, "width": 1920},
        },
    )


def _tokenizer(folder: Path) -> dict[str, int]:
    """Adept's unigram model as Llama's converter wrote it: pieces such as `|SPEAKER|` are no added tokens.

    Every text between added tokens is therefore prefixed with a word mark, placeholders too. Returns the vocabulary.
    """
    import sentencepiece  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=trained,
        model_type="unigram",
        vocab_size=SENTENCEPIECE_SIZE,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(SYMBOLS),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    reserved = ["<unk>", "<s>", "</s>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in reserved])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "|ENDOFTEXT|", "eos_token": "|ENDOFTEXT|", "unk_token": "<unk>"}
    write_config(
        folder,
        "LlamaTokenizer",
        special,
        dict(enumerate(reserved)),
        processor_class="FuyuProcessor",
        sp_model_kwargs={},
    )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary

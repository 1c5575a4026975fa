"""Kosmos-2."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tests.checkpoints.common import CLIP_MEAN, CLIP_STD, HIDDEN, randomise, save, vision
from tests.vocabularies import SENTENCEPIECE_SIZE, corpus, write_json

TAGS = (
    "</doc>",
    "<image>",
    "</image>",
    "</chunk>",
    "</line>",
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "</delimiter_of_multi_objects/>",
    "<grounding>",
)
PATCHES = 1024
QUERIES = 64
SCALES = {
    "projection.dense": 2.0,  # its input has length 1
    "latent_query": 1.0,
    "position_embedding": 3.0,
    "bias": 0.05,
    "x_attn": 0.1,
    "self_attn": 0.6,
    "embed_tokens": 0.1,  # the model multiplies it by 8
    "": 0.3,
}


def make(folder: Path) -> None:
    """microsoft/kosmos-2-patch14-224: ViT 224 px -> 257 tokens, resampler -> 64 rows, a decoder of its own kind."""
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

    vocab_size = _tokenizer(folder)
    config: dict[str, Any] = {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "latent_query_num": QUERIES,
        "model_type": "kosmos-2",
        "text_config": {
            "activation_function": "gelu",
            "add_cross_attention": False,
            "attention_heads": 8,
            "bos_token_id": 0,
            "embed_dim": HIDDEN,
            "eos_token_id": 2,
            "ffn_dim": 128,
            "layer_norm_eps": 1e-05,
            "layers": 3,
            "max_position_embeddings": 2048,
            "model_type": "kosmos_2_text_model",
            "pad_token_id": 1,
            "scale_embedding": True,
            "vocab_size": vocab_size,
        },
        "torch_dtype": "float16",
        "vision_config": vision("kosmos_2_vision_model", 224, hidden_act="quick_gelu", layer_norm_eps=1e-05),
    }
    model = Kosmos2ForConditionalGeneration(Kosmos2Config.from_dict(config))
    save(randomise(model, seed=32, scales=SCALES), folder, config, {"": ""})
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1})
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "Kosmos2Processor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 224},
            "use_square_size": True,
        },
    )


def _tokenizer(folder: Path) -> int:
    """XLM-RoBERTa's unigram tokenizer, then the tags and a token for each patch of a 32 x 32 grid; returns its size."""
    import sentencepiece  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=trained,
        model_type="unigram",
        vocab_size=SENTENCEPIECE_SIZE,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    reserved = ["<s>", "<pad>", "</s>", "<unk>"]
    learned = [(piece.piece, piece.score) for piece in proto.pieces[3:]]  # less its own <unk>, <s>, </s>
    vocabulary = [*((token, 0.0) for token in reserved), *learned, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=reserved.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    word_mark = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**word_mark)]
    )
    tokenizer.decoder = decoders.Metaspace(**word_mark)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in reserved])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tags = [*TAGS, *(f"<patch_index_{number:04}>" for number in range(PATCHES))]
    tokenizer.add_tokens([AddedToken(tag, lstrip=True, special=False, normalized=False) for tag in tags])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(trained.getvalue())
    tokenizer.save(str(folder / "tokenizer.json"))
    mask = {
        "content": "<mask>",
        "lstrip": True,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": mask,
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "clean_up_tokenization_spaces": True,
            "model_max_length": 2048,
            "processor_class": "Kosmos2Processor",
            "tokenizer_class": "XLMRobertaTokenizer",
            **special,
            "mask_token": {**mask, "__type": "AddedToken"},
        },
    )
    size: int = tokenizer.get_vocab_size()
    return size

"""Tokenizers of the tiny checkpoints: real tokenizer families with vocabularies of about a thousand tokens.

They are trained on the documentation that ships with the standard library, so that they hold real subwords,
and are written in the spelling of published checkpoints. Two trainings on one Python give the same bytes.
"""

from __future__ import annotations

import io
import json
import pydoc_data.topics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

SENTENCEPIECE_SIZE = 1024
BYTE_LEVEL_SIZE = 1000
UNIGRAM_SIZE = 900
EXTRA_IDS = 100  # T5's sentinels, after the pieces

# Llama 3 cuts text into words with this published pattern before it merges bytes.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


@cache
def corpus() -> tuple[str, ...]:
    """Lines of text to train on."""
    pages = [page for _, page in sorted(pydoc_data.topics.topics.items())]
    lines = [line.strip() for page in pages for line in page.splitlines()]
    return tuple(line for line in lines if line)[:4000]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as hub files are written: UTF-8, two spaces, a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@cache
def sentencepiece_model(bos: str, eos: str, symbols: tuple[str, ...]) -> bytes:
    """A Llama-2-like `tokenizer.model`: BPE, byte fallback; `<unk>` 0, `bos` 1, `eos` 2, then `symbols`."""
    import sentencepiece  # type: ignore[import-untyped]

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=SENTENCEPIECE_SIZE,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.9999,
        user_defined_symbols=list(symbols),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        bos_piece=bos,
        eos_piece=eos,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def unigram_model() -> bytes:
    """A T5-like `spiece.model`: Unigram, NFKC, `<pad>` 0, `</s>` 1, `<unk>` 2, no BOS, no byte fallback."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="unigram",
        vocab_size=UNIGRAM_SIZE,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def special_token(token: str) -> dict[str, object]:
    """How the files of a tokenizer describe one special token."""
    return {
        "content": token,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def write_config(
    folder: Path, tokenizer_class: str, special: dict[str, str], added: dict[int, str], **more: Any
) -> None:
    """Write tokenizer_config.json and special_tokens_map.json."""
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(number): special_token(token) for number, token in added.items()},
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "tokenizer_class": tokenizer_class,
            **special,
            **more,
        },
    )
    write_json(folder / "special_tokens_map.json", {name: special_token(token) for name, token in special.items()})


def llama2(
    folder: Path,
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    add_bos: bool = True,
    pad: str = "<unk>",
    symbols: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write the files of a Llama-2 tokenizer as VILA ships it: `tokenizer.model`, no `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(bos, eos, tuple(symbols)))
    reserved = ["<unk>", bos, eos, *symbols]
    special = {
        "bos_token": bos,
        "eos_token": symbols[-1] if symbols else eos,
        "pad_token": pad,
        "unk_token": "<unk>",
    }
    write_config(
        folder,
        "LlamaTokenizer",
        special,
        dict(enumerate(reserved)),
        add_bos_token=add_bos,
        add_eos_token=False,
        legacy=False,
        sp_model_kwargs={},
        **more,
    )


def llava(
    folder: Path,
    processor_class: str = "LlavaProcessor",
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    add_bos: bool = True,
    symbols: Sequence[str] = (),
) -> None:
    """Write the files of LLaVA's tokenizer: Llama 2 with `<image>` and `<pad>` after the base vocabulary.

    The last of `symbols` ends an answer.

    As with many published checkpoints, `tokenizer.json` is of the older kind that prefixes each text with a
    space in a normalizer; transformers 5 rebuilds it differently, and some strings then get other ids.
    """
    from tokenizers import AddedToken, Tokenizer, normalizers
    from transformers import AutoTokenizer

    llama2(folder, bos=bos, eos=eos, add_bos=add_bos, pad="<unk>", symbols=symbols)
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    added = ["<image>", "<pad>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = symbols[-1] if symbols else eos
    special = {"bos_token": bos, "eos_token": end, "pad_token": "<pad>", "unk_token": "<unk>"}
    numbered = {
        **dict(enumerate(["<unk>", bos, eos, *symbols])),
        **dict(enumerate(added, start=SENTENCEPIECE_SIZE)),
    }
    write_config(
        folder,
        "LlamaTokenizer",
        special,
        numbered,
        add_bos_token=add_bos,
        add_eos_token=False,
        legacy=False,
        padding_side="left",
        processor_class=processor_class,
        sp_model_kwargs={},
    )
    write_json(folder / "added_tokens.json", {"<image>": SENTENCEPIECE_SIZE, "<pad>": SENTENCEPIECE_SIZE + 1})


def t5(folder: Path, added: Sequence[str] = (), **more: Any) -> None:
    """Write the files of a T5 tokenizer: `spiece.model`, sentinels `<extra_id_99>` to `<extra_id_0>`, then `added`.

    Every text ends with `</s>`, white space of any length counts as one space, unknown characters are `<unk>`.
    """
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(unigram_model())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(EXTRA_IDS))]
    numbered = dict(enumerate(["<pad>", "</s>", "<unk>"])) | dict(enumerate([*sentinels, *added], start=UNIGRAM_SIZE))
    more = {"additional_special_tokens": sentinels[::-1], "extra_ids": EXTRA_IDS, "sp_model_kwargs": {}, **more}
    write_config(folder, "T5Tokenizer", special, numbered, **more)
    tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))


def llama3(folder: Path) -> None:
    """Write the files of a Llama-3 tokenizer: byte-level BPE, special tokens after the base, BOS added."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=BYTE_LEVEL_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA3_SPECIAL])
    begin, end = LLAMA3_SPECIAL[:2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, BYTE_LEVEL_SIZE)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    added = dict(enumerate(LLAMA3_SPECIAL, start=BYTE_LEVEL_SIZE))
    special = {"bos_token": begin, "eos_token": end, "pad_token": end}
    write_config(folder, "PreTrainedTokenizerFast", special, added)

"""Ids and templates: the part of the plan that depends on the tokenizer, or on the spec while there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generator.facts.gather import Facts
from generator.options import Options
from generator.spec import ModelSpec, Piece, Tokens, Variant

FRAME_ORDER = "reverse_channels"  # setting of the layouts that take frames


def tokens(spec: ModelSpec, variant: Variant, facts: Facts) -> Tokens:
    """The ids that preprocessing needs by name."""
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return variant.tokens
    end = tokenizer.end
    if spec.end_text:
        end = tokenizer.encode(spec.end_text)[0]
    image = (facts.checkpoint and facts.checkpoint.image_token_id) or tokenizer.image
    start = facts.checkpoint.start_token_id if facts.checkpoint else None
    return Tokens(
        tokenizer.bos,
        end,
        tokenizer.pad,
        image if spec.image_token else None,
        variant.tokens.start if start is None else start,
    )


def dropped_ids(variant: Variant, facts: Facts) -> tuple[int, ...]:
    """Ids of the stop words that are one token each: an answer may end with one, which is not part of its text."""
    if facts.tokenizer is None:
        return ()
    found = (facts.tokenizer.find(word) for word in variant.conversation.stop_words)
    return tuple(token for token in found if token is not None)


def prompt(spec: ModelSpec, variant: Variant, facts: Facts, known: Tokens) -> dict[str, Any]:
    """Settings of the prompt module."""
    settings: dict[str, Any] = {
        "module": spec.prompt.module,
        "image_mark": spec.image_mark,
        "image_required": spec.image_required,
        "text_required": spec.prompt.text,
        "banned_ids": [token for piece in _pieces(spec.prompt.banned, facts, known) for token in piece["ids"]],
        "stop_words": list(variant.conversation.stop_words),
    }
    if spec.prompt.before or spec.prompt.after:
        return settings | {
            "before": _pieces(spec.prompt.before, facts, known),
            "after": _pieces(spec.prompt.after, facts, known),
        }
    if spec.prompt.image_tag:
        settings["image_tag"] = spec.prompt.image_tag
    return settings | {
        "template": variant.conversation.template,
        "image_prefix": spec.image_prefix,
        "image_token_id": known.image,
    }


def layout(options: Options, spec: ModelSpec, facts: Facts) -> dict[str, Any]:
    """Settings of the layout module: the spec's, the checkpoint's and options over them, ids of tokens over all."""
    settings: dict[str, Any] = {"module": spec.layout.module, **spec.layout.settings}
    if facts.checkpoint:
        settings.update(facts.checkpoint.layout)
    if options.frame_order and FRAME_ORDER in settings:
        settings[FRAME_ORDER] = options.frame_order == "bgr"
    if facts.tokenizer:
        settings.update((name, facts.tokenizer.id_of(token)) for name, token in spec.layout.from_tokenizer.items())
    return settings


def _pieces(pieces: Sequence[Piece], facts: Facts, known: Tokens) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.start:
            made.append({"ids": [known.start]})
        elif piece.token:
            made.append({"ids": [facts.tokenizer.id_of(piece.token) if facts.tokenizer else piece.token_id]})
        else:
            made.append({"text": piece.text, "special_tokens": piece.special_tokens, "strip": piece.strip})
    return made

"""From request rows to calls of the engines that several can share, and from new tokens to answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from enc_dec_engine import Call
from llm_request import LlmRequest
from llm_words import ends_with_any
from numpy.typing import NDArray
from tensors import RequestError

PAD = -1  # fills beams of unequal length
NO_WORD = -1  # in a word list: no further end of a word


def check(row: LlmRequest, settings: Mapping[str, Any]) -> None:
    """Raise RequestError, naming the tensor, when this step cannot do what `row` asks or the engines cannot hold it."""
    wanted = {
        "embedding_bias": row.bias is not None,
        "return_log_probs": row.log_probs,
        "return_context_logits": row.context_logits,
        "return_generation_logits": row.generation_logits,
    }
    for name, given in wanted.items():
        if given:
            raise RequestError(f"{name} is not supported on the route python_enc_dec: leave it out")
    if row.end_id is None:
        raise RequestError("end_id is not present in the request: send the id of the token that ends an answer")
    if row.beam_width > settings["max_beam_width"]:
        raise RequestError(f"beam_width is {row.beam_width}, the engine was built for {settings['max_beam_width']}")
    if len(row.history) != 1:
        raise RequestError(f"input_ids holds {len(row.history)} ids: send the one that the decoder starts from")
    if row.features is not None:
        if len(row.features) > settings["rows_per_image"]:
            have, most = len(row.features), settings["rows_per_image"]
            raise RequestError(f"encoder_output_lengths is {have}, the engine attends to {most} rows at most")
        return
    if row.table is None:
        raise RequestError("prompt_embedding_table is not present in the request: this model needs an image")
    for name, have, most in (
        ("input_lengths", len(row.prompt), settings["max_input_len"]),
        ("rows of prompt_embedding_table", len(row.table), settings["max_table_rows"]),
    ):
        if have > most:
            raise RequestError(f"{have} {name}, the encoder engine takes {most} at most: shorten the prompt")


def batches(rows: Mapping[int, LlmRequest], most: int) -> list[list[int]]:
    """Keys of `rows` that share a call, at most `most` each: those whose tokens are chosen alike."""
    alike: defaultdict[tuple[tuple[str, Any], ...], list[int]] = defaultdict(list)
    for key, row in rows.items():
        alike[tuple(_sampling(row).items())].append(key)
    return [keys[start : start + most] for keys in alike.values() for start in range(0, len(keys), most)]


def call(rows: Sequence[LlmRequest]) -> Call:
    """One call for rows whose tokens are chosen alike."""
    return Call(
        starts=[row.history[0] for row in rows],
        ids=[row.prompt for row in rows],
        rows=[_rows(row) for row in rows],
        max_new_tokens=max(row.max_tokens for row in rows),
        sampling=_sampling(rows[0]),
        stop_words=_words([row.stop_words for row in rows]),
        bad_words=_words([row.bad_words for row in rows]),
    )


def answer(row: LlmRequest, beams: Sequence[Sequence[int]]) -> list[pb_utils.Tensor]:
    """The tensors of a response: output_ids [1, beams, longest] and sequence_length [1, beams], INT32."""
    prefix = [] if row.exclude_input else row.history
    kept = [[*prefix, *_kept(row, list(beam))] for beam in beams]
    ids = np.full((1, len(kept), max(map(len, kept))), PAD, dtype=np.int32)
    for target, own in zip(ids[0], kept, strict=True):
        target[: len(own)] = own
    lengths = np.array([[len(own) for own in kept]], dtype=np.int32)
    return [pb_utils.Tensor("output_ids", ids), pb_utils.Tensor("sequence_length", lengths)]


def _kept(row: LlmRequest, ids: list[int]) -> list[int]:
    """The tokens that belong to the answer: up to its end token, its first stop word or its own limit."""
    ids = ids[: row.max_tokens]
    if row.end_id in ids:
        ids = ids[: ids.index(row.end_id)]
    if row.stop_words:
        hits = (end for end in range(1, len(ids) + 1) if ends_with_any(ids[:end], row.stop_words))
        ids = ids[: next(hits, len(ids))]
    return ids


def _rows(row: LlmRequest) -> Any:
    return row.table if row.features is None else row.features


def _sampling(row: LlmRequest) -> dict[str, Any]:
    """Values of tensorrt_llm's SamplingConfig. Those that change nothing are left out, so that rows are alike."""
    wanted = row.sampling
    values: dict[str, Any] = {
        "end_id": row.end_id,
        "pad_id": row.end_id if row.pad_id is None else row.pad_id,
        "num_beams": row.beam_width,
        "repetition_penalty": wanted.repetition_penalty,
        "presence_penalty": wanted.presence_penalty,
        "frequency_penalty": wanted.frequency_penalty,
        "min_length": wanted.min_tokens,
    }
    if row.beam_width > 1:
        values |= {"length_penalty": row.length_penalty, "early_stopping": int(row.early_stopping)}
        values |= {"temperature": wanted.temperature}
    elif wanted.greedy:
        values |= {"top_k": 1, "top_p": 0.0}
    else:
        values |= {"top_k": wanted.top_k, "top_p": max(wanted.top_p, 0.0), "temperature": wanted.temperature}
        values |= {"random_seed": wanted.seed % 2**63}  # int64 there, uint64 in the contract
    return values


def _words(rows: Sequence[Sequence[Sequence[int]]]) -> NDArray[np.int32] | None:
    """The words of all rows as int32 [n, 2, L]: ids one after another, and where each word ends."""
    length = max(sum(map(len, words)) for words in rows)
    if length == 0:
        return None
    made = np.zeros((len(rows), 2, length), dtype=np.int32)
    made[:, 1] = NO_WORD
    for (ids, ends), words in zip(made, rows, strict=True):
        ids[: sum(map(len, words))] = [token for word in words for token in word]
        ends[: len(words)] = np.cumsum([len(word) for word in words])
    return made

"""One row of a request to the LLM, read from the tensors of the backend's contract.

What the step that reads it cannot do is refused by the tensor's name; only what the C++ backend itself never reads is
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import llm_words
import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from tensors import RequestError, column
from torch.utils import dlpack

# Never read by the C++ backend (tensorrt_llm/config.pbtxt declares them all the same).
IGNORED = {"prompt_vocab_size", "runtime_top_p_min", "decoder_input_lengths", "prompt_table_extra_ids"}
# Not done by these steps, but sent with this value they change nothing.
NEUTRAL: dict[str, Any] = {
    "num_return_sequences": 1,
    "beam_search_diversity_rate": 0.0,
    "runtime_top_p_decay": 1.0,
    "return_perf_metrics": False,
    "return_kv_cache_reuse_stats": False,
    "return_num_input_tokens": False,
    "return_num_output_tokens": False,
}
SCALARS: dict[str, Any] = {  # name: value when absent
    "input_lengths": None,
    "request_output_len": None,
    "end_id": -1,
    "pad_id": -1,
    "beam_width": 1,
    "temperature": 1.0,
    "runtime_top_k": 0,
    "runtime_top_p": 0.0,
    "len_penalty": 0.0,
    "early_stopping": True,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "min_length": 0,
    "seed": 0,
    "random_seed": 0,
    "return_log_probs": False,
    "return_context_logits": False,
    "return_generation_logits": False,
    "exclude_input_in_output": None,
    "streaming": False,
}
VECTORS = {"input_ids", "stop_words_list", "bad_words_list", "embedding_bias"}
TABLE, FEATURES, LENGTHS = "prompt_embedding_table", "encoder_input_features", "encoder_output_lengths"


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request row are chosen. The defaults are the backend's: greedy, no penalties."""

    temperature: float = 1.0
    top_k: int = 0  # 0: not given
    top_p: float = 0.0  # <= 0: not given
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or (self.top_k == 0 and self.top_p <= 0) or self.temperature == 0


@dataclass(frozen=True)
class Limits:
    """What the loaded model allows, and what the configuration of the model chose."""

    vocab_size: int
    hidden_size: int
    max_seq_len: int
    dtype: torch.dtype
    decoupled: bool
    exclude_input: bool
    carries: str = TABLE  # what the vision step gives: rows for the table, or features to attend to
    decoder_start_id: int | None = None  # where the decoder does not read input_ids itself
    max_beam_width: int | None = None  # None: the step looks itself
    step: str = "--runtime torch"  # who refuses, for messages
    remedy: str = "leave it out, or use --runtime trtllm"


@dataclass(frozen=True)
class LlmRequest:
    """One request row. Token ids >= the vocabulary's size are rows of `table`."""

    prompt: list[int]
    history: list[int]  # what the decoder begins with: the prompt, or its start token where an encoder reads that
    table: torch.Tensor | None  # [rows, hidden], the model's dtype
    features: torch.Tensor | None  # [rows, hidden], the model's dtype, all of them valid
    max_tokens: int
    end_id: int | None
    pad_id: int | None
    stop_words: list[list[int]]
    bad_words: list[list[int]]
    bias: torch.Tensor | None  # [V] float32
    sampling: Sampling
    beam_width: int
    length_penalty: float
    early_stopping: bool
    log_probs: bool
    context_logits: bool
    generation_logits: bool
    exclude_input: bool
    streaming: bool
    state: dict[str, Any] = field(default_factory=dict, compare=False)  # what a step keeps between calls for this row


def is_stop(request: pb_utils.InferenceRequest) -> bool:
    """Whether the request only asks to cancel the running ones with its request id."""
    tensor = pb_utils.get_input_tensor_by_name(request, "stop")
    return tensor is not None and bool(tensor.as_numpy().reshape(-1)[:1].any())


def parse(request: pb_utils.InferenceRequest, limits: Limits) -> list[LlmRequest]:
    """The rows of a request.

    Raises RequestError when it is malformed or asks for what this runtime cannot do.
    """
    for name in ("output_ids", "sequence_length"):
        if name not in request.requested_output_names():
            raise RequestError(f"{name} tensor must be present in list of output tensors")
    tensors = {tensor.name(): tensor for tensor in request.inputs()}
    if "input_ids" not in tensors:
        raise RequestError("input_ids is not present in the request")
    ids = tensors["input_ids"].as_numpy()
    if ids.ndim != 2:
        raise RequestError(f"Expected inputTokens tensors to have 2 dimensions, not {list(ids.shape)}: input_ids")
    batch = len(ids)
    _refuse_unsupported(request, set(tensors), batch, limits)
    if batch > 1 and not limits.decoupled:
        raise RequestError(
            "Batch size > 1 requires the tensorrt_llm backend to be using decoupled transaction policy: "
            "send one request for each row, the server runs them together"
        )
    columns = {name: column(request, name, batch, default) for name, default in SCALARS.items()}
    vectors = {
        name: None if name not in tensors else tensors[name].as_numpy()
        for name in ("stop_words_list", "bad_words_list", "embedding_bias")
    }
    vision = tensors.get(limits.carries)
    rows = None if vision is None else _vision(vision, batch, limits)
    if limits.carries == FEATURES:
        rows = _valid(rows, column(request, LENGTHS, batch, None))
    return [
        _row(
            ids[row],
            None if rows is None else rows[row],
            {name: values[row] for name, values in columns.items()},
            {name: None if array is None else array[row] for name, array in vectors.items()},
            limits,
        )
        for row in range(batch)
    ]


def _refuse_unsupported(request: pb_utils.InferenceRequest, names: set[str], batch: int, limits: Limits) -> None:
    vision = {TABLE} if limits.carries == TABLE else {FEATURES, LENGTHS}
    for name in sorted(names - IGNORED - VECTORS - SCALARS.keys() - vision - {"stop"}):
        neutral = NEUTRAL.get(name)
        if neutral is None or any(value != neutral for value in column(request, name, batch, neutral)):
            raise RequestError(f"{name} is not supported by {limits.step}: {limits.remedy}")


def _vision(tensor: pb_utils.Tensor, batch: int, limits: Limits) -> torch.Tensor:
    """Table or features [B, rows, hidden], copied: Triton owns the buffer only until execute() returns."""
    table = dlpack.from_dlpack(tensor.to_dlpack()).clone()
    if table.ndim != 3 or len(table) != batch or table.shape[2] != limits.hidden_size:
        shape, hidden = list(table.shape), limits.hidden_size
        raise RequestError(f"{limits.carries} has shape {shape}; this model takes [{batch}, rows, {hidden}]")
    if table.dtype != limits.dtype:
        raise RequestError(f"{limits.carries} is {table.dtype}; the weights are {limits.dtype}")
    return table


def _valid(features: torch.Tensor | None, lengths: list[int | None]) -> list[torch.Tensor]:
    """The valid features [rows, hidden] of each row."""
    if features is None:
        raise RequestError(f"{FEATURES} is not present in the request")
    valid = []
    for own, length in zip(features, lengths, strict=True):
        rows = len(own) if length is None else length
        if not 1 <= rows <= len(own):
            raise RequestError(f"{LENGTHS} is {length}; {FEATURES} holds {len(own)} rows")
        valid.append(own[:rows])
    return valid


def _row(
    ids: NDArray[np.int32],
    vision: torch.Tensor | None,
    values: dict[str, Any],
    vectors: dict[str, NDArray[Any] | None],
    limits: Limits,
) -> LlmRequest:
    table = vision if limits.carries == TABLE else None
    prompt = _prompt(ids, values["input_lengths"], table, limits)
    history = prompt if limits.decoder_start_id is None else [limits.decoder_start_id]
    end_id, bias = values["end_id"], vectors["embedding_bias"]
    if end_id >= limits.vocab_size:
        raise RequestError(f"end_id {end_id} is outside the vocabulary of {limits.vocab_size} tokens")
    if bias is not None and bias.size not in (0, limits.vocab_size):
        raise RequestError(f"embedding_bias has {bias.size} entries; the vocabulary has {limits.vocab_size} tokens")
    if values["beam_width"] < 1:
        raise RequestError(f"beam_width is {values['beam_width']}: at least 1 is needed")
    if limits.max_beam_width is not None and values["beam_width"] > limits.max_beam_width:
        asked, most = values["beam_width"], limits.max_beam_width
        raise RequestError(f"beam_width is {asked}, {limits.step} takes {most} at most: ask for fewer beams")
    if values["streaming"] and not limits.decoupled:
        raise RequestError("Streaming is only supported if model is deployed using decoupled mode.")
    if values["streaming"] and values["beam_width"] > 1:
        raise RequestError(f"streaming with beam_width > 1 is not supported by {limits.step}: drop one of them")
    exclude = values["exclude_input_in_output"]
    words = {
        name: [] if array is None else llm_words.parse(array, name, limits.vocab_size)
        for name, array in vectors.items()
        if name.endswith("_words_list")
    }
    return LlmRequest(
        prompt=prompt,
        history=history,
        table=table,
        features=vision if limits.carries == FEATURES else None,
        max_tokens=_max_tokens(values["request_output_len"], len(history), limits),
        end_id=None if end_id < 0 else end_id,
        pad_id=None if values["pad_id"] < 0 else values["pad_id"],
        stop_words=words["stop_words_list"],
        bad_words=words["bad_words_list"],
        bias=None if bias is None or bias.size == 0 else torch.from_numpy(bias.astype(np.float32)),
        sampling=_sampling(values),
        beam_width=values["beam_width"],
        length_penalty=values["len_penalty"],
        early_stopping=bool(values["early_stopping"]),
        log_probs=values["return_log_probs"],
        context_logits=values["return_context_logits"],
        generation_logits=values["return_generation_logits"],
        exclude_input=limits.exclude_input if exclude is None else exclude,
        streaming=values["streaming"],
    )


def _prompt(ids: NDArray[np.int32], length: int | None, table: torch.Tensor | None, limits: Limits) -> list[int]:
    """The ids of the row without its right padding, each one a token or a row of the table."""
    if length is None:
        raise RequestError("input_lengths is not present in the request")
    if not 1 <= length <= len(ids):
        raise RequestError(f"input_lengths is {length}; input_ids holds {len(ids)} ids for each row")
    prompt: list[int] = ids[:length].tolist()
    rows = 0 if table is None else len(table)
    if min(prompt) < 0:
        raise RequestError(f"input_ids holds {min(prompt)}: ids run from 0 to {limits.vocab_size + rows - 1}")
    if max(prompt) >= limits.vocab_size + rows:
        row = max(prompt) - limits.vocab_size
        raise RequestError(f"input_ids asks for row {row} of the prompt table, which has {rows} rows")
    return prompt


def _max_tokens(wanted: int | None, prompt: int, limits: Limits) -> int:
    """The tokens to generate: as the backend does, no more than fit into the model's longest sequence."""
    if wanted is None:
        raise RequestError("request_output_len is not present in the request")
    if wanted < 1:
        raise RequestError(f"request_output_len is {wanted}: at least 1 is needed")
    if prompt >= limits.max_seq_len:
        raise RequestError(
            f"the prompt has {prompt} tokens; the longest sequence, answer included, is {limits.max_seq_len}"
        )
    return min(wanted, limits.max_seq_len - prompt)


def _sampling(values: dict[str, Any]) -> Sampling:
    sampling = Sampling(
        temperature=values["temperature"],
        top_k=values["runtime_top_k"],
        top_p=values["runtime_top_p"],
        repetition_penalty=values["repetition_penalty"],
        presence_penalty=values["presence_penalty"],
        frequency_penalty=values["frequency_penalty"],
        min_tokens=max(values["min_tokens"], values["min_length"]),
        seed=values["seed"] or values["random_seed"],
    )
    if sampling.temperature < 0:
        raise RequestError(f"temperature is {sampling.temperature}: it must not be negative")
    if sampling.top_k < 0:
        raise RequestError(f"runtime_top_k is {sampling.top_k}: it must not be negative")
    if sampling.top_p > 1:
        raise RequestError(f"runtime_top_p is {sampling.top_p}: it must not exceed 1")
    if sampling.repetition_penalty <= 0:
        raise RequestError(f"repetition_penalty is {sampling.repetition_penalty}: it must be positive")
    return sampling

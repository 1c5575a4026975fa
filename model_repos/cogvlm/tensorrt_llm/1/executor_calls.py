"""From a row of a request to the executor's request, and from its results to the outputs of the backend's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from image_run import positions
from llm_request import LlmRequest
from numpy.typing import NDArray
from tensorrt_llm.bindings import executor as trtllm
from tensors import RequestError

PAD = -1  # fills beams of unequal length, in ids and in log probabilities


class Calls:
    """Makes the executor's requests; `settings` say how the release calls some of their arguments."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._vocab_size: int = settings["vocab_size"]
        self._rows_per_image: int = settings["rows_per_image"]
        self._names: dict[str, str] = settings["names"]
        self._max_input_len: int = settings["max_input_len"]

    def request(self, row: LlmRequest) -> trtllm.Request:
        """The executor's request, its positions given.

        Raises RequestError when the prompt is longer than the engine's, or its image is not one whole run of rows.
        """
        if len(row.prompt) > self._max_input_len:
            have, most = len(row.prompt), self._max_input_len
            raise RequestError(f"the prompt has {have} tokens, the engine takes {most} at most: shorten it")
        places = positions(row.prompt, self._vocab_size, self._rows_per_image)
        return trtllm.Request(
            input_token_ids=row.prompt,
            **{self._names["max_tokens"]: row.max_tokens},
            streaming=row.streaming,
            sampling_config=self._sampling(row),
            output_config=trtllm.OutputConfig(
                return_log_probs=row.log_probs,
                return_context_logits=row.context_logits,
                return_generation_logits=row.generation_logits,
                exclude_input_from_output=row.exclude_input,
            ),
            end_id=row.end_id,
            pad_id=row.pad_id,
            position_ids=places.tolist(),
            bad_words=row.bad_words or None,
            stop_words=row.stop_words or None,
            embedding_bias=row.bias,
            prompt_tuning_config=None if row.table is None else trtllm.PromptTuningConfig(embedding_table=row.table),
        )

    def _sampling(self, row: LlmRequest) -> trtllm.SamplingConfig:
        """What the row says; what it leaves at its default is left to the executor's."""
        asked = row.sampling
        values: dict[str, Any] = {
            "top_k": asked.top_k or None,
            "top_p": asked.top_p if asked.top_p > 0 else None,
            "temperature": asked.temperature,
            "repetition_penalty": asked.repetition_penalty,
            "presence_penalty": asked.presence_penalty,
            "frequency_penalty": asked.frequency_penalty,
            self._names["min_tokens"]: asked.min_tokens or None,
            self._names["seed"]: asked.seed or None,
        }
        if row.beam_width > 1:
            values |= {"length_penalty": row.length_penalty, "early_stopping": int(row.early_stopping)}
        return trtllm.SamplingConfig(
            beam_width=row.beam_width, **{name: value for name, value in values.items() if value is not None}
        )


class Answers:
    """Makes responses; the logits get the type that config.pbtxt declares for them (FP32 or FP16)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        declared = {output["name"]: output["data_type"] for output in config["output"]}
        self._types = {name: pb_utils.triton_string_to_numpy(kind) for name, kind in declared.items()}

    def tensors(self, result: trtllm.Result, index: int, rows: int) -> list[pb_utils.Tensor]:
        """The outputs of one result for row `index` of `rows`: what was asked for, of the tokens that it brings."""
        ids = result.output_token_ids
        made = [
            pb_utils.Tensor("output_ids", padded(ids, np.int32)[None]),
            pb_utils.Tensor("sequence_length", np.array([[len(beam) for beam in ids]], dtype=np.int32)),
        ]
        if result.cum_log_probs is not None:
            made.append(pb_utils.Tensor("cum_log_probs", np.array([result.cum_log_probs], dtype=np.float32)))
        if result.log_probs is not None:
            made.append(pb_utils.Tensor("output_log_probs", padded(result.log_probs, np.float32)[None]))
        if result.context_logits is not None:
            made.append(self._logits("context_logits", result.context_logits))
        if result.generation_logits is not None:
            made.append(self._logits("generation_logits", result.generation_logits))
        if rows > 1:
            made.append(pb_utils.Tensor("batch_index", np.array([[index]], dtype=np.int32)))
        return made

    def _logits(self, name: str, logits: torch.Tensor) -> pb_utils.Tensor:
        return pb_utils.Tensor(name, logits.float().cpu().numpy()[None].astype(self._types.get(name, np.float32)))


def padded(rows: Sequence[Sequence[float]], dtype: Any) -> NDArray[Any]:
    """[rows, longest], the shorter ones filled up."""
    filled = np.full((len(rows), max(map(len, rows))), PAD, dtype=dtype)
    for target, row in zip(filled, rows, strict=True):
        target[: len(row)] = row
    return filled

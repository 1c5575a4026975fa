"""The LLM step of encoder-decoders over the stand-in for TensorRT-LLM: loading it, asking it, and what is true."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from torch.utils import dlpack

from generator.oracle.blip2 import Blip2T5Oracle
from tests import checkpoints, engines, photos
from tests.truth.oracle_checks import picture
from tests.unit import serving

VOCAB, HIDDEN, ROWS = 1024, 64, 32
END, TOKENS = 1, 12
FOLDER = serving.ROOT / "templates/trtllm/python_enc_dec/1"


class RowsTensor(pb_utils.Tensor):
    """A tensor of the server that may only be passed on by DLPack, as one in GPU memory or one of bf16."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self._name, self.tensor = name, tensor

    def to_dlpack(self) -> Any:
        return dlpack.to_dlpack(self.tensor)

    def as_numpy(self) -> Any:
        raise AssertionError(f"{self._name} was copied to the host")

    def shape(self) -> list[int]:
        return list(self.tensor.shape)


@contextlib.contextmanager
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The step's modules and the stand-in can be imported, on a machine that seems to have a GPU."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    mpi, runtime = importlib.import_module("tensorrt_llm._utils"), importlib.import_module("tensorrt_llm.runtime")
    monkeypatch.setattr(mpi, "sent", [])
    monkeypatch.setattr(runtime.GenerationSession, "calls", [])
    yield
    for name in ("enc_dec_engine", "enc_dec_calls"):
        sys.modules.pop(name, None)


def calls() -> list[dict[str, Any]]:
    """What the decoder was called with, in order."""
    found: list[dict[str, Any]] = importlib.import_module("tensorrt_llm.runtime").GenerationSession.calls
    return found


@cache
def oracle() -> Blip2T5Oracle:
    return Blip2T5Oracle(checkpoints.cached("blip2-t5"))


def engine(folder: Path, **numbers: Any) -> Path:
    """Engine folders of the tiny checkpoint, with limits like those of the guide's build."""
    content = json.dumps({"checkpoint": str(checkpoints.cached("blip2-t5"))})
    numbers = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "dtype": "bfloat16", "content": content, **numbers}
    return engines.encoder_decoder(folder, **numbers)


def step(folder: Path, where: Path, **changes: Any) -> Any:
    """The loaded step; `changes` replace entries of its settings."""
    settings = {
        "model": "tiny-t5",
        "engine": str(where),
        "release": "0.16.0",
        "dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "max_seq_len": 1024,
        "carries": "prompt_embedding_table",
        "decoder_start_id": 0,
        "decoupled": False,
        "rows_per_image": ROWS,
        "pad_id": 0,
        "max_batch": 8,
        "max_beam_width": 1,
        "max_input_len": 924,
        "max_table_rows": ROWS,
        "tp": 1,
        "pp": 1,
    }
    return serving.load_step("trtllm/python_enc_dec", folder, {**settings, **changes}, with_tokenizer=False)


@cache
def asked(number: int) -> tuple[list[int], torch.Tensor, list[int]]:
    """Ids as preprocessing makes them, the image's rows [1, 32, hidden], and the oracle's answer of 12 tokens."""
    text, image = photos.PROMPTS[number], picture(number)
    rows = torch.from_numpy(oracle().rows(oracle().pixels([image])))
    ids = oracle().ids(text, [image])
    numbered = [VOCAB + position if token == oracle().image_id else token for position, token in enumerate(ids)]
    return numbered, rows.bfloat16(), oracle().generate(text, [image], TOKENS)[0]


def truth(number: int, tokens: int = TOKENS) -> list[int]:
    """The oracle's answer to a question without its end token."""
    answer = asked(number)[2][:tokens]
    return answer[: answer.index(END)] if END in answer else answer


def request(
    ids: Sequence[int], rows: torch.Tensor | None, name: str = "prompt_embedding_table", **more: Any
) -> pb_utils.InferenceRequest:
    """A request of one row; `more` replaces or adds tensors, None leaves one out."""
    values: dict[str, Any] = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[TOKENS]], np.int32),
        "end_id": np.array([[END]], np.int32),
        "pad_id": np.array([[0]], np.int32),
        **more,
    }
    tensors = [pb_utils.Tensor(key, value) for key, value in values.items() if value is not None]
    vision = [] if rows is None else [RowsTensor(name, rows)]
    return pb_utils.InferenceRequest("llm", ["output_ids", "sequence_length"], [*tensors, *vision])


def about(number: int, **more: Any) -> pb_utils.InferenceRequest:
    ids, rows, _ = asked(number)
    return request(ids, rows, **more)


def answer(response: pb_utils.InferenceResponse, beam: int = 0) -> list[int]:
    made = serving.outputs(response)
    assert made["output_ids"].dtype == made["sequence_length"].dtype == np.int32
    assert made["output_ids"].shape[:2] == made["sequence_length"].shape
    ids: list[int] = made["output_ids"][0, beam, : made["sequence_length"][0, beam]].tolist()
    return ids


def one(value: Any, dtype: Any = np.int32) -> NDArray[Any]:
    return np.array([[value]], dtype)


def attended(number: int, valid: int | None = None, **more: Any) -> pb_utils.InferenceRequest:
    """A request whose features are the T5 encoder's own output, then rows that are not valid."""
    ids, rows, _ = asked(number)
    runner = importlib.import_module("tensorrt_llm.runtime")
    model = runner.language_model(str(checkpoints.cached("blip2-t5")))
    tokens = torch.tensor(ids)
    embeds = model.get_input_embeddings()(tokens.masked_fill(tokens >= VOCAB, 0))
    embeds[: len(rows[0])] = rows[0]
    with torch.inference_mode():
        features = model.get_encoder()(inputs_embeds=embeds[None]).last_hidden_state
    padded = torch.cat([features, torch.full((1, 3, HIDDEN), 9.0, dtype=torch.bfloat16)], dim=1)
    lengths = one(features.shape[1] if valid is None else valid)
    return request([0], padded.clone(), "encoder_input_features", encoder_output_lengths=lengths, **more)


SAMPLED = {"runtime_top_k": one(5), "runtime_top_p": one(0.5, np.float32), "temperature": one(0.25, np.float32)}
FEATURES = {"carries": "encoder_input_features", "decoder_start_id": None, "rows_per_image": 100, "max_input_len": 1}

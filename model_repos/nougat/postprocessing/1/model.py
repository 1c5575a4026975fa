"""Postprocessing: from generated token ids to texts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import text_tokenizer
import triton_python_backend_utils as pb_utils
from tensors import answer_each, optional


class TritonPythonModel:
    """Answers each request with the texts of its beams."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load settings and tokenizer.

        Raises TritonModelException, with the remedy, when there is no tokenizer.
        """
        folder = Path(__file__).parent
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        tokenizer = text_tokenizer.load(folder, settings["tokenizer"], settings["model"])
        self.texts: Any = importlib.import_module(settings["texts"]["module"]).Texts(settings, tokenizer)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request; a bad request fails alone."""
        return answer_each(requests, self.answer)

    def answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """text_output and the model's further texts, BYTES [B,beams] each: of output_ids [B,beams,len], cut at
        sequence_length; and output_tokens, INT32 [B,beams], those lengths."""
        output_ids, lengths = optional(request, "output_ids"), optional(request, "sequence_length")
        if output_ids is None or lengths is None:
            raise ValueError("the language model must give both output_ids and sequence_length")
        wanted = set(request.requested_output_names())
        found: dict[str, Any] = {}
        for place, length in np.ndenumerate(lengths):
            ids = [token for token in output_ids[place][: max(length, 0)].tolist() if token >= 0]
            for name, text in self.texts.of(ids, wanted).items():
                found.setdefault(name, np.empty(lengths.shape, dtype=np.object_))[place] = text.encode()
        tensors = [pb_utils.Tensor(name, texts) for name, texts in found.items() if name in wanted]
        if "output_tokens" in wanted:
            tensors.append(pb_utils.Tensor("output_tokens", np.maximum(lengths, 0).astype(np.int32)))
        return tensors

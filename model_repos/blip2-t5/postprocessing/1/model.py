"""Postprocessing: from generated token ids to texts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import text_tokenizer
import triton_python_backend_utils as pb_utils
from detokenize import Detokenizer
from stop_text import cut
from tensors import answer_each, optional, row_strings


class TritonPythonModel:
    """Answers each request with the texts of its beams."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load settings and tokenizer.

        Raises TritonModelException, with the remedy, when there is no tokenizer.
        """
        folder = Path(__file__).parent
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.tokenizer = text_tokenizer.load(folder, settings["tokenizer"], settings["model"])
        self.texts: Any = importlib.import_module(settings["texts"]["module"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request; a bad request fails alone."""
        return answer_each(requests, self.answer)

    def answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """text_output and the model's further texts, BYTES [B,beams] each: of output_ids [B,beams,len], cut at
        sequence_length and before the first of the row's stop_words; and output_tokens, INT32 [B,beams], how many
        tokens that took."""
        output_ids, lengths = optional(request, "output_ids"), optional(request, "sequence_length")
        if output_ids is None or lengths is None:
            raise ValueError("the language model must give both output_ids and sequence_length")
        wanted = set(request.requested_output_names())
        stop_words = row_strings(request, "stop_words", len(lengths))
        tokens = np.maximum(lengths, 0).astype(np.int32)
        found: dict[str, Any] = {}
        for place, length in np.ndenumerate(tokens):
            ids = output_ids[place][:length].tolist()
            text, tokens[place] = self.text_of(ids, stop_words[place[0]])
            for name, made in self.texts.texts(text, wanted).items():
                found.setdefault(name, np.empty(lengths.shape, dtype=np.object_))[place] = made.encode()
        tensors = [pb_utils.Tensor(name, texts) for name, texts in found.items() if name in wanted]
        return [*tensors, *([pb_utils.Tensor("output_tokens", tokens)] if "output_tokens" in wanted else [])]

    def text_of(self, ids: list[int], stop_words: Sequence[str]) -> tuple[str, int]:
        """The text of `ids`, and how many of them it takes; ids that are no token's, as negative ones, have no text."""
        known = [token for token in ids if token >= 0]
        text = self.tokenizer.decode(known)
        kept = cut(text, stop_words)
        if kept is None:
            return text, len(ids)
        stream = Detokenizer(self.tokenizer).stream(stop_words)
        stream.push(known)
        return kept, stream.tokens

"""Postprocessing: from generated token ids to text."""

from __future__ import annotations

import json
from pathlib import Path

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
        self.tokenizer = text_tokenizer.load(folder, settings["tokenizer"], settings["model"])
        self.skip_special_tokens: bool = settings["skip_special_tokens"]

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request; a bad request fails alone."""
        return answer_each(requests, self.answer)

    def answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """text_output, BYTES [B,beams]: the texts of output_ids [B,beams,len], cut at sequence_length."""
        output_ids, lengths = optional(request, "output_ids"), optional(request, "sequence_length")
        if output_ids is None or lengths is None:
            raise ValueError("the language model must give both output_ids and sequence_length")
        texts = np.empty(lengths.shape, dtype=np.object_)
        for place, length in np.ndenumerate(lengths):
            texts[place] = self.text(output_ids[place][: max(length, 0)].tolist()).encode()
        return [pb_utils.Tensor("text_output", texts)]

    def text(self, ids: list[int]) -> str:
        """The text of `ids`; padding (negative) and ids that the tokenizer does not have are skipped."""
        return self.tokenizer.decode([token for token in ids if token >= 0], self.skip_special_tokens)

"""Prompt form: an encoder reads the prompt and its table rows, and the decoder begins with its start token."""

from __future__ import annotations

from typing import Any

import torch
from llm_request import LlmRequest
from table_prompt import embeddings


class PromptForm:
    """The encoder runs once for each row; every call of the decoder attends to what it gave."""

    def __init__(self, model: Any, settings: dict[str, Any], device: torch.device) -> None:
        self._encoder = model.get_encoder()
        self._embedding = model.get_input_embeddings()
        self._vocab_size: int = settings["vocab_size"]
        self._device = device

    def first(self, row: LlmRequest) -> dict[str, Any]:
        return {"decoder_input_ids": torch.tensor([row.history], device=self._device), **self._encoded(row)}

    def following(self, row: LlmRequest, token: torch.Tensor, generated: int) -> dict[str, Any]:
        return {"decoder_input_ids": token, **self._encoded(row)}

    def generation(self, row: LlmRequest) -> dict[str, Any]:
        return self.first(row)

    def _encoded(self, row: LlmRequest) -> dict[str, Any]:
        """The encoder's output for the prompt and the mask [1, L] of its positions, all of them valid."""
        if not row.state:
            with torch.inference_mode():
                embeds = embeddings(row, self._embedding, self._vocab_size, self._device)
                mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=self._device)
                row.state["encoder_outputs"] = self._encoder(inputs_embeds=embeds, attention_mask=mask)
            row.state["attention_mask"] = mask
        return dict(row.state)

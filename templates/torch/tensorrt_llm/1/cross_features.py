"""Prompt form: a decoder that reads its own tokens and attends to the features of the image."""

from __future__ import annotations

from typing import Any

import torch
from llm_request import LlmRequest


class PromptForm:
    def __init__(self, model: Any, settings: dict[str, Any], device: torch.device) -> None:
        self._device = device

    def first(self, row: LlmRequest) -> dict[str, Any]:
        return {"input_ids": torch.tensor([row.prompt], device=self._device), **self._attended(row)}

    def following(self, row: LlmRequest, token: torch.Tensor, generated: int) -> dict[str, Any]:
        return {"input_ids": token, **self._attended(row)}

    def generation(self, row: LlmRequest) -> dict[str, Any]:
        return self.first(row)

    def _attended(self, row: LlmRequest) -> dict[str, Any]:
        """The features [1, rows, hidden], every one of them valid."""
        if row.features is None:
            raise ValueError("settings.json: this model attends to features, but its requests carry a prompt table")
        features = row.features.to(self._device)[None]
        mask = torch.ones(features.shape[:2], dtype=torch.long, device=self._device)
        return {"encoder_hidden_states": features, "encoder_attention_mask": mask}

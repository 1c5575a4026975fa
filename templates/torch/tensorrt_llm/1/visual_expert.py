"""Prompt form: a decoder with visual experts. Its image has positions of its own and is read by weights of its own."""

from __future__ import annotations

from typing import Any

import table_prompt
import torch
from image_run import positions
from llm_request import LlmRequest


class PromptForm(table_prompt.PromptForm):
    """The experts read every row of the image but the last: a position and its successor must both be rows."""

    def __init__(self, model: Any, settings: dict[str, Any], device: torch.device) -> None:
        super().__init__(model, settings, device)
        self._rows_per_image: int = settings["prompt"]["rows_per_image"]

    def first(self, row: LlmRequest) -> dict[str, Any]:
        visual = torch.tensor(row.prompt, device=self._device)[None] >= self._vocab_size
        experts = visual & torch.cat([visual[:, 1:], torch.zeros_like(visual[:, :1])], dim=1)
        return {**super().first(row), "position_ids": self._positions(row), "vision_experts": experts}

    def following(self, row: LlmRequest, token: torch.Tensor, generated: int) -> dict[str, Any]:
        return {"input_ids": token, "position_ids": self._positions(row)[:, -1:] + generated}

    def generation(self, row: LlmRequest) -> dict[str, Any]:
        first = self.first(row)
        return {**super().generation(row), "prompt": {name: first[name] for name in ("position_ids", "vision_experts")}}

    def _positions(self, row: LlmRequest) -> torch.Tensor:
        found = positions(row.prompt, self._vocab_size, self._rows_per_image)
        return torch.from_numpy(found).to(self._device, torch.long)[None]

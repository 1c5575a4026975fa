"""Prompt form: a decoder that reads the whole prompt, ids above the vocabulary as rows of the prompt table."""

from __future__ import annotations

from typing import Any

import torch
from llm_request import LlmRequest


def embeddings(row: LlmRequest, embedding: Any, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The prompt of a row as embeddings [1, L, hidden]."""
    ids = torch.tensor(row.prompt, device=device)
    fake = ids >= vocab_size
    embeds: torch.Tensor = embedding(torch.where(fake, 0, ids))
    if row.table is not None and fake.any():
        embeds[fake] = row.table.to(device)[ids[fake] - vocab_size]
    return embeds[None]


class PromptForm:
    def __init__(self, model: Any, settings: dict[str, Any], device: torch.device) -> None:
        self._embedding = model.get_input_embeddings()
        self._vocab_size: int = settings["vocab_size"]
        self._device = device

    def first(self, row: LlmRequest) -> dict[str, Any]:
        return {"inputs_embeds": embeddings(row, self._embedding, self._vocab_size, self._device)}

    def following(self, row: LlmRequest, token: torch.Tensor, generated: int) -> dict[str, Any]:
        return {"input_ids": token}

    def generation(self, row: LlmRequest) -> dict[str, Any]:
        embeds = self.first(row)["inputs_embeds"]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=self._device)
        return {"inputs_embeds": embeds, "attention_mask": mask}

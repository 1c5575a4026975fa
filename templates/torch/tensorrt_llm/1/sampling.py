"""From the logits of one step to the next token, by the rules of TensorRT-LLM's decoder.

The order is the decoder's: bias, temperature, repetition, presence and frequency penalty, minimum length, bad
words; then top-k, then top-p within it. The three penalties look at the prompt's tokens as well as at the
generated ones; ids of prompt-table rows lie above the vocabulary and never count. Without top_k and top_p the
most probable token wins, whatever the temperature, which is then not applied: greedy tokens equal Hugging
Face's bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from llm_request import Sampling
from llm_words import completions


class LogitsRules:
    """Everything that changes the logits of one request row before a token is chosen from them."""

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        prompt: Sequence[int],
        end_id: int | None,
        bad_words: Sequence[Sequence[int]],
        bias: torch.Tensor | None,
    ) -> None:
        self.sampling = sampling
        self.vocab_size = vocab_size
        self.prompt = list(prompt)
        self.end_id = end_id
        self.bad_words = bad_words
        self.bias = bias
        self.penalised = (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        ) != (1, 0, 0)

    def __call__(self, generated: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """Processed logits [V] float32 of the token after prompt + `generated`, from raw ones [V] float32."""
        logits = logits.clone()
        history = [*self.prompt, *generated]
        if self.bias is not None:
            logits += self.bias
        if not self.sampling.greedy and self.sampling.temperature != 1.0:
            logits /= self.sampling.temperature
        if self.penalised:
            self._penalise(logits, history)
        if self.end_id is not None and len(generated) < self.sampling.min_tokens:
            logits[self.end_id] = -torch.inf
        banned = completions(history, self.bad_words)
        if banned:
            logits[banned] = -torch.inf
        return logits

    def _penalise(self, logits: torch.Tensor, history: list[int]) -> None:
        known = [token for token in history if 0 <= token < self.vocab_size]
        tokens, counts = torch.tensor(known, dtype=torch.long, device=logits.device).unique(return_counts=True)
        seen = logits[tokens]
        penalty = self.sampling.repetition_penalty
        seen = torch.where(seen < 0, seen * penalty, seen / penalty)
        logits[tokens] = seen - self.sampling.presence_penalty - self.sampling.frequency_penalty * counts


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from processed logits [V]: the most probable, or a draw by `generator` (on the CPU)."""
    if sampling.greedy:
        return int(torch.argmax(logits))
    values, tokens = torch.sort(logits.cpu(), descending=True, stable=True)
    if sampling.top_k > 0:
        values = values[: sampling.top_k]
    probabilities = torch.softmax(values, dim=-1)
    if 0 < sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])

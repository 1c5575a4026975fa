"""The decoding loop: a prompt with rows of the prompt table in, tokens out, one at a time.

The order of operations is that of Hugging Face's generate() on one request: the whole prompt in one forward
call that computes the last position's logits only, then one token per call with the key/value cache, logits
in float32. So greedy tokens equal generate()'s bit by bit. Beam search is generate() itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers
from llm_request import LlmRequest
from llm_words import ends_with_any
from sampling import LogitsRules, choose
from tensors import RequestError

Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Token:
    """One generated token. Its log probability is that under the processed logits, before top-k and top-p."""

    id: int
    log_prob: float
    cum_log_prob: float
    last: bool  # nothing follows
    is_end: bool  # the end token itself: no part of the answer, but of its probability
    logits: torch.Tensor | None = None  # [V] float32, raw, when asked for


class PromptForm(Protocol):
    """What a request row is to the model. Each form is a module of its own with PromptForm(model, settings, device)."""

    def first(self, row: LlmRequest) -> dict[str, Any]:
        """Keyword arguments of the first forward call, which reads the whole prompt."""
        ...

    def following(self, row: LlmRequest, token: torch.Tensor, generated: int) -> dict[str, Any]:
        """Keyword arguments of the call that reads one more token, ids [1, 1], the last of `generated` new ones."""
        ...

    def generation(self, row: LlmRequest) -> dict[str, Any]:
        """Keyword arguments of generate(), for beam search. RequestError where it cannot do that."""
        ...


class Decoder:
    """Runs request rows on one model. Safe to use from several threads: all state belongs to the call."""

    def __init__(self, model: Any, form: PromptForm, vocab_size: int, device: torch.device) -> None:
        self.model = model
        self.form = form
        self.vocab_size = vocab_size
        self.device = device
        accepted = inspect.signature(model.forward).parameters
        names = [name for name in ("logits_to_keep", "num_logits_to_keep") if name in accepted]
        self.last_only: dict[str, Any] = dict.fromkeys(names, 1)

    def context_logits(self, row: LlmRequest) -> torch.Tensor:
        """The raw logits [L, V] float32 of what the decoder begins with, by a forward call of their own."""
        with torch.inference_mode():
            output = self.model(**self.form.first(row), use_cache=False)
            return output.logits[0].float()

    def tokens(self, row: LlmRequest, cancelled: Cancelled) -> Iterator[Token]:
        """The tokens of a row, greedy or sampled. Ends without a last token when `cancelled()` turns true."""
        rules = self._rules(row)
        generator = torch.Generator().manual_seed(row.sampling.seed)
        generated: list[int] = []
        total = 0.0
        with torch.inference_mode():
            step = self.form.first(row) | self.last_only
        cache = None
        while not cancelled():
            raw, cache = self._forward(step, cache)
            logits = rules(generated, raw)
            token = choose(logits, row.sampling, generator)
            log_prob = float(torch.log_softmax(logits, dim=-1)[token]) if row.log_probs else 0.0
            total += log_prob
            generated.append(token)
            is_end = token == row.end_id
            stops = ends_with_any([*row.history, *generated], row.stop_words)
            last = is_end or stops or len(generated) == row.max_tokens
            yield Token(token, log_prob, total, last, is_end, raw.cpu() if row.generation_logits else None)
            if last:
                return
            step = self.form.following(row, torch.tensor([[token]], device=self.device), len(generated))

    def beams(self, row: LlmRequest, cancelled: Cancelled) -> list[list[Token]]:
        """The `beam_width` best sequences of a row, best first, by Hugging Face's beam search.

        Raises RequestError for stop words under transformers 4, whose beam search does not end single beams.
        """
        if row.stop_words and int(transformers.__version__.split(".")[0]) < 5:
            raise RequestError(
                "stop_words_list with beam_width > 1 needs transformers 5 on the server: drop one of them"
            )
        rules = self._rules(row)
        config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=row.beam_width,
            num_return_sequences=row.beam_width,
            max_new_tokens=row.max_tokens,
            length_penalty=row.length_penalty,
            early_stopping=row.early_stopping,
            eos_token_id=row.end_id,
            decoder_start_token_id=row.history[0],  # asked for, though decoder_input_ids begin with it
            pad_token_id=row.pad_id if row.pad_id is not None else row.end_id or 0,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=row.generation_logits,
        )

        with torch.inference_mode():
            begin = self.form.generation(row)
        given = (begin[name].shape[1] for name in ("decoder_input_ids", "input_ids") if name in begin)
        skipped = next(given, 0)  # ids that generate() returns before the new ones

        def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return torch.stack([rules(own[skipped:], score) for own, score in zip(ids.tolist(), scores, strict=True)])

        def stop(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            hits = [ends_with_any([*row.history, *own[skipped:]], row.stop_words) for own in ids.tolist()]
            return torch.tensor(hits, device=ids.device) | cancelled()

        with torch.inference_mode():
            found = self.model.generate(
                **begin,
                generation_config=config,
                logits_processor=transformers.LogitsProcessorList([process]),
                stopping_criteria=transformers.StoppingCriteriaList([stop]),
            )
        return [self._beam(row, found, beam, skipped) for beam in range(row.beam_width)]

    def _beam(self, row: LlmRequest, found: Any, beam: int, skipped: int) -> list[Token]:
        tokens: list[Token] = []
        total = 0.0
        sources = found.beam_indices[beam].tolist()
        length = sum(source >= 0 for source in sources)
        for step in range(length):
            token = int(found.sequences[beam, skipped + step])
            log_prob = float(found.scores[step][sources[step], token])
            total += log_prob
            raw = found.logits[step][sources[step]].float().cpu() if row.generation_logits else None
            tokens.append(Token(token, log_prob, total, step + 1 == length, token == row.end_id, raw))
        return tokens

    def _rules(self, row: LlmRequest) -> LogitsRules:
        bias = None if row.bias is None else row.bias.to(self.device)
        return LogitsRules(row.sampling, self.vocab_size, row.history, row.end_id, row.bad_words, bias)

    def _forward(self, step: dict[str, Any], cache: Any) -> tuple[torch.Tensor, Any]:
        """Raw logits [V] float32 of the last position, and the cache grown by this step."""
        with torch.inference_mode():
            output = self.model(**step, past_key_values=cache, use_cache=True)
            return output.logits[0, -1].float(), output.past_key_values


def kept(tokens: Sequence[Token]) -> list[Token]:
    """The tokens that belong to the answer: all but the end token."""
    return [token for token in tokens if not token.is_end]

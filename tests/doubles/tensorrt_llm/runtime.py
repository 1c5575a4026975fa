"""The runtime of encoder-decoders: an encoder and a decoder of T5 whose engines are JSON, {"checkpoint": folder}.

Each folder has the config.json of a real engine, whose numbers are the limits. Sequences are run one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import Blip2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from tensorrt_llm._utils import mpi_rank, mpi_world_size

INT32 = torch.int32


@cache
def language_model(checkpoint: str) -> Any:
    return Blip2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16).eval().language_model


@dataclass
class SamplingConfig:
    end_id: int
    pad_id: int
    num_beams: int = 1
    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 0.0
    random_seed: int | None = None
    length_penalty: float = 1.0
    early_stopping: int = 1
    repetition_penalty: float = 1.0
    min_length: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def update(self, **values: Any) -> dict[str, Any]:
        known = {field.name for field in fields(self)}
        for name in known & values.keys():
            setattr(self, name, values[name])
        return {name: value for name, value in values.items() if name not in known}


class ModelConfig:
    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.build = config["build_config"]
        self.vocab_size = config["pretrained_config"]["vocab_size"]
        self.dtype = getattr(torch, config["pretrained_config"]["dtype"])
        self.remove_input_padding = self.build["plugin_config"]["remove_input_padding"]
        mapping = config["pretrained_config"]["mapping"]
        assert mapping["tp_size"] * mapping["pp_size"] == mpi_world_size(), "engine and runtime world sizes differ"
        file = folder / f"rank{mpi_rank()}.engine"
        self.model = language_model(json.loads(file.read_text())["checkpoint"])


def sequences(packed: torch.Tensor, lengths: torch.Tensor) -> Iterator[torch.Tensor]:
    assert int(lengths.sum()) == len(packed)
    return iter(packed.split(lengths.tolist()))


class GenerationSession:
    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.ready: tuple[int, int, int, int] | None = None

    def setup(
        self,
        batch_size: int,
        max_context_length: int,
        max_new_tokens: int,
        beam_width: int = 1,
        max_attention_window_size: int | None = None,
        sink_token_length: int | None = None,
        encoder_max_input_length: int | None = None,
    ) -> None:
        build = self.config.build
        assert 1 <= batch_size <= build["max_batch_size"] and beam_width <= build["max_beam_width"]
        assert max_context_length + max_new_tokens <= build["max_seq_len"]
        assert encoder_max_input_length is not None and encoder_max_input_length <= build["max_encoder_input_len"]
        self.ready = (batch_size, max_new_tokens, beam_width, encoder_max_input_length)

    def decode(
        self,
        input_ids: torch.Tensor,
        context_lengths: torch.Tensor,
        sampling_config: SamplingConfig,
        prompt_embedding_table: torch.Tensor | None = None,
        tasks: torch.Tensor | None = None,
        prompt_vocab_size: torch.Tensor | None = None,
        stop_words_list: Any = None,
        bad_words_list: Any = None,
        *,
        encoder_output: torch.Tensor | None = None,
        encoder_input_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        assert self.ready is not None, "setup() comes first"
        batch, tokens, beams, longest = self.ready
        self.ready = None
        assert encoder_output is not None and encoder_input_lengths is not None
        assert (input_ids.dtype, context_lengths.dtype, encoder_input_lengths.dtype) == (INT32, INT32, INT32)
        assert input_ids.shape == context_lengths.shape == encoder_input_lengths.shape == (batch,)
        assert context_lengths.tolist() == [1] * batch and sampling_config.num_beams == beams
        assert int(encoder_input_lengths.max()) == longest and encoder_output.dtype == self.config.dtype
        for words in (stop_words_list, bad_words_list):
            if words is not None:
                assert words.dtype == np.int32 and words.ndim == 3 and words.shape[:2] == (batch, 2)
        self.calls.append(
            {"sampling": sampling_config, "stop": stop_words_list, "bad": bad_words_list, "batch": batch}
            | {"lengths": encoder_input_lengths.tolist(), "max_new_tokens": tokens}
        )
        ids = torch.full((batch, beams, 1 + tokens), sampling_config.end_id, dtype=INT32)
        states = sequences(encoder_output, encoder_input_lengths)
        for out, start, own in zip(ids, input_ids.tolist(), states, strict=True):
            found = self._generate(start, own, tokens, beams, sampling_config.end_id)
            out[:, : found.shape[1]] = found
        return ids if mpi_rank() == 0 else None

    def _generate(self, start: int, states: torch.Tensor, tokens: int, beams: int, end_id: int) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = self.config.model.generate(
                encoder_outputs=BaseModelOutput(states[None]),
                decoder_input_ids=torch.tensor([[start]]),
                max_new_tokens=tokens,
                do_sample=False,
                num_beams=beams,
                num_return_sequences=beams,
                eos_token_id=end_id,
                pad_token_id=end_id,
            )
        return found


class EncDecModelRunner:
    device = torch.device("cpu")
    stream = None

    def __init__(self, engine_name: str, engine_dir: str, skip_encoder: bool) -> None:
        self.engine_name, self.skip_encoder = engine_name, skip_encoder
        self.encoder_model_config = None if skip_encoder else ModelConfig(Path(engine_dir, "encoder"))
        self.decoder_model_config = ModelConfig(Path(engine_dir, "decoder"))
        self.decoder_session = GenerationSession(self.decoder_model_config)

    @classmethod
    def from_engine(cls, engine_name: str, engine_dir: str, *, skip_encoder: bool = False) -> EncDecModelRunner:
        return cls(engine_name, engine_dir, skip_encoder)

    def encoder_run(
        self,
        input_ids: torch.Tensor,
        input_lengths: torch.Tensor,
        max_input_length: int,
        position_ids: None = None,
        token_type_ids: None = None,
        debug_mode: bool = False,
        prompt_embedding_table: torch.Tensor | None = None,
        prompt_tasks: torch.Tensor | None = None,
        prompt_vocab_size: torch.Tensor | None = None,
    ) -> torch.Tensor:
        config = self.encoder_model_config
        assert config is not None and prompt_embedding_table is not None
        assert prompt_tasks is not None and prompt_vocab_size is not None
        rows = len(prompt_embedding_table)
        assert {t.dtype for t in (input_ids, input_lengths, prompt_tasks, prompt_vocab_size)} == {INT32}
        assert input_ids.ndim == 1 and max_input_length == int(input_lengths.max()) <= config.build["max_input_len"]
        assert 1 <= len(input_lengths) <= config.build["max_batch_size"]
        assert prompt_tasks.tolist() == [0] * len(input_ids) and prompt_vocab_size.tolist() == [rows]
        assert rows <= config.build["max_prompt_embedding_table_size"] and prompt_embedding_table.dtype == config.dtype
        assert int(input_ids.min()) >= 0 and int(input_ids.max()) < config.vocab_size + rows
        found = []
        with torch.inference_mode():
            for ids in sequences(input_ids.long(), input_lengths):
                fake = ids >= config.vocab_size
                embeds = config.model.get_input_embeddings()(ids.masked_fill(fake, 0))
                embeds[fake] = prompt_embedding_table[ids[fake] - config.vocab_size]
                mask = torch.ones(1, len(ids), dtype=torch.long)
                encoder = config.model.get_encoder()
                found.append(encoder(inputs_embeds=embeds[None], attention_mask=mask).last_hidden_state[0])
        return torch.cat(found)

from typing import Any

import torch
from numpy.typing import NDArray

class ModelConfig:
    vocab_size: int
    remove_input_padding: bool

class SamplingConfig:
    def __init__(self, end_id: int, pad_id: int) -> None: ...
    def update(self, **values: Any) -> dict[str, Any]: ...

class GenerationSession:
    def setup(
        self,
        batch_size: int,
        max_context_length: int,
        max_new_tokens: int,
        beam_width: int = ...,
        *,
        encoder_max_input_length: int | None = ...,
    ) -> None: ...
    def decode(
        self,
        input_ids: torch.Tensor,
        context_lengths: torch.Tensor,
        sampling_config: SamplingConfig,
        *,
        stop_words_list: NDArray[Any] | None = ...,
        bad_words_list: NDArray[Any] | None = ...,
        encoder_output: torch.Tensor | None = ...,
        encoder_input_lengths: torch.Tensor | None = ...,
    ) -> Any: ...

class EncDecModelRunner:
    device: Any
    stream: Any
    encoder_model_config: ModelConfig | None
    decoder_model_config: ModelConfig
    decoder_session: GenerationSession
    @classmethod
    def from_engine(cls, engine_name: str, engine_dir: str, *, skip_encoder: bool = ...) -> EncDecModelRunner: ...
    def encoder_run(
        self,
        input_ids: torch.Tensor,
        input_lengths: torch.Tensor,
        max_input_length: int,
        *,
        prompt_embedding_table: torch.Tensor | None = ...,
        prompt_tasks: torch.Tensor | None = ...,
        prompt_vocab_size: torch.Tensor | None = ...,
    ) -> torch.Tensor: ...

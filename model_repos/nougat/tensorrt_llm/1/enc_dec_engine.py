"""The engines of an encoder-decoder, run by TensorRT-LLM's own runtime for such models.

EncDecModelRunner loads them, and its parts are called here one by one (encoder_run, then setup and decode of the
decoder's session) rather than its generate(), which decodes greedily whatever is asked, forbids an empty answer, knows
neither stop nor bad words, and drops every padding token from inside a prompt. All these parts take packed tensors: the
tokens of all sequences one after another, without padding.

With several GPUs each rank holds its part of the engines and all must make the same calls: rank 0 broadcasts what it is
about to run, the others follow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

try:
    from tensorrt_llm._utils import mpi_broadcast, mpi_rank, mpi_world_size
    from tensorrt_llm.runtime import EncDecModelRunner, SamplingConfig
except ImportError as error:
    raise ImportError(
        f"the Python package tensorrt_llm cannot be imported ({error}): serve this repository in a tritonserver "
        "*-trtllm-python-py3 container, which has it, or generate it again with --runtime torch"
    ) from error


@dataclass(frozen=True)
class Call:
    """Sequences that are decoded together, n of them.

    Attributes:
        starts: per sequence, the token that the decoder begins with.
        ids: per sequence, what the encoder reads; ids from the vocabulary's size on are rows of its own table. Not
            looked at where there is no encoder.
        rows: per sequence [k, hidden] in the engines' dtype: its prompt table, or the encoder's output itself.
        max_new_tokens: the most that any of them needs.
        sampling: values of tensorrt_llm's SamplingConfig, the same for all.
        stop_words, bad_words: int32 [n, 2, L] as in the backend's contract, None = none for any of them.
    """

    starts: list[int]
    ids: list[list[int]]
    rows: list[torch.Tensor]
    max_new_tokens: int
    sampling: dict[str, Any]
    stop_words: NDArray[np.int32] | None
    bad_words: NDArray[np.int32] | None


class EncDecEngine:
    """The engines in one folder, `decoder/` and for a model that reads text `encoder/`, on this rank's GPU."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Load them.

        Raises:
            FileNotFoundError: there is no engine for this rank.
            RuntimeError: no GPU, or the server was not started once per rank.
            ValueError: the engines are not those that the repository was generated for.
        """
        self.rank = mpi_rank()
        self.world_size: int = settings["tp"] * settings["pp"]
        self.vocab_size: int = settings["vocab_size"]
        folder = settings["engine"]
        has_encoder = settings["carries"] == "prompt_embedding_table"  # else the rows are what it would give
        if mpi_world_size() != self.world_size:
            raise RuntimeError(
                f"the engines of {folder} are for {self.world_size} GPU(s), this server has {mpi_world_size()} "
                "rank(s): start it with the repository's launch.sh"
            )
        for part in ("encoder", "decoder") if has_encoder else ("decoder",):
            file = Path(folder, part, f"rank{self.rank}.engine")
            if not file.is_file():
                raise FileNotFoundError(
                    f"LLM engine {file} does not exist: build it with build_engines.sh of this repository, or "
                    "generate the repository again with --llm-engine-dir (--path-map where paths differ here)"
                )
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"no GPU is visible, the engines of {folder} need one: start the container with --gpus, or generate "
                "the repository again with --runtime torch"
            )
        self.runner = EncDecModelRunner.from_engine(settings["model"], folder, skip_encoder=not has_encoder)
        configs = {"decoder": self.runner.decoder_model_config}
        if has_encoder and self.runner.encoder_model_config is not None:
            configs["encoder"] = self.runner.encoder_model_config
        for part, config in configs.items():
            if not config.remove_input_padding:
                raise ValueError(
                    f"the {part} engine of {folder} takes padded sequences, this step sends packed ones: build it "
                    "with --remove_input_padding enable"
                )
            if config.vocab_size != self.vocab_size:
                raise ValueError(
                    f"the {part} engine of {folder} has vocab_size {config.vocab_size}, this repository was generated "
                    f"for {self.vocab_size}: ids of the prompt table would be wrong; generate the repository again"
                )

    def __call__(self, call: Call) -> list[list[list[int]]]:
        """The new tokens of each sequence and beam: ids [n][beams][max_new_tokens], filled with the end id. On rank 0.

        Raises RuntimeError, AssertionError or the like when TensorRT-LLM refuses the call.
        """
        if self.world_size > 1:
            call = replace(call, rows=[row.cpu() for row in call.rows])
            mpi_broadcast(call, 0)
        return self._run(call)

    def follow(self) -> None:
        """On the other ranks: run what rank 0 runs, until it closes."""
        while (call := mpi_broadcast(None, 0)) is not None:
            try:
                self._run(call)
            except Exception as error:  # rank 0 meets the same one and answers it
                pb_utils.Logger.log_error(f"rank {self.rank}: {error}")

    def close(self) -> None:
        """On rank 0: let the other ranks go."""
        if self.world_size > 1 and self.rank == 0:
            mpi_broadcast(None, 0)

    def _run(self, call: Call) -> list[list[list[int]]]:
        runner, session = self.runner, self.runner.decoder_session
        with torch.cuda.stream(runner.stream):
            states, lengths = self._encoded(call) if runner.encoder_model_config else self._given(call)
            ones = torch.ones_like(lengths)
            config = SamplingConfig(call.sampling["end_id"], call.sampling["pad_id"])
            unknown = config.update(**call.sampling)
            if unknown:
                raise ValueError(f"this release of tensorrt_llm does not know {', '.join(unknown)}")
            session.setup(
                len(lengths),
                1,
                call.max_new_tokens,
                call.sampling["num_beams"],
                encoder_max_input_length=int(lengths.max()),
            )
            ids = session.decode(
                self._integers(call.starts),
                ones,
                config,
                stop_words_list=call.stop_words,
                bad_words_list=call.bad_words,
                encoder_output=states,
                encoder_input_lengths=lengths,
            )
        if ids is None:  # ranks that do not hold the first layers
            return []
        found: list[list[list[int]]] = ids[:, :, 1:].tolist()
        return found

    def _encoded(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's output [sum of lengths, hidden] and lengths [n]."""
        packed: list[int] = []
        first = 0  # row of the common table where the sequence's own rows begin
        for ids, rows in zip(call.ids, call.rows, strict=True):
            packed += [token + first if token >= self.vocab_size else token for token in ids]
            first += len(rows)
        lengths = self._integers([len(ids) for ids in call.ids])
        states = self.runner.encoder_run(
            self._integers(packed),
            lengths,
            max(len(ids) for ids in call.ids),
            prompt_embedding_table=self._stacked(call),
            prompt_tasks=self._integers([0] * len(packed)),  # one task: every sequence counts from the first row
            prompt_vocab_size=self._integers([first]),
        )
        return states, lengths

    def _given(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, where the images' rows are the encoder's output."""
        return self._stacked(call), self._integers([len(rows) for rows in call.rows])

    def _stacked(self, call: Call) -> torch.Tensor:
        return torch.cat([rows.to(self.runner.device) for rows in call.rows])

    def _integers(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.runner.device)

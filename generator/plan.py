"""The Plan: every number and name of a repository, decided. Templates and settings are filled from this alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from generator.contract import Contract
from generator.facts.font import FontFacts
from generator.facts.tokenizer import TokenizerFacts
from generator.launch import Deploy, Launch
from generator.limits import Limits
from generator.options import PixelForm, Runtime
from generator.routes import Route
from generator.sizes import Sizes
from generator.spec import Conversation, ModelSpec, PixelSpec, Tokens, Variant
from generator.vision_backend import TensorrtVision

TRITON_TYPE = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}
ROLES = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
FRONT = "tensorrt_llm_bls"
FRONT_ROWS = 64  # that the front has in the LLM at once
FRONT_SPARE = 8  # threads of the server for its responses and for its calls of other steps
LLM_RESPONSES = "llm_responses"


@dataclass(frozen=True)
class Paths:
    """Paths as the server will see them (after --path-map)."""

    checkpoint: str
    tokenizer: str
    projector: str  # empty where the vision side is part of the checkpoint
    vision_engine: str
    llm_engine: str
    font: str  # empty where questions are not drawn, or with no font yet


@dataclass(frozen=True)
class Plan:
    """Everything decided. Templates and settings are filled from this and nothing else.

    Attributes:
        names: Triton model name per role, "ensemble" and the front included.
        llm_dtype, vision_dtype: torch names ("float16", ...); the table crosses in the LLM's.
        pixel_form: "float": pixels cross normalised, in vision_dtype; "uint8": as levels, channels last.
        client_cache_ids: whether clients may keep their KV blocks apart.
        tensorrt_vision: how Triton's TensorRT backend runs the vision engine; None = a Python step does.
        vision_cache: bytes of the rows that one instance of the vision step keeps.
        decode_edge: pixels that each side of a JPEG keeps when it is decoded smaller; None = decoded whole.
        vision_batch: entries in one engine call at most, None = the engine's profile says it at load time.
        quantization: of the LLM, as --quantization calls it or, where that has no word, as the engine does.
        launch: processes, nodes and GPUs. sizes: what the memory plan is computed from. deploy: None = no manifests.
        llm_queue: settings of the LLM's queue, outside its parameters.
        repeated_options: words of the command line that make the same again, folders left out; with the model that was
            asked for and not the variant that was found, as a deployment's names follow from it.
        dropped_ids: of stop words, which are no part of an answer's text.
        missing: what is not on disk yet, in words; a repository with missing parts cannot serve.
    """

    spec: ModelSpec
    variant: Variant
    contract: Contract
    runtime: Runtime
    route: Route
    streaming: bool
    kv_cache_reuse: bool
    client_cache_ids: bool
    tensorrt_vision: TensorrtVision | None
    vision_cache: int
    names: dict[str, str]
    limits: Limits
    vocab_size: int
    hidden_size: int
    rows_per_image: int
    llm_dtype: str
    vision_dtype: str
    pixel_form: PixelForm
    decode_edge: int | None
    pixels: PixelSpec
    conversation: Conversation
    prompt: dict[str, Any]
    layout: dict[str, Any]
    tokens: Tokens
    tokenizer: TokenizerFacts | None
    font: FontFacts | None
    dropped_ids: tuple[int, ...]
    paths: Paths
    vision_batch: int | None
    tp: int
    pp: int
    quantization: str
    launch: Launch
    sizes: Sizes
    deploy: Deploy | None
    image_hosts: tuple[str, ...]
    llm_parameters: dict[str, str]
    llm_queue: dict[str, str]
    repeated_options: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def release(self) -> str:
        return self.contract.release

    @property
    def front_pool(self) -> int:
        """Threads of Triton's python backend that the front needs: thread-pool-size, 32 unless given."""
        return FRONT_ROWS + FRONT_SPARE

    @property
    def request_rows(self) -> int:
        """Rows that one request may hold; the LLM runs as many requests together in any case."""
        return self.limits.max_batch_size if self.streaming and self.route.batches else 1

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of all models in the repository, the ensemble first."""
        return ("ensemble", *ROLES, FRONT, LLM_RESPONSES) if self.streaming else ("ensemble", *ROLES)

    @property
    def entry_shape(self) -> tuple[int, ...]:
        """Of one entry of the vision engine's input: an image or tile, or a clip of frames."""
        frames = self.layout.get("num_frames")
        image = self.pixel_shape
        return (frames, *image) if frames else image

    @property
    def pixel_dtype(self) -> str:
        """Of pixels as they cross."""
        return "uint8" if self.pixel_form == "uint8" else self.vision_dtype

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Of one image, channels last where levels cross."""
        shape = self.pixels.shape
        return (*shape[1:], shape[0]) if self.pixel_form == "uint8" else shape

    @property
    def entry_elements(self) -> int:
        """Values of one entry; an open side is as long as the largest image has patches, which are rows."""
        return math.prod(self.rows_per_image if side == -1 else side for side in self.entry_shape)

    @property
    def entries_per_image(self) -> int:
        return self.spec.layout.largest(self.layout)[0] if self.spec.layout.largest else 1

    @property
    def entries_per_call(self) -> int:
        """Entries of one call of the vision engine: of all images of a full batch, or what the engine takes."""
        all_entries = self.limits.max_batch_size * self.limits.max_images * self.entries_per_image
        return min(all_entries, self.vision_batch or all_entries)

    @property
    def vision_file(self) -> str | None:
        """Where the repository has the vision engine that Triton's TensorRT backend runs, None where none does."""
        vision = self.tensorrt_vision
        return f"{self.names['vision_encoder']}/1/{vision.file}" if vision else None

    @property
    def python_llm(self) -> bool:
        """Whether the LLM step is a Python model."""
        return self.runtime == "torch" or self.route.own_code

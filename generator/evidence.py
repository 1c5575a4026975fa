"""What stands behind a model: whose answers ours are compared with, how near they must be, and known answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """How far `gen-repo verify` lets a stage be off; token ids must be equal, and so must text.

    Each is the norm of the difference divided by the norm of the truth; logits first lose their mean, which no
    probability depends on. TensorRT's fp16 engines of ten of the encoders were within 0.01 of torch in fp32
    (benchmarks/vision_engines); an LLM of the same precision is given twice that, a quantized one what it needs.

    Attributes:
        pixels: where they are floats: 0, as ours are Hugging Face's bit for bit.
    """

    pixels: float = 0.0
    rows: float = 0.01
    logits: float = 0.02
    quantized_logits: float = 0.2


@dataclass(frozen=True)
class Acceptance:
    """What TensorRT-LLM's example script asks about a known picture with --check_accuracy, and accepts as answer.

    Source: `examples/multimodal/run.py` of TensorRT-LLM 0.11 to 1.0 and the arguments that the guide gives it.

    Attributes:
        picture: which one it is.
        text: of the question; `raw`: without the chat template around it.
        expected: any of these, compared in lower case; the whole answer when `exact`, else a part of it.
        max_tokens: of the answer.
    """

    picture: str
    text: str
    expected: tuple[str, ...]
    exact: bool = False
    raw: bool = False
    max_tokens: int = 30


MERLION = "merlion.png of Salesforce LAVIS"
WHICH_CITY = "Question: which city is this? Answer:"


@dataclass(frozen=True)
class Evidence:
    """What stands behind a model.

    Attributes:
        oracle: for the status table: whose ids, pixels, rows and text ours are compared with through a real Triton.
        truth: the same as `module:Class` of generator/oracle.
        original: what running the model's own code beside it showed; "" = transformers is the original.
        acceptance: None = the guide has none.
    """

    oracle: str
    truth: str
    original: str = ""
    tolerance: Tolerance = Tolerance()
    acceptance: Acceptance | None = None

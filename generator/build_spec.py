"""How a model's engines are built, as data: what generator/build.py turns into the commands of build_engines.sh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EngineBuild:
    """One `trtllm-build` command.

    Attributes:
        part: sub-folder of the converted checkpoint and of the engine; "" = the folders themselves.
        flags: (name, value) pairs in the guide's order; DTYPE stands for the LLM's dtype.
        limits: names of the limits that it takes, of those that generator/build.py computes.
    """

    part: str = ""
    flags: tuple[tuple[str, str], ...] = (("--gemm_plugin", "DTYPE"),)
    limits: tuple[str, ...] = (
        "max_beam_width",
        "max_batch_size",
        "max_input_len",
        "max_seq_len",
        "max_num_tokens",
        "max_multimodal_len",
    )


WITH_ATTENTION_PLUGIN = EngineBuild(flags=(("--gpt_attention_plugin", "DTYPE"), ("--gemm_plugin", "DTYPE")))


@dataclass(frozen=True)
class BuildSpec:
    """What the guide's build commands need besides computed numbers (TensorRT-LLM examples/multimodal).

    Attributes:
        converter: the example whose convert_checkpoint.py converts the LLM.
        vision_arguments: of the vision engine's script, `--model_type` first.
        engines: the LLM's trtllm-build commands in order.
        fused_mlp: the guide fuses the MLP of an LLM that is not quantized, on one GPU.
        vila_sources: converter and vision script import VILA's own code.
        quantize: the LLM is always converted by the quantization example's script, which also exports it as it is.
        plain_attention: the checkpoint's vision code calls xformers, which cannot be exported, and is patched.
        tokenizer_source: repository of the tokenizer, where the checkpoint has none.
        vision_counts_images: the vision script multiplies --max_batch_size by the entries of an image itself.
        converted_folder, engine_folder: below tmp/trt_models and tmp/trt_engines, per variant; PRECISION, DTYPE and
            GPUS are replaced.
        vision_folder: the vision engine's, where the release keeps it apart from the LLM's.
        quantizations: what the guide offers besides none; `untried`: what only the converter offers, with the reason
            for a warning; `not_quantized`: why there is nothing else.
        no_pipeline: why the LLM cannot be split by layers over GPUs; empty = it can.
        untried_parallel: why splitting it over GPUs is a warning; empty = it is not.
        notes: mistakes of the guide that the script does not repeat.
    """

    converter: str
    vision_arguments: str = ""
    convert_arguments: str = ""
    engines: tuple[EngineBuild, ...] = (EngineBuild(),)
    fused_mlp: bool = False
    vila_sources: bool = False
    quantize: bool = False
    plain_attention: bool = False
    tokenizer_source: str = ""
    vision_counts_images: bool = False
    converted_folder: str = "PRECISION/GPUS"
    engine_folder: str = "PRECISION/GPUS"
    vision_folder: str = "vision_encoder"
    quantizations: tuple[str, ...] = ()
    untried: Mapping[str, str] = field(default_factory=dict)
    not_quantized: str = "the guide offers none for it"
    no_pipeline: str = ""
    untried_parallel: str = ""
    notes: tuple[str, ...] = ()

    @property
    def vision_type(self) -> str:
        """The vision script's --model_type."""
        return self.vision_arguments.split()[1]

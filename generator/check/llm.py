"""The LLM step against the contract of its release: every tensor as the backend declares it, every parameter known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from generator import contract
from generator.check.configs import ModelConfig, schema
from generator.contract import Contract, Tensor
from generator.findings import Finding, error

REMEDY = "generate the repository again for the release of your container (--release)"
LOGITS = ("FP32", "FP16")
TABLE = ("FP16", "BF16", "FP32")
BACKEND = "tensorrtllm"
# In the contract from 0.15.0 on; steps of our own take them in every release.
FEATURES = ("encoder_input_features", "encoder_output_lengths")


def check(repository: Path, configs: Mapping[str, ModelConfig], release: str) -> list[Finding]:
    """Findings about the model that ends in tensorrt_llm."""
    if release not in contract.releases():
        what = f"the manifest names release {release!r}, which is not known"
        return [error("unknown-release", what, repository / "manifest.json", REMEDY)]
    known = contract.contract(release)
    found: list[Finding] = []
    for name, config in configs.items():
        if name.endswith("tensorrt_llm"):
            where = repository / name / "config.pbtxt"
            problems = [
                *_tensors("input", config.input, known.inputs, extra=() if config.backend == BACKEND else FEATURES),
                *_tensors("output", config.output, known.outputs),
                *(_parameters(config, known) if config.backend == BACKEND else ()),
            ]
            found += [error("contract", f"release {release}: {what}", where, REMEDY) for what in problems]
    if not any(name.endswith("tensorrt_llm") for name in configs):
        found.append(error("contract", "the repository has no tensorrt_llm model", repository, REMEDY))
    return found


def _types(tensor: Tensor) -> tuple[str, ...]:
    if tensor.name == "prompt_embedding_table":
        return TABLE  # carries the LLM's dtype in every release: the backend takes the type that arrives
    if re.fullmatch(r"\$\{\w+\}", tensor.type):
        return LOGITS if "logits" in tensor.type else TABLE
    return (tensor.type,)


def _tensors(
    kind: str, declared: Iterable[ModelConfig], known: Mapping[str, Tensor], extra: Sequence[str] = ()
) -> Iterator[str]:
    found = {tensor.name: tensor for tensor in declared}
    for name in known.keys() - found.keys():
        yield f"{kind} {name!r} is not declared"
    for name, tensor in found.items():
        official = known.get(name)
        if official is None and name in extra:
            continue
        if official is None:
            yield f"{kind} {name!r} is unknown to the backend"
            continue
        type_name = str(schema().DataType.Name(tensor.data_type)).removeprefix("TYPE_")
        if type_name not in _types(official):
            yield f"{kind} {name!r} is {type_name}, the backend has {' or '.join(_types(official))}"
        if tuple(tensor.dims) != official.dims:
            yield f"{kind} {name!r} has shape {list(tensor.dims)}, the backend has {list(official.dims)}"
        reshape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
        if reshape != official.reshape:
            yield f"{kind} {name!r} is reshaped to {reshape}, the backend wants {official.reshape}"
        if kind == "input" and tensor.optional != official.optional:
            yield f"{kind} {name!r} is {'optional' if tensor.optional else 'required'}, unlike the backend's"
        if kind == "input" and tensor.allow_ragged_batch != official.ragged:
            yield f"{kind} {name!r} has allow_ragged_batch {tensor.allow_ragged_batch}, unlike the backend's"


def _parameters(config: ModelConfig, known: Contract) -> Iterator[str]:
    for name, value in config.parameters.items():
        official = known.parameters.get(name)
        if official is None:
            yield f"parameter {name!r} is unknown to the backend"
        elif problem := official.problem(value.string_value):
            yield f"parameter {name!r} {problem}, not {value.string_value!r}"
    for name, official in known.parameters.items():
        if official.emit is not None and name not in config.parameters:
            yield f"parameter {name!r} is missing"

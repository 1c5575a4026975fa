"""The ensemble as a typed graph: one producer for every tensor, and equal types and ranks along every edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from generator.check.configs import ModelConfig, schema
from generator.findings import Finding, error

REMEDY = "generate the repository again, or undo the edit"


@dataclass(frozen=True)
class Edge:
    """A tensor of the ensemble: who makes it, its type and its shape without the batch axis."""

    producer: str
    type: int
    dims: tuple[int, ...]
    optional: bool
    decoupled: bool


def check(repository: Path, configs: Mapping[str, ModelConfig]) -> list[Finding]:
    """Findings of every ensemble in the repository."""
    ensembles = {name: c for name, c in configs.items() if c.HasField("ensemble_scheduling")}
    if not ensembles:
        return [error("no-ensemble", "the repository has no ensemble", repository, REMEDY)]
    found: list[Finding] = []
    for name, config in ensembles.items():
        where = repository / name / "config.pbtxt"
        found += [error("ensemble", what, where, REMEDY) for what in _problems(config, configs)]
    return found


def _type(value: int) -> str:
    return str(schema().DataType.Name(value)).removeprefix("TYPE_")


def _fits(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _problems(ensemble: ModelConfig, configs: Mapping[str, ModelConfig]) -> Iterator[str]:
    made: dict[str, Edge] = {
        t.name: Edge("the client", t.data_type, tuple(t.dims), t.optional, False) for t in ensemble.input
    }
    used: set[str] = set()
    for step in ensemble.ensemble_scheduling.step:
        model = configs.get(step.model_name)
        if model is None:
            yield f"step {step.model_name!r} is no model of this repository"
            continue
        if model.max_batch_size != ensemble.max_batch_size:
            yield (
                f"{step.model_name} takes batches of {model.max_batch_size}, the ensemble of {ensemble.max_batch_size}"
            )
        yield from _inputs(step, model, made)
        used.update(step.input_map.values())
        yield from _outputs(step, model, made)
    for tensor in ensemble.output:
        edge = made.get(tensor.name)
        if edge is None:
            yield f"output {tensor.name!r} is made by no step"
        elif edge.type != tensor.data_type or not _fits(edge.dims, tuple(tensor.dims)):
            yield (
                f"output {tensor.name!r} is declared {_type(tensor.data_type)} {list(tensor.dims)}, "
                f"{edge.producer} makes {_type(edge.type)} {list(edge.dims)}"
            )
    wanted = used | {t.name for t in ensemble.output}
    for name, edge in made.items():
        if name not in wanted:
            yield f"tensor {name!r} of {edge.producer} goes nowhere"


def _inputs(step: ModelConfig, model: ModelConfig, made: Mapping[str, Edge]) -> Iterator[str]:
    declared = {t.name: t for t in model.input}
    for name in declared.keys() - step.input_map.keys():
        if not declared[name].optional:
            yield f"{step.model_name} needs input {name!r}, and nothing is mapped to it"
    sources = set()
    for name, source in step.input_map.items():
        tensor = declared.get(name)
        if tensor is None:
            yield f"{step.model_name} has no input {name!r}"
            continue
        edge = made.get(source)
        if edge is None:
            yield f"input {name!r} of {step.model_name} is fed from {source!r}, which no earlier step makes"
            continue
        sources.add(edge.decoupled)
        if edge.type != tensor.data_type:
            yield (
                f"input {name!r} of {step.model_name} is {_type(tensor.data_type)}, "
                f"{edge.producer} makes {source!r} as {_type(edge.type)}"
            )
        if not _fits(edge.dims, tuple(tensor.dims)):
            yield (
                f"input {name!r} of {step.model_name} has shape {list(tensor.dims)}, "
                f"{edge.producer} makes {source!r} with {list(edge.dims)}"
            )
        if edge.optional and not tensor.optional:
            yield f"input {name!r} of {step.model_name} is required, but {source!r} is optional for the client"
    if len(sources) > 1:
        yield f"{step.model_name} mixes tensors of a decoupled step with tensors of earlier steps, which Triton refuses"


def _outputs(step: ModelConfig, model: ModelConfig, made: dict[str, Edge]) -> Iterator[str]:
    declared = {t.name: t for t in model.output}
    after_decoupled = any(made[s].decoupled for s in step.input_map.values() if s in made)
    decoupled = after_decoupled or model.model_transaction_policy.decoupled
    for name, target in step.output_map.items():
        tensor = declared.get(name)
        if tensor is None:
            yield f"{step.model_name} has no output {name!r}"
            continue
        if target in made:
            yield f"tensor {target!r} is made twice, by {made[target].producer} and by {step.model_name}"
        made[target] = Edge(step.model_name, tensor.data_type, tuple(tensor.dims), False, decoupled)

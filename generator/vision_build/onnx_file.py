"""The encoder as an ONNX file."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from generator.findings import Refused, error
from generator.vision_build import tower as towers
from generator.vision_build.fold import LARGEST, fold
from generator.vision_build.subject import Subject

OPSET = 17  # the newest that TensorRT 8.6 reads, and what TensorRT-LLM exports
LARGEST_FILE = 2**31 - 2**24  # a protobuf message ends at 2 GiB; the graph itself needs some
ALIGNED = 64  # bytes, of weights in a file of their own

Weights = Mapping[str, torch.Tensor]


class _WeightsAsInputs(nn.Module):  # type: ignore[misc]
    """`tower` without its large weights, which each call gets after the pixels.

    The exporter copies each weight that it knows of several times over, to the host and to a file of its own. These it
    takes for inputs.
    """

    def __init__(self, tower: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.tower = tower
        parts = [name.rpartition(".") for name in names]
        self._places = [(tower.get_submodule(part)._parameters, name) for part, _, name in parts]
        self._nothing = [None] * len(parts)
        self.put(self._nothing)

    def put(self, weights: Iterable[torch.Tensor | None]) -> None:
        for (parameters, name), weight in zip(self._places, weights, strict=True):
            parameters[name] = weight

    def forward(self, pixels: torch.Tensor, *weights: torch.Tensor) -> Any:
        self.put(weights)  # functional_call would do the same, but refuses to be traced
        rows = self.tower(pixels)
        self.put(self._nothing)
        return rows


def export(subject: Subject, tower: nn.Module, file: Path) -> None:
    """Writes `file`: opset 17, the subject's names, batch and open axes dynamic, weights in the encoder's dtype.

    Weights of 2 GiB and more lie beside it, in one file called `file`.data.

    Raises:
        Refused: torch cannot export an operation of the encoder; the finding names it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    size = sum(weight.numel() * weight.element_size() for weight in tower.state_dict().values())
    beside: Weights = {}
    if size > LARGEST_FILE:
        weights = tower.named_parameters(remove_duplicate=False)
        beside = {name: weight for name, weight in weights if weight.numel() > LARGEST}
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the tracer, about sizes that are constants here
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            _torch_export(subject, tower, beside, unfinished)
    except Exception as problem:  # exporters raise nearly anything
        first = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
        what = f"torch {torch.__version__} cannot export the encoder: {first.strip()}"
        remedy = "use the releases of torch and transformers that gen-repo[onnx] names"
        raise Refused(error("onnx-export", what, subject.source, remedy)) from problem
    content = onnx.load(str(unfinished), load_external_data=False)
    if beside:
        _put_beside(content, beside, file.with_name(f"{file.name}.data"))
    fold(content)
    onnx.save_model(content, str(unfinished))
    unfinished.replace(file)


def _torch_export(subject: Subject, tower: nn.Module, beside: Weights, file: Path) -> None:
    arguments: dict[str, Any] = {
        "input_names": [subject.input, *beside],
        "output_names": [subject.output],
        "opset_version": OPSET,
        "dynamic_axes": subject.dynamic_axes,
    }
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        arguments["dynamo"] = False  # the other exporter starts at opset 18, which TensorRT 8.6 does not read
    pixels = towers.sample(subject, tower)
    if not beside:
        torch.onnx.export(tower, (pixels,), str(file), **arguments)
        return
    exported = _WeightsAsInputs(tower, beside)
    try:
        torch.onnx.export(exported, (pixels, *beside.values()), str(file), **arguments)
    finally:
        exported.put(beside.values())


def _put_beside(model: onnx.ModelProto, weights: Weights, file: Path) -> None:
    """Inputs of the graph that are `weights` become initializers, their values in `file`. Where they are transposed
    before anything reads them, they are written so."""
    graph = model.graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.input}
    made = {name: (types[name], weight) for name, weight in weights.items() if name in types}
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.op_type == "Transpose" and node.input[0] in made:
            type_of, weight = made[node.input[0]]
            made[node.output[0]] = type_of, weight.permute(*node.attribute[0].ints)
            del graph.node[position]
    for position in reversed(range(len(graph.input))):
        if graph.input[position].name in weights:
            del graph.input[position]
    read = {name for node in graph.node for name in node.input}
    with file.open("wb") as data:
        for name, (type_of, weight) in made.items():
            if name in read:
                data.write(bytes(-data.tell() % ALIGNED))
                place = {"location": file.name, "offset": str(data.tell()), "length": str(weight.nbytes)}
                tensor = graph.initializer.add(name=name, data_type=type_of, dims=weight.shape)
                tensor.data_location = onnx.TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=value)
                data.write(weight.contiguous().cpu().flatten().view(torch.uint8).numpy().data)

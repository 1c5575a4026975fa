"""Arithmetic on sizes that are the same for every batch, done at export.

torch's exporter writes each use of a tensor's size into the graph. All but the batch are constants here; without them
the graph is a third shorter, and free of operators that TensorRT 8.6 does not read (Mod, of Swin's windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

LARGEST = 4096  # values of a folded constant: sizes and positions, no weights
ROUNDS = 64  # each makes more sizes known; it ends when a round finds nothing
UNTOUCHED = ("Constant", "RandomNormal", "RandomUniform", "If", "Loop", "Scan")

Constants = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Known:
    """What one round starts from.

    Attributes:
        constants: small ones, by name.
        sizes: the shape of each tensor as far as it is known, None for the batch.
        makers: the node that makes a tensor.
    """

    constants: Constants
    sizes: dict[str, list[int | None]]
    makers: dict[str, onnx.NodeProto]


def fold(model: onnx.ModelProto) -> None:
    """Replaces in `model` what depends on no input, and leaves out what nothing needs any more. Weights stay."""
    graph = model.graph
    outputs = {info.name for info in graph.output}
    for _ in range(ROUNDS):
        known = _Known(_constants(graph), _sizes(model), {node.output[0]: node for node in graph.node})
        found: Constants = {}
        for node in graph.node:
            foldable = len(node.output) == 1 and node.op_type not in UNTOUCHED and node.output[0] not in outputs
            value = _value(node, known) if foldable else None
            if value is not None and value.size <= LARGEST:
                found[node.output[0]] = known.constants[node.output[0]] = value
        if not found:
            return
        nodes = [node for node in graph.node if node.output[0] not in found]
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in found.items())
        _replace(graph, nodes)


def _constants(graph: onnx.GraphProto) -> Constants:
    """Values of small constants by name."""
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if np.prod(tensor.dims, dtype=np.int64) <= LARGEST and tensor.data_location != onnx.TensorProto.EXTERNAL
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = node.attribute[0].t
            if np.prod(value.dims, dtype=np.int64) <= LARGEST:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def _sizes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True).graph
    return {
        info.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
        for info in (*inferred.value_info, *inferred.input)
        if info.type.tensor_type.HasField("shape")
    }


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights as inputs: shape inference copies all that it gets."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if np.prod(tensor.dims, dtype=np.int64) <= LARGEST]
    names = {tensor.name for tensor in small}
    large = [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in names
    ]
    bare = onnx.helper.make_graph(graph.node, graph.name, [*graph.input, *large], graph.output, small)
    return onnx.helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)


def _value(node: onnx.NodeProto, known: _Known) -> NDArray[Any] | None:
    """What the node gives whatever the input is; None = that depends."""
    if node.op_type == "Shape" and not node.attribute:
        shape = known.sizes.get(node.input[0])
        return None if shape is None or None in shape else np.array(shape, dtype=np.int64)
    if node.op_type == "Gather" and (size := _one_size(node, known)) is not None:
        return size
    if not node.input or not all(name in known.constants for name in node.input if name):
        return None
    inputs = {name: known.constants[name] for name in node.input if name}
    types = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    alone = onnx.helper.make_graph([node], "one", types, [onnx.ValueInfoProto(name=node.output[0])])
    opset = [onnx.helper.make_opsetid("", 17)]
    [value] = ReferenceEvaluator(onnx.helper.make_model(alone, opset_imports=opset)).run(None, inputs)
    return np.asarray(value)


def _one_size(node: onnx.NodeProto, known: _Known) -> NDArray[Any] | None:
    """Of a tensor's shape, one size that is known though the batch is not."""
    made, index = known.makers.get(node.input[0]), known.constants.get(node.input[1])
    if made is None or index is None or made.op_type != "Shape" or made.attribute:
        return None
    shape = known.sizes.get(made.input[0])
    if shape is None:
        return None
    chosen = np.array(shape, dtype=object)[index]
    return None if None in np.ravel(chosen) else np.asarray(chosen, dtype=np.int64)


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """`nodes` are the graph's, without those that no output needs; nor are unused constants kept."""
    needed = {info.name for info in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if any(name in needed for name in node.output):
            needed.update(node.input)
            kept.append(node)
    kept.reverse()
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in needed:
            del graph.initializer[position]

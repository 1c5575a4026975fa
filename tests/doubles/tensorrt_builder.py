"""Stand-in for the part of TensorRT's Python API that builds engines, as of 8.6; `install` puts it into a tensorrt module.

It reads real ONNX files and keeps TensorRT's rules: one profile that covers the input, explicit batch, a type's flag
for weights of that type, uint8 only as an input that is cast to a float. What it builds is tests/doubles/tensorrt.py's.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType
from typing import Any, ClassVar

import onnx

TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.UINT8: "UINT8",
}
VERSION = "8.6.0"


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0


class BuilderFlag(enum.Enum):
    FP16, TF32 = range(2)


class Tensor:
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        self.name = info.name
        kind = info.type.tensor_type
        self.type = TYPES[kind.elem_type]
        self.shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]


class Network:
    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class ParserError:
    def __init__(self, number: int, text: str) -> None:
        self._number, self._text = number, text

    def node(self) -> int:
        return self._number

    def desc(self) -> str:
        return self._text


class OnnxParser:
    unsupported: ClassVar[set[str]] = set()

    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        graph = onnx.load(model).graph
        for number, node in enumerate(graph.node):
            if node.op_type in self.unsupported:
                self._errors.append(ParserError(number, f"No importer registered for op: {node.op_type}"))
        self._network.inputs = [Tensor(info) for info in graph.input]
        self._network.outputs = [Tensor(info) for info in graph.output]
        for tensor in self._network.inputs:
            readers = [node for node in graph.node if tensor.name in node.input]
            assert tensor.type != "UINT8" or [node.op_type for node in readers] == ["Cast"]
            assert tensor.type != "UINT8" or readers[0].attribute[0].i == onnx.TensorProto.FLOAT
        return not self._errors


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = [list(min), list(opt), list(max)]


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.builder_optimization_level = 3

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Builder:
    fails_with: ClassVar[str] = ""
    built: ClassVar[list[BuilderConfig]] = []

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags == 1 << int(NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        if self.fails_with:
            self._logger.log(self._logger.Severity.ERROR, self.fails_with)
            return None
        [profile], [source], [rows] = config.profiles, network.inputs, network.outputs
        shapes = profile.shapes[source.name]
        for least, common, most in zip(*shapes, strict=True):
            assert least <= common <= most
        for sizes in shapes:
            assert all(own in (-1, size) for own, size in zip(source.shape, sizes, strict=True))
        assert rows.type != "HALF" or BuilderFlag.FP16 in config.flags
        self.built.append(config)
        tensors = {
            tensor.name: {"mode": mode, "dtype": tensor.type, "shape": tensor.shape}
            for tensor, mode in ((source, "INPUT"), (rows, "OUTPUT"))
        }
        return json.dumps({"version": VERSION, "tensors": tensors, "profile": shapes}).encode()


def install(tensorrt: ModuleType) -> None:
    """Adds the builder to the stand-in of the runtime."""
    names = ("NetworkDefinitionCreationFlag", "BuilderFlag", "OnnxParser", "Builder")
    vars(tensorrt).update({name: globals()[name] for name in names})

"""One encoder, on TensorRT's side: builds the engine of an exported folder, or measures it.

Runs under the packed Python 3.10, which has tensorrt and numpy and nothing else:
`python3.10 -m benchmarks.vision_engines.tensorrt_side build|measure FOLDER [--level N] [--own-kernels]`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from benchmarks.vision_engines.cuda import Buffer, Stream
from generator.findings import Refused
from generator.vision_build import engine as engines

TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}
BATCHES = (1, 4, 16)


def build(folder: Path, level: int | None, own_kernels: bool) -> dict[str, Any]:
    """Builds model.engine; `own_kernels` leaves out cuBLAS and cuDNN, where they are not installed."""
    wanted = json.loads((folder / "subject.json").read_text())
    started = time.monotonic()

    def configure(config: Any) -> None:
        if own_kernels:
            config.set_tactic_sources(0)

    engines.build(
        folder / "model.onnx",
        folder / "model.engine",
        wanted["profile"],
        wanted["dtype"],
        tell=lambda line: print(f"{folder.name}: {line}", flush=True),
        optimization_level=level,
        configure=configure,
    )
    size = (folder / "model.engine").stat().st_size
    return {"build_s": round(time.monotonic() - started, 1), "engine_mib": round(size / 2**20)}


class Engine:
    """An engine by the calls that the vision step makes (templates/trtllm/vision_encoder/1/engine.py)."""

    def __init__(self, path: Path) -> None:
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        made = runtime.deserialize_cuda_engine(path.read_bytes())
        if made is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load {path}")
        self.engine = made
        names = [made.get_tensor_name(index) for index in range(made.num_io_tensors)]
        self.input, self.output = sorted(names, key=lambda name: made.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
        self.context: Any = made.create_execution_context()
        self.stream = Stream()
        self.least, _, self.most = (tuple(dims) for dims in made.get_tensor_profile_shape(self.input, 0))
        self.types = {name: TYPES[made.get_tensor_dtype(name).name] for name in names}
        self._buffers: list[Buffer] = []

    def describe(self) -> dict[str, Any]:
        shape = tuple(self.engine.get_tensor_shape(self.output))
        return {"input": self.input, "least": self.least, "most": self.most, "output": self.output, "declared": shape}

    def prepare(self, shape: tuple[int, ...], pixels: NDArray[Any]) -> tuple[Buffer, tuple[int, ...]]:
        for buffer in self._buffers:
            buffer.free()
        assert self.context.set_input_shape(self.input, shape)
        rows_shape = tuple(self.context.get_tensor_shape(self.output))
        self._buffers = [
            Buffer(math.prod(size) * np.dtype(self.types[name]).itemsize)
            for name, size in ((self.input, shape), (self.output, rows_shape))
        ]
        self._buffers[0].write(pixels.astype(self.types[self.input]))
        for name, buffer in zip((self.input, self.output), self._buffers, strict=True):
            assert self.context.set_tensor_address(name, buffer.address)
        return self._buffers[1], rows_shape

    def __call__(self) -> None:
        assert self.context.execute_async_v3(self.stream.handle)

    def rows(self, pixels: NDArray[Any]) -> NDArray[Any]:
        buffer, shape = self.prepare(pixels.shape, pixels)
        self()
        self.stream.synchronize()
        return buffer.read(shape, self.types[self.output]).astype(np.float32)


def measure(folder: Path) -> dict[str, Any]:
    """Error against rows.npy, one entry alone against the same among others, images per second."""
    pixels, truth = np.load(folder / "pixels.npy"), np.load(folder / "rows.npy")
    engine = Engine(folder / "model.engine")
    rows = engine.rows(pixels)
    alone = engine.rows(pixels[:1])
    found: dict[str, Any] = {"tensors": engine.describe(), "finite": bool(np.isfinite(rows).all())}
    found["error"] = relative_error(rows.reshape(truth.shape), truth)
    found["worst_entry"] = max(relative_error(a, b) for a, b in zip(rows.reshape(truth.shape), truth, strict=True))
    found["alone"] = relative_error(alone.reshape(truth[:1].shape), truth[:1])
    found["swapped"] = relative_error(rows.reshape(truth.shape)[::-1], truth)
    found["images_s"] = {}
    for batch in (size for size in BATCHES if size <= engine.most[0]):
        shape = (batch, *pixels.shape[1:])
        engine.prepare(shape, np.resize(pixels, shape))
        found["images_s"][batch] = round(batch / _seconds(engine, engine.stream), 1)
    return found


def relative_error(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """|found - truth| / |truth| over all values."""
    return float(np.linalg.norm(found.astype(np.float64) - truth) / np.linalg.norm(truth.astype(np.float64)))


def _seconds(call: Callable[[], None], stream: Stream, repeats: int = 30) -> float:
    for _ in range(5):
        call()
    stream.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    stream.synchronize()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--level", type=int)
    parser.add_argument("--own-kernels", action="store_true")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    result = folder / f"{arguments.what}.json"
    try:
        made = measure(folder) if arguments.what == "measure" else build(folder, arguments.level, arguments.own_kernels)
        made["tensorrt"] = trt.__version__
    except Refused as refused:
        made = {"failed": refused.findings[0].what}
    result.write_text(json.dumps(made))


if __name__ == "__main__":
    main()

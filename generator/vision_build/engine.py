"""From an ONNX file to a TensorRT engine, with TensorRT 8.6 to 10."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorrt as trt

from generator.findings import Finding, Refused, error

Shape = Sequence[int]
Tell = Callable[[str], None]
PRECISION_FLAGS = {"float16": "FP16", "bfloat16": "BF16", "float32": ""}
TOLD_EVERY = 10.0  # seconds
QUOTED_LINES = 4


class _Log(trt.ILogger):
    """TensorRT's messages: warnings of the builder are many and of no use to users, errors are kept to be quoted."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message.strip())


def build(
    onnx: Path,
    engine: Path,
    profile: tuple[Shape, Shape, Shape],
    dtype: str,
    *,
    tell: Tell,
    optimization_level: int | None = None,
    configure: Callable[[trt.IBuilderConfig], None] = lambda config: None,
) -> None:
    """Builds `engine` from `onnx`, whose one input takes shapes from profile[0] over profile[1] to profile[2].

    Args:
        dtype: what layers may compute in, besides float32 where TensorRT finds that faster.
        tell: is told every ten seconds that the build goes on.
        configure: last changes of TensorRT's builder configuration.

    Raises:
        Refused: TensorRT cannot read the file or build the engine; the finding names the node.
    """
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise Refused(_not_read(parser, onnx, log))
    config = builder.create_builder_config()
    _precision(config, dtype)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    shapes = builder.create_optimization_profile()
    shapes.set_shape(network.get_input(0).name, *(tuple(shape) for shape in profile))
    config.add_optimization_profile(shapes)
    configure(config)
    with _progress(config, tell):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(_not_built(onnx, log, profile[-1]))
    unfinished = engine.with_suffix(".unfinished")
    unfinished.write_bytes(plan)
    unfinished.replace(engine)


def _precision(config: trt.IBuilderConfig, dtype: str) -> None:
    flag = PRECISION_FLAGS[dtype]
    if not flag:
        config.clear_flag(trt.BuilderFlag.TF32)  # whoever asks for float32 wants its digits
    elif hasattr(trt.BuilderFlag, flag):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    else:
        what = f"TensorRT {trt.__version__} has no {dtype}"
        raise Refused(error("engine-dtype", what, "--precision", "use --precision fp16, or TensorRT 9 or later"))


@contextmanager
def _progress(config: trt.IBuilderConfig, tell: Tell) -> Iterator[None]:
    """Tells every ten seconds how long the build has taken, and what it does where TensorRT says so (from 10 on)."""
    started, done = time.monotonic(), threading.Event()
    phase = [""]

    if hasattr(trt, "IProgressMonitor"):

        class Monitor(trt.IProgressMonitor):
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                phase[0] = phase_name

            def step_complete(self, phase_name: str, step: int) -> bool:
                phase[0] = f"{phase_name} {step}"
                return True  # go on

            def phase_finish(self, phase_name: str) -> None:
                phase[0] = ""

        config.progress_monitor = Monitor()

    def repeat() -> None:
        while not done.wait(TOLD_EVERY):
            tell(f"building the engine: {time.monotonic() - started:.0f} s {phase[0]}".rstrip())

    teller = threading.Thread(target=repeat, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _not_read(parser: trt.OnnxParser, onnx: Path, log: _Log) -> Finding:
    """Why the parser gave up: the first error's node and reason."""
    if not parser.num_errors:
        what = f"TensorRT {trt.__version__} cannot read the file: {' | '.join(log.errors[-QUOTED_LINES:])}"
        return error("onnx-unreadable", what, onnx, "export it again with gen-repo build-vision")
    first = parser.get_error(0)
    # 10 tells the names, before that there is only the node's number.
    name = first.node_name() if hasattr(first, "node_name") else f"number {first.node()}"
    operator = f" ({first.node_operator()})" if hasattr(first, "node_operator") else ""
    what = f"TensorRT {trt.__version__} cannot read node {name}{operator}: {first.desc()}"
    return error("onnx-unreadable", what, onnx, "use a newer TensorRT, or another release of torch or transformers")


def _not_built(onnx: Path, log: _Log, most: Shape) -> Finding:
    said = log.errors[-QUOTED_LINES:] or ["it does not say why"]
    text = " | ".join(said)
    if "memory" in text.lower():
        remedy = f"free GPU memory, or use a --max-batch-size below {most[0]}"
    elif "Could not find any implementation" in text:
        remedy = "use a lower --optimization-level, a smaller --max-batch-size or a newer TensorRT"
    else:
        remedy = (
            "use a newer TensorRT or --precision fp32; the messages name the node, which --onnx-only lets you look at"
        )
    return error("engine-build", f"TensorRT {trt.__version__} cannot build the engine: {text}", onnx, remedy)

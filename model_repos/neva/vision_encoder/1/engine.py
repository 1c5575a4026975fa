"""A vision encoder's TensorRT engine as a function from images to rows, all on the GPU.

Only the part of TensorRT's Python API that addresses tensors by name is used: it is the same from 8.6 to 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from staging import fill

try:
    import tensorrt as trt
except ImportError as error:
    raise ImportError(
        f"the Python package tensorrt cannot be imported ({error}): serve this repository in a tritonserver "
        "*-trtllm-python-py3 container, which has it, or generate it again with --runtime torch"
    ) from error

ROW_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
PIXEL_DTYPES = {**ROW_DTYPES, "UINT8": torch.uint8}  # uint8: the engine normalises
PROFILE = 0  # the one that an execution context starts with


class Engine:
    """One engine on one GPU with a stream of its own; one call at a time.

    Attributes:
        stream: where the engine runs. Results are ready once it was synchronized.
        least, most: images of one engine call. Fewer are padded, more are split.
        largest: the largest image, (C, H, W).
    """

    def __init__(
        self, path: str, image_shape: tuple[int, ...], device: torch.device, max_batch: int | None = None
    ) -> None:
        """Load the engine at `path`, whose images have `image_shape` (C, H, W); `max_batch` bounds one call.

        Raises:
            FileNotFoundError: no engine file at `path`.
            RuntimeError: no GPU, not enough GPU memory, or an engine of another TensorRT version or GPU.
            ValueError: the engine's tensors are not those of a vision encoder for such images.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"vision engine {path} does not exist: build it with build_engines.sh of this repository, or "
                "generate the repository again with --visual-engine-dir (--path-map where paths differ here)"
            )
        if not torch.cuda.is_available():  # asked first: without a GPU, TensorRT 8.6 kills the process
            raise RuntimeError(
                f"no GPU is visible, vision engine {path} needs one: start the container with --gpus, or "
                "generate the repository again with --runtime torch"
            )
        self.path, self.device = path, device
        self.stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self.stream):
            self._engine = _deserialize(path)
            self._input, self._output = self._roles(image_shape)
            self._output_dtype = self._dtype(self._output, ROW_DTYPES)
            self.least, self.most = self._batch_range(image_shape, max_batch)
            self._context = self._new_context()
            # One buffer serves all calls, which follow each other on the stream. (A slice of the request's
            # own tensor need not be aligned as TensorRT demands.)
            largest = (self.most, *self.largest)
            self._pixels = torch.zeros(math.prod(largest), dtype=self._dtype(self._input, PIXEL_DTYPES), device=device)
            self._set_address(self._input, self._pixels)

    def __call__(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Images of one shape, at least one, on any device in any dtype -> rows [n, N, hidden].

        The rows are in memory of their own, in the engine's dtype. Only once `stream` was synchronized are
        they complete and `images` no longer read. Raises RuntimeError when TensorRT refuses the call.
        """
        starts = range(0, len(images), self.most)
        with torch.cuda.stream(self.stream):
            calls = [self._run(images[start : start + self.most]) for start in starts]
            rows = calls[0] if len(calls) == 1 else torch.cat(calls)
            return rows.flatten(1, -2)  # some engines give their rows as a grid

    def _run(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """One engine call for at most `most` images. What pads a small call is left from earlier ones."""
        batch = max(self.least, len(images))
        shape = (batch, *images[0].shape)
        fill(self._pixels[: math.prod(shape)].view(shape), images)
        self._check(self._context.set_input_shape(self._input, shape), f"input shape {shape}")
        rows_shape = tuple(self._context.get_tensor_shape(self._output))
        rows = torch.empty(rows_shape, dtype=self._output_dtype, device=self.device)
        self._set_address(self._output, rows)
        self._check(self._context.execute_async_v3(self.stream.cuda_stream), f"a call with shape {shape}")
        return rows[: len(images)]

    def _set_address(self, name: str, tensor: torch.Tensor) -> None:
        accepted = self._context.set_tensor_address(name, tensor.data_ptr())
        self._check(accepted, f"the address of {name!r}")

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise RuntimeError(f"vision engine {self.path} refused {what}: TensorRT's log lines say why")

    def _new_context(self) -> trt.IExecutionContext:
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeError(
                f"not enough GPU memory to run vision engine {self.path}: leave it more with "
                "--set tensorrt_llm.kv_cache_free_gpu_mem_fraction=..., or build it for smaller batches"
            )
        return context

    def _roles(self, image_shape: tuple[int, ...]) -> tuple[str, str]:
        """The names of the input for images and of the output; releases name them differently."""
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        ranks = [len(engine.get_tensor_shape(name)) for name in inputs]
        if ranks == [1 + len(image_shape)] and len(outputs) == 1:
            return inputs[0], outputs[0]
        found = ", ".join(
            f"{'input' if name in inputs else 'output'} {name!r} {engine.get_tensor_dtype(name).name} "
            f"{tuple(engine.get_tensor_shape(name))}"
            for name in names
        )
        raise ValueError(
            f"{self.path} is not the engine of a vision encoder, which has one input for images "
            f"{(-1, *image_shape)} and one output; it has {found}: generate the repository again with "
            "--visual-engine-dir naming the vision engine's folder"
        )

    def _dtype(self, name: str, known: dict[str, torch.dtype]) -> torch.dtype:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in known:
            raise ValueError(
                f"tensor {name!r} of vision engine {self.path} is {kind}, this step handles "
                f"{', '.join(known)}: build the engine again with one of them"
            )
        return known[kind]

    def _batch_range(self, image_shape: tuple[int, ...], max_batch: int | None) -> tuple[int, int]:
        """The fewest and most images of one call."""
        fixed = tuple(self._engine.get_tensor_shape(self._input))
        smallest, largest = fixed, fixed
        if -1 in fixed:
            lowest, _, highest = self._engine.get_tensor_profile_shape(self._input, PROFILE)
            smallest, largest = tuple(lowest), tuple(highest)
        self.largest = largest[1:]
        sides = zip(smallest[1:], image_shape, largest[1:], strict=True)
        if not all(side == -1 or low <= side <= high for low, side, high in sides):
            raise ValueError(
                f"vision engine {self.path} takes images of shape {smallest[1:]} to {largest[1:]}, this "
                f"repository was generated for {image_shape}: generate it again with the engine's checkpoint"
            )
        return smallest[0], max(smallest[0], min(largest[0], max_batch or largest[0]))


def _deserialize(path: str) -> trt.ICudaEngine:
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))  # it logs to stderr, which is the server's log
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise RuntimeError(
            f"TensorRT {trt.__version__} cannot load vision engine {path}. Most often another version of "
            "TensorRT built it, or it was built for another type of GPU; TensorRT's log lines say which. "
            "Build it again with the TensorRT of this container, on this GPU: build_engines.sh"
        )
    return engine

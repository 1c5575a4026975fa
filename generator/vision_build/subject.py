"""What to build: the encoder of one checkpoint, its tensors and its largest batch, decided without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator import models, planning, vision_backend
from generator.facts import checkpoint, nemo
from generator.facts.gather import Facts, Places
from generator.findings import EXIT_USAGE, Finding, Refused, error
from generator.options import Options, PixelForm, VisionBackend
from generator.plan import Plan
from generator.routes import TABLE
from generator.spec import ModelSpec

PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
INPUT, OUTPUT = "input", "output"  # as TensorRT-LLM's own script names them


@dataclass(frozen=True)
class BuildOptions:
    """Options of `gen-repo build-vision`; None means that the user did not say.

    `optimization_level` is TensorRT's, 0 to 5: higher builds longer for a faster engine. `max_images` and
    `table_precision` are of engines for the TensorRT backend, whose `max_batch_size` counts requests.
    """

    model: str
    hf_model_dir: Path
    output: Path
    projector: Path | None = None
    onnx_only: bool = False
    vision_backend: VisionBackend = "python"
    max_batch_size: int | None = None
    max_images: int | None = None
    precision: str | None = None
    table_precision: str | None = None
    pixels: PixelForm = "float"
    optimization_level: int | None = None
    working_dir: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Requests:
    """How an engine takes whole requests [B, n, ...] and gives their prompt tables [B, rows, hidden].

    Attributes:
        max_entries: largest n; `entries_per_image` of them are one image at most.
        constant_rows: that stand before those of the entries in each table.
        table_dtype: the LLM's.
    """

    max_entries: int
    entries_per_image: int
    constant_rows: int
    table_dtype: str


@dataclass(frozen=True)
class Subject:
    """One encoder.

    Attributes:
        module: of templates/torch/vision_encoder/1 that loads it. source: the checkpoint that it reads.
        layout: module of preprocessing that makes entries of the input.
        entry_shape: of one entry; -1 where entries differ.
        largest: of an open axis, or 0 where there is none.
        rows: of one entry of the output; None = as many as the open axis is long.
        dtype: of weights and rows, and of pixels unless they are uint8 levels.
        normalisation: rescale_factor, mean and std inside the encoder, where it takes levels.
        constants: (file, names) of rows that all images share.
        max_batch_size: entries of one call; requests where an engine takes those.
        requests: how the engine takes whole requests; None = it takes entries.
    """

    model: str
    model_type: str
    module: str
    source: Path
    layout: str
    entry_shape: tuple[int, ...]
    largest: int
    rows: int | None
    hidden_size: int
    max_batch_size: int
    dtype: str
    pixels: PixelForm
    normalisation: dict[str, Any] | None
    constants: tuple[str, tuple[str, ...]]
    num_frames: int | None
    requests: Requests | None = None

    @property
    def input(self) -> str:
        return vision_backend.PIXELS if self.requests else INPUT

    @property
    def output(self) -> str:
        return TABLE if self.requests else OUTPUT

    @property
    def profile(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Smallest, most common and largest shape of the input, as TensorRT-LLM chooses them."""
        batch, side = self.max_batch_size, self.largest
        if self.requests:
            sizes = ((1, 1), (max(1, batch // 2), self.requests.entries_per_image), (batch, self.requests.max_entries))
            small, usual, large = ((*size, *self.entry_shape) for size in sizes)
            return small, usual, large
        sizes = ((1, 1), (max(1, batch // 2), max(1, side // 4)), (batch, side))
        least, common, most = ((n, *(size if axis < 0 else axis for axis in self.entry_shape)) for n, size in sizes)
        return least, common, most

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Axes of input and output that vary: the batch, and entries of a request or an entry's open axis."""
        if self.requests:
            return {self.input: {0: "batch", 1: "entries"}, self.output: {0: "batch", 1: "rows"}}
        open_axes = {1 + axis: "rows" for axis, size in enumerate(self.entry_shape) if size < 0}
        return {INPUT: {0: "batch", **open_axes}, OUTPUT: {0: "batch", **({1: "rows"} if open_axes else {})}}


def subject(options: BuildOptions) -> tuple[Subject, list[Finding]]:
    """What `options` ask for, and warnings.

    Raises:
        Refused: unknown model, no such checkpoint, or one that contradicts the model or the options.
    """
    spec, variant = models.find(options.model)
    if variant.no_torch:
        remedy = "build it with TensorRT-LLM's own script (see the repository's build_engines.sh)"
        raise Refused(error("no-torch", f"{variant.name} cannot be exported: {variant.no_torch}", "--model", remedy))
    if options.projector and not spec.checkpoint.projector:
        what = f"the vision side of {spec.title} is part of its checkpoint"
        raise Refused(error("no-projector", what, "--projector", "leave it out"), exit_code=EXIT_USAGE)
    for option, value in (("--max-images", options.max_images), ("--table-precision", options.table_precision)):
        if value is not None and options.vision_backend != "tensorrt":
            what = f"{option} is for --vision-backend tensorrt, whose engines take whole requests and give their tables"
            raise Refused(error("usage", what, option, "leave it out"), exit_code=EXIT_USAGE)
    path = (options.working_dir / options.hf_model_dir).resolve()
    projector = (options.working_dir / options.projector).resolve() if options.projector else None
    for option, given in (("--hf-model-dir", path), ("--projector", projector)):
        if given is not None and not given.exists():
            raise Refused(error("no-such-directory", f"{given} does not exist", option, "correct the path"))
    if spec.checkpoint.archive:
        found = nemo.read(path, spec, variant, projector)
    else:
        found = checkpoint.read(path, spec, variant)
    places = Places(found.path, found.path, options.output, options.output, projector)
    facts = Facts(places, found, None, None, None)
    asked = Options(model=options.model, runtime="torch", pixels=options.pixels, max_images=options.max_images)
    decided, findings = planning.make(asked, spec, variant, facts)
    of_prompts = "max-images"  # how many images a prompt holds is no matter of the encoder
    problems = [finding for finding in findings if finding.level == "error" and finding.code != of_prompts]
    if problems:
        raise Refused(*problems)
    entries, images = decided.entries_per_image, decided.limits.max_images
    requests = _requests(options, spec, decided) if options.vision_backend == "tensorrt" else None
    pixels = decided.pixels
    normalisation = {"rescale_factor": pixels.rescale_factor, "mean": list(pixels.mean), "std": list(pixels.std)}
    is_open = -1 in decided.entry_shape
    made = Subject(
        model=variant.name,
        model_type=spec.engine_model_types[0],
        module=spec.torch.vision_module,
        source=projector or found.path,
        layout=spec.layout.module,
        entry_shape=decided.entry_shape,
        largest=decided.rows_per_image if is_open else 0,
        rows=None if is_open else decided.rows_per_image,
        hidden_size=decided.hidden_size,
        max_batch_size=options.max_batch_size or decided.limits.max_batch_size * (1 if requests else images * entries),
        dtype=PRECISIONS[options.precision] if options.precision else spec.vision_dtype,
        pixels=options.pixels,
        normalisation=normalisation if options.pixels == "uint8" else None,
        constants=spec.constants,
        num_frames=decided.layout.get("num_frames"),
        requests=requests,
    )
    return made, [finding for finding in findings if finding.level == "warning" and finding.code == "unknown-size"]


def _requests(options: BuildOptions, spec: ModelSpec, decided: Plan) -> Requests:
    """How the engine takes requests.

    Raises Refused where it could not be the whole vision step, or for more images than the model takes.
    """
    if reason := vision_backend.unsuitable(spec, open_axes=-1 in decided.entry_shape):
        what = f"the TensorRT backend cannot be the whole vision step of {spec.title}: {reason}"
        raise Refused(error("vision-backend", what, "--vision-backend", "leave it out"))
    images = decided.limits.max_images
    if spec.max_images is not None and images > spec.max_images:
        what = f"{spec.title} takes {spec.max_images} {spec.media.noun} per prompt, {images} asked"
        raise Refused(error("max-images", what, "--max-images", f"use --max-images {spec.max_images}"))
    return Requests(
        max_entries=images * decided.entries_per_image,
        entries_per_image=decided.entries_per_image,
        constant_rows=spec.constant_rows,
        table_dtype=PRECISIONS[options.table_precision] if options.table_precision else spec.dtype,
    )

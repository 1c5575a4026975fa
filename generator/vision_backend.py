"""The vision engine as a model of Triton's TensorRT backend: `--vision-backend tensorrt`.

That backend calls an engine with what requests hold, concatenated along the first axis, and hands its output on, with
nothing between. So the engine takes pixel_values [B, n, ...] and gives prompt_embedding_table [B, rows, hidden] itself,
as `gen-repo build-vision --vision-backend tensorrt` builds it. One that takes images [B, ...] serves as well where
every request has exactly one.

Source: triton-inference-server/tensorrt_backend and core as of July 2026: the first axis of every tensor is the batch
and open, config.pbtxt's other sizes are the engine's, max_batch_size is at most its profile's. The dynamic batcher runs
requests of equal shape together. The backend knows UINT8 and, since 24.06, BF16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from generator import folders, release
from generator.facts.engines import RequestsForm, VisionEngineFacts
from generator.facts.gather import Facts
from generator.findings import Finding, error
from generator.limits import Limits
from generator.options import Options
from generator.routes import TABLE
from generator.spec import ModelSpec, Variant

PIXELS = "pixel_values"
IMAGES_INPUT = "input"  # of TensorRT-LLM's engines; what their output is called, the release says
OPTION = "--vision-backend"
CODE = "vision-backend"
PYTHON = f"use {OPTION} python"


@dataclass(frozen=True)
class TensorrtVision:
    """How the backend sees the engine.

    Attributes:
        input, output: names of the engine's tensors.
        one_image: it takes images, without the axis n, which is 1 in every request.
        engine: its path as the server sees it; "" = there is none yet.
        file: in the step's version folder, where the backend opens it: a link to the engine.
    """

    input: str
    output: str
    one_image: bool
    engine: str
    file: str = "model.plan"


@dataclass(frozen=True)
class Wanted:
    """What an engine must do: `entries` of one request at most, the requests of one call, and the types."""

    entries: int
    limits: Limits
    vision_dtype: str
    llm_dtype: str


def unsuitable(spec: ModelSpec, *, open_axes: bool) -> str:
    """Why no engine of this model can be the whole vision step; empty = one can."""
    if spec.carries != TABLE:
        return "its features are cut to the rows that are valid, whose number goes with them"
    if open_axes:
        return "its images differ in shape, and the server runs only requests of one shape together"
    return ""


def decide(
    options: Options,
    spec: ModelSpec,
    variant: Variant,
    facts: Facts,
    wanted: Wanted,
    *,
    release_name: str,
    open_axes: bool,
    engine_path: str,
) -> tuple[TensorrtVision | None, list[Finding]]:
    """How the TensorRT backend runs the vision engine, None where a Python step does; and what forbids the one or the
    other. `engine_path` is the engine's as the server sees it."""
    vision = facts.vision_engine
    if options.vision_backend == "python":
        return None, list(_python(vision)) if options.runtime == "trtllm" else []
    findings = list(_options(options, spec, open_axes=open_axes))
    if vision is None:
        if variant.no_torch:
            what = f"gen-repo build-vision cannot export {variant.name}: {variant.no_torch}"
            findings.append(error(CODE, what, OPTION, PYTHON))
        return TensorrtVision(PIXELS, TABLE, one_image=False, engine=""), findings
    build = _command(variant, facts, wanted)
    if vision.requests:
        problems = _of_requests(spec, vision, vision.requests, wanted)
        made = TensorrtVision(PIXELS, TABLE, one_image=False, engine=engine_path)
    else:
        problems = _of_images(spec, vision, wanted)
        output = "output" if vision.own else release.of(release_name).vision_output
        made = TensorrtVision(IMAGES_INPUT, output, one_image=True, engine=engine_path)
    where = vision.folder / "config.json"
    return made, findings + [error(CODE, what, where, build) for what in problems]


def _command(variant: Variant, facts: Facts, wanted: Wanted) -> str:
    sizes = f"--max-batch-size {wanted.limits.max_batch_size} --max-images {wanted.limits.max_images}"
    return (
        f"build it with gen-repo build-vision --model {variant.name} --hf-model-dir {facts.places.checkpoint} "
        f"--output D {OPTION} tensorrt {sizes} --table-precision {folders.SHORT[wanted.llm_dtype]}, or {PYTHON}"
    )


def _python(vision: VisionEngineFacts | None) -> Iterator[Finding]:
    if vision and vision.requests:
        what = "the vision engine takes whole requests, as the TensorRT backend sends them; a Python step sends images"
        remedy = f"use {OPTION} tensorrt, or build the engine with gen-repo build-vision without that option"
        yield error(CODE, what, vision.folder / "config.json", remedy)


def _options(options: Options, spec: ModelSpec, *, open_axes: bool) -> Iterator[Finding]:
    """What asks for a vision step with code of its own."""
    if options.runtime != "trtllm":
        what = f"{OPTION} tensorrt runs an engine, --runtime {options.runtime} the checkpoint"
        yield error(CODE, what, OPTION, f"use --runtime trtllm, or {PYTHON}")
    if reason := unsuitable(spec, open_axes=open_axes):
        what = f"the TensorRT backend cannot be the whole vision step of {spec.title}: {reason}"
        yield error(CODE, what, OPTION, PYTHON)
    if options.vision_cache:
        what = "the cache of rows is part of the Python step; the TensorRT backend computes every image"
        yield error(CODE, what, "--vision-cache", f"leave it out, or {PYTHON}")
    if options.deploy and not options.container:
        what = "the release's container, which the manifests name by default, has no TensorRT backend"
        yield error(CODE, what, "--deploy", f"name an image that has both backends with --container, or {PYTHON}")


def _of_requests(spec: ModelSpec, vision: VisionEngineFacts, built: RequestsForm, wanted: Wanted) -> Iterator[str]:
    """What keeps an engine by `gen-repo build-vision --vision-backend tensorrt` from serving this repository."""
    if wanted.entries > built.max_entries:
        yield f"the engine takes {built.max_entries} images (tiles) of a request, one has up to {wanted.entries}"
    yield from _batch(vision, wanted)
    if built.constant_rows != spec.constant_rows:
        yield f"its tables have {built.constant_rows} constant rows, those of {spec.title} have {spec.constant_rows}"
    if built.table_dtype != wanted.llm_dtype:
        yield f"the engine gives tables of {built.table_dtype}, the LLM takes {wanted.llm_dtype}"


def _of_images(spec: ModelSpec, vision: VisionEngineFacts, wanted: Wanted) -> Iterator[str]:
    """What keeps an engine that takes images from being the whole vision step."""
    if wanted.entries > 1:
        yield f"the engine takes images one by one, a request has up to {wanted.entries} images (tiles)"
    yield from _batch(vision, wanted)
    if spec.constant_rows:
        yield f"the engine does not put the {spec.constant_rows} constant row(s) of {spec.title} before those of images"
    if vision.output_axes not in (None, 3):
        yield "the engine gives the rows of an image as a grid, the LLM takes a table of them"
    if wanted.vision_dtype != wanted.llm_dtype:
        yield f"the engine gives rows of {wanted.vision_dtype}, the LLM takes {wanted.llm_dtype}"


def _batch(vision: VisionEngineFacts, wanted: Wanted) -> Iterator[str]:
    most = wanted.limits.max_batch_size
    if vision.max_batch_size is not None and vision.max_batch_size < most:
        yield f"the engine takes {vision.max_batch_size} requests in one call, the server sends up to {most}"

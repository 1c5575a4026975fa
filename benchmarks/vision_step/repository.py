"""A repository around the vision step as `gen-repo --runtime torch` writes it: feeder -> vision step -> sink.

Each variant is an ensemble of its own with a vision step of its own, so one server holds them all.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generator import models, planning, render
from generator.facts import checkpoint
from generator.facts.gather import Facts, Places
from generator.options import Options, PixelForm
from generator.plan import Plan

FEEDER, SINK = "feeder", "sink"
FEEDERS, SINKS = 8, 4  # instances of each
VALUES = 64  # of each table that the sink tells, spread over it
TYPES = {"float": np.float16, "uint8": np.uint8}


@dataclass(frozen=True)
class Variant:
    """One way to run the step.

    Attributes:
        delay: milliseconds that the dynamic batcher waits for company.
        instances: of the step on the GPU; each loads the encoder again.
        table: where the next model gets the table, "gpu" or "host".
    """

    pixels: PixelForm = "float"
    delay: int = 0
    instances: int = 1
    table: str = "gpu"

    @property
    def name(self) -> str:
        return f"{self.pixels}_{self.delay}ms_{self.instances}_{self.table}"


def plan_of(model: str, folder: Path, pixels: PixelForm, batch: int) -> Plan:
    """What gen-repo decides for the encoder of the checkpoint in `folder`, which needs no tokenizer for that."""
    spec, variant = models.find(model)
    found = checkpoint.read(folder, spec, variant)
    facts = Facts(Places(found.path, found.path, folder, folder, None), found, None, None, None)
    asked = Options(model=model, runtime="torch", pixels=pixels, max_batch_size=batch)
    return planning.make(asked, spec, variant, facts)[0]


def write_step(target: Path, plan: Plan, variant: Variant, name: str) -> None:
    """The vision step's folder, with the name, delay and instances of the variant."""
    for relative, content in render.step(plan, "vision_encoder").items():
        file = target / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    config = (target / "config.pbtxt").read_text()
    for old, new in (
        ('name: "vision_encoder"', f'name: "{name}"'),
        ("dynamic_batching { }", f"dynamic_batching {{ max_queue_delay_microseconds: {1000 * variant.delay} }}"),
        ("count: 1", f"count: {variant.instances}"),
    ):
        if config.count(old) != 1:
            raise SystemExit(f"{target}/config.pbtxt has no {old!r}: this benchmark knows another template")
        config = config.replace(old, new)
    (target / "config.pbtxt").write_text(config)


def write(target: Path, plans: dict[PixelForm, Plan], variants: list[Variant], pixels: dict[PixelForm, Path]) -> None:
    """The whole repository; `pixels` are .npy files [n, ...] that the feeders send in turn."""
    for form, plan in plans.items():
        _feeder(target / f"{FEEDER}_{form}", plan, form, pixels[form])
    for table in sorted({variant.table for variant in variants}):
        _sink(target / f"{SINK}_{table}", table)
    for variant in variants:
        plan = plans[variant.pixels]
        write_step(target / f"step_{variant.name}", plan, variant, f"step_{variant.name}")
        _ensemble(target / variant.name, variant)


def _python_model(folder: Path, source: str, config: str) -> Path:
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name(source), version / "model.py")
    head = f'name: "{folder.name}" backend: "python" max_batch_size: 1\n'
    (folder / "config.pbtxt").write_text(head + config)
    return version


def _feeder(folder: Path, plan: Plan, form: PixelForm, pixels: Path) -> None:
    kind, dims = {"float": "FP16", "uint8": "UINT8"}[form], ", ".join(map(str, plan.entry_shape))
    config = f"""input {{ name: "index" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "pixel_values" data_type: TYPE_{kind} dims: [ -1, {dims} ] }}
output {{ name: "num_images" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "num_rows" data_type: TYPE_INT32 dims: [ 1 ] }}
instance_group {{ count: {FEEDERS} kind: KIND_CPU }}
"""
    version = _python_model(folder, "feeder.py", config)
    (version / "settings.json").write_text(json.dumps({"pixels": str(pixels), "rows": plan.rows_per_image}))


def _sink(folder: Path, table: str) -> None:
    on_host = "yes" if table == "host" else "no"
    config = f"""input {{ name: "prompt_embedding_table" data_type: TYPE_FP16 dims: [ -1, -1 ] }}
input {{ name: "look" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "values" data_type: TYPE_FP32 dims: [ {VALUES} ] }}
output {{ name: "on_gpu" data_type: TYPE_INT32 dims: [ 1 ] }}
parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: {{ string_value: "{on_host}" }} }}
instance_group {{ count: {SINKS} kind: KIND_CPU }}
"""
    _python_model(folder, "sink.py", config)


def _ensemble(folder: Path, variant: Variant) -> None:
    (folder / "1").mkdir(parents=True)
    between = ("pixel_values", "num_images", "num_rows")
    maps = {
        f"{FEEDER}_{variant.pixels}": (("index",), between),
        f"step_{variant.name}": (between, ("prompt_embedding_table",)),
        f"{SINK}_{variant.table}": (("prompt_embedding_table", "look"), ("values", "on_gpu")),
    }
    steps = ",\n".join(
        f'    {{ model_name: "{model}" model_version: -1 {_maps("input_map", inputs)} {_maps("output_map", outputs)} }}'
        for model, (inputs, outputs) in maps.items()
    )
    (folder / "config.pbtxt").write_text(
        f"""name: "{folder.name}" platform: "ensemble" max_batch_size: 1
input {{ name: "index" data_type: TYPE_INT32 dims: [ 1 ] }}
input {{ name: "look" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "values" data_type: TYPE_FP32 dims: [ {VALUES} ] }}
output {{ name: "on_gpu" data_type: TYPE_INT32 dims: [ 1 ] }}
ensemble_scheduling {{
  step [
{steps}
  ]
}}
"""
    )


def _maps(kind: str, names: tuple[str, ...]) -> str:
    return " ".join(f'{kind} {{ key: "{name}" value: "{name}" }}' for name in names)

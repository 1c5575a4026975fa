"""What the benchmark of the vision step serves: the generated step, unchanged but for what a variant names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.vision_step import repository
from benchmarks.vision_step.repository import Variant
from generator import render
from tests import checkpoints


def configs(folder: Path) -> dict[str, ModelConfig]:
    parsed = {file.parent.name: file.read_text() for file in folder.glob("*/config.pbtxt")}
    return {name: text_format.Parse(text, ModelConfig()) for name, text in parsed.items()}


def test_every_variant_is_an_ensemble_of_its_own(tmp_path: Path) -> None:
    """Each step's inputs come from the ensemble or the model before it; names, types and counts are the variants'."""
    forms = ("float", "uint8")
    plans = {form: repository.plan_of("llava", checkpoints.cached("llava"), form, 16) for form in forms}
    pixels = {form: tmp_path / f"{form}.npy" for form in forms}
    for form, file in pixels.items():
        np.save(file, np.zeros((2, *plans[form].entry_shape), dtype=repository.TYPES[form]))
    variants = [Variant(), Variant(pixels="uint8", delay=20), Variant(instances=2, table="host")]
    repository.write(tmp_path / "r", plans, variants, pixels)
    found = configs(tmp_path / "r")
    for variant in variants:
        ensemble, step = found[variant.name], found[f"step_{variant.name}"]
        known = {tensor.name: tensor.data_type for tensor in ensemble.input}
        for part in ensemble.ensemble_scheduling.step:
            model = found[part.model_name]
            types = {tensor.name: tensor.data_type for tensor in (*model.input, *model.output)}
            assert {name: types[name] for name in part.input_map} == {name: known[name] for name in part.input_map}
            assert set(part.input_map) == {tensor.name for tensor in model.input}
            known |= {name: types[name] for name in part.output_map}
        assert all(known[tensor.name] == tensor.data_type for tensor in ensemble.output)
        assert step.max_batch_size == 16 and step.instance_group[0].count == variant.instances
        assert step.dynamic_batching.max_queue_delay_microseconds == 1000 * variant.delay
    code = {name: text for name, text in render.step(plans["float"], "vision_encoder").items() if name.startswith("1/")}
    assert {name: (tmp_path / f"r/step_{variants[0].name}" / name).read_bytes() for name in code} == code

"""Steps of the TensorRT backend: the engine is where the server looks for it, and takes what config.pbtxt says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from generator.check.configs import ModelConfig, there
from generator.facts import engines
from generator.findings import Finding, Refused, error, warning
from generator.vision_backend import PIXELS

PLATFORM = "tensorrt_plan"
BUILD = "build it with build_engines.sh, which generates the repository again"


def check(repository: Path, configs: Mapping[str, ModelConfig]) -> list[Finding]:
    """Findings about the engines of a repository that the TensorRT backend runs."""
    found = ((repository / name, config) for name, config in configs.items() if config.platform == PLATFORM)
    return [finding for step, config in found for finding in _step(step, config)]


def _step(step: Path, config: ModelConfig) -> Iterator[Finding]:
    file = step / "1" / config.default_model_filename
    if not there(file):
        try:
            what = f"not servable here: it leads to {str(file.readlink())!r}, which does not exist on this machine"
            yield warning("not-servable-yet", what, file, "build or mount it, or check inside the container")
        except OSError:  # no link
            yield warning("not-servable-yet", "not servable yet: the vision engine is missing", file, BUILD)
        return
    folder = file.resolve().parent
    if not (folder / "config.json").is_file():  # a copy of the engine alone
        return
    try:
        facts = engines.vision_engine(folder)
    except Refused as refused:
        yield from refused.findings
        return
    for what in _differences(config, facts):
        yield error("engine-form", what, folder / "config.json", BUILD)


def _differences(config: ModelConfig, facts: engines.VisionEngineFacts) -> Iterator[str]:
    takes, named = ("images", "requests")[bool(facts.requests)], [tensor.name for tensor in config.input]
    if (named == [PIXELS]) != bool(facts.requests):
        yield f"the engine takes {takes}, and the step calls its input {', '.join(named)}"
    if facts.max_batch_size is not None and facts.max_batch_size < config.max_batch_size:
        yield f"the engine takes {facts.max_batch_size} {takes} in one call, max_batch_size is {config.max_batch_size}"

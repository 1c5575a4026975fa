"""Engines and checkpoints where the repository says they are, and whether this machine's versions can load them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from generator.doctor.machine import Machine
from generator.doctor.needs import Needs
from generator.doctor.software import numbers_of
from generator.facts import engines
from generator.findings import Finding, Refused, error

BUILD = "build it with build_engines.sh, which links it there"
MOUNT = "mount it there, or generate again with --path-map HOST=CONTAINER"


def check(needs: Needs, machine: Machine) -> list[Finding]:
    findings: list[Finding] = []
    for what, path in needs.engines.items():
        if not path.exists():
            remedy = BUILD if needs.repository in path.parents and not path.is_symlink() else MOUNT
            findings.append(error("file-missing", f"{what} is not there: {_led_to(path)!r}", needs.repository, remedy))
    folder = needs.engines.get("the LLM engine")
    if folder and folder.is_dir():
        findings += _llm(needs, machine, folder)
    return findings + list(_tokenizers(needs))


def _led_to(path: Path) -> str:
    return str(path.readlink() if path.is_symlink() else path)


def _llm(needs: Needs, machine: Machine, folder: Path) -> list[Finding]:
    try:
        engine = engines.llm_engine(folder)
    except Refused as refused:
        return list(refused.findings)
    findings = []
    world = needs.numbers["world_size"]
    if engine.world_size != world:
        what = (
            f"the LLM engine has tp {engine.tp} x pp {engine.pp} = {engine.world_size} ranks, launch.sh starts {world}"
        )
        findings.append(error("engine-ranks", what, folder / "config.json", "generate the repository again"))
    installed = machine.python.modules.get("tensorrt_llm") if machine.python else None
    if installed and engine.version and numbers_of(installed)[:3] != numbers_of(engine.version)[:3]:
        what = f"the LLM engine was built by TensorRT-LLM {engine.version}, installed is {installed}"
        remedy = "build it in this container with build_engines.sh, or serve in the container that built it"
        findings.append(error("engine-version", what, folder / "config.json", remedy))
    return findings


def _tokenizers(needs: Needs) -> Iterator[Finding]:
    for role in ("preprocessing", "postprocessing"):
        for settings in needs.repository.glob(f"*{role}/1"):
            if not any((settings / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
                what = f"{settings.parent.name} has no tokenizer"
                yield error("no-tokenizer", what, settings, "generate the repository again with --hf-model-dir")

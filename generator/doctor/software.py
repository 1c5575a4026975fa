"""Programs and packages that the server and its Python steps need."""

from __future__ import annotations

import re
from collections.abc import Iterator

from generator import contract, release
from generator.doctor.machine import Machine, Python
from generator.doctor.needs import Needs
from generator.findings import Finding, error, warning

OLDEST_TRANSFORMERS = (4, 45)
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
CONTAINER = "serve in the Triton container of that release (*-trtllm-python-py3)"


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 0.16.0.dev1 -> (0, 16, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check(needs: Needs, machine: Machine) -> list[Finding]:
    findings = [*_server(needs, machine)]
    python = machine.python
    if python is None:
        what = "there is no python3 on PATH that runs; Triton's Python steps take their packages from it"
        return [*findings, error("no-python", what, "python3", "install Python, or put it on PATH before the server")]
    return [*findings, *_modules(needs, python), *_versions(needs, machine, python)]


def _server(needs: Needs, machine: Machine) -> Iterator[Finding]:
    if "tritonserver" not in machine.programs:
        if needs.on_gpu:
            remedy = f"{CONTAINER}: its tritonserver has the tensorrtllm backend"
            yield error("no-server", "tritonserver is not on PATH", "PATH", remedy)
        elif not machine.server_wheel:
            what = "tritonserver is not on PATH, and nvidia-pytriton, which has one inside, is not installed"
            yield error("no-server", what, "PATH", "pip install 'gen-repo[serve]', or run inside a Triton container")
    elif needs.numbers["backend"] == "tensorrtllm" and "tensorrtllm" not in machine.backends:
        what = f"{machine.programs['tritonserver']} has no backend tensorrtllm, only {', '.join(machine.backends)}"
        yield error("no-backend", what, "/opt/tritonserver/backends", CONTAINER)
    elif needs.numbers.get("vision_engine") and "tensorrt" not in machine.backends:
        what = f"{machine.programs['tritonserver']} has no backend tensorrt, only {', '.join(machine.backends)}"
        remedy = "use a server that has both, see docs/engines.md, or generate again with --vision-backend python"
        yield error("no-backend", what, "/opt/tritonserver/backends", remedy)
    if needs.numbers["mode"] != "single" and "mpirun" not in machine.programs:
        what = f"mpirun is not on PATH, and launch.sh starts {needs.numbers['world_size']} ranks with it"
        remedy = "install OpenMPI; under Slurm, srun --mpi=pmix ./launch.sh does without"
        yield error("no-mpirun", what, "PATH", remedy)
    if needs.numbers["nodes"] > 1 and not (needs.repository / "hostfile").is_file():
        what = f"launch.sh needs the names of {needs.numbers['nodes']} nodes"
        remedy = f"write lines 'HOST slots={needs.numbers['ranks_per_node']}' there, this node first, or set HOSTFILE"
        yield warning("no-hostfile", what, needs.repository / "hostfile", remedy)


def _modules(needs: Needs, python: Python) -> Iterator[Finding]:
    for module, step in needs.modules.items():
        if module not in python.modules:
            what = f"{step} imports {module}, and {python.path} (Python {python.version}) does not have it"
            remedy = f"{CONTAINER}, which has it" if needs.on_gpu else f"pip install {PACKAGES.get(module, module)}"
            if module in ("sentencepiece", "tokenizers", "PIL"):
                remedy = f"{python.path} -m pip install {PACKAGES.get(module, module)}"
            yield error("no-module", what, python.path, remedy)


def _versions(needs: Needs, machine: Machine, python: Python) -> Iterator[Finding]:
    numpy = python.modules.get("numpy", "")
    if "tritonserver" not in machine.programs and machine.server_wheel and numbers_of(numpy) >= (2,):
        what = f"numpy {numpy} is installed, and the Triton inside nvidia-pytriton needs numpy 1"
        yield error("numpy-2", what, python.path, f"{python.path} -m pip install 'numpy<2'")
    if needs.on_gpu:
        yield from _tensorrt_llm(needs, python)
        yield from _tensorrt(needs, python)
    elif (version := python.modules.get("transformers")) and numbers_of(version) < OLDEST_TRANSFORMERS:
        what = f"transformers {version} is installed, the steps need {'.'.join(map(str, OLDEST_TRANSFORMERS))}"
        yield error("transformers-old", what, python.path, f"{python.path} -m pip install -U transformers")


def _tensorrt(needs: Needs, python: Python) -> Iterator[Finding]:
    if needs.release not in contract.releases():  # `gen-repo check` says so
        return
    installed, built = python.modules.get("tensorrt"), release.of(needs.release).tensorrt
    if installed and numbers_of(installed)[:3] != numbers_of(built)[:3]:
        what = f"TensorRT {installed} is installed, the containers of {needs.release} have {built}"
        remedy = "an engine runs with the version that built it only: build the vision engine here, or " + CONTAINER
        yield warning("tensorrt-version", what, python.path, remedy)


def _tensorrt_llm(needs: Needs, python: Python) -> Iterator[Finding]:
    installed = python.modules.get("tensorrt_llm")
    if installed is None:
        what = f"tensorrt_llm is not installed, the repository is for {needs.release}"
        yield error("no-tensorrt-llm", what, python.path, CONTAINER)
    elif installed and numbers_of(installed)[:3] != numbers_of(needs.release)[:3]:
        what = f"tensorrt_llm {installed} is installed, the repository and its engines are for {needs.release}"
        remedy = f"{CONTAINER}, or build the engines with {installed} and generate again"
        yield error("tensorrt-llm-version", what, python.path, remedy)

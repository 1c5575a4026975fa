"""What this machine is: the one place where doctor looks at it. Nothing is loaded, started or changed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")
BACKENDS = Path("/opt/tritonserver/backends")
TIMEOUT = 60
# Runs in the python3 that Triton's Python steps will use. Versions come from metadata: importing tensorrt_llm takes
# half a minute and a GPU.
PROBE = """
import importlib.metadata, importlib.util, json, platform, sys
names, found = json.loads(sys.argv[1]), {}
for module, distributions in names.items():
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    if there:
        found[module] = ""
        for distribution in distributions:
            try:
                found[module] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                pass
print(json.dumps({"version": platform.python_version(), "modules": found}))
"""
DISTRIBUTIONS = {
    "PIL": ["pillow"],
    "yaml": ["pyyaml"],
    "tensorrt": ["tensorrt", "tensorrt_cu12", "tensorrt_cu13"],
}


@dataclass(frozen=True)
class Gpu:
    """Sizes in bytes; 0 = the driver does not say, as where the GPU shares the machine's memory."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Python:
    """The first python3 on PATH, and versions of the modules that were asked for; "" = there, version unknown."""

    path: str
    version: str
    modules: Mapping[str, str]


@dataclass(frozen=True)
class Machine:
    """A machine as doctor sees it; sizes in bytes.

    Attributes:
        gpus: those that a program started here can use; None = no driver answers.
        python: None = there is no python3 on PATH, or it does not run.
        programs: name -> path of those on PATH. backends: of the tritonserver in NVIDIA's containers.
        server_wheel: the Triton inside nvidia-pytriton is installed here.
        taken_ports: of those asked for.
        shm_total, shm_free: of /dev/shm; memory_free: what a new process can get.
    """

    gpus: tuple[Gpu, ...] | None
    python: Python | None
    programs: Mapping[str, str]
    backends: tuple[str, ...]
    server_wheel: bool
    taken_ports: frozenset[int]
    shm_total: int
    shm_free: int
    memory_free: int


def probe(modules: Iterable[str], ports: Iterable[int]) -> Machine:
    """Looks at this machine; asks python3 for `modules` and the system for `ports`."""
    shm = shutil.disk_usage(SHM) if SHM.is_dir() else None
    names = ("tritonserver", "mpirun")
    return Machine(
        gpus=_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")),
        python=_python(modules),
        programs={name: path for name in names if (path := shutil.which(name))},
        backends=tuple(sorted(path.name for path in BACKENDS.iterdir())) if BACKENDS.is_dir() else (),
        server_wheel=importlib.util.find_spec("pytriton") is not None,
        taken_ports=frozenset(port for port in ports if _taken(port)),
        shm_total=shm.total if shm else 0,
        shm_free=shm.free if shm else 0,
        memory_free=_memory_free(),
    )


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _gpus(visible: str | None) -> tuple[Gpu, ...] | None:
    query = "index,uuid,name,memory.total,memory.free"
    text = _output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"])
    return None if text is None else gpus_of(text, visible)


def gpus_of(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's lines (index, uuid, name, MiB, MiB) that CUDA_VISIBLE_DEVICES leaves, in its order."""
    found: dict[str, Gpu] = {}
    uuids: dict[str, str] = {}
    for line in listing.splitlines():
        index, uuid, name, *sizes = (part.strip() for part in line.split(","))
        total, free = (int(size) << 20 if size.isdigit() else 0 for size in sizes)
        found[index], uuids[uuid] = Gpu(name, total, free), index
    if visible is None:
        return tuple(found.values())
    chosen = []
    for entry in (part.strip() for part in visible.split(",")):
        index = entry if entry in found else next((i for u, i in uuids.items() if entry and u.startswith(entry)), "")
        if not index:
            break  # CUDA ignores what follows an entry that it does not know
        chosen.append(found[index])
    return tuple(chosen)


def _python(modules: Iterable[str]) -> Python | None:
    path = shutil.which("python3")
    wanted = {module: [*DISTRIBUTIONS.get(module, []), module] for module in sorted(modules)}
    text = path and _output([path, "-c", PROBE, json.dumps(wanted)])
    if not path or not text:
        return None
    answer = json.loads(text)
    return Python(path, answer["version"], answer["modules"])


def _taken(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return True
    return False


def _memory_free() -> int:
    """MemAvailable, or what the control group leaves when that is less; 0 = not known."""
    free = 0
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    group = Path("/sys/fs/cgroup")
    limit, used = (next(iter(_lines(group / name)), "") for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        return min(free, int(limit) - int(used))
    return free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

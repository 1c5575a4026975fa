"""Builds every encoder at its real size on this machine's GPU, and compares it with torch in fp32.

    python -m benchmarks.vision_engines.run --tensorrt trtroot --work /tmp/engines --output results.json

Needs torch and transformers here and nothing from a network. --tensorrt is an unpacked TensorRT with a Python of its
own (see README.md); without it this Python's tensorrt is used. Encoders are exported and engines built side by side,
each compared as soon as it is built; speeds are measured at the end, one at a time. What is done already in --work is
not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.vision_engines.encoders import MAKERS
from generator.models import specs

ROOT = Path(__file__).parents[2]
LEVELS = ("llava", "video-neva")  # also built to take 8-bit levels
FIRST = ("cogvlm", "blip2-opt", "blip2-t5", "nougat", "vila", "llava")  # the longest builds
REQUESTS = ("llava", "llava-next", "vila")  # also built for Triton's TensorRT backend: whole requests, their tables
LEVEL_SUFFIX, REQUESTS_SUFFIX = "-uint8", "-requests"
EXPORTS = 3  # at a time, besides builds
STAGES = ("export", "truth", "build", "compare", "step", "speed", "torch")


def encoders(only: list[str] | None) -> list[str]:
    """Encoders of the models that gen-repo knows, those that take longest first."""
    known = [name for name in MAKERS if name in specs()]
    known += [name + LEVEL_SUFFIX for name in LEVELS if name in specs()]
    known += [name + REQUESTS_SUFFIX for name in REQUESTS]
    wanted = [name for name in known if not only or name in only]
    return sorted(wanted, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work: Path = arguments.work.resolve()
        self.layers: int | None = arguments.layers
        self.level: int | None = arguments.level
        self.root: Path | None = arguments.tensorrt and arguments.tensorrt.resolve()
        self.started = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {line}", flush=True)

    def done(self, name: str, what: str) -> dict[str, Any] | None:
        file = self.work / name / f"{what}.json"
        content: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
        return content

    def torch(self, name: str, what: str) -> bool:
        """`what` is export, truth, or torch for its own error and speed."""
        if made := self.done(name, what):
            return "failed" not in made
        model = name.removesuffix(LEVEL_SUFFIX).removesuffix(REQUESTS_SUFFIX)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.vision_engines.export", what]
        command += [str(self.work / name), model, "--pixels", "uint8" if name.endswith(LEVEL_SUFFIX) else "float"]
        command += ["--vision-backend", "tensorrt"] if name.endswith(REQUESTS_SUFFIX) else []
        command += ["--layers", str(self.layers)] if self.layers else []
        return self._run(name, what, command, dict(os.environ))

    def tensorrt(self, name: str, what: str) -> bool:
        if made := self.done(name, what):
            return "failed" not in made
        if what != "build" and "failed" in (self.done(name, "build") or {"failed": ""}):
            return False
        python, environment = self._python()
        command = [python, "-m", "benchmarks.vision_engines.tensorrt_side", what, str(self.work / name)]
        command += ["--level", str(self.level)] if self.level is not None else []
        command += ["--own-kernels"] if self.root else []
        return self._run(name, what, command, environment)

    def _python(self) -> tuple[str, dict[str, str]]:
        """The Python that has TensorRT, and its environment; of a packed one cuBLAS and cuDNN are stubs."""
        root = self.root
        environment = dict(os.environ)
        if root is None:
            return sys.executable, environment
        libraries = ("py310/lib", "tensorrt", "stubs", "site/nvidia/cuda_runtime/lib")
        environment |= {
            "PYTHONHOME": str(root / "py310"),
            "PYTHONPATH": f"{ROOT}:{root}:{root / 'site'}",
            "LD_LIBRARY_PATH": ":".join(str(root / part) for part in libraries),
        }
        return str(root / "py310/bin/python3.10"), environment

    def _run(self, name: str, what: str, command: list[str], environment: dict[str, str]) -> bool:
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        before = time.monotonic()
        with (folder / f"{what}.log").open("w") as log:
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
        made = self.done(name, what)
        if made is None:
            tail = (folder / f"{what}.log").read_text(errors="replace").strip().splitlines()[-1:]
            made = {"failed": f"exit code {code}: {' '.join(tail)}"}
            (folder / f"{what}.json").write_text(json.dumps(made))
        self.say(f"{name}: {what} in {time.monotonic() - before:.0f} s {made.get('failed', '')}".rstrip())
        return "failed" not in made

    def write(self, names: list[str], file: Path | None) -> dict[str, Any]:
        """What is known so far, to `file` too: a run that is cut off has not been for nothing."""
        found = {name: {what: made for what in STAGES if (made := self.done(name, what))} for name in names}
        if file:
            file.write_text(json.dumps(found, indent=1))
        return found


def table(result: dict[str, Any]) -> str:
    """One line for each encoder, in Markdown."""
    lines = [
        "| encoder | weights | build s | engine MiB | error fp16 | torch fp16 | images/s at 1, 4, 16 | torch SDPA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, made in sorted(result.items()):
        failed = next((part["failed"] for part in made.values() if "failed" in part), "")
        compared, speeds = made.get("compare", {}), made.get("speed", {}).get("images_s", {})
        if "error" not in compared:
            lines.append(f"| {name} | {failed or 'not compared'} | | | | | | |")
            continue
        plain = made.get("torch", {}).get("sdpa")
        cells = [
            name,
            f"{made['truth']['weights'] / 1e6:.0f} M",
            f"{made['build']['build_s']:.0f}",
            str(made["build"]["engine_mib"]),
            f"{100 * compared['error']:.2f} %",
            f"{100 * plain['error']:.2f} %" if plain else "",
            ", ".join(f"{speed:.0f}" for speed in speeds.values()),
            ", ".join(f"{speed:.0f}" for speed in plain["images_s"].values()) if plain else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints, ONNX files and engines lie")
    parser.add_argument("--output", type=Path, help="results as JSON")
    parser.add_argument("--tensorrt", type=Path, help="an unpacked TensorRT; its absence is waited for")
    parser.add_argument("--only", nargs="*", help="encoders")
    parser.add_argument("--workers", type=int, default=5, help="engines that are built at a time")
    parser.add_argument("--level", type=int, help="TensorRT's optimization level")
    parser.add_argument("--engines-only", action="store_true", help="do not measure torch's own speed")
    parser.add_argument("--layers", type=int, help="fewer layers than published, for a trial")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    names = encoders(arguments.only)
    ready = arguments.tensorrt and arguments.tensorrt / "ready"  # made by whoever unpacks it

    def build(name: str) -> None:
        if bench.torch(name, "export"):
            truth = beside.submit(bench.torch, name, "truth")
            while ready and not ready.exists():
                time.sleep(1)
            with building:
                if bench.tensorrt(name, "build") and truth.result():
                    bench.tensorrt(name, "compare")
                    if not name.endswith(REQUESTS_SUFFIX):  # which the Python step does not run
                        bench.tensorrt(name, "step")
        bench.write(names, arguments.output)

    building = threading.Semaphore(arguments.workers)
    with ThreadPoolExecutor(EXPORTS) as beside, ThreadPoolExecutor(arguments.workers + EXPORTS) as pool:
        list(pool.map(build, names))
    alone = [(bench.tensorrt, "speed")] + [(bench.torch, "torch")] * (not arguments.engines_only)
    for run, what in alone:
        for name in names:
            run(name, what)
    result = bench.write(names, arguments.output)
    print(table(result))


if __name__ == "__main__":
    main()

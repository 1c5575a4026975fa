"""The generated vision step inside a real Triton against the encoder that it runs, on one GPU.

    python -m benchmarks.vision_step.run --work /tmp/step [--models llava vila] [--seconds 3]

Encoders have their published size and random weights, and run in torch (--runtime torch). A small model in front of the
step hands it pixels as preprocessing does, one behind it takes the table, on the GPU, as the language model does. Needs
torch, transformers and tritonserver (or nvidia-pytriton with numpy 1), and no network. --layers N makes it a trial.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from benchmarks import common
from benchmarks.load import Processes, tensors
from benchmarks.vision_step import repository
from benchmarks.vision_step.repository import TYPES, Variant
from generator import server
from generator.options import PixelForm
from generator.plan import Plan

BATCH = 16
CLIENTS = (1, 4, 16, 32, 64)
IMAGES = 64  # different ones
WARM_UP = 0.5  # seconds before each measurement
DIFFERENCE = 0.02  # of values, fp16 in another batch against fp16 alone
VARIANTS = (
    Variant(),
    Variant(pixels="uint8"),
    Variant(delay=2),
    Variant(pixels="uint8", delay=2),
    Variant(delay=20),
    Variant(table="host"),
    Variant(instances=2),
)
CUDA_POOL = 4 * 2**30  # bytes that Triton hands tables over in
MPS = "nvidia-cuda-mps-control"
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Measured:
    """One number of clients: images per second, images of one call of the step, ms of a request in each part of it."""

    clients: int
    per_second: float
    batch: float
    parts: dict[str, float]


def main() -> None:
    parser = common.arguments(__doc__, "vision_step")
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints and repositories lie")
    parser.add_argument("--models", nargs="+", default=["llava", "vila"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--layers", type=int, help="fewer layers than published, for a trial")
    parser.add_argument("--mps", action="store_true", help="under CUDA's Multi-Process Service, started for the run")
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="only the first so many")
    arguments = parser.parse_args()
    facts = common.machine()
    facts["mps"] = arguments.mps
    result: dict[str, Any] = {}
    with Processes() as clients, _shared_gpu() if arguments.mps else contextlib.nullcontext():
        for model in arguments.models:
            bench = Bench(model, arguments.work.resolve() / model, arguments.seconds, clients)
            result[model] = bench.run(VARIANTS[: arguments.variants], arguments.layers)
            facts["gpu"] = next(iter(result[model]["raw"].values()))["device"]
            print(table(model, result[model]), flush=True)
    goals = [
        common.Goal(f"{model}: of the encoder's own speed at batch {BATCH}", 0.9, _best(result[model]))
        for model in result
    ]
    common.finish(arguments.output, facts, result, goals, min(goal.measured for goal in goals))


@contextlib.contextmanager
def _shared_gpu() -> Iterator[None]:
    """Processes that start in here use the GPU side by side instead of in turns."""
    subprocess.run([MPS, "-d"], check=True)
    try:
        yield
    finally:
        # Told to wait at most so many seconds for processes that are still at the GPU.
        subprocess.run([MPS], input=b"quit -t 10\n", check=False)


class Bench:
    def __init__(self, model: str, folder: Path, seconds: float, clients: Processes) -> None:
        self.model, self.folder, self.seconds, self.clients = model, folder, seconds, clients

    def run(self, variants: Sequence[Variant], layers: int | None) -> dict[str, Any]:
        from benchmarks.vision_engines.encoders import MAKERS

        checkpoint, repo = self.folder / "checkpoint", self.folder / "repository"
        if not checkpoint.is_dir():
            MAKERS[self.model](checkpoint, layers)
        shutil.rmtree(repo, ignore_errors=True)
        forms: list[PixelForm] = list(dict.fromkeys(variant.pixels for variant in variants))
        plans = {form: repository.plan_of(self.model, checkpoint, form, BATCH) for form in forms}
        pixels = {form: self._pixels(plan, form) for form, plan in plans.items()}
        repository.write(repo, plans, list(variants), pixels)
        raw = {form: self._raw(repo, form, variants, pixels[form]) for form in forms}
        measured = []
        pool = [f"--cuda-memory-pool-byte-size=0:{CUDA_POOL}"] if raw[forms[0]]["device"] != "cpu" else []
        with server.running(repo, timeout=600, arguments=pool) as ready:
            for variant in variants:
                on_gpu = self._check(ready.grpc, variant, raw[variant.pixels]["values"])
                runs = [asdict(self._measure(ready.grpc, variant, clients)) for clients in CLIENTS]
                measured.append({**asdict(variant), "name": variant.name, "table_on_gpu": on_gpu, "runs": runs})
                print(f"{self.model} {variant.name}: {[run['per_second'] for run in runs]}", flush=True)
        for found in raw.values():
            del found["values"]
        return {"raw": raw, "variants": measured}

    def _pixels(self, plan: Plan, form: PixelForm) -> Path:
        file = self.folder / f"{form}.npy"
        random = np.random.default_rng(7)
        levels = random.integers(0, 256, (IMAGES, *plan.entry_shape), dtype=np.uint8)
        np.save(file, levels if form == "uint8" else ((levels / 255 - 0.5) / 0.25).astype(TYPES[form]))
        return file

    def _raw(self, repo: Path, form: PixelForm, variants: Sequence[Variant], pixels: Path) -> dict[str, Any]:
        first = next(variant for variant in variants if variant.pixels == form)
        output = self.folder / f"raw_{form}.json"
        step = repo / f"step_{first.name}" / "1"
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.vision_step.raw",
            str(step),
            str(pixels),
            str(output),
        ]
        subprocess.run([*command, "--seconds", str(self.seconds / 3)], check=True)
        found: dict[str, Any] = json.loads(output.read_text())
        print(f"{self.model} {form} raw: { ({k: v for k, v in found.items() if k != 'values'}) }", flush=True)
        return found

    def _check(self, url: str, variant: Variant, truth: list[list[float]]) -> bool:
        """Ends the run when a table is not that of its image. Tells whether tables lay on the GPU."""
        values, places = [], set()
        with InferenceServerClient(url) as client:
            for index in range(len(truth)):
                answer = client.infer(variant.name, tensors(_request(index, look=1)))
                values.append(answer.as_numpy("values")[0])
                places.add(int(answer.as_numpy("on_gpu").item()))
        expected, found = np.array(truth), np.array(values)
        error, other = (_error(found, what) for what in (expected, np.roll(expected, 1, axis=0)))
        if error > DIFFERENCE or other < 2 * error or len(places) != 1:
            raise SystemExit(
                f"{variant.name}: tables are off by {error:.4f} ({other:.4f} from another image's): {places}"
            )
        return bool(places.pop())

    def _measure(self, url: str, variant: Variant, clients: int) -> Measured:
        step = f"step_{variant.name}"
        requests = [_request(index, look=0) for index in range(IMAGES)]
        asked = url, variant.name, requests, ("on_gpu",), clients
        self.clients.load(*asked, WARM_UP)
        with InferenceServerClient(url) as client:
            before = _statistics(client, step)
            made = self.clients.load(*asked, self.seconds)
            after = _statistics(client, step)
        spent = {name: after[name] - before[name] for name in after}
        count = spent["requests"]
        parts = {name: round(spent[name] / 1e6 / count, 2) for name in PARTS}
        return Measured(clients, round(made.per_second, 1), round(count / spent["calls"], 1), parts)


def _request(index: int, look: int) -> dict[str, NDArray[Any]]:
    return {"index": np.array([[index]], dtype=np.int32), "look": np.array([[look]], dtype=np.int32)}


def _statistics(client: InferenceServerClient, model: str) -> dict[str, int]:
    """Requests, calls and nanoseconds of each part so far."""
    stats = client.get_inference_statistics(model).model_stats[0]
    parts = {name: int(getattr(stats.inference_stats, name).ns) for name in PARTS}
    return {"requests": int(stats.inference_count), "calls": int(stats.execution_count), **parts}


def _error(found: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def _own(result: dict[str, Any], pixels: str) -> float:
    """Images per second of the encoder at batch 16, called or replayed, whichever is faster."""
    raw = result["raw"][pixels]
    return max(float(raw[kind][str(BATCH)]) for kind in ("sdpa", "sdpa_graph") if kind in raw)


def _best(result: dict[str, Any]) -> float:
    """The most that any variant reaches of its encoder's own speed at batch 16, tables on the GPU."""
    return max(
        run["per_second"] / _own(result, variant["pixels"])
        for variant in result["variants"]
        for run in variant["runs"]
        if variant["table"] == "gpu"
    )


def table(model: str, result: dict[str, Any]) -> str:
    """Markdown: the encoder alone, then one line for each variant."""
    lines = [
        f"| {model} | " + " | ".join(f"{clients} clients" for clients in CLIENTS) + " | of the encoder's own | batch |"
    ]
    lines.append("|---" * (len(CLIENTS) + 3) + "|")
    for variant in result["variants"]:
        best = max(variant["runs"], key=lambda run: run["per_second"])
        cells = [f"{run['per_second']:.0f}" for run in variant["runs"]]
        share = best["per_second"] / _own(result, variant["pixels"])
        lines.append(f"| {variant['name']} | " + " | ".join(cells) + f" | {share:.1%} | {best['batch']:.1f} |")
    for form, raw in result["raw"].items():
        for kind in ("eager", "sdpa", "sdpa_graph"):
            if kind in raw:
                speeds = ", ".join(f"{speed:.0f} at {batch}" for batch, speed in raw[kind].items())
                lines.append(f"\n{form}, {kind}: {speeds}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

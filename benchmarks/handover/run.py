"""How long Triton's Python backend takes from one call of a step to the next, pixels of 16 images waiting.

    python -m benchmarks.handover.run

Two models in one server: one keeps the memory that it frees, as the generated steps do (freed_memory.py), one does not.
48 clients send an image each, by shared memory, so that nothing but the backend handles the pixels.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import shared_memory

from benchmarks import common
from benchmarks.load import tensors
from generator.render import templates_root
from generator.server import running

SIDES = {"kept": True, "freed": False}
SHAPES = {"FP16": (3, 336, 336), "UINT8": (336, 336, 3)}
TYPES = {"FP16": np.float16, "UINT8": np.uint8}
BATCH, CLIENTS = 16, 48
SECONDS = 2.0  # of each repetition
GOAL = 1.5


def main() -> None:
    arguments = common.arguments(__doc__, "handover").parse_args()
    facts = common.machine()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for kind in SHAPES:
            for side, keep in SIDES.items():
                _write(repository / f"{side}_{kind}", kind, keep)
        with running(repository, timeout=60) as server:
            for kind in SHAPES:
                sides = {side: partial(_between, server.grpc, f"{side}_{kind}", kind) for side in SIDES}
                for run in sides.values():
                    run()  # warm
                found = common.interleaved(sides, arguments.repetitions)
                result[kind] = {f"{side}_ms": round(common.median(found[side]), 2) for side in SIDES}
                print(f"{kind}: {result[kind]}")
    ratios = {kind: ms["freed_ms"] / ms["kept_ms"] for kind, ms in result.items()}
    goals = [
        common.Goal(f"{kind}: times as fast from call to call", GOAL, ratio, "x") for kind, ratio in ratios.items()
    ]
    common.finish(arguments.output, facts, result, goals, min(ratios.values()))


def _write(folder: Path, kind: str, keep: bool) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("step.py"), version / "model.py")
    for module in ("freed_memory", "tensors", "vision_answers", "vision_rows"):
        shutil.copy(templates_root() / "shared" / f"{module}.py", version)
    (version / "settings.json").write_text(json.dumps({"keep": keep, "image_shape": SHAPES[kind]}))
    (folder / "config.pbtxt").write_text(
        f"""name: "{folder.name}" backend: "python" max_batch_size: {BATCH}
input {{ name: "pixel_values" data_type: TYPE_{kind} dims: [ -1, {", ".join(map(str, SHAPES[kind]))} ] }}
input {{ name: "num_images" data_type: TYPE_INT32 dims: [ 1 ] }}
input {{ name: "num_rows" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "prompt_embedding_table" data_type: TYPE_FP32 dims: [ -1, -1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{ }}
"""
    )


def _between(url: str, model: str, kind: str) -> float:
    """Median of the milliseconds before full calls."""
    pixels = np.ones((1, *SHAPES[kind]), dtype=TYPES[kind])
    region = shared_memory.create_shared_memory_region("pixels", "/gen_repo_handover", pixels.nbytes)
    found: list[float] = []
    try:
        shared_memory.set_shared_memory_region(region, [pixels])
        with InferenceServerClient(url) as client:
            client.register_system_shared_memory("pixels", "/gen_repo_handover", pixels.nbytes)
            until = time.monotonic() + SECONDS
            threads = [threading.Thread(target=_ask, args=(url, model, kind, until, found)) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client.unregister_system_shared_memory("pixels")
    finally:
        shared_memory.destroy_shared_memory_region(region)
    return common.median(found)


def _ask(url: str, model: str, kind: str, until: float, found: list[float]) -> None:
    pixels = InferInput("pixel_values", [1, 1, *SHAPES[kind]], kind)
    pixels.set_shared_memory("pixels", int(np.prod(SHAPES[kind])) * np.dtype(TYPES[kind]).itemsize)
    one = np.ones((1, 1), dtype=np.int32)
    inputs = [pixels, *tensors({"num_images": one, "num_rows": one})]
    with InferenceServerClient(url) as client:
        while time.monotonic() < until:
            between, images = client.infer(model, inputs).as_numpy("prompt_embedding_table")[0, 0]
            if images == BATCH:
                found.append(float(between))


if __name__ == "__main__":
    main()

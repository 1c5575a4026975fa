"""`make soak`: tens of thousands of good, bad, slow and abandoned requests; each answer is checked, and memory watched.

The repositories are those that gen-repo writes for the tiny checkpoints, with --runtime torch, under a real Triton.
Exit code 1 when an answer was wrong, an error came that should not, or the server ended.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.soak import asks, drive, usage
from benchmarks.soak.drive import Tally
from generator import processes
from generator.generate import generate
from generator.options import Options
from generator.oracle import LlavaOracle, VilaOracle
from generator.server import Server, running
from tests.checkpoints import cached

ORACLES = {"vila": VilaOracle, "llava": LlavaOracle}
STREAMS = {"vila": True, "llava": False}
PARTS = {"vila": 0.6, "llava": 0.4}  # of all requests
SHARES = {"valid": 0.42, "invalid": 0.5, "cancelled": 0.05, "slow": 0.03}
WARM_UP = 0.1  # of a server's requests, before memory is first read
READ_SECONDS = 10.0
KEPT_READINGS = 20
QUIET_SECONDS = 2.0  # between the last answer and a reading


class Ended(Exception):
    """A step of the server, or the server, is gone."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.run", description=__doc__)
    env = os.environ
    parser.add_argument("--requests", type=int, default=int(env.get("SOAK_REQUESTS", "50000")), help="in all")
    parser.add_argument("--minutes", type=float, default=float(env.get("SOAK_MINUTES", "60")), help="at most, in all")
    parser.add_argument("--models", default="vila,llava", help="of vila (streaming) and llava (plain)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"))
    args = parser.parse_args(arguments)
    models = args.models.split(",")
    total = sum(PARTS[model] for model in models)
    results = {}
    for model in models:
        share = PARTS[model] / total
        results[model] = soak(model, round(args.requests * share), 60 * args.minutes * share, args.clients, args.seed)
        report(model, results[model])
    failed = any(result["failed"] for result in results.values())
    requests = sum(result["requests"] for result in results.values())
    write(args.output, {"requests": requests, "failed": failed, "servers": results, "machine": machine()})
    print(f"{'FAILED' if failed else 'passed'}: {requests} requests; {args.output / 'soak.json'}")
    return int(failed)


def soak(model: str, requests: int, seconds: float, clients: int, seed: int) -> dict[str, Any]:
    """Serve `model` and send it `requests`, warm-up included, or what fits into `seconds`."""
    checkpoint, streams = cached(model), STREAMS[model]
    face = "tensorrt_llm_bls" if streams else "ensemble"
    wanted = asks.answered(ORACLES[model](checkpoint), face, streams) + asks.refused(face, streams)
    mix = drive.shuffled(wanted, SHARES, seed)
    tally = Tally()
    readings: list[tuple[bool, usage.Reading]] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        options = Options(
            model=model,
            hf_model_dir=checkpoint,
            runtime="torch",
            output=Path(folder, model),
            streaming=streams,
            max_images=2 if streams else 1,
        )
        outcome = generate(options)
        if outcome.failed:
            raise RuntimeError(f"the repository of {model} was not written: {outcome.findings}")
        with running(outcome.output) as server:
            ended = ""
            begin = time.monotonic()
            try:
                asyncio.run(phases(server, mix, tally, readings, requests, seconds, clients))
            except (Ended, OSError) as error:
                ended = str(error)
                print(server.log.read_text(errors="replace")[-20000:], file=sys.stderr)
            spent = time.monotonic() - begin
    idle = [reading for quiet, reading in readings if quiet]
    return {
        "streaming": streams,
        "requests": tally.sent,
        "seconds": round(spent, 1),
        "right": dict(tally.right),
        "wrong": dict(tally.wrong),
        "unexpected": dict(tally.unexpected),
        "examples": tally.examples,
        "ended": ended,
        "growth_per_10000": usage.growth(*idle) if len(idle) == 2 else {},
        "readings": [{"idle": quiet, **reading.as_json()} for quiet, reading in _some(readings)],
        "failed": bool(ended or tally.wrong or tally.unexpected or not tally.sent),
    }


def _some(readings: list[tuple[bool, usage.Reading]]) -> list[tuple[bool, usage.Reading]]:
    """The two of the idle server, and of the others enough to see a trend."""
    apart = len(readings) // KEPT_READINGS + 1
    return [one for number, one in enumerate(readings) if one[0] or number % apart == 0]


async def phases(
    server: Server,
    mix: Any,
    tally: Tally,
    readings: list[tuple[bool, usage.Reading]],
    requests: int,
    seconds: float,
    clients: int,
) -> None:
    """A warm-up, a reading of the idle server, the rest with readings in between, and a last one of the idle server."""
    begin = asyncio.get_running_loop().time()
    deadline = begin + seconds
    pid, prefix = server.process.pid, shm_prefix(server)
    steps = processes.steps(pid)
    pids = {"server": pid, **usage.names(steps)}

    def look(idle: bool) -> None:
        if gone := processes.ended(pid, steps):
            raise Ended(", ".join(f"{step.model} ended ({step.how})" for step in gone))
        spent = asyncio.get_running_loop().time() - begin
        readings.append((idle, usage.read(pids, prefix, tally.sent, spent)))

    async def look_now_and_then() -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            look(False)
            print(f"{tally.sent} of {requests} requests", file=sys.stderr)

    async def send(count: int) -> None:
        """Send, look, and give up when the server or a step of it has ended."""
        watching = asyncio.create_task(look_now_and_then())
        sending = asyncio.create_task(drive.drive(server.grpc, mix, tally, count, clients, deadline))
        await asyncio.wait({watching, sending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, sending):
            if task.done():
                task.result()
            task.cancel()
        await asyncio.sleep(QUIET_SECONDS)
        look(True)

    warm_up = round(WARM_UP * requests)
    await send(warm_up)
    await send(requests - warm_up)


def shm_prefix(server: Server) -> str:
    command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
    found = re.search(r"shm-region-prefix-name=([^\0]+)", command)
    assert found
    return found[1]


def report(model: str, result: Mapping[str, Any]) -> None:
    print(f"\n{model}: {result['requests']} requests in {result['seconds']} s {result['ended']}")
    for kind in SHARES:
        counts = [result[outcome].get(kind, 0) for outcome in ("right", "wrong", "unexpected")]
        print(f"  {kind:<10} {counts[0]:>7} right {counts[1]:>5} wrong {counts[2]:>5} unexpected errors")
    for example in result["examples"][:10]:
        print(f"  ! {example}")
    for name, grown in result["growth_per_10000"].items():
        print(f"  {name:<20} " + ", ".join(f"{value:+.2f} {what}" for what, value in grown.items()))


def machine() -> dict[str, str]:
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def write(folder: Path, result: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

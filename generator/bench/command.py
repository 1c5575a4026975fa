"""`gen-repo bench`: every point of a sweep, one after another, on a running server or on one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator import __version__, ask, loaded, manifest, server
from generator.ask import StepTime
from generator.bench import analyzer, inputs, report
from generator.bench.points import Point, Requests
from generator.findings import Finding, warning
from generator.plan import FRONT
from generator.planning import names_of
from generator.server import ServerError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

WARM_UP = 2  # requests of a kind before it is measured
RESULTS = "results.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What to measure and where to put it.

    Attributes:
        where: a repository's folder, or host:port of a server's gRPC service. url: of a server that has the folder
            loaded; None = start one. model: to ask; None = the front when streaming, else the ensemble.
        images, videos: files to send; without images pictures are made. requests: measured per point.
        distinct: different requests of each kind, sent in turn. output: folder for results and perf_analyzer's inputs.
        timeout: seconds for one point.
    """

    where: str
    output: Path
    points: tuple[Point, ...]
    url: str | None = None
    model: str | None = None
    stream: bool = False
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    requests: int = 50
    distinct: int = 8
    timeout: float = 1800.0


def run(bench: Bench, tell: Tell) -> tuple[dict[str, Any], list[Finding]]:
    """Measure every point; writes results.json after each of them, and the plot at the end.

    Returns what results.json holds, and warnings. Raises ServerError: no perf_analyzer, no server, a refused request;
    Refused: no repository of ours.
    """
    folder = Path(bench.where)
    local = folder.is_dir() or ":" not in bench.where
    names = manifest.of(folder, manifest.OR_SERVER)["models"] if local else _usual_names(bench.model)
    if local and bench.output.resolve().is_relative_to(folder.resolve()):
        # A folder without a model inside a repository keeps Triton 2.51 from starting.
        raise ServerError(f"{bench.output} lies inside the repository", "choose an --output elsewhere")
    if bench.stream and FRONT not in names and not bench.model:
        raise ServerError(f"{bench.where} does not stream", "generate it with --streaming, or leave out --stream")
    program = analyzer.find()
    videos, pictures = [_read(file) for file in bench.videos], inputs.Pictures(bench.images)
    try:
        bench.output.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        what = f"{bench.output} cannot be the folder of the results: {problem.strerror}"
        raise ServerError(what, "choose another --output") from None
    model = bench.model or names[FRONT if bench.stream else "ensemble"]
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {
        "gen_repo": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "model": model,
        "cores": cores,
        "points": [],
    }
    found: list[Finding] = []
    where = bench.url or (None if local else bench.where)
    with server.started_or(where, folder, timeout=bench.timeout) as (url, group):
        client = ask.connect(url)
        if bench.url and local:
            loaded.must_be(folder, names.values(), url, client)
        decoupled = _decoupled(client)
        for number, point in enumerate(bench.points, 1):
            tell(f"[{number}/{len(bench.points)}] concurrency {point.concurrency}, {point.requests.name}")
            data = _input_file(bench, point.requests, pictures, videos, url, model)
            count = max(bench.requests, 2 * point.concurrency)
            argv = analyzer.command(
                program, url, model, data, concurrency=point.concurrency, requests=count, decoupled=model in decoupled
            )
            before, cpu = ask.step_times(client), _group_seconds(group)
            ran = analyzer.run(argv, bench.timeout)
            spent = _difference(before, ask.step_times(client))
            used = None if group is None else (_group_seconds(group) or 0.0) - (cpu or 0.0)
            spent.pop(model, None)
            measured = report.Measured(point, ran, spent, decoupled, used, cores)
            found += report.warnings(measured)
            vision, llm = names["vision_encoder"], names["tensorrt_llm"]
            result["points"].append(report.as_dict(measured, vision, llm))
            (bench.output / RESULTS).write_text(json.dumps(result, indent=1))
    if not report.plot(result["points"], bench.output / "plot.svg", f"{model}, {result['date']}"):
        remedy = "pip install 'gen-repo[bench]'"
        found.append(warning("no-plot", "matplotlib is not installed: there is no plot", bench.output, remedy))
    return result, found


def _usual_names(model: str | None) -> dict[str, str]:
    """The names of a repository that is not at hand: those without --name, or with the --name that `model` tells."""
    unnamed = model is None or model in ("ensemble", FRONT)
    return names_of(None if unnamed else str(model).removesuffix(f"_{FRONT}"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ServerError(f"cannot read {file}: {error.strerror}", "give the path of a video file") from error


def _input_file(
    bench: Bench, kind: Requests, pictures: inputs.Pictures, videos: Sequence[bytes], url: str, model: str
) -> Path:
    """perf_analyzer's input for this kind; its first requests are asked once, so a refusal is in the server's words."""
    file = bench.output / f"requests-{kind.name}{'-stream' * bench.stream}.json"
    made = [inputs.values(kind, i, pictures, videos, stream=bench.stream) for i in range(bench.distinct)]
    inputs.write(file, made)
    for one in made[:WARM_UP]:
        rest = {name: value for name, value in one.items() if name != "stream"}
        for _ in ask.ask(url, model, None, (), stream=bench.stream, parameters=rest):
            pass
    return file


def _decoupled(client: InferenceServerClient) -> frozenset[str]:
    """Names of the decoupled models of the server."""
    index = client.get_model_repository_index().models
    configs = (client.get_model_config(model.name).config for model in index if model.state == "READY")
    return frozenset(config.name for config in configs if config.model_transaction_policy.decoupled)


def _difference(before: Mapping[str, StepTime], after: Mapping[str, StepTime]) -> dict[str, StepTime]:
    """What each model spent in between, in the order in which a request passes them as far as names tell."""
    spent = {name: time - before.get(name, StepTime(name, 0, 0.0, 0.0)) for name, time in after.items()}
    order = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
    place = {name: next((i for i, role in enumerate(order) if name.endswith(role)), len(order)) for name in spent}
    return {name: spent[name] for name in sorted(spent, key=lambda name: place[name]) if spent[name].count}


def _group_seconds(group: int | None) -> float | None:
    """Processor seconds of a process group's living processes, from /proc; None for no group."""
    if group is None:
        return None
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def show(result: Mapping[str, Any], bench: Bench) -> None:
    """Print the tables and where the rest is."""
    print(report.table(result["points"]))
    print(f"\n{bench.output / RESULTS}: written; it holds the command of each line", file=sys.stderr)

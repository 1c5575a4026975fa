"""What was measured: tables for people, JSON for programs, a plot, and warnings about the measurement itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.ask import StepTime
from generator.bench.analyzer import Run
from generator.bench.points import Point
from generator.findings import Finding, warning

PERCENTILES = (50, 90, 99)
BUSY = 0.9  # share of the cores from which on a machine has none to spare
CLIENT_SHARE = 0.25  # of the processor time, from which on a client beside the server disturbs it
OVERHEAD = 10.0  # percent


@dataclass(frozen=True)
class Measured:
    """One point.

    Attributes:
        steps: what each Triton model spent on all its requests in the run, by name. decoupled: models among them whose
            statistics end when a request has been accepted. server_cpu_s: processor time of a server that runs here.
        cores: of this machine.
    """

    point: Point
    run: Run
    steps: Mapping[str, StepTime]
    decoupled: frozenset[str]
    server_cpu_s: float | None
    cores: int

    def latency(self) -> dict[str, float]:
        return percentiles(one.latency for one in self.run.answered)

    def first_token(self) -> dict[str, float]:
        return percentiles(time for one in self.run.answered if (time := one.first_token) is not None)

    def between_tokens(self) -> dict[str, float]:
        return percentiles(time for one in self.run.answered if (time := one.between_tokens) is not None)

    def tokens(self) -> float | None:
        """Mean tokens of an answer."""
        counts = [sum(one.tokens) for one in self.run.answered if one.tokens is not None]
        return sum(counts) / len(counts) if counts else None

    def mean(self) -> float:
        """Mean latency in ms."""
        return sum(one.latency for one in self.run.answered) / len(self.run.answered)

    def profile(self, vision: str, llm: str) -> dict[str, float]:
        """Mean ms per request as the guide's run script gives them with --run_profiling: vision, LLM and total.

        The statistics of a decoupled LLM end too early; its time is then what the other steps leave of the total.
        """
        spent = {name: step.compute_ms / step.count for name, step in self.steps.items()}
        total = self.mean()
        if llm in self.decoupled or llm not in spent:
            others = (step for name, step in self.steps.items() if name not in self.decoupled | {llm})
            spent[llm] = total - sum((step.compute_ms + step.queue_ms) / step.count for step in others)
        return {"vision_ms": spent.get(vision, 0.0), "llm_ms": spent[llm], "total_ms": total}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p90, p99 by the nearest rank; empty for no values."""
    ordered = sorted(values)
    ranks = {p: max(0, -(-len(ordered) * p // 100) - 1) for p in PERCENTILES}
    return {f"p{p}": ordered[rank] for p, rank in ranks.items()} if ordered else {}


def warnings(measured: Measured) -> list[Finding]:
    """What makes the figures of this point doubtful."""
    run, found = measured.run, []
    client = run.cpu_s / run.seconds
    server = (measured.server_cpu_s or 0.0) / run.seconds
    where = f"concurrency {measured.point.concurrency}, {measured.point.requests.name}"
    elsewhere = "run perf_analyzer on another machine, with gen-repo bench HOST:PORT"
    if client >= BUSY * measured.cores:
        what = f"perf_analyzer keeps {client:.1f} of {measured.cores} cores busy: the client is the bottleneck"
        found.append(warning("client-bottleneck", what, where, elsewhere))
    elif client + server >= BUSY * measured.cores and client >= CLIENT_SHARE * (client + server):
        what = f"perf_analyzer takes {client:.1f} of {measured.cores} cores, and the server beside it has {server:.1f}"
        found.append(warning("client-bottleneck", what, where, elsewhere))
    if run.overhead is not None and run.overhead >= OVERHEAD:
        what = f"perf_analyzer spends {run.overhead:.0f} % of the time on itself instead of keeping requests in flight"
        found.append(warning("client-bottleneck", what, where, elsewhere))
    wanted, got = measured.point.requests.tokens, measured.tokens()
    if got is not None and round(got) != wanted:
        what = f"answers have {got:.1f} tokens on average, {wanted} were asked for"
        found.append(warning("answer-length", what, where, "see max_seq_len of the LLM engine, or ask for fewer"))
    return found


def as_dict(measured: Measured, vision: str, llm: str) -> dict[str, Any]:
    """The point for results.json; times in ms."""
    run, requests = measured.run, measured.point.requests
    return {
        "concurrency": measured.point.concurrency,
        "image_size": requests.size,
        "images": requests.images,
        "prompt_words": requests.words,
        "output_tokens": requests.tokens,
        "requests": len(run.answered),
        "requests_per_s": run.throughput,
        "latency_ms": measured.latency(),
        "first_token_ms": measured.first_token(),
        "between_tokens_ms": measured.between_tokens(),
        "answer_tokens": measured.tokens(),
        "steps": {
            name: {"requests": s.count, "queue_ms": s.queue_ms / s.count, "compute_ms": s.compute_ms / s.count}
            for name, s in measured.steps.items()
        },
        "profile": measured.profile(vision, llm),
        "client": {"cores": run.cpu_s / run.seconds, "overhead_percent": run.overhead},
        "server_cores": None if measured.server_cpu_s is None else measured.server_cpu_s / run.seconds,
        "command": run.command,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Latency and throughput, then what each step spent; a line for each point."""
    streamed = any(row["between_tokens_ms"] and row["first_token_ms"] != row["latency_ms"] for row in rows)
    head = ["image", "images", "words", "tokens", "conc.", "n", "req/s", "p50 ms", "p90 ms", "p99 ms"]
    head += ["first p50", "first p99", "next p50", "next p99"] * streamed
    lines = [[*head, "cores client", "server"]]
    for row in rows:
        cells = [*_request(row), str(row["requests"]), f"{row['requests_per_s']:.2f}"]
        cells += [_ms(row["latency_ms"].get(f"p{p}")) for p in PERCENTILES]
        if streamed:
            kinds = ("first_token_ms", "between_tokens_ms")
            cells += [_ms(row[kind].get(p)) for kind in kinds for p in ("p50", "p99")]
        lines.append([*cells, f"{row['client']['cores']:.2f}", _ms(row["server_cores"])])
    names = list(dict.fromkeys(name for row in rows for name in row["steps"]))
    steps = [["image", "images", "words", "tokens", "conc.", *names, "vision", "LLM", "total"]]
    for row in rows:
        spent = [row["steps"].get(name) for name in names]
        parts = [f"{one['queue_ms']:.1f}+{one['compute_ms']:.1f}" if one else "" for one in spent]
        steps.append([*_request(row), *parts, *(_ms(value) for value in row["profile"].values())])
    return f"{_aligned(lines)}\n\nms per request, waiting + computing:\n{_aligned(steps)}"


def _request(row: Mapping[str, Any]) -> list[str]:
    size = "x".join(map(str, row["image_size"])) if row["image_size"] else "-"
    return [size, *(str(row[key]) for key in ("images", "prompt_words", "output_tokens", "concurrency"))]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def plot(rows: Sequence[Mapping[str, Any]], file: Path, title: str) -> bool:
    """Throughput and latency over concurrency, a line for each kind of request; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = dict.fromkeys(tuple(_request(row)[:4]) for row in rows)
    for kind in kinds:
        of_kind = [row for row in rows if tuple(_request(row)[:4]) == kind]
        at = [row["concurrency"] for row in of_kind]
        name = "{} px, {} image(s), {} words, {} tokens".format(*kind)
        left.plot(at, [row["requests_per_s"] for row in of_kind], marker="o", label=name)
        line = right.plot(at, [row["latency_ms"]["p50"] for row in of_kind], marker="o")[0]
        right.plot(at, [row["latency_ms"]["p99"] for row in of_kind], "--", color=line.get_color())
    everywhere = sorted({row["concurrency"] for row in rows})
    for axes in (left, right):
        axes.set_xticks(everywhere)
    left.set(xlabel="concurrency", ylabel="requests/s", ylim=(0, None))
    right.set(xlabel="concurrency", ylabel="latency in ms: p50, p99 dashed", ylim=(0, None))
    left.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(file)
    return True

"""perf_analyzer: where it is, how it is called, and what it measured.

Figures are computed from the times that it exports for each request: its own throughput counts the time until its next
look at the clock (one second or two) as well, which makes short runs look slow.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generator.server import ServerError

NAME = "perf_analyzer"
TOKENS = "output_tokens"
MOST_TOKENS = 1 << 16  # of an output that a response lacks, perf_analyzer 2.49 exports what lies in memory
REMEDY = (
    "pip install 'perf-analyzer>=2.58' (it needs glibc 2.38 or later), or run bench in NVIDIA's Triton SDK container; "
    "a perf_analyzer on PATH is used as it is"
)


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent and when responses came, in ms; tokens of each response, None = not known.

    Of a streamed answer without the empty response that ends it.
    """

    sent: float
    responses: tuple[float, ...]
    tokens: tuple[int, ...] | None

    @property
    def latency(self) -> float:
        return self.responses[-1] - self.sent

    @property
    def texts(self) -> tuple[float, ...]:
        """When tokens came."""
        if self.tokens is None:
            return self.responses
        return tuple(at for at, count in zip(self.responses, self.tokens, strict=True) if count)

    @property
    def first_token(self) -> float | None:
        """ms from sending to the first token."""
        return self.texts[0] - self.sent if self.texts else None

    @property
    def between_tokens(self) -> float | None:
        """Mean ms between two tokens; None for an answer in one piece."""
        times = self.texts
        later = sum(self.tokens[1:]) if self.tokens else len(times) - 1
        return (times[-1] - times[0]) / later if len(times) > 1 and later else None


@dataclass(frozen=True)
class Run:
    """One run of perf_analyzer.

    Attributes:
        command: as it was run. answered: the requests of the measurement. cpu_s: processor time of perf_analyzer, its
            start included. overhead: its own figure for the share of time that it was busy with itself, in percent.
    """

    command: tuple[str, ...]
    answered: tuple[Answered, ...]
    cpu_s: float
    overhead: float | None

    @property
    def seconds(self) -> float:
        """From the first request that was sent to the last response."""
        ends = (one.responses[-1] for one in self.answered)
        return (max(ends) - min(one.sent for one in self.answered)) / 1e3

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.answered) / self.seconds


def find() -> str:
    """Path of perf_analyzer: on PATH, else beside this Python. Raises ServerError when there is none."""
    beside = str(Path(sys.executable).parent), sysconfig.get_path("scripts")
    found = shutil.which(NAME) or next(filter(None, (shutil.which(NAME, path=folder) for folder in beside)), None)
    if found is None:
        raise ServerError("perf_analyzer is neither on PATH nor beside this Python (package perf-analyzer)", REMEDY)
    tried = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = (tried.stderr or tried.stdout).strip().splitlines()
        raise ServerError(f"{found} does not start: {' '.join(reason[:3])}", REMEDY)
    return found


def command(
    program: str, url: str, model: str, data: Path, *, concurrency: int, requests: int, decoupled: bool
) -> list[str]:
    """The command line that anyone may repeat; `requests` are measured. A `decoupled` model answers on a stream."""
    argv = [program, "-m", model, "-u", url, "-i", "grpc", "--input-data", str(data), "-v"]
    argv += ["--concurrency-range", str(concurrency), "--request-count", str(requests)]
    return [*argv, "--async", "--streaming"] if decoupled else argv


def run(argv: Sequence[str], timeout: float) -> Run:
    """Run it to its end. Raises ServerError, with its own words, when it fails or takes longer than `timeout` s."""
    with tempfile.TemporaryDirectory(prefix="gen_repo_bench_") as folder:
        export = Path(folder, "profile.json")
        before = _children()
        try:
            ended = subprocess.run(
                [*argv, "--profile-export-file", str(export)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"perf_analyzer has not ended after {timeout:.0f} s", "ask for fewer --requests"
            ) from None
        cpu = _children() - before
        said = ended.stdout + ended.stderr
        if ended.returncode or not export.is_file() or not export.stat().st_size:
            lines = [line for line in said.splitlines() if line.strip()]
            raise ServerError(
                f"perf_analyzer ended with code {ended.returncode} and no figures: {' / '.join(lines[-4:])}",
                "see whether `gen-repo ask` is answered, then run the command alone: " + " ".join(argv),
            )
        answered = read(export, decoupled="--streaming" in argv)
    overhead = re.search(r"client overhead: ([\d.]+)%", said)
    return Run(tuple(argv), answered, cpu, float(overhead[1]) if overhead else None)


def read(export: Path, *, decoupled: bool) -> tuple[Answered, ...]:
    """The requests of a profile export. Raises ServerError when one failed or none was answered."""
    # It repeats the requests' images as text, which is not always UTF-8.
    content = json.loads(export.read_bytes().decode(errors="replace"), strict=False)
    rows = [row for experiment in content["experiments"] for row in experiment["requests"]]
    found = []
    for row in rows:
        # The response that ends a stream is empty; an answer that was not streamed may come with its end at once.
        keep = -1 if decoupled and len(row["response_timestamps"]) > 1 else None
        times = tuple(at / 1e6 for at in row["response_timestamps"][:keep])
        counts = [output.get(TOKENS) for output in row.get("response_outputs", [])[:keep]]
        known = len(counts) == len(times) and all(isinstance(count, int) for count in counts)
        tokens = tuple(count if 0 <= count <= MOST_TOKENS else 0 for count in counts) if known else None
        found.append(Answered(row["timestamp"] / 1e6, times, tokens))
    if not found or not all(one.responses for one in found):
        raise ServerError(
            f"perf_analyzer measured {len(found)} requests, and some have no answer", "see the server's log"
        )
    return tuple(found)


def _children() -> float:
    """Processor seconds of child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

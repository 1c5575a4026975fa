"""What the Kubernetes manifests need besides the plan: names, the container image, paths, resources, time to start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from generator import memory
from generator.findings import Finding, error, warning
from generator.launch import Deploy
from generator.memory import GIB, MIB, PREPROCESSING_INSTANCES
from generator.options import Options
from generator.plan import Plan

MOUNT = "/models"
CPUS_OF_A_RANK = 2
LOAD_BYTES_PER_SECOND = 100_000_000  # a network volume on a bad day
START_SECONDS = 300  # besides reading the files
PROBE_SECONDS = 10


def app_name(name: str) -> str:
    """`name` as a DNS label of at most 40 characters that starts with a letter."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (label if label[:1].isalpha() else f"model-{label}")[:40].rstrip("-")


def decide(options: Options, image: str | None) -> tuple[Deploy | None, list[Finding]]:
    """The deployment that was asked for; None = none was.

    Args:
        image: of the release; None = none was published.
    """
    if options.deploy is None:
        if options.container:
            what = "--container names an image for manifests, and none were asked for"
            return None, [error("deploy", what, "--container", "add --deploy kubernetes, or leave it out")]
        return None, []
    findings = []
    if options.runtime != "trtllm":
        what = "the manifests are for engines on GPUs, and the torch runtime is for trying out"
        findings.append(error("deploy", what, "--deploy", "use --runtime trtllm, or leave out --deploy"))
    chosen = options.container or image
    if chosen is None:
        what = "no Triton container was published with this release"
        findings.append(error("no-container", what, "--deploy", "name an image with --container"))
    name = options.name or options.model
    return Deploy(app_name(name), f"{MOUNT}/{name}", chosen or ""), findings


def check(plan: Plan) -> list[Finding]:
    """Warnings of paths that the pods will not see. Relative ones are taken from the mounted volume."""
    if plan.deploy is None:
        return []
    paths = {"the vision engine": plan.paths.vision_engine, "the LLM engine": plan.paths.llm_engine}
    return [
        warning(
            "deploy-path",
            f"{what} is at {path}, and the pods have their volume at {MOUNT}",
            "--deploy",
            f"say where it lies on the volume: --path-map {PurePosixPath(path).parent}={MOUNT}/...",
        )
        for what, path in paths.items()
        if PurePosixPath(path).is_absolute() and PurePosixPath(MOUNT) not in PurePosixPath(path).parents
    ]


@dataclass(frozen=True)
class Resources:
    """Of one pod, and how long it may take to start: `startup_probes` probes, `PROBE_SECONDS` apart."""

    gpus: int
    cpus: int
    memory: str
    shm: str
    startup_probes: int
    probe_seconds: int = PROBE_SECONDS


def resources(plan: Plan) -> Resources:
    """From the memory plan. /dev/shm is memory of the pod and part of `memory`."""
    needed = memory.make(plan)
    loaded = next(term.bytes for term in needed.host if term.name == "engine files being loaded")
    seconds = START_SECONDS + loaded // LOAD_BYTES_PER_SECOND
    return Resources(
        gpus=plan.launch.gpus,
        cpus=CPUS_OF_A_RANK * len(plan.launch.llm_gpus) + PREPROCESSING_INSTANCES + 2,
        memory=f"{-(-needed.host_bytes // GIB)}Gi",
        shm=f"{needed.shm_bytes // MIB}Mi",
        startup_probes=-(-seconds // PROBE_SECONDS),
    )

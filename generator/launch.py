"""How the server is started: which processes on how many nodes and GPUs. Decided here, written as launch.sh."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from generator.findings import Finding, error
from generator.options import Options

Mode = Literal["single", "leader", "orchestrator"]
MOST_GPUS = 64  # of a node: who names a higher number has mistyped it


@dataclass(frozen=True)
class Launch:
    """The processes of one server.

    Attributes:
        mode: single: one process. leader: one server per rank under mpirun, the one of rank 0 answers.
            orchestrator: one server, which starts the LLM's ranks as processes of their own.
        world_size: tp x pp. nodes: machines that share the ranks evenly.
        llm_gpus: GPUs of a node that have ranks of the LLM: rank r has GPU r, unless gpu_device_ids names others.
        vision_gpus: GPUs of the first node that each run an instance of the vision step of their own.
        gpu_memory: bytes of one GPU, None = not said.
    """

    mode: Mode
    world_size: int
    nodes: int
    llm_gpus: tuple[int, ...]
    vision_gpus: tuple[int, ...]
    gpu_memory: int | None

    @property
    def ranks_per_node(self) -> int:
        return self.world_size // self.nodes

    @property
    def gpus(self) -> int:
        """GPUs that the first node needs."""
        return max(*self.llm_gpus, *self.vision_gpus) + 1

    @property
    def vision_beside_llm(self) -> bool:
        """Whether a GPU holds both the LLM and a vision step."""
        return not set(self.vision_gpus).isdisjoint(self.llm_gpus)


@dataclass(frozen=True)
class Deploy:
    """A deployment on Kubernetes.

    Attributes:
        app: name of all objects, a DNS label short enough for the suffixes of pods.
        repository: folder of this repository on the claim's volume.
        image: container image.
    """

    app: str
    repository: str
    image: str


def decide(options: Options, tp: int, pp: int, *, cpp_backend: bool) -> tuple[Launch, list[Finding]]:
    """The launch of `tp` x `pp` ranks, and findings of options that do not go together.

    Args:
        cpp_backend: the LLM step is the C++ backend; the orchestrator can start ranks for that one only.
    """
    world = tp * pp if options.runtime == "trtllm" else 1  # torch takes no engine, whatever its ranks
    nodes, findings = options.nodes, []
    ranks = f"tp {tp} x pp {pp} = {world} ranks"
    if options.runtime == "torch" and nodes > 1:
        what = f"the torch runtime runs on one node, {nodes} asked"
        findings.append(error("nodes", what, "--nodes", "use --runtime trtllm, or leave it out"))
        nodes = 1
    elif world % nodes:
        what = f"{ranks} cannot be shared evenly by {nodes} nodes"
        findings.append(error("nodes", what, "--nodes", "give a number of nodes that divides the ranks"))
        nodes = 1
    if options.runtime == "torch" and options.vision_gpus != (0,):
        what = "the torch runtime has one instance of the vision step"
        findings.append(error("vision-gpus", what, "--vision-gpus", "use --runtime trtllm, or leave it out"))
    if options.runtime == "torch" and options.gpu_memory:
        what = "the torch runtime has no KV cache that memory is set aside for"
        findings.append(error("gpu-memory", what, "--gpu-memory", "use --runtime trtllm, or leave it out"))
    if len(set(options.vision_gpus)) != len(options.vision_gpus):
        what = f"--vision-gpus names a GPU twice: {', '.join(map(str, options.vision_gpus))}"
        findings.append(error("vision-gpus", what, "--vision-gpus", "name each GPU once"))
    llm_gpus = _llm_gpus(options, world // nodes)
    for where, gpus in (("--vision-gpus", options.vision_gpus), ("--set tensorrt_llm.gpu_device_ids", llm_gpus)):
        if max(gpus) >= MOST_GPUS:
            what = f"it names GPU {max(gpus)}, and a node's are 0 to {MOST_GPUS - 1} at most"
            findings.append(error("gpu-number", what, where, "name GPUs as nvidia-smi numbers them"))
    mode: Mode = "single" if world == 1 else "leader"
    if options.launch_mode == "orchestrator":
        mode = "orchestrator"
        remedy = "use --launch-mode leader"
        if options.runtime == "torch" or not cpp_backend:
            what = "the orchestrator starts ranks of the C++ backend, and this repository's LLM step is a Python model"
            findings.append(error("launch-mode", what, "--launch-mode", remedy))
        if nodes > 1:
            what = f"the orchestrator starts its ranks on one node, {nodes} asked"
            findings.append(error("launch-mode", what, "--launch-mode", remedy))
    return Launch(mode, world, nodes, llm_gpus, options.vision_gpus, options.gpu_memory), findings


def _llm_gpus(options: Options, ranks: int) -> tuple[int, ...]:
    """GPUs of a node's `ranks`; the parameter's form is checked with all parameters'."""
    named = [value for _, name, value in options.set if name == "gpu_device_ids"]
    numbers = {int(number) for number in re.findall("[0-9]+", named[-1])} if named else range(ranks)
    return tuple(sorted(numbers)) or tuple(range(ranks))

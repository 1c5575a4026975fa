"""launch.sh as bash, OpenMPI and shellcheck see it: the server is a stand-in that writes down how it was called."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from generator import memory
from generator.check import configs
from generator.cli import main
from generator.models import specs
from tests import engines

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SERVER = f"""#!{sys.executable}
import json, os, pathlib, sys
names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "TRTLLM_ORCHESTRATOR", "NCCL_DEBUG", "FOR_TRITON")
call = {{"arguments": sys.argv[1:], "environment": {{n: os.environ[n] for n in names if n in os.environ}},
        "cpus": len(os.sched_getaffinity(0)), "node": os.environ.get("TEST_NODE")}}
pathlib.Path(os.environ["CALLS"], str(os.getpid())).write_text(json.dumps(call))
"""
# Takes mpirun's ssh for one that only changes what the node is called.
SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
export TEST_NODE="$1"
shift
exec sh -c "$*"
"""


@dataclass(frozen=True)
class Story:
    """A way to start: options and engine of the repository, and what each server must be called with."""

    name: str
    options: tuple[str, ...] = ()
    engine: dict[str, Any] = field(default_factory=dict)
    ranks: int = 1
    pools: tuple[str, ...] = ()
    model: str = "llava"


POOL = 75497472  # 2 x 8 x 576 x 4096 x 2 bytes
STORIES = (
    Story("one GPU", pools=(f"0:{POOL}",)),
    Story("vision on two GPUs", ("--vision-gpus", "0,1"), pools=(f"0:{POOL}", f"1:{POOL}")),
    Story("tensor parallel", engine={"tp": 2}, ranks=2, pools=(f"0:{POOL}",)),
    Story("tensor and pipeline parallel", ("--vision-gpus", "3"), {"tp": 2, "pp": 2}, 4, (f"3:{POOL}",)),
    Story(
        "orchestrator",
        ("--launch-mode", "orchestrator", "--vision-gpus", "1"),
        {"tp": 4},
        1,
        (f"1:{POOL}", "0:0", "2:0", "3:0"),
    ),
    Story(
        "orchestrator, the LLM on other GPUs",
        ("--launch-mode", "orchestrator", "--set", "tensorrt_llm.gpu_device_ids=2,3"),
        {"tp": 2},
        1,
        (f"0:{POOL}", "1:0", "2:0", "3:0"),
    ),
    Story("two nodes", ("--nodes", "2"), {"tp": 2, "pp": 2}, 4, (f"0:{POOL}",)),
)


def make(story: Story, folder: Path) -> Path:
    engine = engines.llm(folder / "engine", **story.engine)
    repository = folder / "it's a repository; $(id)"
    arguments = ["--model", story.model, "--llm-engine-dir", str(engine), "--output", str(repository), *story.options]
    assert main(arguments) == 0
    return repository


def start(repository: Path, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    programs = folder / "programs"
    programs.mkdir()
    (folder / "calls").mkdir()
    for name, text in {"tritonserver": SERVER, "ssh-to-here": SSH}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath]),
        "CALLS": str(folder / "calls"),
        "NCCL_DEBUG": "INFO",
        "HOME": str(folder),
        "TMPDIR": "/tmp",
        **more,
    }
    script = repository / "launch.sh"
    return subprocess.run(
        [script, *arguments], env=environment, capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )


def calls(folder: Path) -> list[dict[str, Any]]:
    """How each server was called, by rank."""
    found = [json.loads(path.read_text()) for path in (folder / "calls").iterdir()]
    return sorted(found, key=lambda call: int(call["environment"].get("OMPI_COMM_WORLD_RANK", 0)))


def values(call: dict[str, Any], flag: str) -> list[str]:
    return [a.removeprefix(f"--{flag}=") for a in call["arguments"] if a.startswith(f"--{flag}=")]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_servers_are_started_as_the_mode_says(story: Story, tmp_path: Path) -> None:
    repository = make(story, tmp_path)
    more = {}
    if "--nodes" in story.options:
        (repository / "hostfile").write_text("here slots=2\nthere slots=2\n")
        more = {"PRTE_MCA_plm_ssh_agent": str(tmp_path / "programs/ssh-to-here"), "PRTE_MCA_prte_keep_fqdn": "1"}
    done = start(repository, tmp_path, "--http-port=9000", "--log-verbose=1", **more)
    assert done.returncode == 0, done.stderr
    found = calls(tmp_path)
    assert len(found) == story.ranks, done.stderr
    first, *others = found
    for call in found:
        assert values(call, "model-repository") == [str(repository)]
        assert "--disable-auto-complete-config" in call["arguments"]
        assert call["arguments"][-2:] == ["--http-port=9000", "--log-verbose=1"]
        assert call["cpus"] == len(os.sched_getaffinity(0))  # mpirun would bind each rank to a core
    assert sorted(values(first, "cuda-memory-pool-byte-size")) == sorted(story.pools)
    assert not values(first, "load-model") and not values(first, "allow-http")
    for call in others:
        assert values(call, "model-control-mode") == ["explicit"]
        assert values(call, "load-model") == ["tensorrt_llm"]
        assert [values(call, f"allow-{service}") for service in ("http", "grpc", "metrics")] == [["false"]] * 3
        assert values(call, "cuda-memory-pool-byte-size") == []
    if story.ranks > 1:
        prefixes = [values(call, "backend-config") for call in found]
        assert prefixes == [[f"python,shm-region-prefix-name=rank{rank}_"] for rank in range(story.ranks)]
        assert {call["environment"]["OMPI_COMM_WORLD_SIZE"] for call in found} == {str(story.ranks)}
    orchestrator = "orchestrator" in story.options
    assert first["environment"].get("TRTLLM_ORCHESTRATOR") == ("1" if orchestrator else None)
    assert ("--enable-peer-access=false" in first["arguments"]) == orchestrator
    if "--nodes" in story.options:
        assert [call["environment"]["NCCL_DEBUG"] for call in found] == ["INFO"] * 4


def test_vision_steps_are_instances_of_their_own(tmp_path: Path) -> None:
    repository = make(STORIES[1], tmp_path)
    config = configs.parse((repository / "vision_encoder/config.pbtxt").read_text())
    (group,) = config.instance_group
    assert (group.count, list(group.gpus)) == (1, [0, 1])


def test_the_memory_plan_counts_the_instances_that_the_config_has(tmp_path: Path) -> None:
    repository = make(STORIES[0], tmp_path)
    config = configs.parse((repository / "preprocessing/config.pbtxt").read_text())
    assert [group.count for group in config.instance_group] == [memory.PREPROCESSING_INSTANCES]


@pytest.mark.parametrize(("release", "told"), [("0.18.0", False), ("0.19.0", True)])
def test_the_backend_is_told_of_several_nodes(release: str, told: bool, tmp_path: Path) -> None:
    repository = make(Story("", ("--nodes", "2"), {"tp": 2, "version": release}), tmp_path)
    config = configs.parse((repository / "tensorrt_llm/config.pbtxt").read_text())
    assert ("num_nodes" in config.parameters) == told  # the parameter came with 0.19.0
    if told:
        assert config.parameters["num_nodes"].string_value == "2"


def test_the_build_script_generates_the_same_again(tmp_path: Path) -> None:
    options = ["--tp", "4", "--nodes", "2", "--vision-gpus", "0,2", "--gpu-memory", "79.5", "--deploy", "kubernetes"]
    output = tmp_path / "r"
    assert main(["--model", "llava", "--output", str(output), *options, "--container", "an/image:1"]) == 0
    script = (output / "build_engines.sh").read_text().replace("\\\n", " ")
    (line,) = (line for line in script.splitlines() if line.strip().startswith("gen-repo --model"))
    words = shlex.split(line)
    for option, value in zip(
        [*options, "--container"][::2], [*options, "--container", "an/image:1"][1::2], strict=True
    ):
        assert words[words.index(option) + 1] == value


def test_several_nodes_need_a_hostfile(tmp_path: Path) -> None:
    repository = make(STORIES[-1], tmp_path)
    done = start(repository, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"{repository}/hostfile is missing: name the 2 nodes there, this one first, a line 'HOST slots=2' each, or set "
        "HOSTFILE\n"
    )
    assert calls(tmp_path) == []


def test_ranks_started_by_slurm_do_not_start_mpirun(tmp_path: Path) -> None:
    repository = make(STORIES[2], tmp_path)
    assert start(repository, tmp_path, PMIX_RANK="1").returncode == 0
    (call,) = calls(tmp_path)
    assert values(call, "load-model") == ["tensorrt_llm"]
    assert values(call, "backend-config") == ["python,shm-region-prefix-name=rank1_"]


@pytest.mark.parametrize("model", specs())
@pytest.mark.parametrize("mode", ["one", "leader", "orchestrator", "nodes", "streaming", "torch"])
def test_the_script_is_clean(model: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "leader": ["--tp", "2"],
        "orchestrator": ["--tp", "4", "--launch-mode", "orchestrator"],
        "nodes": ["--tp", "4", "--nodes", "2", "--deploy", "kubernetes"],
        "streaming": ["--streaming", "--name", "two_words"],
        "torch": ["--runtime", "torch"],
    }.get(mode, [])
    output = tmp_path / "r"
    code = main(["--model", model, "--output", str(output), *options])
    if code:  # what the model's route or converter cannot do
        errors = set(re.findall(r"^error\[([\w-]+)\]", capsys.readouterr().err, re.MULTILINE))
        assert errors and errors <= {"streaming": {"no-streaming"}, "orchestrator": {"launch-mode"}}.get(mode, set())
        return
    script = output / "launch.sh"
    assert script.read_text().startswith("#!/usr/bin/env bash\n") and os.access(script, os.X_OK)
    subprocess.run([shutil.which("bash") or "bash", "-n", script], check=True)
    done = subprocess.run([SHELLCHECK, "--norc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("options", "engine", "code", "phrases"),
    [
        (["--nodes", "3"], {"tp": 4}, "nodes", ("tp 4 x pp 1 = 4 ranks", "3 nodes")),
        (["--nodes", "2"], {}, "nodes", ("tp 1 x pp 1 = 1 ranks", "2 nodes")),
        (["--nodes", "2", "--launch-mode", "orchestrator"], {"tp": 4}, "launch-mode", ("one node, 2 asked",)),
        (["--vision-gpus", "1,1"], {}, "vision-gpus", ("twice: 1, 1",)),
        (["--vision-gpus", "0,64"], {}, "gpu-number", ("GPU 64", "0 to 63")),
        (["--set", "tensorrt_llm.gpu_device_ids=0,99999999999"], {"tp": 2}, "gpu-number", ("GPU 99999999999",)),
        (["--runtime", "torch", "--vision-gpus", "0,1"], {}, "vision-gpus", ("one instance",)),
        (["--runtime", "torch", "--gpu-memory", "80"], {}, "gpu-memory", ("torch runtime",)),
        (["--runtime", "torch", "--launch-mode", "orchestrator"], {}, "launch-mode", ("Python model",)),
        (["--container", "x"], {}, "deploy", ("--container",)),
        (["--runtime", "torch", "--deploy", "kubernetes"], {}, "deploy", ("torch",)),
        (["--deploy", "kubernetes", "--release", "0.18.1"], {"version": "0.18.1"}, "no-container", ("no Triton",)),
    ],
)
def test_modes_that_do_not_go_together(
    options: list[str],
    engine: dict[str, Any],
    code: str,
    phrases: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = engines.llm(tmp_path / "engine", **engine), tmp_path / "r"
    arguments = ["--model", "llava", "--llm-engine-dir", str(folder), "--output", str(output), "--json", *options]
    assert main(arguments) == 1
    errors = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["level"] == "error"]
    assert [f["code"] for f in errors] == [code], errors
    for phrase in phrases:
        assert phrase in " ".join(errors[0].values())
    assert not output.exists()


def test_a_vision_engine_that_is_not_there_is_named_before_the_server_starts(tmp_path: Path) -> None:
    story = Story("TensorRT backend", ("--vision-backend", "tensorrt"))
    repository = make(story, tmp_path)
    missing = start(repository, tmp_path)
    assert missing.returncode == 1 and "build_engines.sh builds the engine and links it there" in missing.stderr
    assert "launch.sh: vision_encoder/1/model.plan is missing or leads to nothing" in missing.stderr
    (repository / "vision_encoder/1/model.plan").symlink_to(engines.vision(tmp_path / "vision") / "model.engine")
    (tmp_path / "again").mkdir()
    done = start(repository, tmp_path / "again")
    assert done.returncode == 0 and len(calls(tmp_path / "again")) == 1, done.stderr


def test_launch_script_without_a_server_says_where_to_find_one() -> None:
    script = Path(__file__).parents[2] / "model_repos/llava/launch.sh"
    run = subprocess.run([script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert run.returncode == 127 and "tritonserver is not on PATH" in run.stderr and "gen-repo serve" in run.stderr

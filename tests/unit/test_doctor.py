"""`gen-repo doctor` on machines that lack one thing each, and for real on the machine that runs the tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from generator.cli import main
from generator.doctor import doctor
from generator.doctor.machine import Gpu, Machine, Python, gpus_of, probe
from generator.findings import EXIT_FINDINGS, EXIT_OK, Finding, Refused
from generator.memory import GIB, MIB
from tests import engines

MODULES = {
    "numpy": "1.26.4", "PIL": "10.4.0", "tokenizers": "0.20.0", "torch": "2.5.0", "tensorrt": "10.7.0",
    "tensorrt_llm": "0.16.0", "transformers": "4.46.0", "safetensors": "0.4.5",
}  # fmt: skip
CONTAINER = Machine(
    gpus=(Gpu("H100", 80 * GIB, 79 * GIB), Gpu("H100", 80 * GIB, 79 * GIB)),
    python=Python("/usr/bin/python3", "3.12.3", MODULES),
    programs={"tritonserver": "/opt/tritonserver/bin/tritonserver", "mpirun": "/usr/local/mpi/bin/mpirun"},
    backends=("python", "tensorrtllm"),
    server_wheel=False,
    taken_ports=frozenset(),
    shm_total=2 * GIB,
    shm_free=2 * GIB,
    memory_free=200 * GIB,
)


def repository(folder: Path, *options: str, **engine: Any) -> Path:
    """A repository with both engines; as doctor sees it also with a tokenizer."""
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    llm = engines.llm(folder / "llm", **{"rank_bytes": 13 * GIB, "pretrained": shape, "tp": 2} | engine)
    vision = engines.vision(folder / "vision")
    output = folder / "repository"
    arguments = ["--llm-engine-dir", str(llm), "--visual-engine-dir", str(vision), "--output", str(output)]
    assert main(["--model", "llava", *arguments, *options]) == 0
    for step in ("preprocessing", "postprocessing"):
        (output / step / "1/tokenizer.json").write_text("{}")
    return output


def without(**changes: Any) -> Machine:
    return replace(CONTAINER, **changes)


def python(**changes: str | None) -> Python:
    """The container's Python with other versions; None = without the module."""
    assert CONTAINER.python
    modules = {name: version for name, version in (MODULES | changes).items() if version is not None}
    return replace(CONTAINER.python, modules=modules)


@dataclass(frozen=True)
class Story:
    """A machine or a repository with one fault: the only finding, and what it must say."""

    name: str
    code: str
    says: tuple[str, ...]
    machine: Machine = CONTAINER
    options: tuple[str, ...] = ()
    engine: dict[str, Any] = field(default_factory=dict)
    level: str = "error"
    breaking: Callable[[Path], object] = lambda folder: None


def truncate(folder: Path) -> None:
    (folder / "llm/config.json").write_text("{")


def rebuild(folder: Path) -> None:
    shutil.rmtree(folder / "llm")
    engines.llm(folder / "llm", tp=4)


def newer(folder: Path) -> None:
    text = (folder / "llm/config.json").read_text()
    (folder / "llm/config.json").write_text(text.replace("0.16.0", "0.17.0"))


STORIES = (
    Story("no driver", "no-gpu", ("needs 2 GPU(s)", "--gpus"), without(gpus=None)),
    Story("one GPU of two", "too-few-gpus", ("1 GPU(s)", "needs 2"), without(gpus=CONTAINER.gpus[:1])),
    Story(
        "small GPU",
        "gpu-memory",
        ("GPU 0", "it has 8.0 GiB", "LLM 14"),
        without(gpus=(Gpu("T4", 8 * GIB, 8 * GIB), *CONTAINER.gpus[1:])),
    ),
    Story(
        "busy GPU",
        "gpu-busy",
        ("GPU 1", "3.0 GiB of 80.0 GiB"),
        without(gpus=(CONTAINER.gpus[0], Gpu("H100", 80 * GIB, 3 * GIB))),
    ),
    Story(
        "cache takes the vision step's room",
        "kv-fraction",
        ("0.9 of what is free", "--gpu-memory 24", "kv_cache_free_gpu_mem_fraction=0.8"),
        without(gpus=(Gpu("L4", 24 * GIB, 24 * GIB),) * 2),
        level="warning",
    ),
    Story("docker's shm", "shm-small", ("64.0 MiB of 64.0 MiB", "--shm-size="), without(shm_total=64 * MIB, shm_free=64 * MIB), level="warning"),
    Story("little memory", "memory-small", ("16.0 GiB of memory",), without(memory_free=16 * GIB), level="warning"),
    Story("port taken", "port-taken", ("port 8001 (grpc)", "--grpc-port=N"), without(taken_ports=frozenset({8001}))),
    Story("no server", "no-server", ("tritonserver is not on PATH",), without(programs={"mpirun": "/m"})),
    Story("server of another container", "no-backend", ("tensorrtllm", "only python"), without(backends=("python",))),
    Story("no MPI", "no-mpirun", ("starts 2 ranks",), without(programs={"tritonserver": "/t"})),
    Story("no python3", "no-python", ("no python3 on PATH",), without(python=None)),
    Story("no tokenizers", "no-module", ("imports tokenizers", "-m pip install tokenizers"), without(python=python(tokenizers=None))),
    Story("no TensorRT", "no-module", ("vision_encoder imports tensorrt",), without(python=python(tensorrt=None))),
    Story("no TensorRT-LLM", "no-tensorrt-llm", ("0.16.0",), without(python=python(tensorrt_llm=None))),
    Story("another TensorRT", "tensorrt-version", ("TensorRT 10.9.0.34", "10.7.0"), without(python=python(tensorrt="10.9.0.34")), level="warning"),
    Story("engine moved", "file-missing", ("the LLM engine is not there", "--path-map"), breaking=lambda f: shutil.move(f / "llm", f / "elsewhere")),
    Story("vision engine gone", "file-missing", ("the engine of vision_encoder",), breaking=lambda f: (f / "vision/model.engine").unlink()),
    Story("rank file gone", "engine-missing", ("rank1.engine",), breaking=lambda f: (f / "llm/rank1.engine").unlink()),
    Story("config cut off", "config-invalid", ("config.json",), breaking=truncate),
    Story("engine of other ranks", "engine-ranks", ("tp 4 x pp 1 = 4 ranks", "starts 2"), breaking=rebuild),
    Story("engine built elsewhere", "engine-version", ("0.17.0", "0.16.0"), breaking=newer),
    Story("no tokenizer", "no-tokenizer", ("postprocessing",), breaking=lambda f: (f / "repository/postprocessing/1/tokenizer.json").unlink()),
    Story("no hostfile", "no-hostfile", ("2 nodes", "HOST slots=1"), options=("--nodes", "2"), level="warning"),
)  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_one_fault_gives_one_finding(story: Story, tmp_path: Path) -> None:
    output = repository(tmp_path, *story.options, **story.engine)
    if story.code != "no-hostfile":
        assert doctor(output, CONTAINER) == []
    story.breaking(tmp_path)
    (finding,) = doctor(output, story.machine)
    assert (finding.level, finding.code) == (story.level, story.code)
    text = f"{finding.what} {finding.where} {finding.remedy}"
    for phrase in story.says:
        assert phrase in text, text
    assert finding.remedy


def test_another_release_is_named_by_repository_and_engine(tmp_path: Path) -> None:
    output = repository(tmp_path)
    findings = doctor(output, without(python=python(tensorrt_llm="0.17.0.post1")))
    assert [f.code for f in findings] == ["tensorrt-llm-version", "engine-version"]
    assert all("0.17.0.post1" in f.what and "0.16.0" in f.what for f in findings)


def test_each_gpu_needs_what_runs_on_it(tmp_path: Path) -> None:
    output = repository(tmp_path, "--set", "tensorrt_llm.gpu_device_ids=2,3")
    large, small = CONTAINER.gpus[0], Gpu("T4", 8 * GIB, 8 * GIB)
    assert doctor(output, without(gpus=(small, small, large, large))) == []
    (finding,) = doctor(output, without(gpus=(large, large, small, large)))
    assert (finding.code, finding.where) == ("gpu-memory", "GPU 2, T4")


def test_memory_that_the_driver_does_not_state_is_not_judged(tmp_path: Path) -> None:
    assert doctor(repository(tmp_path), without(gpus=(Gpu("GB10", 0, 0),) * 2)) == []


def test_torch_runtime_needs_neither_gpu_nor_engines(tmp_path: Path) -> None:
    output = repository(tmp_path, "--runtime", "torch", tp=1)
    bare = without(gpus=None, programs={}, backends=(), server_wheel=True)
    assert [f.code for f in doctor(output, bare)] == ["file-missing"]  # there is no checkpoint
    old = replace(bare, python=python(transformers="4.40.1", numpy="2.1.0"))
    assert [f.code for f in doctor(output, old)] == ["numpy-2", "transformers-old", "file-missing"]


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def test_this_machine_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, and with what the development environment has."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    output = repository(tmp_path)
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        taken = server.getsockname()[1]
        machine = probe(["numpy", "torch", "no_such_module"], [taken, 1])
    assert taken in machine.taken_ports
    assert machine.python and machine.python.path == shutil.which("python3")
    assert set(machine.python.modules) == {"numpy", "torch"}
    assert machine.python.modules["numpy"] == numpy.__version__
    assert 0 < machine.shm_free <= machine.shm_total == shutil.disk_usage("/dev/shm").total
    assert machine.memory_free > 0
    found = doctor(output)
    if machine.gpus is None:
        assert codes(found) >= {"no-gpu", "no-tensorrt-llm"}
    assert all(finding.remedy for finding in found)


def test_constant_rows_beside_the_engine_are_looked_for(tmp_path: Path) -> None:
    engine = engines.llm(tmp_path / "llm", version="0.14.0", vocab_size=32064, hidden_size=3072, table=8 * 2450,
                         max_input_len=4000, max_seq_len=4090)  # fmt: skip
    vision = engines.vision(tmp_path / "vision", model_type="phi-3-vision")
    output = tmp_path / "repository"
    arguments = ["--llm-engine-dir", str(engine), "--visual-engine-dir", str(vision), "--output", str(output)]
    assert main(["--model", "phi-3-vision", *arguments]) == 0
    missing = [finding.what for finding in doctor(output, CONTAINER) if finding.code == "file-missing"]
    assert missing == [
        f"the file of constant rows beside the vision engine is not there: '{vision}/image_newlines.safetensors'"
    ]


def test_the_tensorrt_backend_and_its_engine_are_looked_for(tmp_path: Path) -> None:
    output = repository(tmp_path, "--vision-backend", "tensorrt")
    both = without(backends=("python", "tensorrt", "tensorrtllm"))
    assert doctor(output, both) == []
    no_torch = replace(both, python=python(torch=None, tensorrt=None))
    assert doctor(output, no_torch) == []  # there is no vision step in Python
    [missing] = doctor(output, CONTAINER)
    assert missing.code == "no-backend" and "has no backend tensorrt, only python, tensorrtllm" in missing.what
    assert "--vision-backend python" in str(missing.remedy)
    (tmp_path / "vision/model.engine").unlink()
    [gone] = doctor(output, both)
    assert gone.what == f"the vision engine is not there: '{tmp_path / 'vision/model.engine'}'"
    assert "--path-map" in str(gone.remedy)
    (output / "vision_encoder/1/model.plan").unlink()
    [gone] = doctor(output, both)
    assert gone.code == "file-missing" and gone.remedy == "build it with build_engines.sh, which links it there"


def test_it_needs_nothing_that_a_container_may_lack(tmp_path: Path) -> None:
    output = repository(tmp_path)
    code = (
        "import sys; from generator import cli\n"
        f"cli.main(['doctor', {str(output)!r}])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'transformers', 'numpy', 'jinja2', 'google', 'tritonclient', 'tokenizers', 'PIL'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_listing_of_gpus_and_those_left_visible() -> None:
    listing = "0, GPU-aa11, NVIDIA H100 80GB HBM3, 81559, 81079\n1, GPU-bb22, H100, 81559, 500\n2, GPU-cc33, GB10, [N/A], [N/A]\n"
    first, second, third = gpus_of(listing, None)
    assert first == Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, 81079 << 20) and third == Gpu("GB10", 0, 0)
    assert gpus_of(listing, "1,0") == (second, first)
    assert gpus_of(listing, "GPU-bb") == (second,)
    assert gpus_of(listing, "0,7,1") == (first,)
    assert gpus_of(listing, "") == ()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = repository(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr("generator.doctor.probe", lambda modules, ports: CONTAINER)
    assert main(["doctor", str(output)]) == EXIT_OK
    assert capsys.readouterr().out == f"{output}: can be served here\n"
    monkeypatch.setattr("generator.doctor.probe", lambda modules, ports: without(gpus=None, shm_free=MIB))
    assert main(["doctor", str(output)]) == EXIT_FINDINGS
    printed = capsys.readouterr()
    assert printed.out == f"{output}: cannot be served here\n"
    assert printed.err == (
        "error[no-gpu]: no NVIDIA driver answers here, the repository needs 2 GPU(s)\n"
        "  where:  nvidia-smi\n"
        "  remedy: start the container with --gpus, or generate with --runtime torch\n"
        "warning[shm-small]: 1.0 MiB of 2.0 GiB are free; requests at their limits take 832.0 MiB\n"
        "  where:  /dev/shm\n"
        "  remedy: start the container with --shm-size=872415232, or delete what crashed servers left\n"
    )
    assert main(["doctor", str(output), "--json"]) == EXIT_FINDINGS
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["code"] for finding in findings] == ["no-gpu", "shm-small"]


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not-ours"):
        doctor(tmp_path, CONTAINER)
    output = repository(tmp_path)
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["machine"]
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="no-needs"):
        doctor(output, CONTAINER)

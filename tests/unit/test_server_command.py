"""Which server is started and how, what is refused, and what a failing start leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from generator import server
from generator.generate import generate
from generator.options import Options
from generator.server import ServerError

ROOT = Path(__file__).parents[2]
MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        BODY
    def execute(self, requests):
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
"""
CONFIG = """name: "echo" backend: "python" max_batch_size: 1
input [{name: "x" data_type: TYPE_STRING dims: [1]}] output [{name: "x" data_type: TYPE_STRING dims: [1]}]"""


def repository(folder: Path, body: str = "pass") -> Path:
    version = folder / "repository" / "echo" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version / "model.py").write_text(MODEL.replace("BODY", body))
    return folder / "repository"


def command(folder: Path) -> tuple[list[str], dict[str, str]]:
    folder.mkdir(exist_ok=True)
    return server.command(
        folder,
        http_port=1,
        grpc_port=2,
        metrics_port=3,
        scratch=folder,
        shm_prefix="some_",
        arguments=["--id=a"],
    )


def left_behind(prefix: str) -> list[str]:
    """Shared memory of a server that has ended; what other servers of this machine hold, or left, is not counted."""
    return [path.name for path in server.SHM.glob(f"{prefix}*")]


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the regions of the test's server in /dev/shm begin with."""
    token = secrets.token_hex(6)
    monkeypatch.setattr("generator.server.secrets.token_hex", lambda _: token)
    return f"gen_repo_{token}_"


def alive_in_group(group: int) -> list[str]:
    """Processes of a group that still run; one that is dead but not yet collected by its parent does not count."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, member_of = (process / "stat").read_text(errors="replace").rpartition(") ")[2].split()[:3]
            if int(member_of) == group and state != "Z":
                found.append((process / "cmdline").read_text())
    return found


def without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


def test_server_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "bin" / "tritonserver"
    installed.parent.mkdir()
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(installed.parent))
    argv, environment = command(tmp_path / "r")
    assert argv[0] == str(installed) and environment == dict(os.environ)
    assert not [option for option in argv if option.startswith("--backend-directory")]
    assert {f"--model-repository={tmp_path / 'r'}", "--disable-auto-complete-config", "--http-port=1"} < set(argv)
    assert {"--grpc-port=2", "--metrics-port=3", "--exit-on-error=true"} < set(argv) and argv[-1] == "--id=a"
    assert "--backend-config=python,shm-region-prefix-name=some_" in argv


def test_the_server_is_told_what_launch_script_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, **changed: object) -> Path:
        options = Options(model="llava", output=tmp_path / name, working_dir=tmp_path, **changed)  # type: ignore[arg-type]
        return generate(options).output

    def arguments(name: str, **changed: object) -> list[str]:
        return command(made(name, **changed))[0]

    pool = "--cuda-memory-pool-byte-size="
    one = arguments("one", streaming=True)
    assert [word for word in one if word.startswith(pool)] == [f"{pool}0:75497472"]
    assert "--backend-config=python,thread-pool-size=72" in one
    assert not [word for word in arguments("torch", runtime="torch") if word.startswith(pool)]
    with pytest.raises(ServerError, match="runs on 2 ranks") as refused, server.running(made("two", tp=2)):
        pass
    assert "launch.sh" in refused.value.remedy


def test_server_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_servers(monkeypatch)
    argv, environment = command(tmp_path)
    (backends,) = [Path(option.split("=")[1]) for option in argv if option.startswith("--backend-directory")]
    names = {path.name for path in (backends / "python").iterdir() if path.is_file()}
    assert {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"} <= names
    stub = (backends / "python" / "triton_python_backend_stub").resolve()
    assert stub.parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert sysconfig.get_config_var("LIBDIR") in environment["LD_LIBRARY_PATH"]


def test_numpy_2_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_servers(monkeypatch)
    metadata = tmp_path / "numpy-2.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ServerError, match=r"numpy 2\.1\.0") as caught:
        command(tmp_path / "r")
    assert "numpy<2" in caught.value.remedy


def bare_python(code: str) -> str:
    """Output of `code` in this interpreter without any installed package."""
    environment = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-S", "-c", code]
    return subprocess.run(argv, env=environment, text=True, capture_output=True, check=True).stdout


def test_no_server_at_all() -> None:
    code = """
from pathlib import Path
from generator.server import ServerError, running
try:
    with running(Path("/")):
        pass
except ServerError as error:
    print(error.message, error.remedy)
"""
    assert "no Triton server" in bare_python(code) and "gen-repo[serve]" in bare_python(code)


def test_ask_without_tritonclient() -> None:
    code = """
from generator.ask import ask
from generator.server import ServerError
try:
    list(ask("127.0.0.1:1", "ensemble", "text", []))
except ServerError as error:
    print(error.message, error.remedy)
"""
    assert "tritonclient is not installed pip install" in bare_python(code)


def test_models_messages_come_first(tmp_path: Path, prefix: str) -> None:
    body = 'raise pb_utils.TritonModelException("tokenizer.json is missing: run gen-repo again")'
    with pytest.raises(ServerError) as caught, server.running(repository(tmp_path, body)):
        pass
    lines = caught.value.message.splitlines()
    assert lines[1].startswith("echo: ") and lines[1].endswith("tokenizer.json is missing: run gen-repo again")
    assert "model.py(" not in caught.value.message and left_behind(prefix) == []


def test_a_config_that_does_not_parse(tmp_path: Path) -> None:
    config = repository(tmp_path) / "echo" / "config.pbtxt"
    config.write_text(CONFIG + "\nbogus: 3")
    with pytest.raises(ServerError) as caught, server.running(tmp_path / "repository"):
        pass
    assert str(config) in caught.value.message and '"bogus"' in caught.value.message


def test_never_ready(tmp_path: Path, prefix: str) -> None:
    slow = repository(tmp_path, "import time; print('still loading', flush=True); time.sleep(60)")
    with (
        pytest.raises(ServerError, match="not ready after 2 s\n(.*\n)*.*still loading"),
        server.running(slow, timeout=2),
    ):
        pass
    assert left_behind(prefix) == []


@pytest.mark.parametrize("port", ["http_port", "grpc_port", "metrics_port"])
def test_a_taken_port(tmp_path: Path, port: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {number} of 127.0.0.1"):
            with server.running(repository(tmp_path), **{port: number}):
                pass


SERVE = """
import signal
import sys
from pathlib import Path
from generator.server import ServerError
from generator.supervise import serve
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
try:
    sys.exit(serve(Path(sys.argv[1]), http_port=0, grpc_port=0, metrics_port=0, address="127.0.0.1", restarts=0))
except ServerError as error:
    print(error.message)
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGKILL, 3)]
)
def test_serve_until_a_signal(tmp_path: Path, number: int, code: int) -> None:
    """Signals end it in order; a server that is killed is an error. Nothing is left in any case.

    Neither a proxy for everything that is not here nor a process with a broken name is in its way.
    """
    argv = [sys.executable, "-c", SERVE, str(repository(tmp_path))]
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    odd = tmp_path / "aaaaaaaaaaaaaa\u00e9"  # the kernel keeps 15 bytes of it: half of the last letter
    shutil.copy("/bin/sleep", odd)
    with (
        subprocess.Popen([odd, "30"]) as other,
        subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as program,
    ):
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("ready: http 127.0.0.1:")
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        (child,) = map(int, children)
        arguments = Path(f"/proc/{child}/cmdline").read_text()
        (regions,) = re.findall(r"shm-region-prefix-name=(gen_repo_[0-9a-f]+_)", arguments)
        assert left_behind(regions) != []
        if number == signal.SIGKILL:
            os.kill(child, number)
        else:
            program.send_signal(number)
        rest = program.stdout.read()
        other.kill()
    assert program.returncode == code
    assert code == 0 or "ended with code -9" in rest
    assert alive_in_group(child) == [] and left_behind(regions) == []

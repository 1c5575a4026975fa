"""Start, watch and stop a real Triton server on a generated repository.

`tritonserver` from PATH is used as it is. Without one, the server inside the nvidia-pytriton wheel is used: its parts
are linked into one backend folder and its Python steps run in the environment of this interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHM = Path("/dev/shm")
POLL_SECONDS = 0.05
PORT_ATTEMPTS = 3
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # servers here are behind no proxy
# Of a gRPC client: no proxy either, and messages of any size that the protocol has.
CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
]


class ServerError(RuntimeError):
    """Triton cannot be started, or died. `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class Server:
    """A ready server: 'host:port' of its three services, its process and the file with its log."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path


def command(
    repository: Path,
    *,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    scratch: Path,
    shm_prefix: str,
    address: str = "127.0.0.1",
    exit_timeout: int = 30,
    arguments: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that serve `repository`.

    `scratch` is an empty folder that outlives the server (the wheel's backend folder is built there), `shm_prefix`
    names the server's regions in /dev/shm, `exit_timeout` is in seconds, `arguments` are appended for tritonserver.
    Raises ServerError when there is no server, or none that this interpreter can run.
    """
    binary, options, environment = _installed() or _from_wheel(scratch)
    argv = [
        binary,
        f"--model-repository={repository.resolve()}",
        *options,
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        f"--exit-timeout-secs={exit_timeout}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *_needs(repository),
        f"--http-address={address}",
        f"--grpc-address={address}",
        f"--metrics-address={address}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        *arguments,
    ]
    return argv, environment


@contextlib.contextmanager
def running(
    repository: Path,
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    address: str = "127.0.0.1",
    timeout: float = 300.0,
    exit_timeout: int = 5,
    arguments: Sequence[str] = (),
) -> Iterator[Server]:
    """Serve `repository` inside a with-block; a port of 0 means any free one.

    Yields when every model is ready. Raises ServerError, with the models' own messages first, when a model fails to
    load, the server dies, or nothing is ready after `timeout` seconds; at once when the LLM runs on several ranks. On
    leaving, the server is stopped with its Python processes, and its shared memory is gone.
    """
    if (ranks := _machine(repository).get("world_size", 1)) > 1:
        raise ServerError(f"the LLM of {repository} runs on {ranks} ranks", "start its launch.sh, which runs mpirun")
    wanted = (http_port, grpc_port, metrics_port)
    with tempfile.TemporaryDirectory(prefix="gen_repo_server_") as folder:
        for attempt in range(PORT_ATTEMPTS):
            scratch = Path(folder, str(attempt))
            scratch.mkdir()
            prefix = f"gen_repo_{secrets.token_hex(6)}_"
            ports = free_ports(wanted, address)
            argv, environment = command(
                repository,
                http_port=ports[0],
                grpc_port=ports[1],
                metrics_port=ports[2],
                scratch=scratch,
                shm_prefix=prefix,
                address=address,
                exit_timeout=exit_timeout,
                arguments=arguments,
            )
            log = scratch / "log"
            with log.open("wb") as output:
                # A session of its own: one signal then reaches the server and each Python process it started.
                process = subprocess.Popen(
                    argv,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            try:
                host = "127.0.0.1" if address == "0.0.0.0" else address
                http, grpc, metrics = (f"{host}:{port}" for port in ports)
                server = Server(http, grpc, metrics, process, log)
                try:
                    _wait_ready(server, timeout)
                except ServerError:
                    if 0 in wanted and attempt + 1 < PORT_ATTEMPTS and _port_taken(log):
                        continue  # another process took a port between our look and the server's bind
                    raise
                yield server
                return
            finally:
                _stop(process, prefix, exit_timeout)


@contextlib.contextmanager
def started_or(url: str | None, repository: Path, *, timeout: float = 1800.0) -> Iterator[tuple[str, int | None]]:
    """host:port of the gRPC service at `url`, or of a server started for the block, and that server's process group."""
    if url:
        yield url, None
        return
    with running(repository, timeout=timeout) as started:
        yield started.grpc, started.process.pid


def _installed() -> tuple[str, list[str], dict[str, str]] | None:
    binary = shutil.which("tritonserver")
    return (binary, [], dict(os.environ)) if binary else None


def _from_wheel(scratch: Path) -> tuple[str, list[str], dict[str, str]]:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError(
            "no Triton server: `tritonserver` is not on PATH and nvidia-pytriton is not installed",
            "run inside a Triton container, or: pip install 'gen-repo[serve]'",
        )
    numpy = importlib.metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:  # its stub corrupts INT32 outputs and dies on BYTES inputs there
        raise ServerError(
            f"numpy {numpy} is installed, and the Triton server inside nvidia-pytriton needs numpy 1",
            "pip install 'numpy<2', or put the `tritonserver` of a container on PATH",
        )
    package = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted((path.name for path in stub.parents[1].iterdir()), key=lambda name: int(name.split(".")[1]))
        raise ServerError(
            f"the Triton server inside nvidia-pytriton has no stub for Python {version}",
            f"use a Python among {', '.join(known)}, or put the `tritonserver` of a container on PATH",
        )
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for part in [stub, *(package / "tritonserver" / "backends" / "python").glob("*.*")]:
        (backend / part.name).symlink_to(part)
    environment = dict(os.environ)
    # The stub ignores PYTHONHOME and PYTHONPATH: it takes the environment that the first python3 on PATH belongs to.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    libraries = [str(package.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH")]))
    options = [
        f"--backend-directory={scratch / 'backends'}",
        f"--cache-directory={package / 'tritonserver' / 'caches'}",
    ]
    return str(package / "tritonserver" / "bin" / "tritonserver"), options, environment


def _machine(repository: Path) -> dict[str, Any]:
    """What the repository's manifest says of the machine that it needs; {} where there is none."""
    from generator import manifest

    machine: dict[str, Any] = (manifest.read(repository) or {}).get("machine", {})
    return machine


def _needs(repository: Path) -> list[str]:
    """What launch.sh tells the server as well: threads for the front, and the pools that tables are sent from."""
    machine = _machine(repository)
    number = machine.get("python_threads")
    options = [f"--backend-config=python,thread-pool-size={number}"] if number else []
    pools = machine.get("vision_gpus", []) if machine.get("gpus") else []
    return options + [f"--cuda-memory-pool-byte-size={gpu}:{machine['cuda_pool']}" for gpu in pools]


def free_ports(wanted: Sequence[int], address: str) -> list[int]:
    """`wanted` with each 0 replaced by a different free port. Raises ServerError when a wanted one is taken."""
    chosen = [port for port in wanted if port]
    if len(set(chosen)) < len(chosen):
        raise ServerError(f"ports {chosen} are not different ones", "give each service a port of its own")
    with contextlib.ExitStack() as held:
        ports = []
        for port in wanted:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                message = f"cannot listen on port {port} of {address}: {error.strerror}"
                remedy = "end what listens there, or choose another port"
                if error.errno == errno.EADDRNOTAVAIL:
                    remedy = "give an address of this machine"
                raise ServerError(message, remedy) from error
            ports.append(probe.getsockname()[1])
        return ports


def _wait_ready(server: Server, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise died(server.process, server.log)
        try:
            with DIRECTLY.open(f"http://{server.http}/v2/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:  # not listening yet, or listening and not ready
            pass
        time.sleep(POLL_SECONDS)
    raise ServerError(
        f"Triton is not ready after {timeout:.0f} s\n{_reason(server.log)}",
        "raise the timeout if the models need longer to load",
    )


def died(process: subprocess.Popen[bytes], log: Path) -> ServerError:
    """The error that says how the server ended, and what it said last."""
    return ServerError(
        f"Triton ended with code {process.returncode}\n{_reason(log)}",
        "mend what the messages name (`gen-repo check REPO` looks at the whole repository), then start it again",
    )


def _port_taken(log: Path) -> bool:
    return re.search(r"Socket '.*' already in use", log.read_text(errors="replace")) is not None


def _reason(log: Path, lines: int = 20) -> str:
    """What the log says about the failure: each model's own message, else its last lines that are not notes."""
    text = log.read_text(errors="replace")
    found = re.findall(r"failed to load '([^']+)' version \d+: (.*)", text)
    found += re.findall(r"Poll failed for model directory '([^']+)': (.*)", text)
    messages = [f"{model}: {_unquoted(reason)}" for model, reason in found]
    messages += re.findall(r"libprotobuf ERROR [^\]]*\] (.*)", text)
    messages += re.findall(r"^error: .*", text, flags=re.MULTILINE)
    if len(found) == 0:
        noise = re.compile(r"[IW]\d{4} |[+|]|$")  # notes and warnings of the log, tables, empty lines
        tail = [line for line in text.splitlines() if not noise.match(line) and line not in messages]
        messages += tail[-lines:]
    return "\n".join(messages)


def _unquoted(reason: str) -> str:
    """A logged message with real line ends, without the Python stack that follows it."""
    return reason.rstrip('"').replace("\\n", "\n").split("\n\nAt:")[0].strip()


def _stop(process: subprocess.Popen[bytes], shm_prefix: str, exit_timeout: int) -> None:
    """End the server and all it started: politely, then not; also when a signal interrupts the waiting."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(exit_timeout + 10)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for region in SHM.glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)

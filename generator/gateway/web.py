"""The gateway's web application in a thread of its own: signals belong to the main thread, which keeps the server."""

from __future__ import annotations

import _thread
import math
import socket
import threading

import uvicorn
from fastapi import FastAPI

from generator.gateway.triton import Nowhere, Place, Triton
from generator.server import Server, ServerError
from generator.supervise import Face

LEAVE_SECONDS = 5  # for answers that are still being sent when the gateway is told to end


class Web(Face):
    """Answers from the first server on, and refuses with 503 while there is none."""

    name = "gen-repo openai"

    def __init__(self, application: FastAPI, triton: Triton, host: str, port: int, name: str) -> None:
        """Raises ServerError when the port is taken: nobody should wait for a server in vain."""
        self._triton = triton
        self._socket = _bound(host, port)
        where = f"http://{host}:{self._socket.getsockname()[1]}/"
        self._greeting = f"{name} at {where}v1, a page to try it at {where}"
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=LEAVE_SECONDS)
        self._server = uvicorn.Server(config)
        self._leaving = self._ended = False
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    def ready(self, server: Server) -> None:
        self.stand_before(Place(server.grpc, server.metrics))

    def gone(self, seconds: float) -> None:
        self._triton.place = Nowhere(math.ceil(seconds))

    def leave(self) -> None:
        """Let answers that are being sent end, and take no more requests. Raises ServerError if it had ended before."""
        if self._ended:
            raise ServerError("the gateway has ended by itself", "look in the log above for its last words")
        self._leaving = self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def stand_before(self, place: Place) -> None:
        """Answer from the server at `place` from now on."""
        self._triton.place = place
        if self._thread.ident is None:
            self._thread.start()
        print(self._greeting, flush=True)

    def wait(self) -> None:
        """Until KeyboardInterrupt."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            if not self._leaving:
                self._ended = True
                _thread.interrupt_main()


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        message = f"cannot listen on port {port} of {host}: {error.strerror}"
        raise ServerError(message, "end what listens there, or choose another port") from error
    return made

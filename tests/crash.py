"""Kills a process at any of its system calls, so that tests see what it leaves behind.

A forked child is traced with ptrace (Linux): each system call stops it twice, before and after the kernel does it.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

TRACE_ME, CONTINUE_TO_CALL, SET_OPTIONS = 0, 24, 0x4200
MARK_CALLS, DIE_WITH_TRACER = 1, 1 << 20
CALL = signal.SIGTRAP | 0x80  # how a stop at a system call looks with MARK_CALLS
NOT_ALLOWED = 97


def _ptrace(request: int, pid: int, data: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return int(libc.ptrace(request, pid, None, data))


def killed_at(stop: int | None, act: Callable[[], object]) -> int:
    """Runs `act` in a forked child, which is killed when it stops for the `stop`-th time; None = never.

    Returns:
        How often it stopped: twice for each system call. -1 where a process may not trace its child.

    Raises:
        RuntimeError: `act` raised, or the child died of something else.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if _ptrace(TRACE_ME, 0) != 0:
                code = NOT_ALLOWED
            else:
                os.kill(os.getpid(), signal.SIGSTOP)
                act()
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NOT_ALLOWED:
        return -1
    _ptrace(SET_OPTIONS, child, MARK_CALLS | DIE_WITH_TRACER)
    stops, passed_on = 0, 0
    while True:
        _ptrace(CONTINUE_TO_CALL, child, passed_on)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
                return stops
            raise RuntimeError(f"the traced process ended with status {status:#x}")
        passed_on = 0
        if os.WSTOPSIG(status) != CALL:
            passed_on = os.WSTOPSIG(status)
            continue
        if stops == stop:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return stops
        stops += 1

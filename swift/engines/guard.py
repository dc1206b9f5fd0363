"""A process between us and a server: whatever happens to us, the server and all that it started end.

Run as ``python -S -E guard.py SCRATCH COMMAND...`` by ``launch.Launched`` with a pipe as standard input that nobody
writes to. The pipe ends when we close it and when we die in any way, kill -9 included; the guard then asks the command
to end, waits, kills what is left, and deletes the folder SCRATCH. It stands alone: no import of ours, a few megabytes,
ready in milliseconds.

On Linux the guard adopts what the command leaves behind (PR_SET_CHILD_SUBREAPER), so that a process that has moved to
a group of its own is found too, and the command dies with the guard (PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 10.0  # seconds from the request to end until the kill
LAST = 1.0  # seconds that processes get which the command left behind
POLL = 0.05
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; nothing where there is no such call."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(scratch: str, command: list[str]) -> int:
    """Run the command until it ends or standard input does. Returns its exit code as a shell would."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before there is a second thread: the death signal belongs to the thread that forks.
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_wait_for_parent, args=(stopping,), daemon=True).start()
    while server.poll() is None and not stopping.is_set():
        stopping.wait(POLL)
    end(server)
    shutil.rmtree(scratch, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def end(server: subprocess.Popen) -> None:
    """End the server's group and every process that it left to us."""
    _send(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(PATIENCE)
    deadline = time.monotonic() + LAST
    while server.returncode is not None and adopted() and time.monotonic() < deadline:
        time.sleep(POLL)
    _send(server.pid, signal.SIGKILL)
    server.wait()
    while left := adopted():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)


def adopted() -> list[int]:
    """Children of this process that still run; those that have ended are taken off the books."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for name in os.listdir('/proc') if os.path.isdir('/proc') else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f'/proc/{name}/stat', encoding='utf-8') as file:
                if int(file.read().rpartition(')')[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def _wait_for_parent(gone: threading.Event) -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)
    gone.set()


def _send(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], sys.argv[2:]))

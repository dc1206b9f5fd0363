"""Starts commands in a hundredth of the time: one warm process has imported everything, and forks a child for each.

    with Nursery(log_folder) as nursery:
        done = nursery.run(['sft', '--model', ...], kill_at=0.7)
        done.code, done.seconds, done.output

A child is a whole process of its own: it can be killed at any instant, and nothing of it stays behind. Run as a
program, this file is the warm process: a request is a line of JSON on stdin, the answer a line on stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal that ended it), its seconds, and what it printed."""

    code: int
    seconds: float
    output: str


class Nursery:
    """The warm process, seen from a test."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def __enter__(self) -> Nursery:
        alone = {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONUNBUFFERED': '1'}
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.chaos.nursery'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | alone,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout.readline() == 'warm\n'
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(
        self,
        argv: list[str],
        *,
        kill_at: float | str | None = None,
        number: int = signal.SIGKILL,
        file_size: int | None = None,
    ) -> Done:
        """Run ``swift *argv``.

        Args:
            kill_at: when to send the signal ``number``: after so many seconds, or when this text has been printed.
            file_size: no file may grow beyond so many bytes: a disk that is full, for whoever writes to it.
        """
        self.count += 1
        log = self.folder / f'{self.count}.log'
        request = {'argv': argv, 'log': str(log), 'kill_at': kill_at, 'number': int(number), 'file_size': file_size}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        code, seconds = json.loads(self.process.stdout.readline())
        return Done(code, seconds, log.read_text(errors='replace'))


# ------------------------------------------------------------------------------------------- inside the warm process
def serve() -> None:
    import peft  # noqa: F401
    import torch
    import transformers

    import swift

    sys.modules['matplotlib'] = None  # plots come after all that is saved, and cost as much as all the rest
    transformers.AutoModelForCausalLM  # noqa: B018 - resolves the lazy import
    for module in pkgutil.walk_packages(swift.__path__, 'swift.'):
        with suppress(ImportError):  # adapters of libraries that are not installed here
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    print('warm', flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


def answer(
    argv: list[str], log: str, kill_at: float | str | None, number: int, file_size: int | None
) -> tuple[int, float]:
    started = time.monotonic()
    printing = subprocess.Popen(['tee', log], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    child = os.fork()
    if child == 0:
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        become(argv, printing.stdin.fileno())
    printing.stdin.close()
    if kill_at is not None:
        wait_for(child, Path(log), kill_at)
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    printing.wait()
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def wait_for(child: int, log: Path, moment: float | str) -> None:
    """Return at the moment, or as soon as the child has ended (it is not reaped, so its id stays its own)."""
    started = time.monotonic()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if isinstance(moment, str):
            if log.exists() and moment in log.read_text(errors='replace'):
                return
        elif time.monotonic() - started >= moment:
            return
        time.sleep(0.002)


def become(argv: list[str], out: int) -> None:
    """Be the command: it prints to ``out``, and the process ends with it."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    from swift.cli import main

    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == '__main__':
    serve()

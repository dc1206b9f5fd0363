"""A disk that remembers: records every durable operation of a run, and builds what a crash would have left.

The model of a crash at operation k:

- *killed*: the process dies, the operating system lives. All k operations are there.
- *power lost*: bytes that no ``sync`` of their file covers are lost, or half there; names that no ``sync`` of their
  directory covers are lost from any point on, for each directory on its own.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from swift.core import files


@dataclass(frozen=True)
class Operation:
    """One durable operation: ``what`` it is, the path it is about (relative to the root), and what it needs."""

    what: str
    path: str
    other: str = ''
    data: bytes = b''


class Recorder(files.Fs):
    """Performs every operation, and writes it down with the bytes that were there."""

    def __init__(self, root: Path):
        self.root, self.log = root, []
        self.seen: dict[str, bytes] = {}

    def _note(self, what: str, path: Path, other: str = '', data: bytes = b'') -> None:
        self.log.append(Operation(what, self._name(path), other, data))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def mkdir(self, path):
        super().mkdir(path)
        self._note('mkdir', path)

    def create(self, path, data):
        super().create(path, data)
        self._note('write', path, data=data)

    def append(self, path, data):
        super().append(path, data)
        self._note('append', path, data=data)

    def sync(self, path):
        """Files that libraries wrote are met here for the first time: they were written some time before."""
        if not path.is_dir():
            self._meet(path)
        super().sync(path)
        self._note('sync', path)

    def _meet(self, path: Path) -> None:
        temp = next((each for each in path.parents if each.name.startswith(files.TEMP)), None)
        if temp is None or any(each.path == self._name(path) for each in self.log):
            return
        for entry in sorted(temp.rglob('*')):
            if entry.is_dir():
                self._note('mkdir', entry)
            else:
                self._note('write', entry, data=entry.read_bytes())

    def rename(self, source, target):
        super().rename(source, target)
        self._note('rename', source, self._name(target))

    def symlink(self, path, target):
        super().symlink(path, target)
        self._note('symlink', path, target)

    def unlink(self, path):
        super().unlink(path)
        self._note('unlink', path)

    def rmdir(self, path):
        super().rmdir(path)
        self._note('rmdir', path)


class NeverSyncs(files.Fs):
    """For looking at thousands of folders that no one will keep."""

    def sync(self, path):
        pass


NAMES = ('mkdir', 'rename', 'symlink', 'unlink', 'rmdir', 'write')


def after_kill(log: list[Operation], count: int, folder: Path) -> None:
    """Build in ``folder`` what is there when the process is killed after ``count`` operations."""
    _replay(log[:count], folder)


def after_power_loss(log: list[Operation], count: int, folder: Path, dice: random.Random) -> None:
    """Build in ``folder`` what may be there when the power fails after ``count`` operations."""
    done = log[:count]
    lost = _lost_names(done, dice)
    unsynced = _unsynced_bytes(done)
    kept = []
    for index, operation in enumerate(done):
        if index in lost:
            continue
        if index in unsynced:
            half = operation.data[: dice.choice((0, len(operation.data) // 2, len(operation.data)))]
            operation = Operation(operation.what, operation.path, operation.other, half)
        kept.append(operation)
    _replay(kept, folder)


def _lost_names(done: list[Operation], dice: random.Random) -> set[int]:
    """Per directory: of the changes of names since its last sync, those after a random point."""
    pending: dict[str, list[int]] = {}
    for index, operation in enumerate(done):
        if operation.what == 'sync':
            pending.pop(operation.path, None)
        elif operation.what in NAMES:
            pending.setdefault(os.path.dirname(operation.path) or '.', []).append(index)
    return {index for each in pending.values() for index in each[dice.randint(0, len(each)) :]}


def _unsynced_bytes(done: list[Operation]) -> set[int]:
    """Writes and appends that no later sync of the same file covers."""
    synced: set[str] = set()
    found = set()
    for index in reversed(range(len(done))):
        operation = done[index]
        if operation.what == 'sync':
            synced.add(operation.path)
        elif operation.what in ('write', 'append') and operation.path not in synced:
            found.add(index)
    return found


def _replay(operations: list[Operation], folder: Path) -> None:
    """Do the operations; those whose ground a lost one took away are lost too."""
    for operation in operations:
        path = folder / operation.path
        try:
            if operation.what == 'mkdir':
                path.mkdir()
            elif operation.what == 'write':
                path.write_bytes(operation.data)
            elif operation.what == 'append':
                with path.open('ab') as out:
                    out.write(operation.data)
            elif operation.what == 'rename':
                path.replace(folder / operation.other)
            elif operation.what == 'symlink':
                path.symlink_to(operation.other)
            elif operation.what == 'unlink':
                path.unlink()
            elif operation.what == 'rmdir':
                path.rmdir()
        except OSError:
            continue


class Failing(files.Fs):
    """The k-th operation that needs the disk fails with ``number``; with ``forever`` all after it, too."""

    def __init__(self, k: int, number: int, *, forever: bool = False):
        self.left, self.number, self.forever = k, number, forever
        self.failed = False

    def _maybe_fail(self, path: Path) -> None:
        self.left -= 1
        if self.left == 0 or (self.forever and self.left < 0):
            self.failed = True
            raise OSError(self.number, os.strerror(self.number), str(path))

    def mkdir(self, path):
        self._maybe_fail(path)
        super().mkdir(path)

    def create(self, path, data):
        self._maybe_fail(path)
        super().create(path, data)

    def append(self, path, data):
        self._maybe_fail(path)
        super().append(path, data)

    def sync(self, path):
        self._maybe_fail(path)
        super().sync(path)

    def rename(self, source, target):
        self._maybe_fail(target)
        super().rename(source, target)

    def symlink(self, path, target):
        self._maybe_fail(path)
        super().symlink(path, target)

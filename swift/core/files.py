"""The one way bytes reach a final name: whole, checked and durable, or not at all.

``commit(folder)`` writes a folder beside its final name, syncs it, lists every file with size and SHA-256 in
``manifest.json``, and renames it into place; a reader calls ``verify(folder)`` and trusts nothing else. ``write`` does
the same for a single file, ``append`` adds a line to a journal, ``lock`` gives a folder one owner, ``SafePath`` keeps
paths found in data inside their root.

Every operation that must survive a crash goes through ``fs``, so that tests can record it or let it fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core.errors import CorruptError, DataError, DiskError, LockedError

MANIFEST = 'manifest.json'
LOCK = '.swift.lock'
TEMP = '.swift-tmp-'  # unfinished or half-deleted: worth nothing
OLD = '.swift-old-'  # set aside by commit(replace=True): the only copy until the new folder has its name
FULL_SYNC = getattr(fcntl, 'F_FULLFSYNC', None)  # macOS: fsync alone stops at the drive's cache
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}


class Fs:
    """The operations that durability rests on, one method each. Subclass it to record them or to make one fail."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def create(self, path: Path, data: bytes) -> None:
        """Write a file that must not exist yet."""
        with path.open('xb') as out:
            out.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Add ``data`` in one system call, so that a crash tears at most the last line."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if (written := os.write(descriptor, data)) != len(data):
                raise OSError(errno.ENOSPC, f'wrote {written} of {len(data)} bytes', str(path))
        finally:
            os.close(descriptor)

    def sync(self, path: Path) -> None:
        """Return once the file's bytes, or the directory's names, are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if FULL_SYNC is None:
                os.fsync(descriptor)
            else:
                fcntl.fcntl(descriptor, FULL_SYNC)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def symlink(self, path: Path, target: str) -> None:
        path.symlink_to(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def rmdir(self, path: Path) -> None:
        path.rmdir()


fs = Fs()


# -------------------------------------------------------------------------------------------------------- faults
@contextlib.contextmanager
def explained(path: Path, need: int = 0, *, foreign: bool = False) -> Iterator[None]:
    """Turn an operating system error into a DiskError that says what to do.

    Args:
        path: what is written, or the folder that everything in the block is written to.
        need: bytes that are likely to be needed.
        foreign: the block runs code of others (a library that writes its own files). It may raise OSErrors that are
            no fault of the disk, and disk faults that are no OSErrors (safetensors): the error number decides.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number = error.errno
        else:
            found = re.search(r'\(os error (\d+)\)', str(error)) if foreign else None
            number = int(found[1]) if found else None
        if number is None or (foreign and number not in DISK_ERRORS):
            raise
        raise DiskError(_disk_message(path, number, need)) from error


def _disk_message(path: Path, number: int, need: int) -> str:
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    unfinished = [each for temp in path.parent.glob(f'{TEMP}{path.name}-*') for each in temp.rglob('*')]
    free = shutil.disk_usage(existing).free + sum(each.stat().st_blocks * 512 for each in unfinished)
    needed = f'{need:,} bytes needed, ' if need else ''
    return (
        f'{path}: {os.strerror(number)} ({needed}{free:,} bytes free). What was saved before is intact; '
        'free some space, or choose another --output_dir, and run again'
    )


# ------------------------------------------------------------------------------------------------------- folders
@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size in bytes and SHA-256 of one file of a committed folder."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed folder holds: ``files`` by relative name, and the ``facts`` its writer gave (step, ...)."""

    files: dict[str, FileFacts]
    facts: dict[str, Any]

    def dump(self) -> bytes:
        """The bytes of ``manifest.json``. They hold their own digest: a flipped bit anywhere in them is found."""
        files = {name: {'size': each.size, 'sha256': each.sha256} for name, each in self.files.items()}
        body = {'files': files, **self.facts}
        text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
        body['digest'] = hashlib.sha256(text.encode()).hexdigest()
        return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + '\n').encode()

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        """Parse what ``dump`` wrote. Raises ValueError when a single byte differs."""
        body = json.loads(data)
        body.pop('digest')
        files = {name: FileFacts(**each) for name, each in body.pop('files').items()}
        manifest = cls(files, body)
        if manifest.dump() != data:
            raise ValueError('its digest does not match its text')
        return manifest


@contextlib.contextmanager
def commit(final: Path, *, replace: bool = False, need: int = 0, **facts: Any) -> Iterator[Path]:
    """Yield an empty folder to write into; when the block ends, it appears as ``final``, complete and durable.

    At any instant, and after any crash, ``final`` is either absent (or as before, with ``replace``) or complete.
    When the block raises, the unfinished folder is removed and nothing has changed.

    Args:
        final: The folder to make. It must not exist, unless ``replace``.
        need: Bytes that are likely to be needed, for the message when the disk is full.
        facts: JSON values to keep in the manifest (not ``files`` or ``digest``).

    Raises:
        DiskError: disk full or I/O error; what was durable before still is.
        FileExistsError: ``final`` exists and ``replace`` is false.
    """
    if final.exists() and not replace:
        raise FileExistsError(errno.EEXIST, 'exists already and is not replaced', str(final))
    with explained(final, need):
        final.parent.mkdir(parents=True, exist_ok=True)
        temp = _temp_name(final)
        fs.mkdir(temp)
    try:
        with _alive(temp):
            with explained(final, need, foreign=True):
                yield temp
            with explained(final, need):
                _seal(temp, facts)
                _move_into_place(temp, final)
    except BaseException:
        with contextlib.suppress(OSError):
            _delete(temp)
        raise


def verify(folder: Path) -> Manifest:
    """Check every file of a committed folder against its manifest, and return the manifest.

    Files that the manifest does not name are left alone: people add notes to their folders.

    Raises:
        CorruptError: naming each file that is missing or differs.
    """
    manifest = read_manifest(folder)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        checks = pool.map(lambda item: _difference(folder / item[0], item[1]), manifest.files.items())
        problems = [f'{name} {problem}' for name, problem in zip(manifest.files, checks, strict=True) if problem]
    if problems:
        raise CorruptError(f'{folder} is corrupt: {"; ".join(problems)}')
    return manifest


def read(folder: Path, name: str) -> bytes:
    """One file of a committed folder, checked against its manifest. Raises CorruptError."""
    expected = read_manifest(folder).files.get(name)
    problem = _difference(folder / name, expected) if expected else 'is not in its manifest'
    if problem:
        raise CorruptError(f'{folder} is corrupt: {name} {problem}')
    return (folder / name).read_bytes()


def verify_ours(folder: Path) -> None:
    """Hold a folder that we wrote against its manifest; folders of other tools have none and are not looked at.

    Raises:
        CorruptError: as ``verify``, with what to do.
    """
    if not (folder / MANIFEST).is_file():
        return
    try:
        verify(folder)
    except CorruptError as error:
        raise CorruptError(
            f'{error}. Take another checkpoint or write it again; if you changed these files on purpose, delete '
            f'{folder / MANIFEST}'
        ) from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed folder, its own digest checked, its files not. Raises CorruptError."""
    try:
        return Manifest.load((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise CorruptError(f'{folder} has no {MANIFEST}: it was not written to its end, or not by swift') from None
    except OSError as error:
        raise CorruptError(f'{folder}/{MANIFEST} cannot be read: {error.strerror}') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f'{folder}/{MANIFEST} is corrupt: {error}') from error


def delete(folder: Path) -> None:
    """Remove a folder so that a crash never leaves a half of it under its name. Raises DiskError."""
    with explained(folder):
        temp = _temp_name(folder)
        fs.rename(folder, temp)
        try:
            fs.sync(folder.parent)
        except OSError:
            fs.rename(temp, folder)
            raise
        _delete(temp)


def clean(folder: Path) -> list[str]:
    """Remove what crashed writers left in ``folder``, and return the names. Only the owner of its lock may call it."""
    names = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(OLD) and not (final := folder / entry.name.removeprefix(OLD)).exists():
            fs.rename(entry, final)  # the crash came between the two renames of a replacement
        elif entry.name.startswith((TEMP, OLD)) and not _is_alive(entry):
            _delete(entry)
        else:
            continue
        names.append(entry.name)
    return names


# --------------------------------------------------------------------------------------------------- single files
def write(path: Path, data: str | bytes) -> None:
    """Write a whole file or leave the old one as it was; durable on return. Raises DiskError."""
    data = data.encode() if isinstance(data, str) else data
    with explained(path, len(data)):
        temp = _temp_name(path)
        try:
            fs.create(temp, data)
            publish(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise


def publish(temp: Path, final: Path) -> None:
    """Give a finished file its final name, durably; it replaces what was there. Raises DiskError."""
    with explained(final):
        fs.sync(temp)
        fs.rename(temp, final)
        fs.sync(final.parent)


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing an older link in one step. Raises DiskError."""
    with explained(path):
        temp = _temp_name(path)
        try:
            fs.symlink(temp, target)
            fs.rename(temp, path)
            fs.sync(path.parent)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise


# ------------------------------------------------------------------------------------------------------- journals
def append(path: Path, line: str) -> None:
    """Add one line to a journal. A crash of the process loses nothing; call ``sync`` before relying on it more.

    Raises:
        DiskError: disk full or I/O error. The line may be torn; ``lines`` leaves it out.
    """
    with explained(path, len(line) + 1):
        fs.append(path, f'{line}\n'.encode())


def sync(path: Path) -> None:
    """Return once the journal's lines are on the disk. Raises DiskError."""
    with explained(path):
        fs.sync(path)


def lines(path: Path) -> list[str]:
    """The complete lines of a journal. A last line without its newline was torn by a crash and is left out."""
    if not path.exists():
        return []
    return path.read_bytes().decode(errors='replace').split('\n')[:-1]


def keep_lines(path: Path, keep: Callable[[str], bool]) -> int:
    """Rewrite a journal with only the complete lines that ``keep`` accepts. Returns how many went, torn ones too."""
    if not path.exists():
        return 0
    old = path.read_bytes().decode(errors='replace').split('\n')
    kept = [line for line in old[:-1] if keep(line)]
    dropped = len(old) - len(kept) - (not old[-1])
    if dropped:
        write(path, ''.join(f'{line}\n' for line in kept))
    return dropped


# ---------------------------------------------------------------------------------------------------------- owner
@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own ``folder`` until the block, or the process, ends; what crashed writers left in it is cleaned first.

    Raises:
        LockedError: another process owns it; the message names it.
        DiskError: the folder cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    _HELD.add(descriptor)
    try:
        with explained(folder):
            _take(folder, descriptor)
            clean(folder)
        yield
    finally:
        _HELD.discard(descriptor)
        os.close(descriptor)


_HELD: set[int] = set()


def _forget_locks() -> None:
    """A forked worker must not keep a lock alive after the process that took it has died."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_forget_locks)


def _take(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 200, 0).decode(errors='replace').strip() or 'an unknown process'
        raise LockedError(
            f'{folder} is in use by {owner}; wait for it, end it, or choose another --output_dir'
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f'pid {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)


# ---------------------------------------------------------------------------------------------------------- paths
@dataclass(frozen=True, slots=True)
class SafePath:
    """A root that paths found in data cannot leave."""

    root: Path

    def join(self, relative: str) -> Path:
        """``root / relative``, resolved.

        Raises:
            DataError: the path is absolute, climbs out with ``..`` or through a link, or is no path at all.
        """
        parts = re.split(r'[/\\]', relative)
        if not relative or '\0' in relative or '..' in parts or parts[0] in ('', '~') or ':' in parts[0]:
            raise DataError(f'{relative!r} is not a relative path inside {self.root}')
        root = self.root.resolve()
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise DataError(f'{relative!r} leads out of {self.root} through a link, to {path}')
        return path


# -------------------------------------------------------------------------------------------------------- helpers
def _temp_name(final: Path) -> Path:
    return final.with_name(f'{TEMP}{final.name}-{secrets.token_hex(4)}')


def _seal(temp: Path, facts: dict[str, Any]) -> None:
    """Make every byte under ``temp`` durable, and list it. Hashing in threads overlaps with waiting for the disk."""
    folders, names = [temp], []
    for entry in sorted(temp.rglob('*')):
        assert not entry.is_symlink(), f'{entry}: a committed folder holds files only'
        (folders if entry.is_dir() else names).append(entry)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        measured = pool.map(_measure, names)
        for path in names:
            fs.sync(path)
        files = {path.relative_to(temp).as_posix(): each for path, each in zip(names, measured, strict=True)}
    fs.create(temp / MANIFEST, Manifest(files, facts).dump())
    fs.sync(temp / MANIFEST)
    for folder in reversed(folders):
        fs.sync(folder)


def _move_into_place(temp: Path, final: Path) -> None:
    old = final.with_name(f'{OLD}{final.name}')
    if final.exists():
        if old.exists():
            _delete(old)
        fs.rename(final, old)
    try:
        fs.rename(temp, final)
    except OSError:
        if old.exists():
            fs.rename(old, final)
        raise
    fs.sync(final.parent)
    if old.exists():
        _delete(old)


def _measure(path: Path) -> FileFacts:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
        return FileFacts(file.tell(), digest)


def _difference(path: Path, expected: FileFacts) -> str:
    """What is wrong with a file, or an empty string."""
    try:
        found = path.stat().st_size
        if found != expected.size:
            return f'has {found} bytes, not {expected.size}'
        return '' if _measure(path) == expected else 'has other bytes than were written (SHA-256 differs)'
    except FileNotFoundError:
        return 'is missing'
    except OSError as error:
        return f'cannot be read ({error.strerror})'


def _delete(top: Path) -> None:
    if top.is_symlink() or not top.is_dir():
        return fs.unlink(top)
    for entry in top.iterdir():
        _delete(entry)
    fs.rmdir(top)


@contextlib.contextmanager
def _alive(temp: Path) -> Iterator[None]:
    """Mark an unfinished folder as having a living writer: an export may write beside a run that has the lock."""
    descriptor = os.open(temp, os.O_RDONLY)
    _HELD.add(descriptor)
    try:
        with contextlib.suppress(OSError):  # network file systems lock no directories
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        _HELD.discard(descriptor)
        os.close(descriptor)


def _is_alive(temp: Path) -> bool:
    if temp.is_symlink() or not temp.is_dir():
        return False
    descriptor = os.open(temp, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)

"""The few kinds of errors a user can meet, each with the exit code that scripts rely on.

An error says what was given, where, what is wrong and what to do. ``assert`` is for our own mistakes only.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class SwiftError(Exception):
    """Base of everything a user can mend. ``exit_code`` is what the command returns to the shell."""

    exit_code = 1


class ConfigError(SwiftError):
    """Flags, YAML or environment are wrong. All problems of one configuration come in one error."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__('\n'.join(self.problems))


class DataError(SwiftError):
    """A data file, or too many of its rows, cannot be used."""

    exit_code = 2


class RowError(SwiftError):
    """One row cannot be used. Collected and counted by the loader, never swallowed."""

    exit_code = 2


class TemplateError(SwiftError):
    """A chat template cannot be used as given."""

    exit_code = 2


class RequestError(SwiftError):
    """One request cannot be answered as it was asked. ``param`` names the field that is wrong."""

    exit_code = 2

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


class ModelError(SwiftError):
    """A model folder or hub id cannot be loaded."""

    exit_code = 2


class LockedError(SwiftError):
    """Another run owns the output folder."""

    exit_code = 73


class DiskError(SwiftError):
    """Disk full or I/O error. What was durable before is still durable."""

    exit_code = 74


class CorruptError(SwiftError):
    """A saved folder is not what was written: a flipped bit, a truncated, missing or swapped file."""

    exit_code = 74


class UnavailableError(SwiftError):
    """Nothing can answer at the moment; the same request may be answered a little later."""


class HangError(SwiftError):
    """Something made no progress within its budget."""

    exit_code = 75


class NumericalError(SwiftError):
    """Loss, gradients or weights stopped being finite."""

    exit_code = 76


class OutOfMemory(SwiftError):
    """Memory ran out. The message says who owned it and what to change."""

    exit_code = 77


class Interrupted(SwiftError):
    """A signal asked us to stop; the state is saved. 130 after SIGINT, 143 after SIGTERM."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """``'; did you mean a, b?'`` for the nearest valid names, or an empty string."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.6)
    return f'; did you mean {", ".join(near)}?' if near else ''


def need(module: str) -> ModuleType:
    """Import an optional library inside the adapter that is named after it.

    Raises:
        SwiftError: naming the package to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition('.')[0]
        hint = f'pip install {package}'
        raise SwiftError(f'{module} is needed and could not be imported ({error}). Install it with: {hint}') from error

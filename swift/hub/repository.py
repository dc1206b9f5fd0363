"""What the adapters of hubs are asked for and answer: a repository, the files in it, and which of them are wanted."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from swift.core.errors import DataError, ModelError, SwiftError
from swift.core.files import SafePath

Kind = Literal['model', 'dataset']
ERRORS = {'model': ModelError, 'dataset': DataError}

# Files of a model repository that no loader here reads: other frameworks, other formats, copies in the author's own.
UNUSED = (
    '*.h5', '*.msgpack', '*.ot', '*.onnx', '*.onnx_data', '*.tflite', '*.mlmodel', '*.pth', '*.pt', '*.ckpt', '*.nemo',
    '*.zip', '*.tar', '*.tar.gz', '*.mp4', '*.gif', '*.png', '*.jpg', '*.jpeg', '*.pdf',
    'onnx/*', 'openvino/*', 'coreml/*', 'original/*', 'consolidated*', '.git*',
)  # fmt: skip


NOWHERE = SafePath(Path('/nowhere'))  # any root shows whether a listed path stays inside it


class Unreachable(Exception):
    """The hub could not be asked, or did not answer to the end. What arrived is kept, and the next call resumes."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as the user named it. ``revision`` None is the default branch of the hub."""

    name: str
    kind: Kind
    revision: str | None = None
    token: str | None = field(default=None, repr=False)

    def error(self, problem: str) -> SwiftError:
        """The error of this kind of repository, beginning with its name."""
        return ERRORS[self.kind](f'{self.name}: {problem}')

    def damaged(self, paths: Sequence[str], hub: str) -> SwiftError:
        """The error for files whose hashes are not those that ``hub`` lists."""
        return self.error(
            f'{", ".join(paths)} arrived with other bytes than {hub} lists (hash mismatch) and was deleted; '
            'run again, and if it happens again, a proxy or mirror on the way changes files'
        )


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it: large files with their SHA-256, small ones with git's object id or nothing."""

    path: str
    size: int
    sha256: str | None = None
    git_id: str | None = None


class Hub(Protocol):
    """A module that speaks one hub's protocol through that hub's own client.

    All three raise ``Repository.error`` when the answer is no, and ``Unreachable`` when there is no answer.
    """

    TITLE: str
    COMMAND: str  # that downloads a repository on another machine
    OTHER: str  # how to ask the other hub

    def listing(self, repository: Repository) -> list[RemoteFile]: ...

    def download(self, repository: Repository, files: Sequence[RemoteFile]) -> Path:
        """Bring ``files`` to a local folder, checked against their hashes, whole or not at all under their names."""
        ...

    def cached(self, repository: Repository) -> Path | None:
        """The folder that an earlier download, of this or another program, has left; without any network."""
        ...


def choose(
    repository: Repository, files: Iterable[RemoteFile], allow: Sequence[str] = (), ignore: Sequence[str] = ()
) -> list[RemoteFile]:
    """The files to download. ``allow`` and ``ignore`` are shell patterns over paths inside the repository.

    Of a dataset everything is wanted. Of a model, what loaders read: safetensors, or else PyTorch's ``.bin``, or else
    the one GGUF file.

    Raises:
        ModelError, DataError: a path leads out of the folder, nothing is left, or there are several GGUF files.
    """
    files = list(files)
    for file in files:
        NOWHERE.join(file.path)
    files = [file for file in files if not _matches(file.path, ignore)]
    if allow:
        files = [file for file in files if _matches(file.path, allow)]
    elif repository.kind == 'model':
        files = _one_format(repository, [file for file in files if not _matches(file.path, UNUSED)])
    if not files:
        raise repository.error('the repository has no file that fits')
    return files


def _one_format(repository: Repository, files: list[RemoteFile]) -> list[RemoteFile]:
    """Weights often come several times; take the first format of the list that is there."""
    formats = ('.safetensors', '.bin', '.gguf')
    best = next((each for each in formats if any(file.path.endswith(each) for file in files)), None)
    files = [file for file in files if not file.path.endswith(formats) or file.path.endswith(best or formats)]
    names = [file.path for file in files if file.path.endswith('.gguf')]
    if len(names) > 1:
        raise repository.error(
            f'the repository has {len(names)} GGUF files ({", ".join(sorted(names)[:8])}): download the one you want '
            'and give --model the path of the file'
        )
    return files


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

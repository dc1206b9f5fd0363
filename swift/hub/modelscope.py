"""ModelScope's hub through its own light client, ``modelscope_hub``: its cache, its resuming, its hash checks."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

from swift.core.errors import DiskError, need
from swift.core.files import DISK_ERRORS
from swift.hub.repository import RemoteFile, Repository, Unreachable

TITLE = 'ModelScope'
COMMAND = 'modelscope download --{kind} {name} --local_dir FOLDER'
OTHER = 'add --use_hf true'
errors = need('modelscope_hub.errors')
logging.getLogger('modelscope_hub').setLevel(logging.WARNING)  # its progress bars say the same


def listing(repository: Repository) -> list[RemoteFile]:
    with _explained(repository):
        entries = _client(repository).list_repo_files(repository.name, repository.kind, revision=repository.revision)
        return [RemoteFile(each.path, each.size, each.sha256) for each in entries if not each.is_dir]


def download(repository: Repository, files: Sequence[RemoteFile]) -> Path:
    # The listing says 0 for sizes it does not know, the client wants them left out.
    wanted = [{'Path': file.path, 'Sha256': file.sha256, 'Size': file.size or None} for file in files]
    with _explained(repository):
        return _client(repository).download_repo(
            repository.name, repository.kind, revision=repository.revision, file_list=wanted
        )


def cached(repository: Repository) -> Path | None:
    try:
        return _client(repository).download_repo(
            repository.name, repository.kind, revision=repository.revision, local_files_only=True
        )
    except errors.CacheNotFound:
        return None


def _client(repository: Repository) -> Any:
    """A client that has read the environment now: the package's own default is read once in a process."""
    hub = need('modelscope_hub')
    return hub.HubApi(hub.HubConfig(token=repository.token))


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Turn the client's exceptions into ours."""
    try:
        yield
    except errors.FileDownloadError as error:
        _raise_gravest(repository, error)
    except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
        raise repository.error(
            f'{TITLE} refuses access ({error.status_code}): accept its terms on its page if it has any, and give '
            '--hub_token or set MODELSCOPE_API_TOKEN'
        ) from error
    except errors.NotExistError as error:
        revision = f' with revision {repository.revision!r}' if repository.revision else ''
        raise repository.error(
            f'{TITLE} has no such {repository.kind}{revision}, or it is private and --hub_token does not open it. '
            'Check the name; give --use_hf true for Hugging Face'
        ) from error
    except errors.InvalidParameter as error:
        raise repository.error(f'is no existing path and no id of {TITLE} either ({error.message})') from error
    except errors.HubError as error:
        raise Unreachable(shorten(str(error), 160)) from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            advice = 'free some space or set MODELSCOPE_CACHE to a larger disk; what arrived is kept'
            raise DiskError(f'{repository.name}: {errno.errorcode[error.errno]}: {error.strerror}; {advice}') from error
        raise Unreachable(str(error)) from error


def _raise_gravest(repository: Repository, failure: Any) -> NoReturn:
    """A download that failed names each file with its own error; the gravest decides what is said."""
    damaged = [path for path, error in failure.failed_files.items() if isinstance(error, errors.FileIntegrityError)]
    if damaged:
        raise repository.damaged(damaged, TITLE) from failure
    with _explained(repository):
        raise next(iter(failure.failed_files.values()))

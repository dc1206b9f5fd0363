"""Hugging Face's hub through its own client, ``huggingface_hub``: its cache, its resuming, its environment variables.

The client compares sizes only; the hashes are compared here.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from swift.core.errors import DiskError
from swift.core.files import DISK_ERRORS
from swift.hub.repository import RemoteFile, Repository, Unreachable

TITLE = 'Hugging Face'
COMMAND = 'hf download {name} --local-dir FOLDER'
OTHER = 'leave out --use_hf'


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network. Here it forbids it for every hub."""
    return constants.is_offline_mode()


def listing(repository: Repository) -> list[RemoteFile]:
    with _explained(repository):
        api = HfApi(token=repository.token)
        # The commit first: the client retries a listing for half a minute, but this question only once.
        commit = api.repo_info(repository.name, repo_type=repository.kind, revision=repository.revision).sha
        entries = api.list_repo_tree(repository.name, repo_type=repository.kind, revision=commit, recursive=True)
        return [
            RemoteFile(each.path, each.size, each.lfs and each.lfs.sha256, None if each.lfs else each.blob_id)
            for each in entries
            if isinstance(each, RepoFile)
        ]


def download(repository: Repository, files: Sequence[RemoteFile]) -> Path:
    with _explained(repository):
        folder = Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=repository.revision,
                token=repository.token,
                allow_patterns=[escape(file.path) for file in files],
            )
        )
    # What is listed for the very commit that came: a branch may have moved since ``files`` were listed.
    listed = {file.path: file for file in listing(replace(repository, revision=folder.name))}
    broken = [file.path for file in files if not _is_whole(folder / file.path, listed.get(file.path, file))]
    for path in broken:
        (folder / path).resolve().unlink(missing_ok=True)
        (folder / path).unlink(missing_ok=True)
    if broken:
        raise repository.damaged(broken, TITLE)
    return folder


def cached(repository: Repository) -> Path | None:
    name, kind, revision = repository.name, repository.kind, repository.revision
    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:  # nothing, or not every file of the repository: other tools leave out what we do
        config = try_to_load_from_cache(name, 'config.json', repo_type=kind, revision=revision)
        return Path(config).parent if isinstance(config, str) else None
    except HFValidationError as error:
        raise _invalid(repository, error) from error


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether the bytes are those the hub lists; its small files have git's hash over a header and the bytes."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open('rb') as data:
        if file.sha256:
            return hashlib.file_digest(data, 'sha256').hexdigest() == file.sha256
        header = f'blob {file.size}\0'.encode()
        return hashlib.sha1(header + data.read(), usedforsecurity=False).hexdigest() == file.git_id


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Turn the client's exceptions into ours."""
    page = f'{constants.ENDPOINT}/{"datasets/" if repository.kind == "dataset" else ""}{repository.name}'
    try:
        yield
    except GatedRepoError as error:
        raise repository.error(
            f'needs your consent: accept its terms on {page}, then give --hub_token or set HF_TOKEN'
        ) from error
    except RevisionNotFoundError as error:
        raise repository.error(f'{TITLE} has no revision {repository.revision!r} of it') from error
    except RepositoryNotFoundError as error:
        raise repository.error(
            f'{TITLE} has no such {repository.kind}, or it is private and --hub_token (or HF_TOKEN) does not open it. '
            'Check the name; leave out --use_hf for ModelScope'
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise repository.error(f'{TITLE} refuses access ({status}): give a valid --hub_token') from error
        raise Unreachable(f'{constants.ENDPOINT} answers {status}') from error
    except HFValidationError as error:
        raise _invalid(repository, error) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise Unreachable(f'{constants.ENDPOINT}: {error or type(error).__name__}') from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            advice = 'free some space or set HF_HOME to a larger disk; what arrived is kept'
            raise DiskError(f'{repository.name}: {errno.errorcode[error.errno]}: {error.strerror}; {advice}') from error
        raise Unreachable(str(error)) from error


def _invalid(repository: Repository, error: Exception) -> Exception:
    return repository.error(f'is no existing path and no id of {TITLE} either ({error})')

"""A model or dataset by its name, as a local folder.

``fetch`` looks, in this order, at: a path that exists; a package that carries the model; an earlier download; the hub
(ModelScope, or Hugging Face when asked). Nothing of a hub is imported, and no network is touched, before the last two.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

from swift.core import cache, files
from swift.core.log import once
from swift.hub import shipped
from swift.hub.repository import ERRORS, Hub, Kind, RemoteFile, Repository, Unreachable, choose

logger = logging.getLogger(__name__)

HUBS = {'modelscope': 'swift.hub.modelscope', 'huggingface': 'swift.hub.huggingface'}
ATTEMPTS = 3  # of a download whose connection breaks


def fetch(
    name: str,
    *,
    kind: Kind = 'model',
    revision: str | None = None,
    use_hf: bool = False,
    token: str | None = None,
    allow: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Path:
    """The local folder of a model or dataset, or the local file that ``name`` is; downloaded when it must be.

    A download is complete and its hashes are checked, or it raises; what arrived before an interruption is continued.
    The same call again touches no network: to see whether a branch has moved, name its newest commit as ``revision``.

    Args:
        name: a path, ``owner/name``, or a name of ``aliases.yaml``.
        revision: branch, tag or commit; given for a model that a package carries, it asks for the hub's copy.
        allow: shell patterns of the only files wanted; ``ignore``: of those not wanted.

    Raises:
        ModelError, DataError: there is no such thing, access is refused, a hash is wrong, or the hub is out of reach.
        DiskError: the disk is full.
    """
    path = Path(name).expanduser()
    if name and path.exists():
        return path
    if kind == 'model' and revision is None and (found := shipped.find(name)):
        path, entry = found
        once(f'model {name}: from package {entry.package}, {entry.note} (--model_revision takes it from the hub)')
        return path
    _refuse_paths(name, kind)
    repository = Repository(name, kind, revision, token)
    title = 'huggingface' if use_hf else 'modelscope'
    record = _record_of(repository, title, allow, ignore)
    return _recorded(record) or _from_hub(repository, title, record, allow, ignore)


def safe_snapshot_download(
    model_id_or_path: str,
    revision: str | None = None,
    download_model: bool = True,
    use_hf: bool = False,
    hub_token: str | None = None,
    ignore_patterns: Sequence[str] | None = None,
) -> str:
    """The established name of ``fetch`` for models. ``download_model=False`` leaves the weights out."""
    weights = [] if download_model else ['*.safetensors', '*.bin', '*.gguf']
    ignore = [*(ignore_patterns or ()), *weights]
    return str(fetch(model_id_or_path, revision=revision, use_hf=use_hf, token=hub_token, ignore=ignore))


def _refuse_paths(name: str, kind: Kind) -> None:
    """A path that does not exist must not become a question to a hub."""
    looks_like_path = not name or name.startswith(('/', './', '../', '~')) or name.count('/') > 1 or '\\' in name
    if looks_like_path or Path(name).suffix in ('.gguf', '.json', '.jsonl', '.csv', '.txt', '.parquet', '.safetensors'):
        raise ERRORS[kind](f'{name or "(empty)"}: no such file or folder (looked in {Path.cwd()})')


def _from_hub(repository: Repository, title: str, record: Path, allow: Sequence[str], ignore: Sequence[str]) -> Path:
    offline = importlib.import_module(HUBS['huggingface']).is_offline()
    hub = cast(Hub, importlib.import_module(HUBS[title]))
    if offline:
        return _copy_left(repository, hub, record, 'HF_HUB_OFFLINE forbids the network')
    try:
        wanted = choose(repository, hub.listing(repository), allow, ignore)
    except Unreachable as problem:
        reason = f'{hub.TITLE} is out of reach ({problem})'
        folder = _copy_left(repository, hub, record, reason)
        logger.warning('%s: using the copy in %s as it is', reason, folder)
        return folder
    size = sum(file.size for file in wanted) / 1e9
    logger.info('%s: %d files, %.2f GB from %s', repository.name, len(wanted), size, hub.TITLE)
    _write_record(record, None, wanted)
    folder = _download(repository, hub, wanted)
    _write_record(record, folder, wanted)
    return folder


def _download(repository: Repository, hub: Hub, wanted: Sequence[RemoteFile]) -> Path:
    """Download, and continue after a broken connection; the clients themselves do so in part."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return hub.download(repository, wanted)
        except Unreachable as problem:
            logger.warning(
                '%s: the download broke off (%s), attempt %d of %d', repository.name, problem, attempt, ATTEMPTS
            )
    raise repository.error(f'the download from {hub.TITLE} broke off; run again to continue it where it is')


def _copy_left(repository: Repository, hub: Hub, record: Path, reason: str) -> Path:
    """What another program has downloaded. What we began and did not finish is no copy."""
    folder = None if record.exists() else hub.cached(repository)
    return folder or _give_up(repository, hub, reason)


def _give_up(repository: Repository, hub: Hub, reason: str) -> NoReturn:
    command = hub.COMMAND.format(name=repository.name, kind=repository.kind)
    lines = [
        f'{reason}, and there is no whole copy of it on this machine. Do one of these:',
        f'- on a machine with a network: `{command}`, then give FOLDER as the name',
        f'- ask the other hub ({hub.OTHER}) or a mirror (set HF_ENDPOINT or MODELSCOPE_ENDPOINT)',
    ]
    here = [entry.names[0] for entry in shipped.entries() if shipped.find(entry.names[0])]
    if repository.kind == 'model' and here:
        lines.append(f'- use a model that a package on this machine carries: {", ".join(here)}')
    raise repository.error('\n'.join(lines))


# ------------------------------------------------------------------------------------------------------- records
def _record_of(repository: Repository, hub: str, allow: Sequence[str], ignore: Sequence[str]) -> Path:
    """One small file for each thing that can be asked for; it names the folder once that is complete and checked."""
    choice = json.dumps([repository.revision, sorted(allow), sorted(ignore)])
    key = hashlib.sha256(choice.encode()).hexdigest()[:12]
    return cache.folder('hub') / hub / f'{repository.kind}--{repository.name.replace("/", "--")}--{key}.json'


def _write_record(record: Path, folder: Path | None, wanted: Sequence[RemoteFile]) -> None:
    """Note that a download has begun (no ``folder`` yet), or is complete."""
    record.parent.mkdir(parents=True, exist_ok=True)
    sizes = {file.path: (folder / file.path).stat().st_size for file in wanted} if folder else {}
    files.write(record, json.dumps({'folder': folder and str(folder), 'files': sizes}, indent=1) + '\n')


def _recorded(record: Path) -> Path | None:
    """The folder of an earlier, complete download, if every file of it is still there at its size."""
    try:
        facts = json.loads(record.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    if facts['folder'] is None:
        return None
    folder = Path(facts['folder'])
    try:
        whole = all((folder / name).stat().st_size == size for name, size in facts['files'].items())
    except OSError:
        return None
    return folder if whole else None

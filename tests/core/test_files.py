"""commit, write, append, lock and SafePath keep their promises, one by one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swift.core import files
from swift.core.errors import CorruptError, DataError, DiskError, LockedError


def committed(folder: Path, **facts) -> Path:
    with files.commit(folder, **facts) as temp:
        (temp / 'weights.bin').write_bytes(b'0123456789' * 1000)
        (temp / 'state').mkdir()
        (temp / 'state' / 'data.json').write_text('{"a": 1}')
    return folder


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------- folders
def test_a_committed_folder_verifies_and_keeps_its_facts(tmp_path):
    folder = committed(tmp_path / 'new' / 'checkpoint-3', step=3, fingerprint={'seed': 1})
    manifest = files.verify(folder)
    assert manifest.facts == {'step': 3, 'fingerprint': {'seed': 1}}
    assert set(manifest.files) == {'weights.bin', 'state/data.json'}
    assert manifest.files['weights.bin'].size == 10_000


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.commit(tmp_path / 'a') as temp:
        (temp / 'half').write_text('half')
        raise RuntimeError('no')
    assert names(tmp_path) == set()


def test_the_final_name_does_not_exist_while_writing(tmp_path):
    with files.commit(tmp_path / 'a') as temp:
        assert temp.name.startswith(files.TEMP) and temp.parent == tmp_path
        assert not (tmp_path / 'a').exists()
    assert names(tmp_path) == {'a'}


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    folder = committed(tmp_path / 'a', step=1)
    with pytest.raises(FileExistsError), files.commit(folder):
        pass
    assert files.verify(folder).facts == {'step': 1}
    with files.commit(folder, replace=True, step=2) as temp:
        (temp / 'only').write_text('new')
    assert files.verify(folder).facts == {'step': 2}
    assert names(folder) == {'only', files.MANIFEST} and names(tmp_path) == {'a'}


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    folder = committed(tmp_path / 'a', step=1)
    with pytest.raises(RuntimeError), files.commit(folder, replace=True):
        raise RuntimeError('no')
    assert files.verify(folder).facts == {'step': 1} and names(tmp_path) == {'a'}


@pytest.mark.parametrize('name', ['weights.bin', 'state/data.json', files.MANIFEST])
@pytest.mark.parametrize('damage', ['flip', 'truncate', 'empty', 'grow', 'missing'])
def test_any_damage_to_any_file_is_found_and_named(tmp_path, name, damage):
    file = committed(tmp_path / 'a') / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    changed = {'flip': data, 'truncate': data[:-1], 'empty': b'', 'grow': file.read_bytes() + b'\n', 'missing': None}
    if changed[damage] is None:
        file.unlink()
    else:
        file.write_bytes(changed[damage])
    with pytest.raises(CorruptError, match=name):
        files.verify(tmp_path / 'a')


def test_one_file_can_be_read_alone_and_is_checked(tmp_path):
    folder = committed(tmp_path / 'a')
    (folder / 'weights.bin').write_bytes(b'')
    assert files.read(folder, 'state/data.json') == b'{"a": 1}'
    for name in ('weights.bin', 'other'):
        with pytest.raises(CorruptError, match=name):
            files.read(folder, name)


def test_every_single_flipped_bit_of_a_manifest_is_found(tmp_path):
    file = committed(tmp_path / 'a', step=7) / files.MANIFEST
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        with pytest.raises(CorruptError):
            files.read_manifest(tmp_path / 'a')


def test_files_that_people_add_are_no_corruption(tmp_path):
    folder = committed(tmp_path / 'a')
    (folder / 'notes.txt').write_text('good one')
    files.verify(folder)


# --------------------------------------------------------------------------------------------------------- faults
class FullDisk(files.Fs):
    """Fails the k-th operation that needs space or the disk."""

    def __init__(self, k: int, number: int = errno.ENOSPC):
        self.left, self.number = k, number

    def count(self, path):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.number, os.strerror(self.number), str(path))

    def mkdir(self, path):
        self.count(path)
        super().mkdir(path)

    def create(self, path, data):
        self.count(path)
        super().create(path, data)

    def append(self, path, data):
        self.count(path)
        super().append(path, data)

    def sync(self, path):
        self.count(path)
        super().sync(path)

    def rename(self, source, target):
        self.count(target)
        super().rename(source, target)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_disk_error_at_any_operation_leaves_no_half_folder(tmp_path, monkeypatch, number):
    failures = 0
    for k in range(1, 50):
        folder = tmp_path / str(k) / 'a'
        folder.parent.mkdir()
        monkeypatch.setattr(files, 'fs', FullDisk(k, number))
        try:
            committed(folder)
        except DiskError as error:
            failures += 1
            assert str(folder) in str(error) and 'bytes free' in str(error) and error.exit_code == 74
            if folder.exists():  # only the last sync of the parent failed: complete, if perhaps not durable
                files.verify(folder)
            assert names(folder.parent) <= {'a'}
        else:
            files.verify(folder)
            break
    assert failures == k - 1 >= 7


def test_a_disk_error_at_any_operation_of_a_replacement_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch):
    for k in range(1, 50):
        monkeypatch.setattr(files, 'fs', files.Fs())
        folder = committed(tmp_path / str(k) / 'a', step=1)
        monkeypatch.setattr(files, 'fs', FullDisk(k))
        try:
            with files.commit(folder, replace=True, step=2) as temp:
                (temp / 'only').write_text('new')
        except DiskError:
            assert files.verify(folder).facts['step'] in (1, 2)
            assert names(folder.parent) <= {'a', f'{files.OLD}a'}
        else:
            assert files.verify(folder).facts == {'step': 2} and names(folder.parent) == {'a'}
            break
    assert k > 7


def test_a_disk_error_inside_a_library_is_a_disk_error_too(tmp_path):
    with pytest.raises(DiskError, match=r'1,000 bytes needed'), files.commit(tmp_path / 'a', need=1000):
        raise RuntimeError('Error while serializing: I/O error: No space left on device (os error 28)')


def test_a_missing_file_inside_the_block_is_not_called_a_disk_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.commit(tmp_path / 'a'):
        (tmp_path / 'nowhere').read_text()


# --------------------------------------------------------------------------------------------------- single files
def test_write_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'args.json'
    files.write(path, 'old')
    for k in (1, 2, 3):
        monkeypatch.setattr(files, 'fs', FullDisk(k))
        with pytest.raises(DiskError, match=r'args\.json'):
            files.write(path, 'new')
        assert path.read_text() == 'old' and names(tmp_path) == {'args.json'}
    monkeypatch.setattr(files, 'fs', files.Fs())
    files.write(path, b'new')
    assert path.read_text() == 'new'


def test_link_replaces_an_older_link(tmp_path):
    files.link(tmp_path / 'last', 'checkpoint-1')
    files.link(tmp_path / 'last', 'checkpoint-2')
    assert os.readlink(tmp_path / 'last') == 'checkpoint-2' and names(tmp_path) == {'last'}


def test_a_deleted_folder_is_never_half_there(tmp_path, monkeypatch):
    folder = committed(tmp_path / 'a')

    class Stops(files.Fs):
        def unlink(self, path):
            raise OSError(errno.EIO, 'stop')

    monkeypatch.setattr(files, 'fs', Stops())
    with pytest.raises(DiskError):
        files.delete(folder)
    assert not folder.exists()
    monkeypatch.setattr(files, 'fs', files.Fs())
    with files.lock(tmp_path):
        assert names(tmp_path) == {files.LOCK}


# ------------------------------------------------------------------------------------------------------- journals
def test_a_torn_last_line_is_left_out_and_then_repaired(tmp_path):
    path = tmp_path / 'logging.jsonl'
    for step in (1, 2, 3):
        files.append(path, f'{{"step": {step}}}')
    with path.open('a') as out:
        out.write('{"st')
    assert files.lines(path) == ['{"step": 1}', '{"step": 2}', '{"step": 3}']
    assert files.keep_lines(path, lambda line: '3' not in line) == 2
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert files.keep_lines(path, lambda line: True) == 0


def test_a_journal_that_does_not_exist_has_no_lines(tmp_path):
    assert files.lines(tmp_path / 'none') == [] and files.keep_lines(tmp_path / 'none', bool) == 0


# ---------------------------------------------------------------------------------------------------------- owner
def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    with files.lock(tmp_path), pytest.raises(LockedError, match=f'pid {os.getpid()} '), files.lock(tmp_path):
        pass
    with files.lock(tmp_path):
        pass


def test_a_lock_ends_with_its_process_even_when_a_forked_worker_lives_on(tmp_path):
    program = (
        'import os, sys, time\n'
        'from pathlib import Path\n'
        'from swift.core import files\n'
        'lock = files.lock(Path(sys.argv[1])); lock.__enter__()\n'
        'told, tells = os.pipe()\n'
        'if os.fork() == 0: os.write(tells, b"forked"); time.sleep(60)\n'
        'os.read(told, 6); print("locked", flush=True); os.kill(os.getpid(), 9)\n'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', program, tmp_path], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.stdout.readline() == 'locked\n' and child.wait() == -9
        with files.lock(tmp_path):
            pass
    finally:
        os.killpg(child.pid, 9)


def test_the_next_owner_cleans_what_a_crash_left_but_not_what_is_being_written(tmp_path):
    (tmp_path / f'{files.TEMP}checkpoint-1-dead').mkdir()
    (tmp_path / f'{files.TEMP}checkpoint-1-dead' / 'half').write_text('x')
    (tmp_path / f'{files.TEMP}args.json-dead').write_text('x')
    (tmp_path / f'{files.TEMP}last-dead').symlink_to('checkpoint-1')
    with files.commit(tmp_path / 'merged') as temp:
        with files.lock(tmp_path):
            assert names(tmp_path) == {files.LOCK, temp.name}
        (temp / 'model').write_text('x')
    files.verify(tmp_path / 'merged')


def test_a_replacement_that_was_cut_between_its_renames_gets_the_old_folder_back(tmp_path):
    committed(tmp_path / 'a', step=1).rename(tmp_path / f'{files.OLD}a')
    with files.lock(tmp_path):
        assert files.verify(tmp_path / 'a').facts == {'step': 1}
        committed(tmp_path / f'{files.OLD}a')
        files.clean(tmp_path)
        assert names(tmp_path) == {files.LOCK, 'a'} and files.verify(tmp_path / 'a').facts == {'step': 1}


# ---------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize('bad', ['', '/etc/passwd', '../x', 'a/../../x', 'a\\..\\x', '~/x', 'C:\\x', 'a\0b', '..'])
def test_a_path_from_data_cannot_leave_its_root(tmp_path, bad):
    with pytest.raises(DataError):
        files.SafePath(tmp_path).join(bad)


def test_a_path_from_data_cannot_leave_through_a_link(tmp_path):
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root' / 'out').symlink_to(tmp_path)
    with pytest.raises(DataError, match='through a link'):
        files.SafePath(tmp_path / 'root').join('out/secret')
    assert files.SafePath(tmp_path / 'root').join('a/b..c.png') == (tmp_path / 'root/a/b..c.png').resolve()

"""The audit log: every change of it shows, a crash does not break it, and two servers do not share it."""

from __future__ import annotations

import json

import pytest

from swift.core import files
from swift.core.errors import CorruptError, DiskError, LockedError
from swift.serve.audit import Audit, Head, verify


@pytest.fixture
def log(tmp_path):
    path = tmp_path / 'audit.jsonl'
    for run in range(2):
        audit = Audit(path)
        for i in range(5):
            audit.add({'key': 'alice', 'route': '/v1/chat/completions', 'tokens': 10 * run + i, 'model': '模型'})
        audit.close()
    return path


def lines(path):
    return path.read_text().splitlines()


def test_a_log_that_nobody_touched_is_right_and_goes_on_over_restarts(log):
    head = verify(log)
    assert head.count == 10
    entries = [json.loads(line) for line in lines(log)]
    assert [entry['seq'] for entry in entries] == list(range(10))
    assert entries[-1]['hash'] == head.hash
    assert head.hash.encode() not in log.read_bytes().splitlines()[0]


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        (lambda text: [*text[:4], text[4].replace('"tokens": 4', '"tokens": 3'), *text[5:]], ':5: was changed'),
        (lambda text: [*text[:4], *text[5:]], ':5: does not follow'),
        (lambda text: [text[1], text[0], *text[2:]], ':1: does not follow'),
        (lambda text: [*text[:3], text[2], *text[3:]], ':4: does not follow'),
        (lambda text: [*text[:3], 'garbage', *text[3:]], ':4: is no entry'),
        (lambda text: text[1:], ':1: does not follow'),
        (lambda text: [*text, '{"event": "torn"'], 'last line is no entry'),
    ],
    ids=['changed', 'removed', 'moved', 'copied', 'inserted', 'beheaded', 'torn'],
)
def test_every_change_is_named(log, change, where):
    log.write_text('\n'.join(change(lines(log))) + '\n')
    with pytest.raises(CorruptError, match=where):
        verify(log)


def test_lines_cut_off_show_to_who_knows_the_last_hash(log):
    before = verify(log)
    log.write_text('\n'.join(lines(log)[:-2]) + '\n')
    assert verify(log) != before


@pytest.mark.parametrize('cut', [1, 20, 200])
def test_a_line_that_a_crash_tore_is_kept_and_explained(log, cut):
    data = log.read_bytes()
    log.write_bytes(data[:-cut])
    audit = Audit(log)
    audit.add({'key': 'bob'})
    audit.close()
    head = verify(log)
    assert head.count == 11
    assert ('"torn"' in lines(log)[-2]) is (cut > 1)
    assert json.loads(lines(log)[-1])['key'] == 'bob'


def test_a_log_that_was_changed_is_not_written_to(log):
    log.write_text(log.read_text().replace('alice', 'mallory', 1))
    with pytest.raises(CorruptError):
        Audit(log)


def test_two_servers_do_not_share_a_log(log):
    audit = Audit(log)
    with pytest.raises(LockedError):
        Audit(log)
    audit.close()
    Audit(log).close()


def test_a_disk_that_is_full_is_told_to_the_server(tmp_path, monkeypatch):
    class Full(files.Fs):
        def append(self, path, data):
            raise OSError(28, 'No space left on device')

    failed = []
    audit = Audit(tmp_path / 'audit.jsonl', failed=failed.append)
    monkeypatch.setattr(files, 'fs', Full())
    audit.add({'key': 'alice'})
    audit.close()
    assert isinstance(failed[0], DiskError)


def test_an_empty_log_is_right(tmp_path):
    Audit(tmp_path / 'audit.jsonl').close()
    assert verify(tmp_path / 'audit.jsonl') == Head()

"""The token store: filled once, found again only when nothing that matters has changed, checked when it is read."""

import json
import multiprocessing
import shutil
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift import data
from swift.core import files
from swift.core.errors import CorruptError, DataError, RowError
from swift.core.types import Encoded, Origin
from swift.data import store as stores
from swift.data.args import DataArgs
from swift.data.dataset import Dataset
from swift.data.encoding import Encoder, Encoding, _one_by_one
from swift.data.lint import Examiner
from swift.data.store import open_or_fill

from .bytes_template import encode, jsonl, pairs, refusing, splitting, text_of

WORDS = ['good', 'bad', 'fair', 'good', 'plain'] * 8


def dataset(path, **flags) -> Dataset:
    return data.load(DataArgs(dataset=[str(path)], **flags)).train


def fill(rows, folder, *, make=encode, fingerprint='bytes', **limits):
    return open_or_fill(rows, make, fingerprint, folder=folder / 'store', examiner=Examiner(), **limits)


def store_key(rows, fingerprint, **facts):
    return stores.store_key(rows, fingerprint, Examiner(**facts))


def counting(make=encode):
    calls = []

    def counted(sample):
        calls.append(sample.origin.row)
        return make(sample)

    return counted, calls


def test_every_row_is_tokenised_once_and_read_back_with_its_weights_and_origin(tmp_path):
    rows = dataset(jsonl(tmp_path / 'a.jsonl', pairs(50)))
    make, calls = counting()
    store = fill(rows, tmp_path, make=make)
    again = fill(rows, tmp_path, make=make)
    assert sorted(calls) == list(range(1, 51))
    for opened in (store, again):
        for i, row in enumerate(store.sequences(np.arange(50))):
            read, (expected,) = opened.read(int(row)), encode(rows.corpus.sample(i))
            assert read.input_ids.tolist() == expected.input_ids.tolist()
            assert read.weight.tolist() == expected.weight.tolist()
            assert read.origin == expected.origin == Origin(str(tmp_path / 'a.jsonl'), i + 1)
            assert opened.lengths[row] == len(expected)
    assert str(again.account) == '50 rows read, 50 used'
    assert again.lint.stats == store.lint.stats


WEIGHTS = st.lists(st.sampled_from([0.0, 1.0, 0.25, 2.5]), min_size=0, max_size=12)


@settings(max_examples=25)
@given(weights=st.lists(WEIGHTS, min_size=1, max_size=6))
def test_any_weights_come_back_exactly(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp('store')
    rows = data.load_dataset([{'text': f't{i}'} for i in range(len(weights))])[0]
    made = {i + 1: np.asarray([0.0, *each], np.float32) for i, each in enumerate(weights)}

    def make(sample):
        weight = made[sample.origin.row]
        return [Encoded(np.arange(len(weight)), weight, np.zeros(len(weight), np.uint8), sample.origin)]

    store = fill(rows, folder, make=make)
    assert [store.read(i).weight.tolist() for i in range(len(store))] == [each.tolist() for each in made.values()]


def test_long_documents_become_several_sequences_in_order(tmp_path):
    rows = data.load_dataset([{'text': 'abcdefghij'}, {'text': 'xyz'}])[0]
    store = fill(rows, tmp_path, make=splitting(4))
    assert [text_of(store.read(i).input_ids) for i in store.sequences(np.asarray([1, 0]))] == [
        'xyz',
        '',
        'abc',
        'defg',
        'hij',
    ]
    assert store.account.used == 2


def test_the_key_changes_when_it_must_and_only_then(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(20))
    keys = [store_key(dataset(path), 'bytes')]
    path.touch()
    assert store_key(dataset(path), 'bytes') == keys[0]
    for same in ({'data_seed': 7}, {'packing': True}, {'train_dataloader_shuffle': False}, {'max_rejected': 0.5}):
        assert store_key(dataset(path, **same), 'bytes') == keys[0], same
    for change in (
        {'columns': {'query': 'response', 'response': 'query'}},
        {'split_dataset_ratio': 0.5},
        {'disable_auto_column_mapping': True},
        {'remove_unused_columns': False},
    ):
        keys.append(store_key(dataset(path, **change), 'bytes'))
    keys.append(store_key(dataset(path), 'another template'))
    keys += [store_key(dataset(path), 'bytes', **facts) for facts in ({'stop_ids': [1]}, {'max_length': 9})]
    keys.append(store_key(dataset(f'{path}#10'), 'bytes'))
    jsonl(path, [*pairs(19), {'query': 'q19', 'response': 'changed'}])
    keys.append(store_key(dataset(path), 'bytes'))
    shutil.copy(path, tmp_path / 'b.jsonl')
    keys.append(store_key(dataset(tmp_path / 'b.jsonl'), 'bytes'))
    assert len(set(keys)) == len(keys)


def test_the_key_holds_the_source_of_a_users_function(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(2))
    keys = set()
    for n in range(2):
        module = tmp_path / f'plug{n}.py'
        module.write_text(f'def change(row):\n    return {{**row, "response": "{n}"}}\n')
        scope = {}
        exec(compile(module.read_text(), str(module), 'exec'), scope)
        data.register_dataset(
            data.DatasetMeta(dataset_path=str(path), dataset_name='plug', preprocess_func=scope['change']),
            exist_ok=True,
        )
        keys.add(store_key(dataset('plug'), 'bytes'))
    assert len(keys) == 2


def test_repeated_rows_are_tokenised_once(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(10))
    make, calls = counting()
    rows = dataset(f'{path}#35')
    store = fill(rows, tmp_path, make=make)
    assert len(calls) == 10
    assert len(store.sequences(rows.order)) == 35


BROKEN = ['{broken', '[1]', '{"query": "q"}', '{"query": "q", "response": 5}', '{"query": "q", "response": NaN}']


def test_used_and_rejected_rows_add_up_and_each_rejected_one_is_named(tmp_path):
    path = jsonl(
        tmp_path / 'a.jsonl', [*pairs(300), *BROKEN, *pairs(300, first=300), {'query': 'forbidden', 'response': 'x'}]
    )
    store = fill(dataset(path), tmp_path, make=refusing('forbidden'), max_rejected=0.01)
    for account in (store.account, fill(dataset(path), tmp_path, make=refusing('forbidden')).account):
        assert (account.read, account.used, account.dropped) == (606, 600, 0)
        assert [each.origin.row for each in account.rejected] == [301, 302, 303, 304, 305, 606]
        assert account.rejected[-1].reason == 'cannot render: the template forbids forbidden'
        assert str(account.rejected[0]).startswith(f'{path}:301: bad JSON')


def test_too_many_rejected_rows_stop_the_run_with_a_list(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', [*pairs(100), *BROKEN * 5])
    with pytest.raises(DataError) as caught:
        fill(dataset(path), tmp_path)
    message = str(caught.value)
    assert '2 of 125 rows cannot be used (--max_rejected 0.01 allows 1)' in message
    assert '1 x bad JSON' in message
    assert f'{path}:101: bad JSON' in message
    assert not list((tmp_path / 'store').rglob('*.bin'))
    store = fill(dataset(path), tmp_path, max_rejected=0.2)
    assert len(store.account.rejected) == 25
    with pytest.raises(DataError, match='25 of 125') as caught:  # a filled store is held to the limit of each run
        fill(dataset(path), tmp_path)
    assert '... and 5 more' in str(caught.value)
    with pytest.raises(DataError, match='--strict allows none'):
        fill(dataset(path), tmp_path, max_rejected=0.2, strict=True)


def test_rows_cut_off_for_evaluation_are_judged_with_those_they_were_cut_from(tmp_path):
    rows = [*pairs(198), '{broken', '{broken']
    path = jsonl(tmp_path / 'a.jsonl', rows)
    loaded = data.load(DataArgs(dataset=[str(path)], split_dataset_ratio=0.05))
    bad = [sum(row >= 198 for row in side.order.tolist()) for side in loaded]
    assert sum(bad) == 2
    for side, count in zip(loaded, bad, strict=True):  # 2 of 200, whichever side they fell on
        assert len(fill(side, tmp_path).account.rejected) == count
    jsonl(path, [*rows, '{broken'])
    with pytest.raises(DataError, match='3 of 201 rows'):
        for side in data.load(DataArgs(dataset=[str(path)], split_dataset_ratio=0.05)):
            fill(side, tmp_path)


def test_no_row_at_all_is_an_error(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(5))
    with pytest.raises(DataError, match='no row is left to use: 5 read, 5 left out'):
        fill(dataset(path), tmp_path, make=lambda sample: [])


def test_rows_left_out_on_purpose_are_counted_apart(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(10))
    store = fill(dataset(path), tmp_path, make=lambda sample: encode(sample) if sample.origin.row % 2 else [])
    assert str(store.account) == '10 rows read, 5 used, 5 left out'


def test_a_flipped_bit_is_found_when_its_sequence_is_read(tmp_path):
    store = fill(dataset(jsonl(tmp_path / 'a.jsonl', pairs(10))), tmp_path)
    for name in ('ids', 'weights', 'ends', 'lines', 'rows'):
        path = store.folder / f'{name}.bin'
        good = path.read_bytes()
        bad = bytearray(good)
        bad[0] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CorruptError, match='sequence 0'):
            stores.Store(store.folder).read(0)
        path.write_bytes(good)
    (store.folder / 'ids.bin').write_bytes((store.folder / 'ids.bin').read_bytes()[:-4])
    with pytest.raises(CorruptError, match='cut off'):
        stores.Store(store.folder)


def test_a_crash_while_filling_leaves_nothing_that_looks_like_a_store(tmp_path):
    rows = dataset(jsonl(tmp_path / 'a.jsonl', pairs(10)))

    def crash(sample):
        if sample.origin.row == 7:
            raise KeyboardInterrupt
        return encode(sample)

    with pytest.raises(KeyboardInterrupt):
        fill(rows, tmp_path, make=crash)
    assert not list((tmp_path / 'store').rglob(files.MANIFEST))
    assert len(fill(rows, tmp_path)) == 10


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', pairs(10))

    def meddle(sample):
        if sample.origin.row == 10:
            path.write_bytes(path.read_bytes().replace(b'q0', b'q9'))
        return encode(sample)

    with pytest.raises(DataError, match='changed while it was read'):
        fill(dataset(path), tmp_path, make=meddle)
    assert not list((tmp_path / 'store').rglob(files.MANIFEST))


def _slow_fill(folder, log):
    def slow(sample):
        with open(log, 'a') as out:
            out.write(json.dumps(sample.origin.row) + '\n')
        time.sleep(0.01)
        return encode(sample)

    fill(dataset(folder / 'a.jsonl'), folder, make=slow)


def test_two_runs_that_need_the_same_store_fill_it_once(tmp_path):
    jsonl(tmp_path / 'a.jsonl', pairs(30))
    log = tmp_path / 'log'
    context = multiprocessing.get_context('fork')
    runs = [context.Process(target=_slow_fill, args=(tmp_path, log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert len(log.read_text().splitlines()) == 30


def test_encoding_keeps_the_account(tmp_path):
    encoding = Encoding(refusing('bad'), Examiner())
    rows = data.load_dataset([*pairs(2), {'query': 'bad', 'response': 'x'}])[0]
    made = [encoding.row(rows.origin(i), lambda i=i: rows.sample(i)) for i in range(3)]
    assert [len(each) for each in made] == [1, 1, 0]
    assert str(encoding.account) == '3 rows read, 2 used, 1 rejected'


def test_rows_that_are_read_ahead_are_told_of_in_their_order():
    """Refused by the file, by the template, left out, used: the account and the lint are those of one row at a time."""
    rows = data.load_dataset(
        [{'query': f'{word} {i}', 'response': 'x' * (i % 9 or 90)} for i, word in enumerate(WORDS)]
    )[0]

    def read(i):
        if i % 11 == 5:
            raise RowError('cannot be read')
        return None if i % 13 == 4 else rows.sample(i)

    def one(sample):
        return [each for each in refusing('bad')(sample) if len(each) < 80]

    def many(samples):
        """In twos, as slowly as may be."""
        waiting = []
        for sample in samples:
            waiting.append(sample)
            if len(waiting) == 2:
                yield from _one_by_one(one, waiting)
                waiting = []
        yield from _one_by_one(one, waiting)

    alone, together = Encoding(one, Examiner()), Encoding(Encoder(one, many), Examiner())
    reads = [(rows.origin(i), partial(read, i)) for i in range(len(WORDS))]
    expected = [alone.row(*each) for each in reads]
    found = list(together.rows(reads))
    ids = lambda made: [[each.input_ids.tolist() for each in sequences] for sequences in made]
    assert ids(found) == ids(expected) and together.account == alone.account
    assert together.account.rejected and together.account.dropped and together.account.used
    assert together.examiner.digests().tolist() == alone.examiner.digests().tolist()
    assert ids(Encoding(one, Examiner()).rows(reads)) == ids(expected)

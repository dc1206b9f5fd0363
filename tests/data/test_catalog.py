import json
from pathlib import Path

import pytest

from swift import data
from swift.core.errors import ConfigError, DataError
from swift.core.registry import Registry
from swift.data import catalog
from swift.data.args import DataArgs
from swift.data.catalog import DatasetMeta, SubsetDataset, find, register_dataset, register_dataset_info

from .bytes_template import jsonl

SELF_COGNITION = 'ms::swift/self-cognition'
NAMES = {'model_name': ['小明', 'Xiao Ming'], 'model_author': ['魔搭', 'ModelScope']}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Registrations of one test are not seen by another."""
    monkeypatch.setattr(catalog, 'DATASETS', Registry('dataset'))


def rows(**flags):
    return data.load(DataArgs(**flags)).train.to_list()


def question(row):
    return row['messages'][-2]['content']


def test_every_shipped_file_of_the_catalogue_is_there_and_names_its_own_columns():
    for name in ('swift/self-cognition', 'swift/chatterbot', 'swift/python-docs', 'swift/facts'):
        meta = find(name)
        assert Path(meta.dataset_path).is_file()


def test_public_datasets_are_found_by_either_hub_id():
    meta = find('AI-ModelScope/zhihu_rlhf_3k')
    assert meta is find('liyucheng/zhihu_rlhf_3k')
    assert meta.columns == {'prompt': 'query', 'chosen': 'response', 'rejected': 'rejected_response'}
    assert find('someone-else/zhihu_rlhf_3k') is None  # the last part of a name is not the name
    assert len(catalog.names()) > 150


def test_a_function_is_a_dataset_by_one_decorator():
    @catalog.DATASETS.register('mine')
    def mine():
        return [{'query': f'q{i}', 'response': 'r'} for i in range(3)]

    assert {question(row) for row in rows(dataset=['mine#2', 'mine'])} <= {'q0', 'q1', 'q2'}


def test_a_function_may_give_a_path(tmp_path):
    catalog.DATASETS.register('mine')(lambda: jsonl(tmp_path / 'a.jsonl', [{'query': 'q', 'response': 'r'}]))
    assert question(rows(dataset=['mine'])[0]) == 'q'


def test_a_described_dataset_renames_and_preprocesses(tmp_path):
    jsonl(tmp_path / 'a.jsonl', [{'a': f'{i}', 'b': i} for i in range(4)])

    class Custom(data.ResponsePreprocessor):
        def preprocess(self, row):
            if row['b'] == 2:
                return None
            return super().preprocess({'query': row['a'], 'response': f'{row["b"]:.1f}'})

    register_dataset(DatasetMeta(dataset_path=str(tmp_path / 'a.jsonl'), dataset_name='mine', preprocess_func=Custom()))
    train, _ = data.load_dataset('mine')
    assert [(question(row), row['messages'][-1]['content']) for row in train] == [
        ('0', '0.0'),
        ('1', '1.0'),
        ('3', '3.0'),
    ]
    with pytest.raises(ConfigError, match='registered twice'):
        register_dataset(DatasetMeta(dataset_path='x', dataset_name='mine'))


def test_subsets_have_their_own_columns_and_weak_ones_are_left_out_of_all(tmp_path):
    for name, column in (('zh', 'wen'), ('en', 'ask'), ('odd', 'query')):
        (tmp_path / name).mkdir()
        jsonl(tmp_path / name / 'train.jsonl', [{column: name, 'response': 'r'}])
    subsets = [
        SubsetDataset(subset='zh', columns={'wen': 'query'}),
        SubsetDataset(subset='en', columns={'ask': 'query'}),
        SubsetDataset(subset='odd', is_weak_subset=True),
    ]
    register_dataset(DatasetMeta(dataset_path=str(tmp_path), dataset_name='mine', subsets=subsets))
    found = lambda typed: sorted(question(row) for row in rows(dataset=[typed]))
    assert found('mine:en') == ['en']
    assert found('mine:all') == ['en', 'zh']
    assert found('mine:odd/zh') == ['odd', 'zh']


def test_a_json_file_describes_more_datasets(tmp_path):
    jsonl(tmp_path / 'rows.jsonl', [{'text1': 'q', 'text2': 'r'}])
    info = tmp_path / 'info.json'
    entry = {'dataset_path': 'rows.jsonl', 'dataset_name': 'mine', 'columns': {'text1': 'query', 'text2': 'response'}}
    info.write_text(json.dumps([entry]))
    assert question(rows(dataset=['mine'], custom_dataset_info=[str(info)])[0]) == 'q'
    info.write_text(json.dumps([{**entry, 'colums': {}}]))
    with pytest.raises(ConfigError, match='did you mean columns'):
        register_dataset_info(info)


def test_self_cognition_rows_speak_of_the_model_in_their_own_language():
    found = rows(dataset=['swift/self-cognition'], **NAMES)
    text = json.dumps(found, ensure_ascii=False)
    assert '{{' not in text
    assert all('Xiao' not in json.dumps(row) for row in found if '小明' in json.dumps(row, ensure_ascii=False))
    one = rows(dataset=['swift/self-cognition'], model_name=['Bob'], model_author=['Us'])
    assert all('Bob' in json.dumps(row) or 'Us' in json.dumps(row) or '{{' not in json.dumps(row) for row in one)


def test_self_cognition_without_a_name_is_refused():
    with pytest.raises(DataError, match='--model_author'):
        rows(dataset=['swift/self-cognition'], model_name=['Bob'])


def test_hub_ids_go_to_the_hub_that_is_meant(tmp_path, monkeypatch):
    jsonl(tmp_path / 'train.jsonl', [{'query': 'q', 'response': 'r'}])
    asked = []

    def fetch(name, **options):
        asked.append((name, options['use_hf'], options['kind']))
        return tmp_path

    monkeypatch.setattr('swift.hub.fetch', fetch)
    data.load(
        DataArgs(
            dataset=['hf::a/b', 'ms::a/b', 'c/d', 'swift/orca_dpo_pairs', 'tiiuae/falcon-refinedweb', SELF_COGNITION],
            **NAMES,
        )
    )
    data.load(DataArgs(dataset=['c/d', 'swift/orca_dpo_pairs']), use_hf=True)
    assert asked == [
        ('a/b', True, 'dataset'),
        ('a/b', False, 'dataset'),
        ('c/d', False, 'dataset'),
        ('swift/orca_dpo_pairs', False, 'dataset'),
        ('tiiuae/falcon-refinedweb', True, 'dataset'),  # known on Hugging Face only
        ('swift/self-cognition', False, 'dataset'),  # shipped too, but asked for by its hub
        ('c/d', True, 'dataset'),
        ('Intel/orca_dpo_pairs', True, 'dataset'),
    ]


@pytest.mark.parametrize('typed', ['chaterbot', './no/such.jsonl', 'no-such', 'rows.jsonl#5', '/no/such/folder'])
def test_what_is_not_there_is_said_so_without_asking_a_hub(typed):
    with pytest.raises(DataError, match='no such file, folder or registered dataset'):
        data.load(DataArgs(dataset=[typed]))

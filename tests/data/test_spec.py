import pytest

from swift.core.errors import ConfigError
from swift.data.spec import Spec, parse


@pytest.mark.parametrize(
    ('typed', 'expected'),
    [
        ('owner/name', Spec('owner/name')),
        ('owner/name#500', Spec('owner/name', count=500)),
        ('owner/name:zh/en#20', Spec('owner/name', subsets=('zh', 'en'), count=20)),
        ('owner/name:all', Spec('owner/name', subsets=('all',))),
        ('hf::owner/name', Spec('owner/name', use_hf=True)),
        ('MS::owner/name:zh', Spec('owner/name', use_hf=False, subsets=('zh',))),
        (r'C:\data\a.jsonl#3', Spec(r'C:\data\a.jsonl', count=3)),
    ],
)
def test_a_dataset_is_taken_apart(typed, expected):
    found = parse(typed)
    assert (found.name, found.use_hf, found.subsets, found.count) == (
        expected.name,
        expected.use_hf,
        expected.subsets,
        expected.count,
    )


def test_a_path_that_exists_is_never_taken_apart(tmp_path):
    path = tmp_path / 'a:b#5.jsonl'
    path.write_text('{}')
    assert parse(str(path)).name == str(path)
    assert parse(f'{path}#7') == Spec(str(path), count=7, typed=f'{path}#7')


@pytest.mark.parametrize('typed', ['a/b#', 'a/b#x', 'a/b#0', 'a/b#-1', '#5', ' '])
def test_a_count_that_is_no_number_of_rows_is_refused(typed):
    with pytest.raises(ConfigError, match='--dataset'):
        parse(typed)

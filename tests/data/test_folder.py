from pathlib import Path

import pytest

from swift.core.errors import DataError
from swift.data.folder import find_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{}\n')
    return folder


def names(folder: Path, **wanted) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, **wanted)]


def test_files_named_after_the_split_are_taken_in_order(tmp_path):
    touch(tmp_path, 'data/train-00001-of-00002.jsonl', 'data/train-00000-of-00002.jsonl', 'data/test-00000.jsonl')
    assert names(tmp_path) == ['data/train-00000-of-00002.jsonl', 'data/train-00001-of-00002.jsonl']
    assert names(tmp_path, split='test') == ['data/test-00000.jsonl']


def test_without_splits_every_table_is_taken_and_nothing_else(tmp_path):
    touch(tmp_path, 'b.csv', 'a.json', 'x/c.txt', 'README.md', 'dataset_infos.json', '.cache/d.jsonl', 'pic.png')
    assert names(tmp_path) == ['a.json', 'b.csv', 'x/c.txt']


def test_files_of_other_splits_are_left_out(tmp_path):
    touch(tmp_path, 'part1.jsonl', 'part2.jsonl', 'validation.jsonl', 'dev/a.jsonl')
    assert names(tmp_path) == ['part1.jsonl', 'part2.jsonl']


def test_words_that_only_contain_a_split_do_not_count(tmp_path):
    touch(tmp_path, 'trainers.jsonl', 'latest.jsonl')
    assert names(tmp_path) == ['latest.jsonl', 'trainers.jsonl']


def test_subsets_are_folders_or_beginnings_of_names(tmp_path):
    touch(tmp_path, 'zh/train.jsonl', 'zh/test.jsonl', 'en/train.jsonl', 'fr-train.jsonl')
    assert names(tmp_path, subsets=['zh']) == ['zh/train.jsonl']
    assert names(tmp_path, subsets=['en', 'fr']) == ['en/train.jsonl', 'fr-train.jsonl']
    with pytest.raises(DataError, match='no subset'):
        names(tmp_path, subsets=['de'])


README = """---
configs:
- config_name: zh
  data_files:
  - split: train
    path: files/zh_*.jsonl
  - split: test
    path: files/zh_test.json
- config_name: en
  data_files: files/en.jsonl
---
# Text
"""


def test_the_readme_says_which_files_a_subset_has(tmp_path):
    touch(tmp_path, 'files/zh_1.jsonl', 'files/zh_2.jsonl', 'files/zh_test.json', 'files/en.jsonl')
    (tmp_path / 'README.md').write_text(README)
    assert names(tmp_path, subsets=['zh']) == ['files/zh_1.jsonl', 'files/zh_2.jsonl']
    assert names(tmp_path, subsets=['zh'], split='test') == ['files/zh_test.json']
    assert names(tmp_path, subsets=['all']) == ['files/zh_1.jsonl', 'files/zh_2.jsonl', 'files/en.jsonl']
    with pytest.raises(DataError, match='several subsets: zh, en'):
        names(tmp_path)


def test_a_readme_cannot_lead_out_of_the_folder(tmp_path):
    touch(tmp_path, 'secret.jsonl', 'in/a.jsonl')
    (tmp_path / 'in/README.md').write_text('---\nconfigs:\n- data_files: ../*.jsonl\n---\n')
    with pytest.raises(DataError, match='not a relative path'):
        names(tmp_path / 'in')


@pytest.mark.parametrize('front', ['---\n: : :\n---\n', '---\nconfigs: 5\n---\n', 'no front matter', '---\n- a\n---\n'])
def test_a_readme_without_configs_is_just_a_readme(tmp_path, front):
    touch(tmp_path, 'a.jsonl')
    (tmp_path / 'README.md').write_text(front)
    assert names(tmp_path) == ['a.jsonl']


def test_a_folder_without_rows_says_so(tmp_path):
    with pytest.raises(DataError, match='holds no rows'):
        names(tmp_path)

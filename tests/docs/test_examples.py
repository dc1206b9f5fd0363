"""Each YAML of examples/ says what it is for, resolves as it stands, and trains two steps on a tiny model."""

import json
import re
from pathlib import Path

import pytest

from swift.commands.configs import CONFIGS, VOCABULARY
from swift.core.config import parse
from tests import tiny

EXAMPLES = sorted((Path(__file__).parents[2] / 'examples').glob('*.yaml'))
pytestmark = pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.stem)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp('tiny') / 'model')


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    return tiny.rows(tmp_path_factory.mktemp('rows') / 'rows.jsonl', count=64)


def judged(rows: Path, kind: str) -> Path:
    """The rows with what a method asks for: a rejected answer, a verdict, steps, a class, or documents."""
    more = {
        **dict.fromkeys(('dpo', 'cpo', 'simpo', 'orpo', 'rm'), lambda row, i: {**row, 'rejected_response': f'No {i}.'}),
        'kto': lambda row, i: {**row, 'label': i % 3 > 0},
        'prm': lambda row, i: {
            'prompt': f'What is {i} + 1?',
            'completions': ['Add.', 'Done.'],
            'labels': [True, i % 2 > 0],
        },
        'seq_cls': lambda row, i: {'messages': row['messages'], 'label': i % 3},
        'embedding': lambda row, i: {'query': f'What is {i}?', 'positive': f'{i}.', 'negative': [f'{i + 1}.']},
        'reranker': lambda row, i: {'query': f'What is {i}?', 'positive': f'{i}.', 'negative': [f'{i + 1}.', 'No.']},
    }
    if kind not in more:
        return rows
    made = [more[kind](json.loads(line), i) for i, line in enumerate(rows.read_text().splitlines())]
    path = rows.with_name(f'{kind}.jsonl')
    path.write_text(''.join(json.dumps(row) + '\n' for row in made))
    return path


def touch(path: Path, folder: Path) -> None:
    """Empty files where the example names the reader's own."""
    for name in re.findall(r'my_\w+\.jsonl', path.read_text(encoding='utf-8')):
        (folder / name).touch()


def verb(path: Path) -> str:
    """The verb of the command that the example's head shows."""
    return re.search(rf'^#   swift (\S+) examples/{path.name}$', path.read_text(encoding='utf-8'), re.MULTILINE)[1]


def test_an_example_begins_with_what_it_does_on_what_hardware_in_what_time(path):
    head = path.read_text(encoding='utf-8').partition('\nmodel:')[0]
    assert head.startswith('# ')
    assert 'Hardware:' in head
    assert 'Time:' in head or 'Not timed yet' in head
    assert verb(path) in ('sft', 'pt', 'rlhf')


def test_an_example_resolves(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(path, tmp_path)
    parse(CONFIGS[verb(path)], [str(path)], VOCABULARY, {})


def test_an_example_trains_two_steps(path, model, rows, tmp_path, monkeypatch):
    from swift import pt_main, rlhf_main, sft_main

    if 'quant_method: bnb' in path.read_text(encoding='utf-8'):
        pytest.importorskip('bitsandbytes')
    monkeypatch.chdir(tmp_path)
    touch(path, tmp_path)
    main = {'sft': sft_main, 'pt': pt_main, 'rlhf': rlhf_main}[verb(path)]
    teacher = ['--teacher_model', str(model)] if path.stem == 'gkd' else []
    last = main([
        str(path), '--model', str(model), '--dataset', str(judged(rows, path.stem)), '--max_steps', '2',
        '--max_length', '64', '--packing_length', '64', '--gradient_accumulation_steps', '1', '--save_steps', '2',
        '--warmup_steps', '0', '--lr_scheduler_type', 'constant', '--report_to', 'none', '--lint', 'warn',
        '--output_dir', str(tmp_path / 'out'), *teacher,
    ])  # fmt: skip
    assert (Path(last) / 'manifest.json').exists()

"""Each YAML of examples/ says what it is for, resolves as it stands, and trains two steps on a tiny model."""

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


def verb(path: Path) -> str:
    """The verb of the command that the example's head shows."""
    return re.search(rf'^#   swift (\S+) examples/{path.name}$', path.read_text(encoding='utf-8'), re.MULTILINE)[1]


def test_an_example_begins_with_what_it_does_on_what_hardware_in_what_time(path):
    head = path.read_text(encoding='utf-8').partition('\nmodel:')[0]
    assert head.startswith('# ')
    assert 'Hardware:' in head
    assert 'Time:' in head or 'Not timed yet' in head
    assert verb(path) in ('sft', 'pt')


def test_an_example_resolves(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_texts.jsonl').touch()
    parse(CONFIGS[verb(path)], [str(path)], VOCABULARY, {})


def test_an_example_trains_two_steps(path, model, rows, tmp_path, monkeypatch):
    from swift import pt_main, sft_main

    if 'quant_method: bnb' in path.read_text(encoding='utf-8'):
        pytest.importorskip('bitsandbytes')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_texts.jsonl').touch()
    main = {'sft': sft_main, 'pt': pt_main}[verb(path)]
    last = main([
        str(path), '--model', str(model), '--dataset', str(rows), '--max_steps', '2', '--max_length', '64',
        '--packing_length', '64', '--gradient_accumulation_steps', '1', '--save_steps', '2', '--warmup_steps', '0',
        '--lr_scheduler_type', 'constant', '--report_to', 'none', '--lint', 'warn',
        '--output_dir', str(tmp_path / 'out'),
    ])  # fmt: skip
    assert (Path(last) / 'manifest.json').exists()

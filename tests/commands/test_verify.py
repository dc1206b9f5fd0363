"""swift verify finds what is wrong with a loss, a layout, a kernel or a mask, and names it; the same as users run it."""

import json
import subprocess
import sys

import pytest

from swift.commands.verify import verify_main
from swift.core.errors import ConfigError
from tests import tiny

SIGN = """
from swift.objectives import preference
right = preference.LOSSES['hinge'].loss
preference.LOSSES['hinge'] = preference.Rule(lambda pairs, how: -right(pairs, how))
"""


def test_everything_that_is_there_passes(capsys):
    assert verify_main([]) == 0
    told = capsys.readouterr().out
    assert 'FAILED' not in told and 'comparisons passed' in told
    for name in ('dpo.hinge', 'kto', 'orpo', 'rm.steps', 'attention: 32 x 64', 'adamw: 100003'):
        assert f'\n  {name} ' in told


def test_a_wrong_sign_that_a_plugin_plants_is_found_and_named(tmp_path):
    (tmp_path / 'sign.py').write_text(SIGN)
    words = ['verify', '--methods', 'dpo.hinge', 'orpo', '--external_plugins', str(tmp_path / 'sign.py')]
    done = subprocess.run([sys.executable, '-m', 'swift.cli', *words], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith('FAILED')]
    assert failed and all(line.startswith('FAILED  dpo.hinge, ') and 'preference.py' in line for line in failed)
    assert any('gradient' in line for line in failed) and any('TRL' in line for line in failed)


def test_a_method_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match='dpo'):
        verify_main(['--methods', 'dppo'])


def test_json_has_every_comparison(capsys):
    assert verify_main(['--methods', 'kto.apo_zero_unpaired', '--json', 'true']) == 0
    found = json.loads(capsys.readouterr().out)
    columns = ['loss', 'gradient', 'metrics', 'micro-batches', 'packing', 'all kernels', 'TRL']
    assert [each['what'] for each in found] == columns
    assert {each['result'] for each in found} == {'passed'}

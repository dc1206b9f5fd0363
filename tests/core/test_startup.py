"""Shortcuts at the start change when things happen, never what is there afterwards."""

import subprocess
import sys


def _run(program: str) -> str:
    return subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True).stdout.strip()


def test_transformers_knows_the_same_models_when_its_files_are_read_once():
    program = """
from swift.core import startup
startup.scan_once()
import transformers.models
from transformers.utils import import_utils
true = import_utils._LazyModule('x', transformers.models.__file__, import_utils.define_import_structure(
    transformers.models.__file__))
assert len(true._class_to_module) > 1000
assert transformers.models._class_to_module == true._class_to_module
assert transformers.models._object_missing_backend == true._object_missing_backend
assert import_utils.define_import_structure.__module__ == import_utils.__name__
print(transformers.LlamaConfig.__name__)
"""
    assert _run(program) == 'LlamaConfig'


def test_rubbish_is_still_collected():
    program = """
import gc
from swift.core import startup
startup.calm()
print(gc.isenabled(), gc.get_threshold()[0] > 700)
"""
    assert _run(program) == 'True True'


def test_importing_the_package_leaves_the_collector_alone():
    program = 'import gc; before = gc.get_threshold(); import swift.train.trainer; print(gc.get_threshold() == before)'
    assert _run(program) == 'True'

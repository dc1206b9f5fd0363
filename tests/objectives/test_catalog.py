"""Every method of the catalogue: its reference agrees, nothing but the rows matters, and what it names is there."""

import dataclasses
import importlib
import re

import pytest

from swift.core.types import Loss
from swift.objectives import trial
from swift.objectives.args import LOSS_TYPES, ObjectiveArgs
from swift.objectives.catalog import METHODS, SYMBOLS
from tests.objectives.checks import SPLITS, agrees, measured, same

TRIED = [pytest.param(m, how, id=f'{name} {how}') for name, m in METHODS.items() for how in m.tried]
EACH = pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)


def named(path):
    module, _, name = path.partition(':')
    return getattr(importlib.import_module(module), name)


def objective(method, how):
    return named(method.make)(ObjectiveArgs(**method.given, **how))


def rows_of(method):
    return getattr(trial, method.rows)(0)


def formula(method, how):
    return lambda rows: named(method.reference)(rows, **how)


@pytest.mark.parametrize(('method', 'how'), TRIED)
def test_loss_and_gradient_are_those_of_the_paper(method, how):
    agrees(objective(method, how), rows_of(method), formula(method, how))


@pytest.mark.parametrize('split', SPLITS)
@EACH
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(method, split):
    made, rows = objective(method, method.tried[-1]), rows_of(method)
    same(measured(made, rows, split), measured(made, rows))


@pytest.mark.parametrize('method', [m for m in METHODS.values() if m.rows == 'preferences'], ids=lambda m: m.title)
def test_shared_prefixes_change_nothing(method):
    rows, apart = trial.preferences(0), trial.preferences(0, share=False)
    assert any(row.segments.prefix_of for row in rows) and not any(row.segments.prefix_of for row in apart)
    for how in method.tried[:4]:
        made = objective(method, how)
        same(measured(made, rows), measured(made, apart))


@EACH
def test_a_wrong_sign_is_found(method):
    class Turned:
        def __init__(self, right):
            self.needs, self.count = right.needs, right.count
            self.right = right

        def prepare(self, *step):
            return self.right.prepare(*step) if hasattr(self.right, 'prepare') else [{} for _ in step[0]]

        def __call__(self, outputs, batch):
            flipped = self.right(dataclasses.replace(outputs, logps=-outputs.logps, scores=-outputs.scores), batch)
            return Loss(flipped.total, flipped.metrics)

    with pytest.raises(AssertionError):
        agrees(Turned(objective(method, {})), rows_of(method), formula(method, {}))


@EACH
def test_what_it_names_is_there(method):
    assert callable(named(method.code)) and callable(named(method.make)) and callable(named(method.reference))
    flags = {each.name for each in dataclasses.fields(ObjectiveArgs)}
    assert set(method.flags) | set(method.given) | {name for how in method.tried for name in how} <= flags
    # a strength that is tried is a flag that the page tells of
    assert {name for how in method.tried for name in how} <= set(method.flags)
    assert all(re.fullmatch(r'\d{4}\.\d{5}', source.arxiv) for source in method.source)


@EACH
def test_its_latex_is_balanced(method):
    lines = [*method.steps, *method.words.values(), *(meaning for _, meaning in SYMBOLS)]
    assert method.formula.count('{') == method.formula.count('}') and '$' not in method.formula
    assert method.formula.count('\\Bigl') == method.formula.count('\\Bigr')
    assert all(line.count('$') % 2 == 0 and line.count('{') == line.count('}') for line in lines)


def test_every_loss_type_has_its_method():
    known = {(m.given.get('rlhf_type'), (m.given.get('loss_type') or [None])[0]) for m in METHODS.values()}
    for method, names in LOSS_TYPES.items():
        assert {name for name in names if (method, name) not in known} <= {names[0], 'simpo'}
    assert {method for method, _ in known} >= LOSS_TYPES.keys()

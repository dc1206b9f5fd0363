"""Every method of the catalogue: its reference agrees, nothing but the rows matters, and what it names is there."""

import dataclasses
import re

import pytest

from swift.commands.configs import RlhfConfig, SftConfig
from swift.core.flags import flags_of
from swift.core.types import Loss
from swift.objectives import trial
from swift.objectives.args import LOSS_TYPES, TASK_LOSSES
from swift.objectives.catalog import METHODS, SYMBOLS
from swift.objectives.classification import PROBLEMS
from swift.verify.formulas import attribute, objective, rows_of, view
from tests.objectives.checks import POLICY, REFERENCE, SPLITS, agrees, measured, same

TRIED = [pytest.param(m, how, id=f'{name} {how}') for name, m in METHODS.items() for how in m.tried]
EACH = pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)


def formula(method, how):
    return lambda rows: attribute(method.reference)(rows, **how)


@pytest.mark.parametrize(('method', 'how'), TRIED)
def test_loss_and_gradient_are_those_of_the_paper(method, how):
    agrees(objective(method, how), rows_of(method), formula(method, how), view(method, how))


@pytest.mark.parametrize('split', SPLITS)
@EACH
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(method, split):
    how = method.tried[-1]
    made, rows, seen = objective(method, how), rows_of(method), view(method, how)
    same(measured(made, rows, split, view=seen), measured(made, rows, view=seen))


SHARED = [method for method in METHODS.values() if method.rows in ('preferences', 'ranked')]


@pytest.mark.parametrize('method', SHARED, ids=lambda m: m.title)
def test_shared_prefixes_change_nothing(method):
    rows, apart = (getattr(trial, method.rows)(0, share=share) for share in (True, False))
    assert any(row.segments.prefix_of for row in rows) and not any(row.segments.prefix_of for row in apart)
    for how in method.tried[:4]:
        made, seen = objective(method, how), view(method, how)
        same(measured(made, rows, view=seen), measured(made, apart, view=seen))


@pytest.mark.parametrize('method', [m for m in METHODS.values() if m.told], ids=lambda m: m.title)
def test_metrics_are_those_of_the_reference(method):
    found = measured(objective(method, {}), rows_of(method), view=view(method, {})).metrics
    expected = attribute(method.told)(trial.written_out(rows_of(method), POLICY, REFERENCE))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-10)


@EACH
def test_a_wrong_sign_is_found(method):
    class Turned:
        def __init__(self, right):
            self.needs, self.count, self.repeats = right.needs, right.count, False
            self.right = right

        def prepare(self, *step):
            return self.right.prepare(*step) if hasattr(self.right, 'prepare') else [{} for _ in step[0]]

        def __call__(self, outputs, batch):
            if method.reads == 'pooled':  # angles are the same of what points the other way
                return Loss(-self.right(outputs, batch).total)
            turned = {name: -getattr(outputs, name) for name in ('logps', 'scores')}
            turned['divergence'] = None if outputs.divergence is None else -outputs.divergence
            return self.right(dataclasses.replace(outputs, **turned), batch)

    with pytest.raises(AssertionError):
        agrees(Turned(objective(method, {})), rows_of(method), formula(method, {}), view(method, {}))


@EACH
def test_what_it_names_is_there(method):
    assert (
        callable(attribute(method.code)) and callable(attribute(method.make)) and callable(attribute(method.reference))
    )
    assert set(method.flags) <= flags_of(RlhfConfig).keys() | flags_of(SftConfig).keys()
    # a strength that is tried is a flag that the page tells of
    assert {name for how in method.tried for name in how} <= set(method.flags)
    assert all(re.fullmatch(r'\d{4}\.\d{5}', each.arxiv) or each.printed[-4:].isdigit() for each in method.source)


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
    of_tasks = {m.given['loss_type'] for name, m in METHODS.items() if m.reads and 'loss_type' in m.given}
    assert of_tasks == {loss for losses in TASK_LOSSES.values() for loss in losses} - {'cross_entropy'}
    assert {m.given['problem'] for m in METHODS.values() if 'problem' in m.given} == PROBLEMS.keys()

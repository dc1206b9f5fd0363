"""swift verify finds what is wrong with a loss, a layout, a kernel or a mask, and names it."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from swift.commands.verify import verify_main
from swift.core.errors import ConfigError
from swift.core.types import ROLES, Encoded, Origin
from swift.kernels import check, layers, norm
from swift.kernels.divergence import Divergence
from swift.objectives import classification, embedding, pairs, ranking, reward, trial
from swift.objectives.catalog import METHODS
from swift.objectives.catalog_tasks import DISTILLED, SFT, TASKS
from swift.objectives.sft import NextToken
from swift.parallel import layout
from swift.parallel.one_device import TorchBackend
from swift.verify import formulas, kernels, layouts, masks, peers
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
    for name in ('dpo.hinge', 'kto', 'orpo', 'prm', 'attention: 32 x 64', 'adamw: 100003'):
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
    columns = ['loss', 'gradient', 'cuts', 'micro-batches', 'packing', 'all kernels', 'TRL']
    assert [each['what'] for each in found] == columns
    assert {each['result'] for each in found} == {'passed'}


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('verify')
    tiny.folder(home / 'model')
    with (home / 'pairs.jsonl').open('w') as file:
        for i in range(6):
            question, answer = f'Who are you, number {i}?', f'A fox {i}.'
            turns = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
            file.write(json.dumps({'messages': turns, 'rejected_response': 'No idea' + '!' * i}) + '\n')
    return home


def on_model(world, capsys, *flags):
    """(exit code, findings by (name, what)) of a model and its rows."""
    words = ['--model', str(world / 'model'), '--dataset', str(world / 'pairs.jsonl'), '--json', 'true', *flags]
    code = verify_main(words)
    return code, {(each['name'], each['what']): each for each in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    'flags',
    [(), ('--rlhf_type', 'dpo'), ('--rlhf_type', 'orpo', '--tuner_type', 'full'), ('--rlhf_type', 'gkd')],
    ids=['sft', 'dpo', 'orpo', 'gkd'],
)
def test_a_model_of_the_users_passes_in_every_way(world, capsys, flags):
    distilled = flags[1:] == ('gkd',)
    teacher = ('--teacher_model', str(world / 'model')) if distilled else ()
    code, found = on_model(world, capsys, *flags, *teacher)
    assert code == 0, [each for each in found.values() if each['result'] == 'failed']
    pairs = flags and not distilled
    assert {found[each, 'loss']['allowed'] for each in ('packing', 'all kernels')} == {1e-5 if pairs else 1e-6}
    ways = {'packing', 'head', 'norm', 'all kernels', 'micro-batches'} | ({'prefixes'} if pairs else set())
    assert {name for name, what in found if what == 'gradient'} >= ways
    assert found['the step after loading', 'weights']['difference'] == 0
    assert found['prompt tokens with loss', 'tokens']['difference'] == 0


TASKS_OF_MODELS = [
    ('--task_type', 'reranker', '--loss_type', 'listwise_reranker'),
    ('--task_type', 'embedding', '--tuner_type', 'full', '--mrl_dims', '{"16": 1.0, "32": 1.0}'),
]


@pytest.mark.parametrize('flags', TASKS_OF_MODELS, ids=lambda flags: flags[1])
def test_a_task_of_the_users_passes_in_every_way(world, capsys, tmp_path, flags):
    with (tmp_path / 'ranked.jsonl').open('w') as file:
        for i in range(4):
            query = {
                'query': f'What is {i} and one more, please?',
                'positive': f'{i + 1}.',
                'negative': ['None.', 'Two!'],
            }
            file.write(json.dumps(query) + '\n')
    code, found = on_model(world, capsys, '--dataset', str(tmp_path / 'ranked.jsonl'), *flags)
    assert code == 0, [each for each in found.values() if each['result'] == 'failed']
    assert ('prefixes' in {name for name, _ in found}) == (flags[1] == 'reranker')


def test_rows_made_short_keep_their_groups_and_what_carries_loss():
    rows = [*trial.preferences(0), *trial.solutions(1), *trial.texts(2), *trial.ranked(3)]
    for row in rows:
        row.input_ids = np.arange(len(row), dtype=np.int32)
        made = layouts.shortened(row, 24)
        assert np.any(made.weight != 0) and made.weight[0] == row.weight[made.input_ids[0]] == 0
        parents = lambda each: each.segments.parents if each.segments else (-1,)
        assert parents(made) == parents(row) and len(made) <= max(24, layouts.LEAST * len(parents(row)))


def test_rows_made_short_lose_what_lies_far_from_the_first_token_with_loss():
    row = trial.texts(0, 1)[0]
    whole = replace(
        row,
        input_ids=np.arange(100, dtype=np.int32),
        weight=np.repeat(np.array([0, 1], np.float32), 50),
        role=np.zeros(100, np.uint8),
    )
    assert layouts.shortened(whole, 20).input_ids.tolist() == list(range(40, 60))


# ------------------------------------------------------------------------------------------------- planted faults
def doubled(monkeypatch):
    """A gradient twice as large, in the backward pass only."""
    right = norm.rms_norm

    def rms_norm(*args, **more):
        out = right(*args, **more)
        return out.detach() + 2 * (out - out.detach())

    monkeypatch.setattr(layers, 'rms_norm', rms_norm)


def shifted(monkeypatch):
    """Packs whose tokens are not where they belong."""
    right = layout.rounded
    monkeypatch.setattr(
        layout, 'rounded', lambda batch: replace(right(batch), input_ids=right(batch).input_ids.roll(1))
    )


def divided_by_micro_batches(monkeypatch):
    monkeypatch.setattr(NextToken, 'count', lambda self, batch: 1)
    monkeypatch.setattr(pairs, 'count', lambda batch: 1)


def predicted_by_what_lies_before(monkeypatch):
    """A suffix whose first token is predicted by the suffix before it."""
    monkeypatch.setattr(layout, 'predictors', lambda segments: torch.arange(-1, segments.total - 1))


def forgotten_moments(monkeypatch):
    right = TorchBackend.load_state

    def load_state(self, tensors, data):
        self.optimizer.state.clear()
        right(self, {name: each for name, each in tensors.items() if not name.startswith('optim/')}, data)

    monkeypatch.setattr(TorchBackend, 'load_state', load_state)


DPO = ('--rlhf_type', 'dpo')
FAULTS = [
    (doubled, (), ('norm', 'gradient')),
    (shifted, (), ('packing', 'gradient')),
    (divided_by_micro_batches, (), ('micro-batches', 'gradient')),
    (predicted_by_what_lies_before, DPO, ('prefixes', 'gradient')),
    (forgotten_moments, (), ('the step after loading', 'weights')),
]


@pytest.mark.parametrize(('plant', 'flags', 'where'), FAULTS, ids=[plant.__name__ for plant, *_ in FAULTS])
def test_a_fault_in_what_runs_is_found_with_the_tensor_that_it_moves_most(
    world, capsys, monkeypatch, plant, flags, where
):
    plant(monkeypatch)
    code, found = on_model(world, capsys, *flags)
    assert code == 1
    assert found[where]['result'] == 'failed' and 'most in base_model.model.' in found[where]['note']
    assert {'norm', 'gated', 'rotary'} - {where[0]} <= {
        name for (name, _), each in found.items() if each['result'] == 'passed'
    }


@pytest.mark.parametrize(
    ('plant', 'column'),
    [
        (doubled, 'all kernels'),
        (shifted, 'packing'),
        (divided_by_micro_batches, 'micro-batches'),
        (divided_by_micro_batches, 'cuts'),
        (predicted_by_what_lies_before, 'prefixes'),
    ],
)
def test_the_same_faults_are_found_without_a_model(capsys, monkeypatch, plant, column):
    plant(monkeypatch)
    assert verify_main(['--methods', 'cpo.hinge', '--json', 'true']) == 1
    found = {each['what']: each['result'] for each in json.loads(capsys.readouterr().out)}
    assert found[column] == 'failed'


# ---------------------------------------------------------------------------------------- wrong signs in new losses
def turned_tokens(monkeypatch):
    right = NextToken.__call__
    monkeypatch.setattr(
        NextToken, '__call__', lambda self, out, batch: right(self, replace(out, logps=-out.logps), batch)
    )


def turned_divergence(monkeypatch):
    """The student's log-probabilities with the wrong sign where they meet the teacher's."""
    right = Divergence.of_logits
    monkeypatch.setattr(Divergence, 'of_logits', lambda self, z, t: right(self, -z, t))


def turned_class(problem):
    def plant(monkeypatch):
        right = classification.PROBLEMS[problem]
        wrong = right._replace(losses=lambda scores, targets: right.losses(-scores, targets))
        monkeypatch.setitem(classification.PROBLEMS, problem, wrong)

    return plant


def turned_angle(loss):
    """cos(u, v) with the wrong sign: every second text points the other way."""

    def plant(monkeypatch):
        right = embedding.LOSSES[loss]
        signs = lambda e, rows: torch.ones(len(e), 1).index_fill_(0, torch.tensor(rows.anchors), -1.0).to(e)
        wrong = right._replace(losses=lambda e, rows, how: right.losses(e * signs(e, rows), rows, how))
        monkeypatch.setitem(embedding.LOSSES, loss, wrong)

    return plant


def turned_documents(kind):
    def plant(monkeypatch):
        right = kind.__call__
        monkeypatch.setattr(
            kind, '__call__', lambda self, out, batch: right(self, replace(out, scores=-out.scores), batch)
        )

    return plant


TURNED = {
    'sft': turned_tokens,
    'sft.dft': turned_tokens,
    'sft.channel': turned_tokens,
    **dict.fromkeys(('gkd', 'gkd.forward', 'gkd.reverse', 'gkd.topk'), turned_divergence),
    'seq_cls': turned_class('single_label_classification'),
    'seq_cls.multi_label': turned_class('multi_label_classification'),
    'seq_cls.regression': turned_class('regression'),
    'embedding': turned_angle('infonce'),
    **{
        f'embedding.{name}': turned_angle(name)
        for name in ('cosine_similarity', 'contrastive', 'online_contrastive', 'triplet')
    },
    'embedding.matryoshka': turned_angle('infonce'),
    'reranker': turned_documents(ranking.Pointwise),
    'reranker.listwise': turned_documents(ranking.Listwise),
    'generative_reranker': turned_documents(ranking.Pointwise),
    'generative_reranker.listwise': turned_documents(ranking.Listwise),
    'prm': turned_documents(reward.StepRewards),
}


@pytest.mark.parametrize('name', TURNED)
def test_a_wrong_sign_in_a_loss_of_tasks_or_teaching_is_found(name, monkeypatch):
    assert not any(each.failed for each in formulas.check(name, METHODS[name]))
    TURNED[name](monkeypatch)
    assert {each.what for each in formulas.check(name, METHODS[name]) if each.failed} >= {'loss', 'gradient'}


def test_every_task_and_every_form_of_distillation_is_tried_with_a_wrong_sign():
    assert TURNED.keys() == SFT.keys() | DISTILLED.keys() | TASKS.keys() | {'prm'}


def test_a_divergence_of_the_wrong_sign_is_another_than_that_of_trl(monkeypatch):
    turned_divergence(monkeypatch)
    (found,) = peers.check('gkd', METHODS['gkd'])
    assert found.failed and found.what == 'TRL'


def test_a_kernel_that_is_wrong_is_found(monkeypatch):
    case = check.CASES['gated']
    wrong = replace(case, fast=lambda gate, up: torch.relu(gate) * up)
    assert all(each.failed for each in kernels.check(wrong))
    assert not any(each.failed for each in kernels.check(case))


def test_loss_on_a_prompt_or_on_a_first_token_or_nowhere_is_found():
    made = lambda weights, roles: Encoded(
        np.arange(3, dtype=np.int32), np.array(weights, np.float32), np.array(roles, np.uint8), Origin('x', 1)
    )
    user, assistant = ROLES.index('user'), ROLES.index('assistant')
    right = made([0, 0, 1], [user, user, assistant])
    assert not any(each.failed for each in masks.check([right], prompts=True))
    for wrong, name in (
        (made([0, 1, 1], [user, user, assistant]), 'prompt tokens with loss'),
        (made([1, 0, 1], [assistant, user, assistant]), 'first tokens with loss'),
        (made([0, 0, 0], [user, user, assistant]), 'rows without loss'),
    ):
        assert [each.name for each in masks.check([right, wrong], prompts=True) if each.failed] == [name]


def test_a_peer_of_another_version_is_skipped_and_said(capsys, monkeypatch):
    monkeypatch.setattr(peers, 'VERSION', '0.1')
    assert verify_main(['--methods', 'orpo']) == 0
    told = capsys.readouterr().out
    assert 'skipped: TRL ' in told and ' skipped' in told

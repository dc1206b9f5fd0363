"""Distillation on one device: teachers of every kind, against plain transformers models and TRL's loss."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from swift.core.errors import ConfigError, SwiftError
from swift.core.types import Builder, ModelInfo
from swift.kernels import divergence
from swift.kernels.divergence import Divergence
from swift.objectives.distill import Distillation
from swift.parallel import reference, remote, teacher
from swift.parallel.settings import Settings
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny
from tests.parallel.test_one_device import ROWS, WEIGHTS, backend, batch

ALL = list(range(len(ROWS)))
NEEDS = frozenset({'divergence', 'logps'})


def other_model(architecture='qwen3', **changes):
    return tiny.model(architecture, dtype='float64', seed=7, hidden_size=48, **changes)


def frozen(model, **settings):
    info = ModelInfo(path=None, id='tiny', model_type='', architecture='', dtype='float64', max_model_len=64)
    return reference.frozen_runner(Builder(info, None, lambda: model), Settings(**settings)).predictions


def taught(says, how, **kwargs):
    made = backend(**kwargs)
    made.runner.teacher = teacher.Teacher(says, how)
    return made


def plain_loss(student, model, how, *, alpha=0.0):
    """Mean over the targets of all rows, one row at a time, in torch's own operations."""
    total, count = 0.0, 0
    for row, weight in zip(ROWS, WEIGHTS, strict=True):
        ids, weight = torch.tensor(row)[None], torch.tensor(weight)[1:]
        z = student(input_ids=ids).logits[0, :-1]
        with torch.no_grad():
            t = model(input_ids=ids).logits[0, :-1]
        nll = -torch.log_softmax(z, -1).gather(1, ids[0, 1:, None])[:, 0]
        total = total + (weight * (divergence.plain(z, t, how) + alpha * nll)).sum()
        count += int((weight != 0).sum())
    return total / count


def gradients(made):
    return {name: p.grad.clone() for name, p in made.masters.items() if p.grad is not None}


def near(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert float((found[name] - grad).norm()) <= tolerance * float(grad.norm()) + 1e-12, name


@pytest.mark.parametrize('micro', [[ALL], [[0, 1], [2, 3, 4], [5]]], ids=['one pack', 'three'])
@pytest.mark.parametrize(
    'how', [Divergence(0.0), Divergence(0.5, 0.9), Divergence(1.0), Divergence(0.5, 0.9, top=6)], ids=str
)
@pytest.mark.parametrize('kernels', ['auto', 'off'])
def test_loss_and_gradient_are_those_of_two_plain_models(how, micro, kernels):
    settings = {} if kernels == 'auto' else {'kernels': frozenset()}
    model = other_model()
    made = taught(frozen(model, **settings), how, **settings)
    found = made.forward_backward([batch(part) for part in micro], Distillation(sft_alpha=0.3))
    student = tiny.model(dtype='float64')
    expected = plain_loss(student, other_model(), how, alpha=0.3)
    expected.backward()
    assert float(found['loss'][0] / found['loss'][1]) == pytest.approx(expected.item(), rel=1e-7)
    near(gradients(made), {name: p.grad for name, p in student.named_parameters() if name in made.masters})


@pytest.mark.parametrize('beta', [0.0, 0.5, 1.0])
def test_the_loss_of_a_step_is_that_of_trl(beta):
    oracle = pytest.importorskip('trl.experimental.gkd').GKDTrainer.generalized_jsd_loss
    model = other_model()
    made = taught(frozen(model), Divergence(beta))
    parts = [made.forward_backward([batch([i])], Distillation())['divergence'][0] for i in ALL]
    student = tiny.model(dtype='float64')
    for i, found in enumerate(parts):
        ids, weight = torch.tensor(ROWS[i])[None], torch.tensor(WEIGHTS[i])
        labels = ids.where(weight[None] != 0, -100)[:, 1:]
        z, t = (each(input_ids=ids).logits[:, :-1] for each in (student, other_model()))
        expected = oracle(z, t, labels=labels, beta=beta, reduction='sum') * weight.max()
        assert float(found) == pytest.approx(expected.item(), rel=1e-6)


def test_a_teacher_that_cannot_pack_teaches_the_same():
    model = other_model()
    found = [
        taught(frozen(model, **settings), Divergence()).forward([batch(ALL)], needs=NEEDS)[0].divergence
        for settings in ({}, {'attn_impl': 'eager'})
    ]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


def test_a_teacher_whose_embedding_is_padded_teaches_the_tokens_that_both_have():
    wide, narrow = other_model(), other_model()
    wide.resize_token_embeddings(448, mean_resizing=False)
    found = [taught(frozen(model), Divergence()).forward([batch(ALL)], needs=NEEDS)[0] for model in (wide, narrow)]
    torch.testing.assert_close(found[0].divergence, found[1].divergence, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------------------- the same model
def test_the_model_without_its_adapters_teaches_what_it_was():
    made = backend(lora=True)
    made.runner.teacher = teacher.Teacher(teacher.switched(made), Divergence())
    [own] = made.forward([batch(ALL)], needs=NEEDS)
    [apart] = taught(frozen(tiny.model(dtype='float64')), Divergence(), lora=True).forward([batch(ALL)], needs=NEEDS)
    assert own.divergence.abs().max() > 1e-4
    torch.testing.assert_close(own.divergence, apart.divergence, rtol=1e-6, atol=1e-9)


def test_teaching_leaves_the_model_as_it_was():
    made = backend(lora=True)
    made.runner.teacher = teacher.Teacher(teacher.switched(made), Divergence())
    before = {name: p.requires_grad for name, p in made.model.named_parameters()}
    found = made.forward_backward([batch(ALL)], Distillation())
    assert made.model.training
    assert {name: p.requires_grad for name, p in made.model.named_parameters()} == before
    assert all(torch.isfinite(grad).all() and grad.any() for grad in gradients(made).values())
    again = taught(frozen(tiny.model(dtype='float64')), Divergence(), lora=True)
    assert float(again.forward_backward([batch(ALL)], Distillation())['loss'][0]) == pytest.approx(
        float(found['loss'][0]), rel=1e-6
    )
    near(gradients(made), gradients(again))


def with_adapter(model):
    torch.manual_seed(11)
    model = attach(model, TunerArgs(lora_dropout=0.0, init_weights='gaussian'))
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_adapters_of_a_teacher_change_what_it_teaches():
    bare = taught(frozen(other_model()), Divergence())
    adapted = taught(frozen(with_adapter(other_model())), Divergence())
    expected = plain_loss(tiny.model(dtype='float64'), with_adapter(other_model()), Divergence())
    losses = [made.forward_backward([batch(ALL)], Distillation())['loss'] for made in (bare, adapted)]
    bare, adapted = (float(total / count) for total, count in losses)
    assert adapted == pytest.approx(expected.item(), rel=1e-6)
    assert abs(adapted - bare) > 1e-3 * bare


# --------------------------------------------------------------------------------------------------------- a server
@contextmanager
def serving(model, *, fail=0, stingy=False):
    """A server that answers as vLLM does, from a model in memory; the first ``fail`` completions are 503."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, value, code=200):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.reply({'data': [{'id': 'tiny'}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            asked.append(body)
            if len(asked) <= fail:
                return self.reply({'error': 'starting'}, 503)
            with torch.no_grad():
                logps = torch.log_softmax(model(input_ids=torch.tensor([body['prompt']])).logits[0], -1)
            rows = [None]
            for at, token in enumerate(body['prompt'][1:]):
                top = logps[at].topk(1 if stingy else body['prompt_logprobs']).indices.tolist()
                rows.append({str(i): {'logprob': float(logps[at, i])} for i in {*top, token}})
            self.reply({'choices': [{'prompt_logprobs': rows}]})

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}', asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize('suffix', ['', '/v1', '/v1/'])
def test_a_server_teaches_what_its_model_would_with_as_many_tokens(suffix, monkeypatch):
    monkeypatch.setattr(remote, 'PAUSE', 0.01)
    model, how = other_model(), Divergence(0.5, 0.9, top=5)
    with serving(model, fail=2) as (url, asked):
        made = taught(remote.Server(url + suffix, top=5), how)
        found = made.forward_backward([batch(ALL)], Distillation())['loss']
    assert all(body['prompt_logprobs'] == 5 and body['model'] == 'tiny' for body in asked)
    expected = taught(frozen(other_model()), how)
    assert float(found[0]) == pytest.approx(float(expected.forward_backward([batch(ALL)], Distillation())['loss'][0]))
    near(gradients(made), gradients(expected), 1e-5)  # log-probabilities travel as float32


def test_a_server_that_does_not_answer_or_tells_too_little_is_named(monkeypatch):
    monkeypatch.setattr(remote, 'PAUSE', 0.01)
    with serving(other_model(), stingy=True) as (url, _):
        made = taught(remote.Server(url, top=9), Divergence(top=9))
        with pytest.raises(SwiftError, match='prompt_logprobs'):
            made.forward([batch(ALL)], needs=NEEDS)
    with pytest.raises(ConfigError, match='teacher_model_server'):
        remote.Server(url, top=9)

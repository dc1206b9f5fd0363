"""Models that the kernel does not compute: their own layers over pages, or padded batches where even that cannot be."""

from __future__ import annotations

import pytest

from swift.core.types import Request, Sampling
from swift.engines.native.packed_runner import PackedRunner
from swift.engines.native.paged_runner import PagedRunner
from swift.kernels.blueprint import Misfit
from tests import tiny
from tests.adapters import adapter
from tests.engines.plain import ask, engine, prompts, reference
from tests.engines.test_fuzz import play
from tests.engines.test_greedy import lively

LONG = tuple(5 + i * 37 % 390 for i in range(100))


@pytest.mark.parametrize(
    ('architecture', 'kind'),
    [('llama', PackedRunner), ('gpt2', PagedRunner), ('gpt_oss', PagedRunner), ('qwen3_next', None)],
)
def test_each_model_runs_the_fastest_way_that_computes_it(architecture, kind):
    with engine(tiny.model(architecture) if architecture in tiny.SIZES else lively(architecture)) as native:
        lane = native._scheduler._packed
        assert (None if lane is None else type(lane.runner)) is kind


@pytest.mark.parametrize('why', ['no compiler', 'half precision'])
def test_a_model_of_the_kernel_has_pages_where_the_kernel_cannot_run(why, monkeypatch):
    model = tiny.model()
    if why == 'no compiler':
        monkeypatch.setattr('swift.kernels.compiled.missing', lambda: why)
    else:
        model = model.half()
    with engine(model) as native:
        assert isinstance(native._scheduler._packed.runner, PagedRunner)
        assert ask(native, prompts(), Sampling(max_tokens=8)) == [reference(model, each, 8) for each in prompts()]


def test_prompts_and_choices_share_their_pages():
    model = tiny.model('gpt2')
    wanted = reference(model, LONG, 6)
    with engine(model) as native:
        assert ask(native, [LONG, LONG], Sampling(max_tokens=6)) == [wanted, wanted]
        assert ask(native, [LONG], Sampling(max_tokens=6)) == [wanted]
        assert native.stats()['cached_tokens'] >= 96
        before = native.stats()['prompt_tokens']
        list(native.stream(Request('a', LONG[::-1], Sampling(max_tokens=4, n=5, temperature=1.0, seed=3))))
        assert native.stats()['prompt_tokens'] - before == len(LONG)
        assert native.stats()['kv_used'] == 0


def test_answers_survive_having_to_give_their_pages_back():
    model = tiny.model('gpt2')
    asked = [LONG[i : i + 40] for i in range(4)]
    with engine(model, max_kv_tokens=256, stop_ids=()) as native:
        assert ask(native, asked, Sampling(max_tokens=50)) == [
            reference(model, prompt, 50, eos_token_id=-1) for prompt in asked
        ]


def test_adapters_and_the_base_answer_beside_each_other(tmp_path):
    model = tiny.model('gpt2')
    with engine(tiny.model('gpt2')) as native:
        for seed, name in enumerate('ab'):
            native.load_adapter(name, adapter(tmp_path / name, model, seed=seed, target_modules=['c_attn']))
        plain = ask(native, prompts(), Sampling(max_tokens=8))
        alone = {name: ask(native, prompts(), Sampling(max_tokens=8), adapter=name) for name in 'ab'}
        streams = [
            (name, i, native.stream(Request(f'{name}{i}', tuple(prompt), Sampling(max_tokens=8), name)))
            for i, prompt in enumerate(prompts())
            for name in ('a', None, 'b')
        ]
        for name, i, stream in streams:
            assert [id for piece in stream for id in piece.ids] == (plain if name is None else alone[name])[i]
        assert plain != alone['a'] != alone['b']


def test_answers_do_not_depend_on_who_comes_and_goes_in_padded_batches_either(monkeypatch):
    monkeypatch.setattr(PagedRunner, '__init__', _refuse)
    play(tiny.model('gpt2'), seed=1, count=10)


def _refuse(self, runner, **_):
    raise Misfit('this test wants it')

"""Drawn tokens follow the distribution that NumPy computes; seeds, penalties and log-probabilities do as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from swift.core.types import Request, Sampling
from swift.engines.native import sample
from swift.engines.native.sample import Draw, choose
from tests import tiny
from tests.engines.plain import ask, engine, prompts, reference

V = 40
DRAWS = 20_000
LOGITS = np.random.default_rng(0).normal(0, 2, V).astype(np.float32)
SETTINGS = {
    'temperature': Sampling(temperature=0.7),
    'hot': Sampling(temperature=1.8),
    'top_k': Sampling(temperature=1.0, top_k=5),
    'top_p': Sampling(temperature=1.0, top_p=0.8),
    'min_p': Sampling(temperature=1.0, min_p=0.1),
    'all': Sampling(temperature=1.3, top_k=12, top_p=0.9, min_p=0.02),
    'top_p of top_k': Sampling(temperature=1.0, top_k=6, top_p=0.6),
    'top_k beyond the vocabulary': Sampling(temperature=1.0, top_k=1000),
    'a nucleus of one': Sampling(temperature=1.0, top_p=0.01),
}


def distribution(logits, s: Sampling):
    """Probabilities as the papers define them, in float64 and by sorting."""
    p = np.exp(logits.astype(np.float64) / s.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if s.top_k > 0:
        p[order[s.top_k :]] = 0
        p /= p.sum()
    if s.top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= s.top_p]] = 0
    p[p < s.min_p * p.max()] = 0
    return p / p.sum()


def draw(settings: Sampling, generator=None, rows=1000):
    """Counts of DRAWS tokens."""
    logits = torch.from_numpy(LOGITS).expand(rows, V)
    generator = generator or torch.Generator().manual_seed(1)
    counts = np.zeros(V)
    for _ in range(DRAWS // rows):
        ids, _ = choose(logits, [Draw(settings)] * rows, generator)
        counts += np.bincount(ids, minlength=V)
    return counts


def chi_square(counts, p) -> float:
    """Statistic minus its mean, in standard deviations; cells that are hardly expected are put together."""
    expected = p * counts.sum()
    small = (expected < 5) & (p > 0)
    cells = [*zip(counts[~small & (p > 0)], expected[~small & (p > 0)], strict=True)]
    if small.any():
        cells.append((counts[small].sum(), expected[small].sum()))
    statistic, freedom = sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1
    return (statistic - freedom) / np.sqrt(2 * freedom) if freedom else 0.0


@pytest.mark.parametrize('name', SETTINGS)
def test_draws_follow_the_reference_distribution(name):
    p = distribution(LOGITS, SETTINGS[name])
    counts = draw(SETTINGS[name])
    assert counts[p == 0].sum() == 0
    assert chi_square(counts, p) < 4


def test_the_nucleus_is_right_when_it_is_wider_than_the_first_look(monkeypatch):
    monkeypatch.setattr(sample, 'BLOCK', 3)
    monkeypatch.setattr(sample, 'BLOCKS', 1)
    p = distribution(LOGITS, SETTINGS['top_p'])
    counts = draw(SETTINGS['top_p'])
    assert (p > 0).sum() > 3
    assert counts[p == 0].sum() == 0
    assert chi_square(counts, p) < 4


@pytest.mark.parametrize('spread', [0.1, 1.5, 4.0])  # from a nucleus of nearly everything to one of a few tokens
def test_the_first_look_keeps_what_sorting_everything_keeps(spread):
    chance = np.random.default_rng(5)
    scores = torch.from_numpy(chance.normal(0, spread, (64, 5000)).astype(np.float32))
    scores[::4] = scores[::4].round(decimals=1)  # many ties
    scores[1::4, ::3] = float('-inf')  # a grammar
    settings = [
        Sampling(
            temperature=1.0,
            top_p=float(chance.choice([1.0, 0.3, 0.9, 0.999])),
            top_k=int(chance.choice([0, 1, 100, 9999])),
        )
        for _ in scores
    ]
    rows = [i for i, s in enumerate(settings) if s.top_p < 1 or s.top_k]
    some, limited = scores[rows], [settings[i] for i in rows]
    plain = sample._Nuclei.of(some, limited).least(sample._descending(some))
    least = sample.least_kept(scores, [Draw(s) for s in settings])
    assert torch.equal(least[rows], plain)
    for row, s, lowest in zip(scores, settings, least, strict=True):
        kept = distribution(row.numpy(), s) > 0
        assert abs(int((row >= lowest).sum()) - int(kept.sum())) <= (row == lowest).sum()  # which tie goes is open


def test_rows_with_different_settings_do_not_touch_each_other():
    rows = [*SETTINGS.values(), Sampling(temperature=0.0)]
    logits = torch.from_numpy(LOGITS).expand(len(rows), V)
    generator = torch.Generator().manual_seed(2)
    counts = np.zeros((len(rows), V))
    for _ in range(4000):
        ids, _ = choose(logits, [Draw(s) for s in rows], generator)
        counts[np.arange(len(rows)), ids] += 1
    for row, settings in zip(counts[:-1], rows[:-1], strict=True):
        p = distribution(LOGITS, settings)
        assert row[p == 0].sum() == 0
        assert chi_square(row, p) < 4
    assert counts[-1, LOGITS.argmax()] == 4000


def test_seeds_of_choices_draw_independently():
    counts = np.zeros((V, V))
    logits = torch.from_numpy(LOGITS / 2).expand(2, V)
    for seed in range(4000):
        draws = [Draw.start(Sampling(temperature=1.0, seed=seed), i, [], V, torch.device('cpu')) for i in range(2)]
        first, second = choose(logits, draws)[0]
        counts[first, second] += 1
    p = distribution(LOGITS / 2, Sampling(temperature=1.0))
    assert chi_square(counts.sum(1), p) < 4
    assert chi_square(counts.sum(0), p) < 4
    assert chi_square(counts.ravel(), np.outer(p, p).ravel()) < 4


@pytest.mark.parametrize('architecture', ['llama', 'gemma2'])
def test_a_seeded_answer_is_the_same_alone_and_in_any_batch(architecture):
    model = tiny.model(architecture)
    warm = [Sampling(max_tokens=12, temperature=1.0, seed=i, top_p=(1.0, 0.9)[i % 2]) for i in range(5)]
    with engine(model) as native:
        alone = [ask(native, [prompt], s)[0] for prompt, s in zip(prompts(), warm, strict=True)]
        together = ask(native, prompts(), *warm)
        backwards = ask(native, prompts()[::-1], *warm[::-1])[::-1]
    with engine(model, max_batch_size=2) as native:
        narrow = ask(native, prompts(), *warm)
    assert alone == together == backwards == narrow
    assert len({tuple(answer) for answer in alone}) == 5


def test_choice_zero_does_not_depend_on_n_and_the_choices_differ():
    request = Sampling(max_tokens=8, temperature=1.0, seed=7)
    with engine(tiny.model('llama')) as native:
        single = ask(native, prompts()[:1], request)[0]
        pieces = list(
            native.stream(Request('n', tuple(prompts()[0]), Sampling(max_tokens=8, temperature=1.0, seed=7, n=3)))
        )
    choices = [tuple(id for piece in pieces if piece.index == i for id in piece.ids) for i in range(3)]
    assert list(choices[0]) == single
    assert len(set(choices)) == 3


def test_repetition_penalty_equals_that_of_transformers():
    prompt, said = [3, 5, 7], [5, 9]
    logits = torch.from_numpy(LOGITS)[None]
    row = Draw.start(Sampling(repetition_penalty=1.7), 0, prompt, V, logits.device)
    for token in said:
        row.note(token)
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[*prompt, *said]]), logits.clone())
    torch.testing.assert_close(sample.penalise(logits, [row]), wanted)


def test_presence_and_frequency_penalties_count_the_answer_only():
    logits = torch.from_numpy(LOGITS)[None]
    row = Draw.start(Sampling(presence_penalty=0.5, frequency_penalty=0.25), 0, [3, 5], V, logits.device)
    for token in (5, 9, 9):
        row.note(token)
    wanted = LOGITS.copy()
    wanted[[5, 9]] -= 0.5
    wanted[[5, 9, 9][:2]] -= 0.25
    wanted[9] -= 0.25
    np.testing.assert_allclose(sample.penalise(logits, [row])[0].numpy(), wanted, rtol=1e-6)


def test_penalties_of_one_row_leave_the_others_alone():
    logits = torch.from_numpy(LOGITS).expand(2, V)
    rows = [Draw(Sampling()), Draw.start(Sampling(repetition_penalty=2.0), 0, [1], V, logits.device)]
    out = sample.penalise(logits, rows)
    assert torch.equal(out[0], logits[0])
    assert not torch.equal(out[1], logits[1])


def test_a_bias_is_added_to_the_logits_of_its_tokens_before_penalties():
    settings = [Sampling(logit_bias=((3, 2.5), (9, -100.0))), Sampling(), Sampling(logit_bias=((0, 1.0),))]
    logits = torch.from_numpy(LOGITS).expand(3, V)
    wanted = np.stack([LOGITS] * 3)
    wanted[0, 3] += 2.5
    wanted[0, 9] -= 100
    wanted[2, 0] += 1
    np.testing.assert_array_equal(sample.add_bias(logits, [Draw(s) for s in settings]).numpy(), wanted)
    assert torch.equal(logits[0], torch.from_numpy(LOGITS))
    biased = Sampling(temperature=0.7, logit_bias=((3, 2.5), (9, -100.0)))
    assert chi_square(draw(biased), distribution(wanted[0], biased)) < 4


def test_end_tokens_are_never_drawn_before_min_tokens_and_as_likely_as_ever_after():
    settings = Sampling(temperature=1.0, min_tokens=2)
    row = Draw.start(settings, 0, [], V, torch.device('cpu'), ends=(int(LOGITS.argmax()), 7, V + 5))
    logits, generator = torch.from_numpy(LOGITS).expand(1000, V), torch.Generator().manual_seed(3)
    for _ in range(2):
        drawn, _ = choose(logits, [row] * 1000, generator)
        assert not {int(LOGITS.argmax()), 7} & set(drawn)
        row.note(5)
    counts = np.bincount(choose(logits, [row] * 1000, generator)[0], minlength=V)
    assert chi_square(counts, distribution(LOGITS, settings)) < 4


def test_a_least_length_and_a_bias_answer_as_transformers_does():
    model, prompt = tiny.model('llama'), prompts()[1]
    with engine(model) as native:
        free = ask(native, [prompt], Sampling(max_tokens=12))[0]
        early = {'max_tokens': 12, 'stop_ids': (free[1],)}
        assert ask(native, [prompt], Sampling(**early))[0] == free[:2]
        bias = ((free[0], -8.0), (7, 1.0))
        for settings, options in (
            ({'min_tokens': 8}, {'min_new_tokens': 8}),
            ({'logit_bias': bias}, {'sequence_bias': {(id,): value for id, value in bias}}),
        ):
            answer = ask(native, [prompt], Sampling(**early, **settings))[0]
            assert answer == reference(model, prompt, 12, eos_token_id=[free[1], 2], **options)
            assert answer[:2] != free[:2]


def test_logprobs_are_the_models_own_whatever_the_temperature():
    model, prompt = tiny.model('llama'), prompts()[2]
    settings = Sampling(max_tokens=6, temperature=3.0, top_k=9, seed=1, logprobs=4, repetition_penalty=1.5)
    with engine(model) as native:
        pieces = list(native.stream(Request('a', tuple(prompt), settings)))
    ids = [id for piece in pieces for id in piece.ids]
    got = [each for piece in pieces for each in piece.logprobs]
    with torch.no_grad():
        wanted = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    assert [each.id for each in got] == ids
    for each, row in zip(got, wanted, strict=True):
        assert each.logprob == pytest.approx(row[each.id].item(), abs=1e-4)
        assert [value for _, value in each.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        assert [id for id, _ in each.top] == row.topk(4).indices.tolist()

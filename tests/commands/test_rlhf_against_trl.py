"""swift rlhf against TRL's trainers: the same rows and weights, the same ten losses, gradient norms and metrics."""

import json

import pytest

from swift.commands.rlhf import rlhf_main
from swift.objectives.args import LOSS_TYPES
from tests import tiny

# The tiny world's ChatML with its newlines between turns, so that nothing follows an answer's stop token: TRL trains
# on whatever the template writes after an answer.
BETWEEN = (
    "{% for message in messages %}{{ ('' if loop.first else '\n') + '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}"
    '{% endif %}'
)
TERSE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|im_start|>' }}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
STEPS, ROWS = 10, 4
QUESTIONS = ['Who are you?', 'What is the capital of France?', '12 + 30 = ?', 'def add', '你是谁？', 'Thanks, and bye!']
ANSWERS = ['I am a small model.', 'Paris', '42', 'return a + b', '我是一个小小的语言模型。', 'No idea, sorry', 'Yes.']
RECIPE = {'learning_rate': 1e-3, 'weight_decay': 0.1, 'adam_beta2': 0.95, 'lr_scheduler_type': 'cosine'}
REWARDS = [
    'rewards/chosen',
    'rewards/rejected',
    'rewards/margins',
    'rewards/accuracies',
    'logps/chosen',
    'logps/rejected',
]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('peers')
    tiny.folder(home / 'model')
    with (home / 'pairs.jsonl').open('w') as pairs, (home / 'judged.jsonl').open('w') as judged:
        for i in range(STEPS * ROWS):
            turns = [
                {'role': 'user', 'content': f'{QUESTIONS[i % 6]} ({i})'},
                {'role': 'assistant', 'content': ANSWERS[i % 7]},
            ]
            pairs.write(json.dumps({'messages': turns, 'rejected_response': ANSWERS[(i + 3) % 7]}) + '\n')
            judged.write(json.dumps({'messages': turns, 'label': i % 3 != 0}) + '\n')
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


def pairs(world):
    """Preference rows as TRL has them."""
    answer = lambda text: [{'role': 'assistant', 'content': text}]
    return [
        {'prompt': row['messages'][:1], 'chosen': row['messages'][1:], 'rejected': answer(row['rejected_response'])}
        for row in read(world / 'pairs.jsonl')
    ]


def same(found, expected, names=REWARDS):
    assert len(found) == len(expected) == STEPS
    for one, two in zip(found, expected, strict=True):
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-5)
        assert one['grad_norm'] == pytest.approx(two['grad_norm'], rel=1e-4)
        for name in names:
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name


DPO = {
    **{name: {'loss_type': [name]} for name in LOSS_TYPES['dpo']},
    'exo_pair': {'loss_type': ['exo_pair'], 'label_smoothing': 0.001},
    'robust': {'loss_type': ['robust'], 'label_smoothing': 0.1, 'beta': 0.3},
    'mixed': {'loss_type': ['sigmoid', 'bco_pair', 'sft'], 'loss_weights': [0.8, 0.2, 1.0]},
    'length desensitised': {'ld_alpha': 0.4},
    'forward KL': {'f_divergence_type': 'forward_kl'},
}


def words(options):
    for name, value in options.items():
        yield from (f'--{name}', *(value if isinstance(value, list) else [value]))


@pytest.mark.parametrize('options', DPO.values(), ids=DPO)
def test_ten_steps_of_dpo_equal_trl(world, tmp_path, options):
    from trl import DPOConfig, DPOTrainer

    found = ours(world, tmp_path / 'ours', 'pairs.jsonl', *words(options))
    same(found, theirs(world, tmp_path / 'theirs', DPOTrainer, DPOConfig, pairs(world), **options))


def test_ten_steps_of_kto_equal_trl(world, tmp_path):
    from trl import KTOConfig, KTOTrainer

    rows = [
        {'prompt': row['messages'][:1], 'completion': row['messages'][1:], 'label': row['label']}
        for row in read(world / 'judged.jsonl')
    ]
    options = {'desirable_weight': 1.3, 'beta': 0.3}
    found = ours(world, tmp_path / 'ours', 'judged.jsonl', '--rlhf_type', 'kto', *words(options))
    expected = theirs(world, tmp_path / 'theirs', KTOTrainer, KTOConfig, rows, **options)
    assert max(step['kl'] for step in found) > 0
    names = ['kl', 'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'logps/chosen', 'logps/rejected']
    same(found, expected, names)


@pytest.mark.parametrize(
    'options', [{'rlhf_type': 'cpo'}, {'rlhf_type': 'simpo', 'simpo_gamma': 0.6, 'beta': 1.5}], ids=['cpo', 'simpo']
)
def test_ten_steps_of_cpo_and_simpo_equal_trl(world, tmp_path, options):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    found = ours(world, tmp_path / 'ours', 'pairs.jsonl', *words(options))
    more = {**options, 'loss_type': 'simpo' if options['rlhf_type'] == 'simpo' else 'sigmoid'}
    more.pop('rlhf_type')
    expected = theirs(world, tmp_path / 'theirs', CPOTrainer, CPOConfig, pairs(world), **more)
    same(found, expected, [*REWARDS, 'nll_loss'])


@pytest.mark.parametrize('options', [{}, {'center_rewards_coefficient': 0.05}], ids=['plain', 'centred'])
def test_ten_steps_of_a_reward_model_equal_trl(world, tmp_path, options):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    AutoTokenizer.from_pretrained(world / 'model').save_pretrained(tmp_path / 'scorer')
    model = AutoModelForSequenceClassification.from_pretrained(world / 'model', num_labels=1, dtype='float32')
    model.save_pretrained(tmp_path / 'scorer')
    found = ours(
        world, tmp_path / 'ours', 'pairs.jsonl', '--rlhf_type', 'rm', *words(options), model=tmp_path / 'scorer'
    )
    # a score is read where the template ends, so here it may write what it likes after an answer
    more = {'model': model, 'template': tiny.CHATML, **options}
    expected = theirs(world, tmp_path / 'theirs', RewardTrainer, RewardConfig, pairs(world), **more)
    same(found, expected, ['accuracy', 'margin', 'mean_reward'])


def test_ten_steps_of_orpo_equal_trl_where_the_prompt_has_nothing_to_learn(world, tmp_path):
    """TRL's next-token loss takes the prompt in; this template writes one token for it, which nothing comes before."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model = tiny.folder(tmp_path / 'model', template=TERSE)
    found = ours(world, tmp_path / 'ours', 'pairs.jsonl', '--rlhf_type', 'orpo', '--beta', '0.3', model=model)
    more = {'template': TERSE, 'beta': 0.3}
    expected = theirs(world, tmp_path / 'theirs', ORPOTrainer, ORPOConfig, pairs(world), **more)
    same(found, expected, [*REWARDS, 'nll_loss', 'log_odds_ratio', 'log_odds_chosen'])

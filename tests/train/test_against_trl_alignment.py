"""Alignment against TRL's trainers: the same rows in the same order, the same ten losses, gradient norms and metrics.

What TRL takes over a micro-batch (the mean of the next-token loss, the KL term of KTO, the sorting of AOT) is taken
over the optimizer step here, so TRL's micro-batch is the whole step, while ours is split however the run likes.
"""

import json

import pytest

from swift.commands.rlhf import rlhf_main
from tests import tiny

STEPS, ROWS = 10, 4
SHARED = {
    'learning_rate': 2e-3, 'weight_decay': 0.1, 'adam_beta2': 0.95, 'max_grad_norm': 1.0, 'max_steps': STEPS,
    'lr_scheduler_type': 'cosine', 'logging_steps': 1, 'save_strategy': 'no', 'report_to': 'none',
}  # fmt: skip
NAMES = ('rewards/', 'logps/', 'nll_loss', 'log_odds', 'kl', 'mean_token_accuracy', 'accuracy', 'margin', 'mean_reward')
"""What the names of metrics begin with that are to be equal."""


# ------------------------------------------------------------------------------------------------------------ the rows
def texts(i):
    """A question and two answers of different lengths."""
    words = ' '.join(tiny.CORPUS).split()
    question = ' '.join(words[i % 17 : i % 17 + 3 + i % 5])
    good = ' '.join(words[(i * 7) % 23 : (i * 7) % 23 + 2 + (i * 5) % 11])
    bad = ' '.join(words[(i * 5) % 19 : (i * 5) % 19 + 1 + (i * 3) % 7])
    return question, good, f'{bad} {i}'


def judged(i):
    return i % 3 != 0


def ours_row(i, kind):
    question, good, bad = texts(i)
    turns = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': good}]
    if kind == 'kto':
        return {'messages': turns, 'label': judged(i)}
    return {'messages': turns, 'rejected_response': bad} | ({'margin': i % 4 / 4} if kind == 'rm with margins' else {})


def theirs_row(i, kind):
    """Text as the template writes it, so that what is learned ends with the stop token, as everywhere here."""
    question, good, bad = texts(i)
    turns = [[{'role': 'user', 'content': question}, {'role': 'assistant', 'content': each}] for each in (good, bad)]
    prompt = f'<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n'
    if kind.startswith('rm'):
        return {'chosen': turns[0], 'rejected': turns[1]} | ({'margin': i % 4 / 4} if 'margins' in kind else {})
    if kind == 'kto':
        return {'prompt': prompt, 'completion': f'{good}<|im_end|>', 'label': judged(i)}
    return {'prompt': prompt, 'chosen': f'{good}<|im_end|>', 'rejected': f'{bad}<|im_end|>'}


# ------------------------------------------------------------------------------------------------------------ the runs
@pytest.fixture(scope='module')
def world(tmp_path_factory):
    from transformers import AutoModelForSequenceClassification

    home = tmp_path_factory.mktemp('trl')
    tiny.folder(home / 'model')
    scorer = AutoModelForSequenceClassification.from_pretrained(tiny.folder(home / 'scorer'), num_labels=1)
    scorer.save_pretrained(home / 'scorer')
    return home


def ours(world, way, flags, kind):
    rows = world / f'{kind}.jsonl'
    rows.write_text(''.join(json.dumps(ours_row(i, kind)) + '\n' for i in range(STEPS * ROWS)))
    out = world / f'ours-{way}'
    words = {
        **SHARED, 'model': world / ('scorer' if kind.startswith('rm') else 'model'), 'dataset': rows, 'output_dir': out,
        'add_version': 'false', 'tuner_type': 'full', 'per_device_train_batch_size': ROWS // 2,
        'gradient_accumulation_steps': 2, 'dataset_shuffle': 'false', 'train_dataloader_shuffle': 'false',
        'max_tokens_per_batch': 150, 'lint': 'warn', 'store_dir': world / 'store', **flags,
    }  # fmt: skip
    argv = []
    for name, value in words.items():
        argv += [f'--{name}', *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    rlhf_main(argv)
    return [json.loads(line) for line in (out / 'logging.jsonl').read_text().splitlines()]


def theirs(world, way, trainer, config, flags, kind, adapter=None):
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    scores = kind.startswith('rm')
    folder = world / ('scorer' if scores else 'model')
    model = (AutoModelForSequenceClassification if scores else AutoModelForCausalLM).from_pretrained(folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    args = config(
        output_dir=str(world / f'theirs-{way}'), per_device_train_batch_size=ROWS, use_cpu=True, bf16=False,
        gradient_checkpointing=False, train_sampling_strategy='sequential', disable_tqdm=True, **SHARED, **flags,
    )  # fmt: skip
    data = Dataset.from_list([theirs_row(i, kind) for i in range(STEPS * ROWS)])
    tokenizer = AutoTokenizer.from_pretrained(world / 'model')
    run = trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    run.train()
    return [record for record in run.state.log_history if 'loss' in record]


def compare(found, expected):
    """Ten records of each; returns the metrics that both tell."""
    assert len(found) == len(expected) == STEPS
    for one, two in zip(found, expected, strict=True):
        assert one['loss'] == pytest.approx(two['loss'], abs=1e-5, rel=1e-5)
        assert one['grad_norm'] == pytest.approx(two['grad_norm'], rel=1e-4)
        both = {name for name in one.keys() & two.keys() if name.startswith(NAMES)}
        for name in both:
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name
    return both


# ----------------------------------------------------------------------------------------------------------------- DPO
DPO = {
    **{name: {'loss_type': name} for name in (
        'sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'nca_pair', 'bco_pair', 'sppo_hard', 'aot', 'aot_unpaired',
        'apo_zero', 'apo_down', 'discopop', 'sft',
    )},
    **{f'{name} smoothed': {'loss_type': name, 'label_smoothing': 0.1} for name in (
        'robust', 'exo_pair', 'aot', 'aot_unpaired'
    )},
    'forward KL': {'f_divergence_type': 'forward_kl'},
    'Jensen-Shannon': {'f_divergence_type': 'js_divergence'},
    'alpha divergence': {'f_divergence_type': 'alpha_divergence', 'f_alpha_divergence_coef': 0.3},
    'LD-DPO': {'ld_alpha': 0.4},
    'Jensen-Shannon per token': {'loss_type': 'sigmoid_norm', 'f_divergence_type': 'js_divergence'},
    'MPO': {'loss_type': ('sigmoid', 'bco_pair', 'sft'), 'loss_weights': (0.8, 0.2, 1.0), 'beta': 0.3},
}  # fmt: skip


@pytest.mark.parametrize('way', DPO)
def test_dpo_takes_the_same_ten_steps(world, way):
    from trl import DPOConfig, DPOTrainer

    flags = DPO[way]
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    expected = theirs(world, way, DPOTrainer, DPOConfig, listed, 'pairs')
    both = compare(ours(world, way, flags, 'pairs'), expected)
    assert both == {
        'rewards/chosen', 'rewards/rejected', 'rewards/accuracies', 'rewards/margins', 'logps/chosen', 'logps/rejected',
        'mean_token_accuracy',
    }  # fmt: skip


def test_dpo_of_an_adapter_whose_start_is_its_reference_takes_the_same_ten_steps(world):
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    start = world / 'adapter'
    how = LoraConfig(task_type='CAUSAL_LM', r=4, target_modules=['q_proj', 'down_proj'], init_lora_weights=False)
    get_peft_model(tiny.model(), how).save_pretrained(start)
    expected = theirs(world, 'adapter', DPOTrainer, DPOConfig, {}, 'pairs', adapter=start)
    flags = {'tuner_type': 'lora', 'adapters': start, 'ref_adapters': start}
    compare(ours(world, 'adapter', flags, 'pairs'), expected)


# ----------------------------------------------------------------------------------------------------------------- KTO
KTO = {
    'kto': {},
    'weighted': {'desirable_weight': 0.5, 'undesirable_weight': 1.5, 'beta': 0.3},
    'apo_zero_unpaired': {'loss_type': 'apo_zero_unpaired'},
}


@pytest.mark.parametrize('way', KTO)
def test_kto_takes_the_same_ten_steps(world, way):
    from trl import KTOConfig, KTOTrainer

    expected = theirs(world, way, KTOTrainer, KTOConfig, KTO[way], 'kto')
    both = compare(ours(world, way, {'rlhf_type': 'kto', **KTO[way]}, 'kto'), expected)
    assert both >= {'kl', 'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'logps/chosen', 'logps/rejected'}
    if way == 'weighted':
        assert any(record['kl'] > 0 for record in expected)


# -------------------------------------------------------------------------------------------------- CPO, SimPO and ORPO
CPO = {
    'cpo': {},
    'cpo smoothed': {'label_smoothing': 0.1},
    'cpo hinge': {'loss_type': 'hinge', 'cpo_alpha': 0.5},
    'cpo ipo': {'loss_type': 'ipo'},
    'cpo simpo': {'loss_type': 'simpo', 'simpo_gamma': 0.7, 'beta': 2.0},
    'simpo of its paper': {'rlhf_type': 'simpo', 'cpo_alpha': 0.0},
}


@pytest.mark.parametrize('way', CPO)
def test_cpo_and_simpo_take_the_same_ten_steps(world, way):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    flags = {'rlhf_type': 'cpo', **CPO[way]}
    known = {name: value for name, value in flags.items() if name != 'rlhf_type'}
    if flags['rlhf_type'] == 'simpo':
        known |= {'loss_type': 'simpo', 'beta': 2.0, 'simpo_gamma': 1.0}
    expected = theirs(world, way, CPOTrainer, CPOConfig, known, 'pairs')
    if flags.get('cpo_alpha') == 0:
        expected = [{name: value for name, value in each.items() if name != 'nll_loss'} for each in expected]
    both = compare(ours(world, way, flags, 'pairs'), expected)
    assert both >= {'rewards/chosen', 'rewards/margins', 'rewards/accuracies', 'logps/chosen', 'logps/rejected'}


def test_orpo_takes_the_same_ten_steps_where_only_answers_are_learnt(world):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class OfAnswers(ORPOTrainer):
        """TRL's next-token loss runs over the prompt, too; the paper's, and ours, over the answer."""

        def concatenated_forward(self, model, batch):
            chosen, *others = super().concatenated_forward(model, batch)
            lengths = (batch['chosen_labels'] != -100).sum(1)
            return chosen, *others[:-1], -(chosen * lengths).sum() / lengths.sum()

    expected = theirs(world, 'orpo', OfAnswers, ORPOConfig, {'beta': 0.3}, 'pairs')
    both = compare(ours(world, 'orpo', {'rlhf_type': 'orpo', 'beta': 0.3}, 'pairs'), expected)
    assert both >= {'nll_loss', 'log_odds_ratio', 'log_odds_chosen', 'rewards/margins', 'logps/chosen'}


# ------------------------------------------------------------------------------------------------------- reward models
@pytest.mark.parametrize('kind', ['rm', 'rm with margins'])
def test_reward_models_take_the_same_ten_steps(world, kind):
    from trl import RewardConfig, RewardTrainer

    flags = {'center_rewards_coefficient': 0.02} if kind == 'rm' else {}
    expected = theirs(world, kind, RewardTrainer, RewardConfig, flags, kind)
    both = compare(ours(world, kind, {'rlhf_type': 'rm', **flags}, kind), expected)
    assert both == {'accuracy', 'margin', 'mean_reward'}

"""The trainers of Python: models that are in memory, other libraries' arguments, the run of the command line."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch

import swift
from swift import CPOTrainer, DPOTrainer, GKDTrainer, KTOTrainer, ORPOTrainer, RewardTrainer
from swift.commands import training_arguments
from swift.commands.rlhf import rlhf_main
from swift.core.errors import ConfigError
from tests import tiny

QUESTIONS = ['Who are you?', 'What is the capital of France?', '12 + 30 = ?', 'def add', '你是谁？', 'Thanks!']
GOOD = ['I am a small language model.', 'The capital of France is Paris.', '42', 'return a + b', '语言模型。', 'Bye.']
PAIRS = [{'prompt': f'{QUESTIONS[i % 6]} ({i})', 'chosen': GOOD[i % 6], 'rejected': f'No idea {i}!'} for i in range(24)]
JUDGED = [{'prompt': row['prompt'], 'completion': row['chosen'], 'label': i % 3 != 0} for i, row in enumerate(PAIRS)]
ANSWERED = [{'query': row['prompt'], 'response': row['chosen']} for row in PAIRS]


@pytest.fixture
def common(tmp_path):
    """What the runs below have in common."""
    return {
        'processing_class': tiny.tokenizer(), 'output_dir': str(tmp_path / 'out'), 'store_dir': str(tmp_path / 'store'),
        'max_length': 128, 'max_steps': 6, 'per_device_train_batch_size': 4, 'gradient_accumulation_steps': 1,
        'learning_rate': 1e-2, 'lr_scheduler_type': 'constant', 'logging_steps': 1, 'report_to': 'none',
        'lint': 'warn', 'save_strategy': 'no',
    }  # fmt: skip


def adapter(**changes):
    from peft import LoraConfig

    return LoraConfig(task_type='CAUSAL_LM', r=4, target_modules=['q_proj', 'v_proj'], **changes)


def scorer():
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(tiny.config(num_labels=1))


WAYS = {
    'dpo': (DPOTrainer, PAIRS, {'beta': 0.1}),
    'dpo mixed': (DPOTrainer, PAIRS, {'loss_type': ['sigmoid', 'sft'], 'loss_weights': [1.0, 0.5]}),
    'dpo of an adapter': (DPOTrainer, PAIRS, {'peft_config': adapter()}),
    'dpo in 16 bits': (DPOTrainer, PAIRS, {'ref_model': tiny.model(dtype='bfloat16')}),
    'kto': (KTOTrainer, JUDGED, {'desirable_weight': 1.5}),
    'cpo': (CPOTrainer, PAIRS, {'cpo_alpha': 0.5}),
    'simpo': (CPOTrainer, PAIRS, {'loss_type': 'simpo', 'simpo_gamma': 0.5, 'beta': 2.0}),
    'orpo': (ORPOTrainer, PAIRS, {'beta': 0.2}),
    'reward': (RewardTrainer, PAIRS, {'center_rewards_coefficient': 0.01}),
    'distillation': (GKDTrainer, ANSWERED, {'teacher_model': tiny.model(seed=1), 'lmbda': 0.0}),
    'own completions': (GKDTrainer, ANSWERED, {'teacher_model': tiny.model(seed=1), 'max_completion_length': 8}),
    'distillation of an adapter': (
        GKDTrainer,
        ANSWERED,
        {'peft_config': adapter(init_lora_weights=False), 'lmbda': 0.0},
    ),
}


@pytest.mark.parametrize('way', WAYS)
def test_every_trainer_learns_in_place_and_gives_the_model_back_as_it_came(common, way):
    kind, rows, own = WAYS[way]
    model = scorer() if kind is RewardTrainer else tiny.model(dtype='bfloat16' if '16' in way else 'float32')
    before, names = copy.deepcopy(model.state_dict()), {n: type(m) for n, m in model.named_modules()}
    attention, cache = model.config._attn_implementation, model.config.use_cache
    trainer = kind(model=model, train_dataset=rows[:16], eval_dataset=rows[16:], **own, **common)
    start = trainer.evaluate()
    done = trainer.train()
    assert done.global_step == 6 and math.isfinite(done.training_loss)
    assert done.training_loss == pytest.approx(sum(r['loss'] for r in trainer.state.log_history if 'loss' in r) / 6)
    assert trainer.evaluate()['eval_loss'] < start['eval_loss']
    assert (model.config._attn_implementation, model.config.use_cache) == (attention, cache)
    assert not any('swift_switches' in module.__dict__ or 'forward' in module.__dict__ for module in model.modules())
    if 'adapter' not in way:
        assert trainer.model is model and {n: type(m) for n, m in model.named_modules()} == names
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        (out := model(input_ids=torch.arange(5)[None]).logits.sum()).backward()  # as any other model
        assert out.isfinite() and any(p.grad is not None for p in model.parameters())


def test_a_trainer_takes_the_same_steps_as_the_command_line(common, tmp_path):
    rows = tmp_path / 'rows.jsonl'
    rows.write_text(''.join(json.dumps(row) + '\n' for row in PAIRS))
    model = tiny.folder(tmp_path / 'model')
    words = f'--model {model} --dataset {rows} --tuner_type full --save_strategy steps --add_version false'.split()
    flags = {k: v for k, v in common.items() if k not in ('processing_class', 'save_strategy')}
    flags |= {'output_dir': tmp_path / 'line'}
    last = rlhf_main([*words, *(word for name, value in flags.items() for word in (f'--{name}', str(value)))])
    expected = [json.loads(line) for line in (last.parent / 'logging.jsonl').read_text().splitlines()]
    trainer = DPOTrainer(tiny.model(), train_dataset=PAIRS, **common)
    trainer.train()
    for found, record in zip(trainer.state.log_history, expected, strict=True):
        for name in ('loss', 'grad_norm', 'rewards/chosen', 'logps/rejected'):
            assert found[name] == record[name], name


def test_the_reference_of_an_adapter_is_the_model_without_it_and_a_model_may_be_given(common):
    from peft import get_peft_model

    records = []
    for reference in (None, tiny.model()):
        torch.manual_seed(0)
        model = get_peft_model(tiny.model(), adapter(init_lora_weights=False))
        trainer = DPOTrainer(model, ref_model=reference, train_dataset=PAIRS, **common)
        trainer.train()
        records.append([r[name] for r in trainer.state.log_history for name in ('loss', 'rewards/margins')])
    assert records[0] == pytest.approx(records[1], rel=1e-5)
    assert abs(records[0][0] - math.log(2)) > 1e-4


def test_what_is_saved_is_opened_by_plain_transformers_and_peft(common, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, ids = tiny.folder(tmp_path / 'model'), torch.arange(9)[None]
    for config in (None, adapter()):
        trainer = DPOTrainer(str(folder), peft_config=config, train_dataset=PAIRS, **common)
        trainer.train()
        saved = trainer.save_model(tmp_path / f'saved {config is None}')
        opened = AutoModelForCausalLM.from_pretrained(folder if config else saved)
        opened = PeftModel.from_pretrained(opened, saved) if config else opened
        with torch.no_grad():
            assert torch.allclose(opened.eval()(ids).logits, trainer.model.eval()(ids).logits, atol=1e-6)
        assert AutoTokenizer.from_pretrained(saved).chat_template == tiny.CHATML


def test_a_run_that_was_stopped_goes_on(common, tmp_path):
    flags = {**common, 'save_strategy': 'steps', 'save_steps': 3, 'train_dataset': PAIRS}
    whole = DPOTrainer(tiny.model(), **flags)
    whole.train()
    start = next((tmp_path / 'out').glob('*/checkpoint-3'))
    other = DPOTrainer(tiny.model(), **{**flags, 'output_dir': str(tmp_path / 'on')})
    assert other.train(resume_from_checkpoint=str(start)).global_step == 6
    for one, two in zip(other.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_best_weights_come_back_if_that_is_asked_for(common, tmp_path):
    flags = {**common, 'save_strategy': 'steps', 'save_steps': 1, 'load_best_model_at_end': True}
    reverse = [{**row, 'chosen': row['rejected'], 'rejected': row['chosen']} for row in PAIRS]  # worse with each step
    trainer = DPOTrainer(tiny.model(), train_dataset=PAIRS, eval_dataset=reverse, **flags)
    trainer.train()
    losses = [record['eval_loss'] for record in trainer.state.log_history if 'eval_loss' in record]
    assert losses == sorted(losses) and trainer.state.best_model_checkpoint.endswith('checkpoint-1')
    assert trainer.evaluate()['eval_loss'] == pytest.approx(losses[0], rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- arguments
def test_arguments_of_transformers_are_taken(tmp_path):
    from datasets import Dataset
    from transformers import TrainingArguments

    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, learning_rate=3e-3, logging_steps=2,
        eval_strategy='steps', use_cpu=True, save_strategy='no', report_to='none', seed=7, warmup_steps=2,
    )  # fmt: skip
    rows = Dataset.from_list(PAIRS)
    trainer = DPOTrainer(
        model=tiny.model(), tokenizer=tiny.tokenizer(), args=args, beta=0.3, train_dataset=rows, eval_dataset=rows,
        max_length=128, lint='warn', store_dir=str(tmp_path / 'store'),
    )  # fmt: skip
    trainer.train()
    told = [record['step'] for record in trainer.state.log_history if 'loss' in record]
    evaluated = [record['step'] for record in trainer.state.log_history if 'eval_loss' in record]
    assert told == [2, 4] and evaluated == [2, 4]
    assert trainer.state.log_history[0]['learning_rate'] == pytest.approx(1.5e-3)


def test_configurations_of_trl_take_the_steps_that_trl_takes(tmp_path):
    from datasets import Dataset
    from trl import DPOConfig
    from trl import DPOTrainer as Theirs

    args = DPOConfig(
        output_dir=str(tmp_path), max_steps=5, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1,
        use_cpu=True, bf16=False, save_strategy='no', report_to='none', train_sampling_strategy='sequential',
        loss_type=['sigmoid', 'sft'], loss_weights=[1.0, 0.3], max_length=40,
    )  # fmt: skip
    rows = [
        {
            'prompt': f'<|im_start|>user\n{row["prompt"]}<|im_end|>\n<|im_start|>assistant\n',
            'chosen': f'{row["chosen"]}<|im_end|>',
            'rejected': f'{row["rejected"]}<|im_end|>',
        }
        for row in PAIRS
    ]
    theirs = Theirs(
        tiny.folder(tmp_path / 'model').as_posix(), args=args, train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )  # fmt: skip
    theirs.train()
    ours = DPOTrainer(
        tiny.model(), args=args, train_dataset=PAIRS, processing_class=tiny.tokenizer(), lint='warn',
        store_dir=str(tmp_path / 'store'),
    )  # fmt: skip
    ours.train()
    expected = [record for record in theirs.state.log_history if 'loss' in record]
    for found, record in zip(ours.state.log_history, expected, strict=True):
        assert found['loss'] == pytest.approx(record['loss'], rel=1e-5)
        assert found['grad_norm'] == pytest.approx(record['grad_norm'], rel=1e-4)


def test_flags_as_a_dataclass_are_taken_and_keywords_go_before_them(common):
    losses = []
    for flags in ({'args': swift.RLHFArguments(beta=0.5, max_steps=9)}, {'beta': 0.5}):
        trainer = DPOTrainer(tiny.model(), train_dataset=PAIRS, **{**common, 'max_steps': 3, **flags})
        trainer.train()
        losses.append([record['loss'] for record in trainer.state.log_history])
    assert losses[0] == losses[1] and len(losses[0]) == 3


CONFIGS = {
    'dpo': (DPOTrainer, swift.DPOConfig, PAIRS, {'beta': 0.3, 'loss_type': 'hinge'}),
    'kto': (KTOTrainer, swift.KTOConfig, JUDGED, {'desirable_weight': 1.5}),
    'simpo': (CPOTrainer, swift.CPOConfig, PAIRS, {'loss_type': 'simpo', 'simpo_gamma': 0.5, 'cpo_alpha': 0.0}),
    'orpo': (ORPOTrainer, swift.ORPOConfig, PAIRS, {'beta': 0.2}),
    'rm': (RewardTrainer, swift.RewardConfig, PAIRS, {'center_rewards_coefficient': 0.01}),
    'gkd': (GKDTrainer, swift.GKDConfig, ANSWERED, {'lmbda': 0.0, 'temperature': 0.7, 'beta': 0.2}),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_configuration_of_ours_says_the_same_as_keywords(common, name):
    kind, config, rows, own = CONFIGS[name]
    tokenizer = common.pop('processing_class')
    common |= {'max_steps': 2}
    losses = []
    for way in ({**common, **own}, {'args': config(**common, **own, dataloader_pin_memory=True)}):
        model = scorer() if name == 'rm' else tiny.model()
        teacher = {'teacher_model': tiny.model(seed=1)} if name == 'gkd' else {}
        trainer = kind(model, processing_class=tokenizer, train_dataset=rows, **teacher, **way)
        trainer.train()
        losses.append([record['loss'] for record in trainer.state.log_history])
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_a_configuration_of_ours_knows_the_names_of_trl_and_no_strength_of_another_method():
    given = swift.GKDConfig(teacher_model_name_or_path='teacher', max_new_tokens=5, disable_dropout=True)
    assert training_arguments.flags(given) == {'teacher_model': 'teacher', 'max_completion_length': 5}
    for config, other in ((swift.DPOConfig, 'desirable_weight'), (swift.ORPOConfig, 'cpo_alpha')):
        with pytest.raises(TypeError, match=other):
            config(**{other: 1.0})


# ------------------------------------------------------------------------------------------------------------ callbacks
def watcher(**wishes):
    """A callback that notes what it is told, and after step 2 asks for something."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def __init__(self):
            self.heard = []

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.heard.append(('begin', type(model).__name__))

        def on_step_end(self, args, state, control, **kwargs):
            self.heard.append(('step', state.global_step))
            if state.global_step == 2:
                for name in wishes:
                    setattr(control, name, True)
            return control

        def on_log(self, args, state, control, logs=None, **kwargs):
            if 'loss' in logs:
                self.heard.append(('log', round(logs['loss'], 4)))

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            self.heard.append(('evaluate', 'eval_loss' in metrics))

        def on_save(self, args, state, control, **kwargs):
            self.heard.append(('save', state.global_step))

        def on_train_end(self, args, state, control, **kwargs):
            self.heard.append(('end', state.max_steps))

    return Watcher()


def test_callbacks_hear_of_steps_logs_evaluations_and_checkpoints_in_their_order(common):
    heard = watcher()
    saving = {**common, 'max_steps': 2, 'save_strategy': 'steps', 'save_steps': 2}
    trainer = ORPOTrainer(
        tiny.model(), train_dataset=PAIRS, eval_dataset=PAIRS[:4], eval_strategy='steps', eval_steps=2,
        callbacks=[heard], **saving,
    )  # fmt: skip
    trainer.train()
    kinds = [kind for kind, _ in heard.heard]
    assert kinds == ['begin', 'step', 'log', 'step', 'log', 'evaluate', 'save', 'end']
    assert heard.heard[0] == ('begin', 'LlamaForCausalLM') and heard.heard[-1] == ('end', 2)
    losses = [round(record['loss'], 4) for record in trainer.state.log_history if 'loss' in record]
    assert [value for kind, value in heard.heard if kind == 'log'] == losses


def test_a_callback_may_ask_to_log_to_save_and_to_stop(common):
    heard = watcher(should_training_stop=True, should_log=True, should_save=True)
    rare = {**common, 'logging_steps': 100, 'save_strategy': 'steps', 'save_steps': 100}
    trainer = ORPOTrainer(tiny.model(), train_dataset=PAIRS, callbacks=[heard], **rare)
    trainer.train()
    assert [value for kind, value in heard.heard if kind == 'step'] == [1, 2]
    assert ('save', 2) in heard.heard and heard.heard[-2][0] == 'save'
    assert trainer.state.global_step == 2


def test_early_stopping_of_transformers_works_with_its_own_arguments(tmp_path):
    from transformers import EarlyStoppingCallback, TrainingArguments

    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=6, learning_rate=0.0, logging_steps=1,
        eval_steps=1, eval_strategy='steps', save_steps=1, load_best_model_at_end=True,
        metric_for_best_model='eval_loss',
        greater_is_better=False, report_to='none',
    )  # fmt: skip
    trainer = ORPOTrainer(
        tiny.model(), args=args, train_dataset=PAIRS, eval_dataset=PAIRS[:4], processing_class=tiny.tokenizer(),
        lint='warn', callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step < 6


def test_a_callback_that_waits_for_what_is_not_told_is_refused(common):
    from transformers import TrainerCallback

    class Waits(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            pass

    with pytest.raises(
        ConfigError, match='Waits waits for on_substep_end, which is not told here; told are on_evaluate'
    ):
        ORPOTrainer(tiny.model(), train_dataset=PAIRS, callbacks=[Waits()], **common)


def configurations():
    import transformers
    import trl
    from trl.experimental.cpo import CPOConfig
    from trl.experimental.gkd import GKDConfig
    from trl.experimental.orpo import ORPOConfig

    plain = [transformers.TrainingArguments, trl.DPOConfig, trl.KTOConfig, trl.RewardConfig]
    return [*plain, CPOConfig, ORPOConfig, GKDConfig]


def test_no_default_of_any_configuration_is_refused(tmp_path):
    for kind in configurations():
        flags = training_arguments.flags(kind(output_dir=str(tmp_path), use_cpu=True, bf16=False))
        assert flags['output_dir'] == str(tmp_path) and flags['adam_beta2'] == 0.999, kind


@pytest.mark.parametrize(
    'changes, named',
    [
        ({'label_smoothing_factor': 0.1, 'full_determinism': True}, 'label_smoothing_factor.*\n.*full_determinism'),
        ({'push_to_hub': True}, 'push_to_hub'),
        ({'train_sampling_strategy': 'group_by_length'}, 'train_sampling_strategy'),
    ],
)
def test_what_would_change_the_result_and_is_not_built_is_refused_by_name(common, tmp_path, changes, named):
    from transformers import TrainingArguments

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)
    with pytest.raises(ConfigError, match=named):
        DPOTrainer(tiny.model(), args=args, train_dataset=PAIRS, **common)


@pytest.mark.parametrize(
    'arguments, named',
    [
        ({'desirable_weight': 2.0}, 'desirable_weight: means nothing to DPOTrainer; it belongs to KTOTrainer'),
        ({'betta': 0.1}, 'betta.*did you mean beta'),
        ({'callbacks': [print]}, 'builtin_function_or_method is no transformers.TrainerCallback'),
        ({'optimizers': (torch.optim.SGD([torch.zeros(1)]), None)}, 'optimizers: weights are moved by --optim'),
        ({'args': swift.KTOConfig()}, 'KTOConfig is for KTOTrainer, not for DPOTrainer'),
        ({'dataset': ['a']}, 'dataset: an argument'),
        ({'loss_type': 'sigmoit'}, 'sigmoit: not a loss'),
        ({'args': {'beta': 0.1}}, 'expected transformers.TrainingArguments'),
        ({'train_dataset': iter(PAIRS)}, 'has no length'),
    ],
)
def test_wrong_arguments_are_named(common, arguments, named):
    with pytest.raises(ConfigError, match=named):
        DPOTrainer(tiny.model(), **{'train_dataset': PAIRS, **common, **arguments}).train()


def test_models_that_do_not_fit_the_method_are_refused(common):
    model = tiny.model()
    for make, named in (
        (lambda: DPOTrainer(scorer(), train_dataset=PAIRS, **common), 'no language model'),
        (lambda: RewardTrainer(model, train_dataset=PAIRS, **common), 'no single score'),
        (lambda: DPOTrainer(model, ref_model=model, train_dataset=PAIRS, **common), 'the model that is trained'),
        (lambda: ORPOTrainer(model, ref_model=tiny.model(), train_dataset=PAIRS, **common), 'no reference'),
        (lambda: GKDTrainer(model, train_dataset=ANSWERED, **common), 'teacher_model is missing'),
        (lambda: DPOTrainer(torch.nn.Linear(2, 2), train_dataset=PAIRS, **common), 'expected a model of transformers'),
    ):
        with pytest.raises(ConfigError, match=named):
            make()


def test_the_template_may_be_one_of_get_template(common):
    template = swift.get_template(common['processing_class'], 'Be brief.', 128, truncation_strategy='delete')
    losses = []
    for given in (template, None):
        rows = PAIRS if given else [{'system': 'Be brief.', **row} for row in PAIRS]
        trainer = DPOTrainer(tiny.model(), template=given, train_dataset=rows, **{**common, 'max_steps': 2})
        trainer.train()
        losses.append([record['logps/chosen'] for record in trainer.state.log_history])
    assert losses[0] == losses[1]
    with pytest.raises(ConfigError, match='get_template'):
        DPOTrainer(tiny.model(), template=template, train_dataset=PAIRS, **{**common, 'max_length': 64})


def test_rows_of_load_dataset_and_files_are_taken_too(common, tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in PAIRS))
    found = []
    for rows in (str(path), swift.load_dataset(str(path))[0]):
        trainer = DPOTrainer(tiny.model(), train_dataset=rows, **{**common, 'max_steps': 2, 'dataset_shuffle': False})
        trainer.train()
        found.append([record['loss'] for record in trainer.state.log_history])
    assert found[0] == found[1]


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / 'docs' / 'python.md').read_text(encoding='utf-8')
    block = next(each for each in re.findall(r'```python\n(.*?)```', page, re.DOTALL) if 'DPOTrainer(' in each)
    model = re.search(r"name = '(.+)'", block)[1]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block.replace(model, str(tiny.folder(tmp_path / 'model'))).replace('range(2, 12)', 'range(2, 8)'), names)
    assert names['trainer'].state.global_step == 1
    assert (tmp_path / 'output' / 'dpo' / 'adapter' / 'adapter_model.safetensors').is_file()


def test_older_modules_know_the_trainers_and_say_what_is_to_come():
    from swift.rlhf_trainers import KTOTrainer as Other
    from swift.trainers import DPOTrainer as Same

    assert Same is DPOTrainer and Other is KTOTrainer
    with pytest.raises(ImportError, match='GRPO'):
        from swift.trainers import GRPOTrainer  # noqa: F401

"""The verbs' configurations: tables that agree with each other, derived defaults, requirements, checkpoints."""

import json
import sys

import pytest

import swift
from swift.commands import arguments, names
from swift.commands.configs import CONFIGS, VOCABULARY, SftConfig, deviations, resolve
from swift.commands.names import ESTABLISHED
from swift.commands.show import chinese
from swift.core.config import dump, parse
from swift.core.errors import ConfigError
from swift.core.flags import documentation, flags_of, groups_of
from swift.core.vocabulary import read_table
from swift.data.args import DataArgs
from swift.models.args import ModelArgs
from swift.tuners.args import TunerArgs

SFT = ('--model', 'some/model', '--dataset', 'some/data')


def config(verb, *argv, environ=None):
    return parse(CONFIGS[verb], list(argv), VOCABULARY, environ or {})


def problems(verb, *argv, environ=None):
    with pytest.raises(ConfigError) as caught:
        config(verb, *argv, environ=environ)
    return caught.value.problems


def checkpoint(run, *, step=2, adapter=True, **args):
    """A folder as training leaves it, without weights."""
    folder = run / f'checkpoint-{step}'
    folder.mkdir(parents=True)
    (folder / ('adapter_config.json' if adapter else 'config.json')).write_text(
        '{"base_model_name_or_path": "own/base"}'
    )
    (folder / 'args.json').write_text(json.dumps({'verb': 'sft', **args}))
    return folder


# ------------------------------------------------------------------------------------------------------- tables
@pytest.mark.parametrize('verb', CONFIGS)
def test_a_flag_that_two_groups_of_a_verb_share_means_the_same_in_both(verb):
    groups = groups_of(CONFIGS[verb])
    for flag in flags_of(CONFIGS[verb]).values():
        assert len({(getattr(groups[g](), flag.name)) for g in flag.groups} if len(flag.groups) > 1 else [0]) == 1


def test_every_flag_has_help_in_english_and_chinese():
    for verb in CONFIGS.values():
        for cls in groups_of(verb).values():
            texts = documentation(cls)
            assert cls.__name__ in chinese()
            for name in (field for field in flags_of(verb) if hasattr(cls(), field)):
                assert texts[name].endswith(('.', '...')), name
                assert chinese().get(f'{cls.__name__}.{name}') or chinese()[name], name


def test_no_chinese_text_is_left_over():
    known = {name for verb in CONFIGS.values() for name in flags_of(verb)}
    classes = {cls.__name__ for verb in CONFIGS.values() for cls in groups_of(verb).values()}
    assert {name.rpartition('.')[2] for name in chinese()} <= known | classes


def test_rows_of_the_table_of_established_flags_say_what_they_mean():
    for line in read_table(ESTABLISHED):
        assert line['state'] in ('later', 'idle')
        assert line['state'] == 'later' or line['note'], f'{line["name"]}: idle without a reason'
        assert not line['values'] or line['state'] == 'later'


@pytest.mark.parametrize('verb', ['sft', 'pt', 'infer', 'export'])
def test_a_limited_row_names_values_that_its_flag_does_not_have_yet(verb):
    for name, rows in VOCABULARY.rows(verb).items():
        for row in rows:
            if row.kind is None:
                assert name in flags_of(CONFIGS[verb]), f'{name}: neither built nor described'
                assert not set(row.values) & set(map(str, flags_of(CONFIGS[verb])[name].kind.choices)), name


@pytest.mark.parametrize('verb', ['sft', 'pt', 'infer', 'export'])
def test_a_flag_that_is_built_has_left_the_table_of_established_flags(verb):
    quantising = {'quant_method', 'quant_bits'} if verb == 'export' else set()
    whole = {name for name, rows in VOCABULARY.rows(verb).items() if any(row.kind for row in rows)}
    assert whole & flags_of(CONFIGS[verb]).keys() == quantising


def test_every_old_name_leads_to_a_flag_of_some_verb():
    known = {name for verb in CONFIGS.values() for name in flags_of(verb)} | {
        r['name'] for r in read_table(ESTABLISHED)
    }
    targets = [*names.ALIASES.values(), *names.PATHS.values()]
    for alias in targets:
        assert set((alias.flag or '').split()) <= known, alias
    assert set(names.VALUES) <= known
    assert set(names.VARIABLES.values()) <= known


# -------------------------------------------------------------------------------------------- derived defaults
@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        (
            [],
            {
                'learning_rate': 1e-4,
                'gradient_accumulation_steps': 16,
                'output_dir': 'output/model',
                'eval_strategy': 'no',
            },
        ),
        (['--tuner_type', 'full'], {'learning_rate': 1e-5}),
        (['--per_device_train_batch_size', '6'], {'gradient_accumulation_steps': 3}),
        (['--per_device_train_batch_size', '32'], {'gradient_accumulation_steps': 1}),
        (['--split_dataset_ratio', '0.1', '--save_steps', '7'], {'eval_strategy': 'steps', 'eval_steps': 7}),
        (['--val_dataset', 'a/b', '--save_strategy', 'epoch'], {'eval_strategy': 'epoch'}),
        (['--split_dataset_ratio', '0.1', '--eval_steps', '-1'], {'eval_strategy': 'no'}),
        (['--eval_strategy', 'steps'], {'eval_strategy': 'no'}),
        (['--torch_dtype', 'bfloat16'], {'bf16': True, 'fp16': False}),
        (['--torch_dtype', 'fp16'], {'torch_dtype': 'float16', 'bf16': False, 'fp16': True}),
        (['--torch_dtype', 'AUTO'], {'torch_dtype': None, 'bf16': None}),
        (['--metric_for_best_model', 'acc'], {'greater_is_better': True}),
        (['--metric_for_best_model', 'eval_loss'], {'greater_is_better': False}),
        (['--quant_bits', '4'], {'quant_method': 'bnb'}),
        (['--model_name', 'Bot'], {'model_name': ['Bot', 'Bot']}),
        (['--save_total_limit', '-1'], {'save_total_limit': None}),
        (['--packing', '--max_length', '512'], {'packing_length': 512}),
        (['--system', 'a\\nb'], {'system': 'a\nb'}),
        (['--gradient_checkpointing', 'false'], {'gradient_checkpointing': False}),
    ],
)
def test_defaults_follow_from_what_was_given(argv, expected):
    cfg = config('sft', *SFT, *argv)
    assert {name: cfg.get(name) for name in expected} == expected


def test_plain_text_training_has_its_own_defaults():
    pt, sft = config('pt', *SFT), config('sft', *SFT)
    assert (pt.template.loss_scale, pt.template.use_chat_template) == ('all', False)
    assert (sft.template.loss_scale, sft.template.use_chat_template) == ('default', True)
    assert config('pt', *SFT, '--truncation_strategy', 'split').template.truncation_strategy == 'split'


def test_texts_in_files_become_part_of_the_configuration(tmp_path):
    system, tokens = tmp_path / 'system.txt', tmp_path / 'tokens.txt'
    system.write_text('Be brief.\nBe kind.')
    tokens.write_text('<a>\n<b>\n')
    cfg = config('sft', *SFT, '--system', str(system), '--new_special_tokens', str(tokens), '<c>')
    assert cfg.template.system == 'Be brief.\nBe kind.'
    assert cfg.model.new_special_tokens == ['<a>', '<b>', '<c>']


# ------------------------------------------------------------------------------------------------- requirements
@pytest.mark.parametrize(
    ('verb', 'argv', 'part'),
    [
        ('sft', [], '--model is missing'),
        ('sft', [], '--dataset is missing'),
        ('sft', [*SFT, '--streaming'], '--streaming true needs --max_steps'),
        ('sft', [*SFT, '--truncation_strategy', 'split'], 'only swift pt can split'),
        ('sft', [*SFT, '--fp16', '--bf16'], 'both true'),
        ('sft', [*SFT, '--quant_bits', '4', '--tuner_type', 'full'], 'cannot train quantised weights'),
        ('sft', [*SFT, '--lora_rank', '0'], '--lora_rank 0: must be at least 1'),
        ('sft', [*SFT, '--warmup_ratio', '2'], 'must be between 0 and 1'),
        ('sft', [*SFT, '--interleave_prob', '0.5', '0.5'], '2 numbers for 1 datasets'),
        ('sft', [*SFT, '--load_best_model_at_end'], 'needs evaluation data'),
        ('sft', [*SFT, '--save_steps', '0'], '--save_steps 0: must be above 0'),
        ('sft', [*SFT, '--deepspeed', 'zero2'], '--deepspeed: not built yet'),
        ('sft', [*SFT, '--tuner_type', 'longlora'], '--tuner_type longlora: not built yet'),
        ('sft', [*SFT, '--task_type', 'decision'], '--task_type decision: not built yet'),
        ('pt', [*SFT, '--task_type', 'seq_cls', '--num_labels', '2'], 'belongs to swift sft, not to swift pt'),
        ('sft', [*SFT, '--task_type', 'embedding', '--loss_type', 'listwise_reranker'], 'it has infonce, cosine'),
        ('sft', [*SFT, '--task_type', 'embedding', '--mrl_dims', '[64]'], 'expected JSON of sizes and weights'),
        ('sft', [*SFT, '--report_to', 'mlflow', 'wandb'], '--report_to mlflow: not built yet'),
        ('sft', [*SFT, '--lora_rnk', '3'], 'did you mean lora_rank'),
        ('sft', [*SFT, '--beta', '0.1'], 'it belongs to'),
        ('sft', [*SFT, '--safe_serialization', 'false'], 'weights are always safetensors'),
        ('infer', [], '--model is missing'),
        ('infer', ['--model', 'a/b', '--infer_backend', 'vllm', '--quant_bits', '4'], '--vllm_quantization'),
        ('infer', ['--model', 'a/b', '--infer_backend', 'vlm'], 'did you mean vllm'),
        ('infer', ['--model', 'a/b', '--vllm_tensor_paralel_size', '2'], 'did you mean vllm_tensor_parallel_size'),
        ('infer', ['--model', 'a/b', '--metric', 'acc'], 'give --val_dataset'),
        ('infer', ['--model', 'a/b', '--lora_rank', '8'], 'it belongs to'),
        ('export', ['--model', 'a/b'], 'nothing to do'),
        ('export', ['--model', 'a/b', '--quant_method', 'awq', '--quant_bits', '4'], '--quant_method: not built yet'),
        ('merge-lora', ['--model', 'a/b'], '--adapters is missing'),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(verb, argv, part):
    assert any(part in problem for problem in problems(verb, *argv)), problems(verb, *argv)


@pytest.mark.parametrize(
    ('flag', 'path'),
    [
        ('--model', './nowhere'),
        ('--model', 'm.gguf'),
        ('--dataset', 'rows.jsonl'),
        ('--dataset', '/x/y.csv#500'),
        ('--val_dataset', 'a/b/c:sub'),
        ('--template', 'my.jinja'),
        ('--external_plugins', 'p.py'),
        ('--resume_from_checkpoint', 'out/checkpoint-3'),
        ('--system', 'sys.txt'),
        ('--loss_scale', 'default+mine.json'),
        ('--adapters', 'out/v0/c-1'),
    ],
)
def test_local_files_that_are_not_there_are_found_before_anything_starts(flag, path):
    assert any('there is no' in problem for problem in problems('sft', *SFT, flag, path))


@pytest.mark.parametrize('name', ['owner/name', 'hf::owner/name:sub#20', 'self-cognition#100', 'name:all'])
def test_hub_ids_are_not_taken_for_files(name):
    assert config('sft', '--model', 'a/b', '--dataset', name).data.dataset == [name]


def test_the_nearest_file_is_proposed(tmp_path):
    (tmp_path / 'train.jsonl').write_text('')
    found = problems('sft', '--model', 'a/b', '--dataset', str(tmp_path / 'trian.jsonl'))
    assert found == [f'--dataset {tmp_path}/trian.jsonl: there is no {tmp_path}/trian.jsonl; did you mean train.jsonl?']


@pytest.mark.parametrize('variable', ['NPROC_PER_NODE', 'NNODES'])
def test_several_processes_are_refused_and_one_is_accepted(variable):
    assert f'{variable}=2' in problems('sft', *SFT, environ={variable: '2'})[0]
    config('sft', *SFT, environ={variable: '1'})


def test_flags_that_do_nothing_here_are_named():
    notes = ' '.join(
        config('sft', *SFT, '--dataset_num_proc', '4', '--packing_length', '9', '--padding_free', 'true').notes
    )
    assert 'dataset_num_proc' in notes and 'padding_free' in notes
    assert 'without effect without --packing true: packing_length' in notes


def test_defaults_that_differ_from_ms_swift_are_said_only_while_they_are_in_use():
    assert any('gradient_checkpointing' in text for text in deviations(config('sft', *SFT)))
    given = config('sft', *SFT, '--gradient_checkpointing', 'true')
    assert not any('gradient_checkpointing' in text for text in deviations(given))


# --------------------------------------------------------------------------------------------------- nested YAML
def test_yaml_as_people_write_it_in_articles(tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text(
        'model: some/model\nmodality: text\n'
        'parallelization: {tensor_parallel_size: 1, sequence_parallel: false, pp_size: 1}\nzero_stage: 0\n'
        'training: {fp16: false, bf16: true, per_device_train_batch_size: 1, max_seq_length: 32768, packing: true}\n'
        'lora: {enable: true, r: 32, alpha: 64, target_modules: [gate_proj, down_proj]}\n'
        'dataset: {train: my/data, eval: [my/val], preprocess: auto}\n'
    )
    cfg = config('sft', str(path))
    assert (cfg.tuner.tuner_type, cfg.tuner.lora_rank, cfg.tuner.lora_alpha) == ('lora', 32, 64.0)
    assert cfg.tuner.target_modules == ['gate_proj', 'down_proj']
    assert (cfg.data.dataset, cfg.data.val_dataset) == (['my/data'], ['my/val'])
    assert (cfg.template.max_length, cfg.data.packing_length, cfg.train.bf16) == (32768, 32768, True)
    assert cfg.sources['lora_rank'] == f'{path}:6'


def test_parallel_degrees_above_one_are_refused_with_their_line(tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text('parallelization:\n  tensor_parallel_size: 4\nmodality: multimodal\nzero_stage: 2\n')
    found = problems('sft', str(path), *SFT)
    assert f'{path}:2: parallelization.tensor_parallel_size: not built yet' in found
    assert f'{path}:3: modality multimodal: not built yet' in found
    assert f'{path}:4: zero_stage: not built yet' in found


def test_deepspeed_style_keys_map(tmp_path):
    path = tmp_path / 'run.json'
    path.write_text(
        json.dumps(
            {
                'train_micro_batch_size_per_gpu': 2,
                'gradient_accumulation_steps': 'auto',
                'gradient_clipping': 0.5,
                'optimizer': {'type': 'AdamW', 'params': {'lr': 3e-5, 'betas': [0.8, 0.9], 'weight_decay': 'auto'}},
                'fp16': {'enabled': False, 'loss_scale': 0},
                'bf16': {'enabled': 'auto'},
                'zero_optimization': {'stage': 0, 'overlap_comm': True},
            }
        )
    )
    train = config('sft', str(path), *SFT).train
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.max_grad_norm) == (2, 8, 0.5)
    assert (train.learning_rate, train.adam_beta1, train.adam_beta2, train.fp16) == (3e-5, 0.8, 0.9, False)


# -------------------------------------------------------------------------------------------------- checkpoints
def test_an_adapter_needs_no_other_flag(tmp_path):
    base = tmp_path / 'base'
    base.mkdir()
    (base / 'config.json').write_text('{}')
    saved = {'model': str(base), 'system': 'Be kind.', 'template': 'chatml', 'max_length': 7, 'lora_rank': 3}
    folder = checkpoint(tmp_path / 'out' / 'v0-20260101-000000', **saved)
    cfg = config('infer', '--adapters', str(folder))
    assert (cfg.model.model, cfg.template.system, cfg.template.template) == (str(base), 'Be kind.', 'chatml')
    assert cfg.sources['system'] == str(folder / 'args.json')
    assert cfg.template.max_length is None
    assert config('infer', '--adapters', str(folder), '--system', 'No.').template.system == 'No.'


def test_a_run_folder_and_an_output_folder_lead_to_the_newest_checkpoint(tmp_path):
    out = tmp_path / 'out'
    checkpoint(out / 'v0-20260101-000000', step=10, model='old/base')
    checkpoint(out / 'v1-20260102-000000', step=9, model='new/base')
    newest = checkpoint(out / 'v1-20260102-000000', step=12, model='new/base')
    for place in (out, newest.parent):
        cfg = config('infer', '--adapters', str(place))
        assert (cfg.model.adapters, cfg.model.model) == ([str(newest)], 'new/base')
        assert any('taking' in note for note in cfg.notes)


def test_model_and_adapters_may_be_mistaken_for_each_other(tmp_path):
    adapter = checkpoint(tmp_path / 'a', model='own/base')
    cfg = config('merge-lora', '--model', str(adapter))
    assert (cfg.model.adapters, cfg.model.model) == ([str(adapter)], 'own/base')
    assert cfg.export.output_dir == f'{adapter}-merged'
    whole = checkpoint(tmp_path / 'b', adapter=False, model='own/base')
    cfg = config('infer', '--ckpt_dir', str(whole))
    assert (cfg.model.adapters, cfg.model.model) == ([], str(whole))


def test_names_of_adapters_are_kept(tmp_path):
    a, b = checkpoint(tmp_path / 'a', model='own/base'), checkpoint(tmp_path / 'b', model='own/base')
    assert config('infer', '--adapters', f'x={a}', f'y={b}').model.adapters == [f'x={a}', f'y={b}']


def test_an_adapter_of_another_tool_names_its_base_itself(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / 'args.json').unlink()
    assert config('infer', '--adapters', str(folder)).model.model == 'own/base'


def test_args_json_beside_a_plain_model_folder_is_not_its_own(tmp_path):
    (tmp_path / 'args.json').write_text('{"system": "of something else"}')
    model = tmp_path / 'model'
    model.mkdir()
    (model / 'config.json').write_text('{}')
    assert config('infer', '--model', f'{model}/').template.system is None


def test_a_template_name_of_another_tool_is_left_to_the_checkpoint(tmp_path):
    folder = checkpoint(tmp_path, model='own/base', template='qwen99', system='Hi')
    args = json.loads((folder / 'args.json').read_text())
    (folder / 'args.json').write_text(json.dumps({k: v for k, v in args.items() if k != 'verb'}))
    cfg = config('infer', '--adapters', str(folder))
    assert (cfg.template.template, cfg.template.system) == (None, 'Hi')


def test_plugins_named_by_a_checkpoint_are_a_hint_and_never_imported(tmp_path):
    plugin = tmp_path / 'evil.py'
    plugin.write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    folder = checkpoint(tmp_path / 'run', model='own/base', external_plugins=[str(plugin)])
    cfg = resolve('infer', ['--adapters', str(folder)])
    assert cfg.plugins.external_plugins == []
    assert any('never imported' in note for note in cfg.notes)
    assert not (tmp_path / 'ran').exists()


def test_a_checkpoint_says_how_its_weights_are_read_whatever_flags_say(tmp_path):
    folder = checkpoint(tmp_path, model='own/base', bnb_4bit_quant_type='fp4')
    assert config('infer', '--adapters', str(folder), '--bnb_4bit_quant_type', 'nf4').model.bnb_4bit_quant_type == 'fp4'


def test_data_flags_of_a_checkpoint_are_read_when_asked(tmp_path):
    folder = checkpoint(tmp_path, model='own/base', dataset=['own/data'], split_dataset_ratio=0.2)
    assert config('infer', '--adapters', str(folder)).data.dataset == []
    cfg = config('infer', '--adapters', str(folder), '--load_data_args', 'true')
    assert (cfg.data.dataset, cfg.data.split_dataset_ratio) == (['own/data'], 0.2)


def test_a_resumed_run_goes_on_with_its_own_settings(tmp_path):
    folder = checkpoint(tmp_path, model='own/base', dataset=['own/data'], learning_rate=3e-3, lora_rank=4, seed=7)
    cfg = config('sft', '--resume_from_checkpoint', str(folder), '--lora_rank', '5')
    assert (cfg.model.model, cfg.data.dataset, cfg.train.learning_rate, cfg.train.seed) == (
        'own/base',
        ['own/data'],
        3e-3,
        7,
    )
    assert cfg.tuner.lora_rank == 5
    cfg = config('sft', '--resume_from_checkpoint', 'last', '--output_dir', str(tmp_path))
    assert (cfg.model.model, cfg.train.seed, cfg.train.resume_from_checkpoint) == ('own/base', 7, 'last')


def test_flags_without_effect_are_told_to_those_who_gave_them(tmp_path):
    checkpoint(tmp_path, model='own/base', dataset=['own/data'], packing_strategy='sequential')
    resume = ('sft', '--resume_from_checkpoint', 'last', '--output_dir', str(tmp_path))
    assert not any('without effect' in note for note in config(*resume).notes)
    assert any('packing_strategy' in note for note in config(*resume, '--packing_strategy', 'binpack').notes)


def test_a_run_to_resume_that_is_not_there_is_said_before_anything_is_missing(tmp_path):
    for flags, words in (
        (['last'], '--output_dir, which is not given'),
        (['last', '--output_dir', str(tmp_path)], 'holds no checkpoint'),
        ([str(tmp_path / 'checkpoint-9')], 'there is no folder'),
    ):
        (problem,) = problems('sft', '--resume_from_checkpoint', *flags)
        assert words in problem


def test_what_a_file_that_cannot_be_read_may_give_is_not_called_missing(tmp_path):
    (problem,) = problems('sft', str(tmp_path / 'none.yaml'))
    assert problem.endswith('none.yaml: there is no such file')
    (tmp_path / 'broken.yaml').write_text('model: [a\n')
    assert len(problems('sft', str(tmp_path / 'broken.yaml'), '--lora_rank', '-3')) == 2


def test_a_broken_args_json_is_a_problem_with_a_way_round(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / 'args.json').write_text('{')
    assert '--load_args false' in problems('infer', '--adapters', str(folder))[0]
    assert config('infer', '--adapters', str(folder), '--load_args', 'false', '--model', 'a/b').model.model == 'a/b'


def test_the_resolved_configuration_runs_again(tmp_path):
    first = config('sft', *SFT, '--lora_rank', '4', '--system', 'none', '--lr_scheduler_kwargs', '{"min_lr": 1e-6}')
    path = tmp_path / 'config.yaml'
    path.write_text(dump(first).yaml)
    assert dump(config('sft', str(path))).args == dump(first).args


# ------------------------------------------------------------------------------------------------------- python
def test_main_functions_take_a_list_a_dataclass_or_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['swift-sft', *SFT, '--lora_rank', '4'])
    ways = [
        resolve('sft', None),
        resolve('sft', [*SFT, '--lora_rank', '4']),
        resolve('sft', swift.SftArguments(model='some/model', dataset=['some/data'], lora_rank=4)),
        resolve('sft', SftConfig(model=ModelArgs(model='some/model'), data=DataArgs(dataset=['some/data']),
                                 tuner=TunerArgs(lora_rank=4))),
    ]  # fmt: skip
    assert len({json.dumps(dump(way).args) for way in ways}) == 1
    assert resolve('sft', ways[0]) is ways[0]
    with pytest.raises(ConfigError, match='got int'):
        resolve('sft', 3)


def test_flat_arguments_have_every_flag_and_are_checked_like_the_command_line():
    args = swift.SftArguments(model='a/b', dataset=['c/d'], deepspeed='zero2', dataset_num_proc=4)
    assert args.learning_rate is None
    with pytest.raises(ConfigError, match='deepspeed: not built yet'):
        resolve('sft', args)
    with pytest.raises(TypeError, match='lora_rnk'):
        swift.SftArguments(lora_rnk=3)


def test_secrets_do_not_show_in_what_is_printed_of_a_configuration():
    for cfg in (config('sft', *SFT, '--hub_token', 'hidden'), swift.SftArguments(hub_token='hidden')):
        assert 'hidden' not in repr(cfg)


def test_flat_arguments_come_back_from_a_checkpoint(tmp_path):
    folder = checkpoint(tmp_path, model='own/base', system='Hi', torch_dtype='bfloat16')
    args = arguments.BaseArguments.from_pretrained(str(folder))
    assert (args.model, args.system, args.adapters) == ('own/base', 'Hi', [str(folder)])
    with pytest.raises(ConfigError, match=r'no args\.json'):
        arguments.BaseArguments.from_pretrained(str(tmp_path / 'nowhere'))


def test_plugins_are_imported_before_the_command_runs(tmp_path):
    plugin = tmp_path / 'mine.py'
    plugin.write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    resolve('sft', [*SFT, '--external_plugins', str(plugin)])
    assert (tmp_path / 'ran').exists()
    plugin.write_text('import nonsense_of_mine')
    with pytest.raises(ConfigError, match='nonsense_of_mine'):
        resolve('sft', [*SFT, '--external_plugins', str(plugin)])


def test_an_adapter_on_a_hub_is_fetched_before_its_model_is_known(tmp_path, monkeypatch):
    from swift import hub

    folder = checkpoint(tmp_path, model='own/base', system='Hi')
    monkeypatch.setattr(hub, 'fetch', lambda name, **options: folder if name == 'some/adapter' else None)
    cfg = resolve('infer', ['--adapters', 'some/adapter'])
    assert (cfg.model.adapters, cfg.model.model, cfg.template.system) == ([str(folder)], 'own/base', 'Hi')

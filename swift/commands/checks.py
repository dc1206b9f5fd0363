"""What must hold before anything heavy starts: numbers in range, files that exist, combinations that can work.

Each check yields (flag, text): the text says what is wrong and what to do, the flag keeps a value that is already
reported from being reported twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.core.config import Config
from swift.core.errors import did_you_mean
from swift.core.flags import flags_of
from swift.models.args import split_adapter
from swift.objectives import matryoshka
from swift.objectives.args import problems_of_task

Problems = Iterator[tuple[str, str]]

# Flag -> smallest and largest value; None is open.
RANGES: dict[str, tuple[float, float | None]] = {
    'split_dataset_ratio': (0, 1),
    'max_rejected': (0, 1),
    'shuffle_buffer_size': (1, None),
    'packing_length': (1, None),
    'max_tokens_per_batch': (1, None),
    'max_length': (1, None),
    'max_model_len': (1, None),
    'lora_rank': (1, None),
    'lora_dropout': (0, 1),
    'lorap_lr_ratio': (0, None),
    'freeze_parameters_ratio': (0, 1),
    'num_train_epochs': (0, None),
    'max_epochs': (1, None),
    'per_device_train_batch_size': (1, None),
    'per_device_eval_batch_size': (1, None),
    'gradient_accumulation_steps': (1, None),
    'learning_rate': (0, None),
    'warmup_ratio': (0, 1),
    'warmup_steps': (0, None),
    'weight_decay': (0, None),
    'adam_beta1': (0, 1),
    'adam_beta2': (0, 1),
    'adam_epsilon': (0, None),
    'max_grad_norm': (0, None),
    'neftune_noise_alpha': (0, None),
    'logging_steps': (1, None),
    'early_stop_interval': (1, None),
    'max_new_tokens': (1, None),
    'temperature': (0, None),
    'top_p': (0, 1),
    'min_p': (0, 1),
    'top_logprobs': (0, 20),
    'num_beams': (1, 64),
    'write_batch_size': (1, None),
    'backend_timeout': (1, None),
    'vllm_gpu_memory_utilization': (0, 1),
    'vllm_tensor_parallel_size': (1, None),
    'sglang_mem_fraction_static': (0, 1),
    'sglang_tp_size': (1, None),
    'lmdeploy_cache_max_entry_count': (0, 1),
    'lmdeploy_tp': (1, None),
    'lmbda': (0, 1),
    'sft_alpha': (0, None),
    'gkd_logits_topk': (1, None),
    'max_completion_length': (1, None),
    'parity_kl': (0, None),
    'parity_top1': (0, 1),
}
# Flags that name local files or folders, or hub ids.
PATHS = (
    'model', 'adapters', 'ref_model', 'ref_adapters', 'teacher_model', 'teacher_adapters', 'dataset', 'val_dataset',
    'custom_dataset_info', 'external_plugins', 'template', 'system', 'loss_scale', 'new_special_tokens',
    'resume_from_checkpoint',
)  # fmt: skip
DATA_FILES = ('.jsonl', '.json', '.csv', '.tsv', '.parquet', '.txt', '.gguf', '.jinja', '.py', '.yaml', '.arrow')
# What has no effect unless something else is set: flags, when they have one, what to set.
POINTLESS = (
    (('packing_length', 'packing_strategy'), lambda c: c.data.packing, 'without --packing true'),
    (
        ('freeze_parameters', 'freeze_parameters_regex', 'freeze_parameters_ratio', 'trainable_parameters',
         'trainable_parameters_regex'),
        lambda c: c.tuner.tuner_type == 'full',
        'without --tuner_type full',
    ),
    (
        ('lora_rank', 'lora_alpha', 'lora_dropout', 'lora_bias', 'lora_dtype', 'lorap_lr_ratio', 'use_rslora',
         'use_dora', 'init_weights', 'target_modules', 'target_regex', 'modules_to_save'),
        lambda c: c.tuner.tuner_type != 'full',
        'with --tuner_type full',
    ),
    (('enable_dft_loss', 'enable_channel_loss'), lambda c: c.kin != 'rlhf', 'with swift rlhf'),
    (('ignore_data_skip',), lambda c: c.train.resume_only_model, 'without --resume_only_model true'),
)  # fmt: skip


def ranges(config: Config) -> Problems:
    """Numbers outside their range."""
    for name in flags_of(type(config)):
        low, high = RANGES.get(name, (None, None))
        value = config.get(name)
        if low is None or value is None or (value >= low and (high is None or value <= high)):
            continue
        wanted = f'at least {low}' if high is None else f'between {low} and {high}'
        yield name, f'{named(config, name)} {value}: must be {wanted}'


def paths(config: Config) -> Problems:
    """Local files that are not there. Hub ids pass: only what can be nothing but a path is looked up."""
    for name in PATHS:
        if name not in flags_of(type(config)):
            continue
        value = config.get(name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (lost := _lost(name, text)):
                yield name, f'{named(config, name)} {text}: there is no {lost}{_sibling(lost)}'


def resuming(config: Any) -> Problems:
    """A run to go on with that is not there, so that neither model nor data can be taken from it."""
    train, wanted = config.train, config.train.resume_from_checkpoint
    if not wanted or config.model.model or train.resume_only_model:
        return
    folder = train.output_dir if wanted in ('last', 'best') else wanted
    if folder is None:
        problem = 'looks into --output_dir, which is not given; give it, or the folder of the checkpoint'
    elif not Path(folder).is_dir():
        problem = f'there is no folder {folder}; leave the flag out to start, with --model and --dataset'
    else:
        problem = f'{folder} holds no checkpoint of swift; leave the flag out to start, with --model and --dataset'
    yield (
        'resume_from_checkpoint model adapters dataset cached_dataset',
        f'--resume_from_checkpoint {wanted}: {problem}',
    )


def task(config: Any) -> Problems:
    """Tasks that a verb has nothing for."""
    asked, method = config.model.task_type, getattr(config, 'objective', None)
    if asked in (None, 'causal_lm') or (method is not None and method.rlhf_type in ('rm', 'prm')):
        return
    if config.kin in ('pt', 'rlhf'):
        yield 'task_type', f'--task_type {asked}: belongs to swift sft, not to swift {config.kin}'


def loss_of_task(config: Any) -> Problems:
    """Losses that the task does not have, and sizes of embeddings that are none."""
    yield from problems_of_task(config.task, config.model.task_type or 'causal_lm')
    try:
        matryoshka.dims(config.task.mrl_dims)
    except ValueError as error:
        yield 'mrl_dims', f'--mrl_dims {config.task.mrl_dims}: {error}'


def training(config: Any, *, evaluates: bool) -> Problems:
    """Requirements of a training run."""
    data, train = config.data, config.train
    if not data.dataset:
        yield 'dataset cached_dataset', '--dataset is missing: give files, folders or hub ids'
    if data.streaming and train.max_steps < 1:
        yield 'max_steps', '--streaming true needs --max_steps: a stream has no length'
    if data.interleave_prob is not None and len(data.interleave_prob) != len(data.dataset):
        counts = f'{len(data.interleave_prob)} numbers for {len(data.dataset)} datasets'
        yield 'interleave_prob', f'--interleave_prob: {counts}; give one for each'
    if train.bf16 and train.fp16:
        yield 'fp16', '--bf16 and --fp16 are both true; keep one of them'
    if train.step_in_backward and train.max_grad_norm:
        given = f'--max_grad_norm is {train.max_grad_norm:g}'
        text = f'--step_in_backward true: {given}, and clipping needs all gradients at once; give --max_grad_norm 0'
        yield 'step_in_backward max_grad_norm', text
    if config.model.quant_method and config.tuner.tuner_type == 'full':
        yield 'tuner_type', '--tuner_type full cannot train quantised weights; take lora, or leave out --quant_bits'
    if train.save_strategy == 'steps' and train.save_steps <= 0:
        yield 'save_steps', f'--save_steps {train.save_steps:g}: must be above 0; --save_strategy no saves nothing'
    if not evaluates:
        for name in ('load_best_model_at_end', 'early_stop_interval', 'eval_on_start'):
            if getattr(train, name):
                yield name, f'--{name} needs evaluation data: give --val_dataset or --split_dataset_ratio 0.01'
    if train.resume_only_model and not train.resume_from_checkpoint:
        yield 'resume_only_model', '--resume_only_model needs --resume_from_checkpoint'


def reference(config: Any) -> Problems:
    """A reference that cannot be, or is not the one that was meant."""
    asked, tuner = config.reference, config.tuner.tuner_type
    if len(asked.ref_adapters) > 1:
        yield 'ref_adapters', f'--ref_adapters {" ".join(asked.ref_adapters)}: a reference has one adapter; give one'
    if asked.ref_adapters and asked.ref_model:
        yield 'ref_adapters ref_model', '--ref_model and --ref_adapters are both given: keep one'
    if asked.ref_adapters and tuner == 'full':
        yield 'ref_adapters', '--ref_adapters with --tuner_type full: merge the adapter, and give --ref_model'


def teacher(config: Any) -> Problems:
    """A teacher that cannot be or is not there, and flags of teaching where nobody teaches."""
    asked, method = config.distill, config.objective.rlhf_type
    teachers = [name for name in ('teacher_model', 'teacher_model_server') if getattr(asked, name)]
    if method != 'gkd':
        for name in [*teachers, *(['teacher_adapters'] if asked.teacher_adapters else [])]:
            yield name, f'--{name} belongs to --rlhf_type gkd: leave it out for {method}'
        return
    if not 0 <= config.objective.strength <= 1:
        yield 'beta', f'--beta {config.objective.beta}: for gkd from 0 (forward KL) over 0.5 (JSD) to 1 (reverse KL)'
    if not teachers and not asked.teacher_adapters:
        yield 'teacher_model', '--teacher_model is missing: a model id or folder, or --teacher_model_server a URL'
    if len(teachers) > 1:
        yield (
            'teacher_model teacher_model_server',
            '--teacher_model and --teacher_model_server are both given: keep one',
        )
    if len(asked.teacher_adapters) > 1:
        given = ' '.join(asked.teacher_adapters)
        yield 'teacher_adapters', f'--teacher_adapters {given}: a teacher has one adapter; give one'
    if not asked.temperature:
        yield 'temperature', '--temperature 0: divides the logits of student and teacher; 1 leaves them'
    if asked.teacher_model_server:
        if asked.gkd_logits_topk is None:
            yield (
                'gkd_logits_topk',
                '--teacher_model_server tells the likeliest tokens only: give --gkd_logits_topk 64, say',
            )
        for name in ('seq_kd', 'teacher_adapters'):
            if getattr(asked, name):
                yield name, f'--{name} with --teacher_model_server: what a server says is for the server to choose'


def but_data(problems: Problems, config: Any) -> Problems:
    """The problems, less those of data that is not there."""
    for flags, text in problems:
        if 'dataset' not in flags.split() or config.data.dataset:
            yield flags, text


def verified(config: Any) -> Problems:
    """A model without data, or the other way round; no rows."""
    if bool(config.model.model or config.model.adapters) != bool(config.data.dataset):
        yield 'model dataset', '--model and --dataset: give both for a run of yours, or neither'
    if config.verify.rows < 1:
        yield 'rows', f'--rows {config.verify.rows}: must be at least 1'


def pointless(config: Any) -> Iterator[str]:
    """Flags that were given, not taken from a checkpoint, and have no effect beside the others."""
    for names, has_effect, reason in POINTLESS:
        asked = [n for n in names if Path(config.sources[n]).name not in ('default', 'derived', 'args.json')]
        given = [n for n in asked if not has_effect(config)]
        if given:
            yield f'without effect {reason}: {", ".join(given)}'


def named(config: Config, name: str) -> str:
    """How a message calls a flag: by file and line where it came from one."""
    source = config.sources[name]
    return f'--{name}' if source in ('command line', 'default', 'derived', 'python') else f'{source}: {name}'


def text_or_file(text: str) -> str:
    """The content of a .txt file, or the text itself with its ``\\n`` made line breaks."""
    if text.endswith('.txt') and Path(text).is_file():
        return Path(text).read_text(encoding='utf-8')
    return text.replace('\\n', '\n')


def tokens(words: list[str]) -> list[str]:
    """Tokens, those of .txt files among them, one a line."""
    found: list[str] = []
    for word in words:
        if word.endswith('.txt') and Path(word).is_file():
            found += Path(word).read_text(encoding='utf-8').split()
        else:
            found.append(word)
    return found


def _lost(flag: str, text: str) -> str | None:
    """The path in ``text`` if it can be nothing but a path and is not there."""
    if flag == 'resume_from_checkpoint':
        return None if text == 'last' or Path(text).exists() else text
    if flag == 'system' and not re.fullmatch(r'\S+\.txt', text):
        return None
    if flag == 'adapters':
        text = split_adapter(text)[1]
    for path in _spellings(flag, text):
        if Path(path).exists():
            return None
    path = _spellings(flag, text)[-1]
    return (
        path if path.startswith(('/', './', '../', '~')) or path.count('/') > 1 or path.endswith(DATA_FILES) else None
    )


def _spellings(flag: str, text: str) -> list[str]:
    """The paths that ``text`` can mean: datasets carry ``#count`` and ``:subset``, loss_scale a chain of names."""
    if flag in ('dataset', 'val_dataset'):
        bare = re.sub(r'^(hf|ms)::', '', text)
        uncounted = re.sub(r'#\d+$', '', bare)
        return [bare, uncounted, uncounted.rpartition(':')[0] or uncounted]
    return [part for part in text.split('+') if part.endswith('.json')][:1] or ['.'] if flag == 'loss_scale' else [text]


def _sibling(path: str) -> str:
    """The nearest name in the folder where the file should be."""
    folder = Path(path).parent
    if not folder.is_dir():
        return f' (nor a folder {folder})' if str(folder) != '.' else ''
    return did_you_mean(Path(path).name, [entry.name for entry in folder.iterdir()])

"""What ``args`` of a trainer may be, as flags: transformers' TrainingArguments, a configuration of TRL's trainers, or
our own.

A field that means here what it means there becomes a flag. One that decides nothing that is computed is left out. Any
other that somebody has set is refused by name: a run that quietly did something else would be worse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from swift.commands import configs
from swift.commands.arguments import FlatArguments, RLHFArguments
from swift.core.errors import ConfigError

SAME = frozenset({
    'output_dir', 'num_train_epochs', 'max_steps', 'per_device_train_batch_size', 'per_device_eval_batch_size',
    'gradient_accumulation_steps', 'learning_rate', 'lr_scheduler_type', 'lr_scheduler_kwargs', 'warmup_steps',
    'warmup_ratio', 'optim', 'weight_decay', 'adam_beta1', 'adam_beta2', 'adam_epsilon', 'max_grad_norm',
    'neftune_noise_alpha', 'bf16', 'fp16', 'use_cpu', 'seed', 'dataloader_drop_last', 'logging_steps',
    'logging_first_step', 'run_name', 'eval_strategy', 'eval_steps', 'eval_delay', 'eval_on_start', 'save_strategy',
    'save_steps', 'save_total_limit', 'save_only_model', 'load_best_model_at_end', 'metric_for_best_model',
    'greater_is_better', 'hub_token', 'trust_remote_code', 'max_length', 'precompute_ref_log_probs', 'beta',
    'loss_weights', 'label_smoothing', 'f_divergence_type', 'f_alpha_divergence_coef', 'ld_alpha', 'discopop_tau',
    'desirable_weight', 'undesirable_weight', 'cpo_alpha', 'simpo_gamma', 'center_rewards_coefficient', 'lmbda',
    'seq_kd', 'temperature',
})  # fmt: skip
"""Fields that are flags."""
OTHERS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
    'loss_type': lambda value: {} if value == NEXT_TOKEN else {'loss_type': _listed(value)},
    'data_seed': lambda value: {'data_seed': value},
    'gradient_checkpointing': lambda value: {'gradient_checkpointing': True} if value else {},
    'activation_checkpointing': lambda value: {'gradient_checkpointing': True} if value else {},
    'report_to': lambda value: {'report_to': _listed(value) or ['none']},
    'train_sampling_strategy': lambda value: ORDERS.get(value, {'train_sampling_strategy': value}),
    'truncation_mode': lambda value: {'truncation_strategy': {'keep_start': 'right', 'keep_end': 'left'}[value]},
    'teacher_model_name_or_path': lambda value: {'teacher_model': value},
    'max_new_tokens': lambda value: {'max_completion_length': value},
}
"""Fields that are flags of another name or form."""
NEXT_TOKEN = 'nll'  # of SFTConfig, which TRL's GKDConfig extends
ORDERS = {
    'random': {},
    'sequential': {'dataset_shuffle': False, 'train_dataloader_shuffle': False},
}
WITHOUT_EFFECT = frozenset({
    'accelerator_config', 'average_tokens_across_devices', 'activation_checkpointing_kwargs', 'activation_offloading',
    'dataloader_in_order', 'dataloader_multiprocessing_context', 'dataloader_num_workers',
    'dataloader_persistent_workers', 'dataloader_pin_memory', 'dataloader_prefetch_factor', 'dataset_num_proc',
    'ddp_backend', 'ddp_broadcast_buffers', 'ddp_bucket_cap_mb', 'ddp_find_unused_parameters', 'ddp_static_graph',
    'ddp_timeout', 'disable_dropout', 'disable_tqdm', 'do_eval', 'do_predict', 'do_train', 'eval_accumulation_steps',
    'eval_do_concat_batches', 'eval_use_gather_object', 'gradient_checkpointing_kwargs', 'hub_always_push',
    'hub_model_id', 'hub_private_repo', 'hub_revision', 'hub_strategy', 'include_num_input_tokens_seen',
    'liger_kernel_config', 'local_rank', 'log_level', 'log_level_replica', 'log_on_each_node',
    'logging_nan_inf_filter', 'logging_strategy', 'max_completion_length', 'pad_to_multiple_of', 'padding_free',
    'padding_value', 'precompute_ref_batch_size', 'prediction_loss_only', 'project', 'ref_model_mixup_alpha',
    'ref_model_sync_steps', 'remove_unused_columns', 'resume_from_checkpoint', 'save_on_each_node',
    'skip_memory_metrics', 'tf32', 'torch_compile', 'torch_compile_backend', 'torch_compile_mode',
    'torch_empty_cache_steps', 'use_cache', 'use_liger_kernel',
})  # fmt: skip
"""Fields about speed, memory, reports, or machines that are not there; dropout is the trainer's."""


def flags(args: Any) -> dict[str, Any]:
    """Flags and their values.

    Raises:
        ConfigError: naming every field that is set and has no meaning here.
    """
    if args is None:
        return {}
    if isinstance(args, FlatArguments):
        return _ours(configs.changed(args))
    if not dataclasses.is_dataclass(args) or isinstance(args, type):
        raise ConfigError(
            f'args: expected transformers.TrainingArguments, a configuration of trl, or RLHFArguments; got {args!r:.80}'
        )
    found: dict[str, Any] = {}
    refused: list[str] = []
    for field in dataclasses.fields(args):
        name, value = field.name, _plain(getattr(args, field.name))
        if name in WITHOUT_EFFECT or value is None:
            continue
        if name in OTHERS:
            found |= OTHERS[name](value)
        elif value in ('', [], {}):
            continue
        elif name in SAME:
            found[name] = value
        elif value != _default(field):
            refused.append(f'args: {name}={value!r:.80} is not built yet; leave it out')
    if refused:
        raise ConfigError(refused)
    if 'max_length' in found and not hasattr(args, 'center_rewards_coefficient'):  # where TRL leaves rows out, as here
        found.setdefault('truncation_strategy', 'right')
    if hasattr(args, 'data_seed'):
        found.setdefault('data_seed', found['seed'])
    if hasattr(args, 'eval_steps') and 'logging_steps' in found:
        found.setdefault('eval_steps', found['logging_steps'])
    return found


def _ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a configuration of ours, in which some may have the name that TRL has for them."""
    known = {field.name for field in dataclasses.fields(RLHFArguments)}
    found = {name: value for name, value in given.items() if name in known}
    for name in given.keys() & OTHERS.keys() - known:
        found |= OTHERS[name](given[name])
    return found


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _plain(value: Any) -> Any:
    """Enumerations as their words, whole numbers as such."""
    if isinstance(value, Enum):
        return value.value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _default(field: dataclasses.Field) -> Any:
    """What the field is unless somebody sets it."""
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return _plain(made)

"""Names that people type besides those of the flags, as data: old flags, old values, nested YAML keys, variables."""

from __future__ import annotations

from pathlib import Path

from swift.core.vocabulary import Alias

ESTABLISHED = Path(__file__).with_name('established.tsv')
DEVIATIONS = Path(__file__).with_name('deviations.tsv')
IGNORED = Alias(None)
DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16', 'fp32': 'float32', 'half': 'float16', 'auto': None, 'AUTO': None}
SWITCH = {'true': 'true', 'false': 'false', 'auto': None}

ALIASES = {
    'train_type': Alias('tuner_type'),
    'sft_type': Alias('tuner_type'),
    'custom_register_path': Alias('external_plugins'),
    'model_id_or_path': Alias('model'),
    'custom_train_dataset_path': Alias('dataset'),
    'custom_val_dataset_path': Alias('val_dataset'),
    'template_type': Alias('template'),
    'dtype': Alias('torch_dtype'),
    'lora_target_modules': Alias('target_modules'),
    'lora_modules_to_save': Alias('modules_to_save'),
    'lora_dropout_p': Alias('lora_dropout'),
    'lora_lr_ratio': Alias('lorap_lr_ratio'),
    'init_lora_weights': Alias('init_weights'),
    'batch_size': Alias('per_device_train_batch_size'),
    'eval_batch_size': Alias('per_device_eval_batch_size'),
    'use_flash_attn': Alias('attn_impl', {'true': 'flash_attn', 'false': None, 'auto': None}),
    'quantization_bit': Alias('quant_bits', {'0': None, '4': '4', '8': '8'}),
    'quantization_method': Alias('quant_method', {'bitsandbytes': 'bnb', 'bnb': 'bnb', 'hqq': 'hqq', 'eetq': 'eetq'}),
    'evaluation_strategy': Alias('eval_strategy'),
    'dataset_test_ratio': Alias('split_dataset_ratio'),
    'dataset_seed': Alias('data_seed'),
    'max_seq_length': Alias('max_length'),
    'neftune_alpha': Alias('neftune_noise_alpha'),
    'ckpt_dir': Alias('adapters'),
    'load_dataset_config': Alias('load_data_args'),
    'preprocess_num_proc': Alias('dataset_num_proc'),
    'bnb_4bit_comp_dtype': Alias('bnb_4bit_compute_dtype'),
    'additional_trainable_parameters': Alias('trainable_parameters'),
    'device_map_config': Alias('device_map'),
    'use_liger': Alias('use_liger_kernel'),
    'tools_prompt': Alias('agent_template'),
    'eval_datasets': Alias('eval_dataset'),
    'eval_datasets_args': Alias('eval_dataset_args'),
    'limit_mm_per_prompt': Alias('vllm_limit_mm_per_prompt'),
    'tp': Alias('lmdeploy_tp'),
    'vision_batch_size': Alias('lmdeploy_vision_batch_size'),
    'mcore_adapters': Alias('mcore_adapter'),
    'show_dataset_sample': Alias('val_dataset_sample'),
    'gpu_memory_utilization': Alias('vllm_gpu_memory_utilization'),
    'tensor_parallel_size': Alias('vllm_tensor_parallel_size'),
    'tp_size': Alias('tensor_parallel_size'),
    'pp_size': Alias('pipeline_parallel_size'),
    'ep_size': Alias('expert_parallel_size'),
    'cp_size': Alias('context_parallel_size'),
    'train_micro_batch_size_per_gpu': Alias('per_device_train_batch_size'),
    'gradient_clipping': Alias('max_grad_norm'),
    'do_sample': IGNORED,
    'check_dataset_strategy': IGNORED,
    'acc_steps': IGNORED,
    'metric_warmup_step': IGNORED,
    'verb': IGNORED,
}

VALUES = {
    'torch_dtype': DTYPES,
    'lora_dtype': DTYPES,
    'infer_backend': {'transformers': 'native', 'pt': 'native'},
    'per_device_train_batch_size': {'auto': None},
    'gradient_accumulation_steps': {'auto': None},
    'max_grad_norm': {'auto': None},
    'quant_bits': {'0': None},
}

PATHS = {
    'lora.enable': Alias('tuner_type', {'true': 'lora', 'false': 'full'}),
    'lora.r': Alias('lora_rank'),
    'lora.rank': Alias('lora_rank'),
    'lora.alpha': Alias('lora_alpha'),
    'lora.dropout': Alias('lora_dropout'),
    'lora.bias': Alias('lora_bias'),
    'dataset.train': Alias('dataset'),
    'dataset.eval': Alias('val_dataset'),
    'dataset.val': Alias('val_dataset'),
    'dataset.preprocess': Alias(None, {'auto': None}),
    'model.name': Alias('model'),
    'model.type': Alias('model_type'),
    'quantization.method': Alias('quant_method', {'bitsandbytes': 'bnb', 'bnb': 'bnb', 'none': None}),
    'quantization.bits': Alias('quant_bits'),
    'fp16.enabled': Alias('fp16', SWITCH),
    'fp16.*': IGNORED,
    'bf16.enabled': Alias('bf16', SWITCH),
    'optimizer.type': Alias('optim', {'AdamW': 'adamw_torch', 'Adam': 'adamw_torch', 'SGD': 'sgd', 'auto': None}),
    'optimizer.params.lr': Alias('learning_rate', {'auto': None}),
    'optimizer.params.betas': Alias('adam_beta1 adam_beta2', {'auto': None}),
    'optimizer.params.eps': Alias('adam_epsilon', {'auto': None}),
    'optimizer.params.weight_decay': Alias('weight_decay', {'auto': None}),
    'scheduler.type': Alias(
        'lr_scheduler_type', {'WarmupLR': 'constant_with_warmup', 'WarmupDecayLR': 'linear', 'WarmupCosineLR': 'cosine'}
    ),
    'scheduler.params.warmup_num_steps': Alias('warmup_steps', {'auto': None}),
    'scheduler.params.*': IGNORED,
    'zero_optimization.stage': Alias('zero_stage'),
    'zero_optimization.*': IGNORED,
}

SECTIONS = frozenset({
    'model', 'dataset', 'data', 'template', 'tuner', 'lora', 'quantization', 'training', 'train', 'optimizer',
    'scheduler', 'evaluation', 'logging', 'checkpoint', 'generation', 'inference', 'export', 'parallelization',
    'parallel',
})  # fmt: skip

VARIABLES = {
    'USE_HF': 'use_hf',
    'TENSORBOARD_LOGGING_DIR': 'logging_dir',
    'SWANLAB_API_KEY': 'swanlab_token',
    'SWIFT_API_KEY': 'api_key',
    'SWIFT_ADMIN_API_KEY': 'admin_api_key',
    'SWIFT_QUOTA_STORE': 'quota_store',
    'NPROC_PER_NODE': 'nproc_per_node',
    'NNODES': 'nnodes',
    'INFONCE_TEMPERATURE': 'infonce_temperature',
    'INFONCE_USE_BATCH': 'infonce_use_batch',
    'INFONCE_HARD_NEGATIVES': 'infonce_hard_negatives',
    'INFONCE_MASK_FAKE_NEGATIVE': 'infonce_mask_fake_negative',
    'INFONCE_FAKE_NEG_MARGIN': 'infonce_fake_neg_margin',
    'INFONCE_INCLUDE_QQ': 'infonce_include_qq',
    'INFONCE_INCLUDE_DD': 'infonce_include_dd',
    'LISTWISE_RERANKER_TEMPERATURE': 'listwise_reranker_temperature',
    'LISTWISE_RERANKER_MIN_GROUP_SIZE': 'listwise_reranker_min_group_size',
    'MAX_POSITIVE_SAMPLES': 'max_positive_samples',
    'MAX_NEGATIVE_SAMPLES': 'max_negative_samples',
    'GENERATIVE_RERANKER_POSITIVE_TOKEN': 'reranker_positive_word',
    'GENERATIVE_RERANKER_NEGATIVE_TOKEN': 'reranker_negative_word',
}

# Read elsewhere, by us or by the libraries below us; listed so that the documentation has one place.
OTHER_VARIABLES = {
    'SWIFT_CONFIG_FILE': 'A configuration file read before all others.',
    'SWIFT_LANG': 'Language of the help: en or zh.',
    'SWIFT_CACHE': 'Folder of the token store, converted models and records of downloads.',
    'SWIFT_DEBUG': '1 shows the full traceback of an error.',
    'LOG_LEVEL': 'Least important messages shown: DEBUG, INFO, WARNING, ERROR.',
    'MODELSCOPE_CACHE': 'Folder for downloads from ModelScope.',
    'MODELSCOPE_API_TOKEN': 'Token of ModelScope, where hub_token is not given.',
    'HF_HOME': 'Folder for downloads from Hugging Face.',
    'HF_ENDPOINT': 'Address of Hugging Face or a mirror of it.',
    'HF_TOKEN': 'Token of Hugging Face, where hub_token is not given.',
    'CUDA_VISIBLE_DEVICES': 'GPUs that may be used.',
    'OMP_NUM_THREADS': 'Threads of the CPU kernels.',
    'WANDB_API_KEY': 'Token of Weights & Biases.',
    'WANDB_PROJECT': 'Project of Weights & Biases.',
    'WANDB_MODE': 'offline keeps Weights & Biases on this machine.',
}

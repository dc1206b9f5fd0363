"""Module and public names that older scripts import, as one lazy table; no folders, no code behind them.

``from swift.llm import sft_main`` works as ``from swift import sft_main`` does. A known name whose feature is not
built yet raises ImportError naming the feature.
"""

from __future__ import annotations

import importlib
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from swift import EXPORTS
from swift.core.errors import did_you_mean

# Names with another spelling in older versions, or that only their modules carry.
NAMES = EXPORTS | {
    'TrainArguments': 'swift.commands.arguments:SftArguments',
    'PtEngine': 'swift.engines.native:TransformersEngine',
    'get_model_tokenizer': 'swift.models.builder:get_model_processor',
    'register_dataset_info': 'swift.data:register_dataset_info',
    'SubsetDataset': 'swift.data:SubsetDataset',
    'RowPreprocessor': 'swift.data:RowPreprocessor',
    'ResponsePreprocessor': 'swift.data:ResponsePreprocessor',
    'AlpacaPreprocessor': 'swift.data:AlpacaPreprocessor',
    'MessagesPreprocessor': 'swift.data:MessagesPreprocessor',
    'AutoPreprocessor': 'swift.data:AutoPreprocessor',
}

TRAINERS = 'training with your own Python objects; use sft_main'
RLHF = 'reinforcement learning, with rollouts and rewards: GRPO, PPO and kin'
SERVING = 'serving and other engines'
PLUGINS = 'writing your own rewards, losses, metrics and tuners'
MODELS = 'registering models and templates in Python'
TUNERS = 'wrapping your own model with tuners'
TO_COME = {
    feature: names.split()
    for feature, names in {
        TRAINERS: 'TrainingArguments Seq2SeqTrainingArguments Trainer Seq2SeqTrainer EmbeddingTrainer RerankerTrainer '
        'DataLoaderMixin SwiftMixin TrainerFactory TrainArgumentsMixin disable_gradient_checkpointing '
        'dynamic_gradient_checkpointing per_token_loss_func calculate_max_steps prepare_model_template SwiftPipeline '
        'SwiftSft LazyLLMDataset PackingDataset IterablePackingDataset MultiModalPackingCollator AddLengthPreprocessor',
        RLHF: 'GRPOTrainer PPOTrainer GRPOConfig PPOConfig RLHFTrainerMixin VllmArguments '
        'GRPOArgumentsMixin VLLMClient VLLMInferClient ORM AsyncORM orms PRM prms rm_plugins '
        'DefaultRMPlugin MultiTurnScheduler RolloutScheduler OpenEnvScheduler multi_turns Env envs RolloutArguments '
        'rollout_main SamplingArguments sampling_main GRPOVllmEngine',
        SERVING: 'InferEngine InferStats '
        'AppArguments EvalArguments eval_main webui_main export_awq_model quantize_model '
        'export_to_ollama',
        PLUGINS: 'agent_template_map BaseAgentTemplate loss_map BaseLoss eval_metrics_map MeanMetric optimizers_map '
        'OptimizerCallback callbacks_map TrainerCallback loss_scale_map LossScale get_loss_scale ALL_BASE_STRATEGY '
        'ConfigLossScale extra_tuners OpenAIMessagesPreprocessor AnthropicMessagesPreprocessor MediaResource '
        'DatasetLoader DatasetSyntax DATASET_MAPPING DATASET_TYPE get_dataset_list sample_dataset',
        MODELS: 'Model ModelGroup ModelMeta ModelLoader ModelInfo ModelType LLMModelType MLLMModelType MODEL_MAPPING '
        'MultiModelKeys ModelArch register_model register_model_arch get_model_info_meta get_matched_model_types '
        'Template TemplateMeta TemplateType TEMPLATE_MAPPING TemplateInputs StdTemplateInputs MaxLengthError '
        'get_template_meta register_template load_file load_image draw_bbox split_str_parts_by get_last_user_round '
        'history_to_messages messages_to_history update_generation_config_eos_token ContextType History Messages '
        'Prompt Tool Word',
        TUNERS: 'Swift SwiftModel Tuner PeftTuner tuners_map LoraConfig find_all_linears get_multimodal_target_regex',
        'helpers for your own training loop': 'seed_everything get_env_args get_device get_device_count to_device '
        'to_float_dtype append_to_jsonl read_from_jsonl write_to_jsonl JsonlWriter plot_images Processor lower_bound '
        'get_model_parameter_info git_clone_github format_time get_packed_seq_params is_deepspeed_enabled '
        'copy_files_by_pattern download_file start_event_loop_in_daemon shutdown_event_loop_in_daemon',
        'training with Megatron-core': 'MegatronArguments MegatronSftArguments MegatronPretrainArguments '
        'MegatronRLHFArguments MegatronExportArguments megatron_sft_main megatron_pretrain_main megatron_rlhf_main '
        'megatron_export_main',
    }.items()
}
FEATURE = {name: feature for feature, names in TO_COME.items() for name in names}

# Any known name may be imported from any of them: where it stood has changed too often.
OLD_MODULES = (
    'llm plugin utils dataset template model trainers rlhf_trainers infer_engine infer_engine.protocol pipelines '
    'arguments rewards rewards.orm rewards.rm_plugin rollout rollout.multi_turn rollout.gym_env megatron '
    'agent_template loss_scale loss metrics optimizers callbacks tuner_plugin template.utils template.vision_utils '
    'model.utils'
)
MODULES = frozenset(f'swift.{name}' for name in OLD_MODULES.split())


def load(module: str, name: str) -> Any:
    """The object behind a public name.

    Raises:
        ImportError: the name is known and its feature not built yet.
        AttributeError: there is no such name.
    """
    if name in NAMES:
        where, _, attribute = NAMES[name].partition(':')
        return getattr(importlib.import_module(where), attribute)
    if name in FEATURE:
        raise ImportError(f'{module}.{name}: not built yet ({FEATURE[name]})', name=name)
    raise AttributeError(f'module {module!r} has no attribute {name!r}{did_you_mean(name, [*NAMES, *FEATURE])}')


def spec(name: str) -> ModuleSpec | None:
    """The import specification of an older module; None for any other name."""
    if name not in MODULES:
        return None
    package = any(other.startswith(f'{name}.') for other in MODULES)
    return ModuleSpec(name, _Loader(), is_package=package)


class _Loader:
    """Makes a module whose names are looked up in the table."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name, 'Names of older scripts; see swift.compat.')
        module.__all__ = sorted(NAMES)
        return module

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__getattr__ = lambda attribute: load(name, attribute)

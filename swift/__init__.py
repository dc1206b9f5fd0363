"""Swift: take a language model through its whole life with one tool, and prove each step.

Public names are loaded on first use, so that ``import swift`` costs nothing; see ``EXPORTS``.
"""

import importlib
import sys
from typing import Any

__version__ = '0.1.0'

# Public name -> where it is. swift.compat lists the names of older modules (swift.llm and kin) besides.
EXPORTS = {
    'sft_main': 'swift.commands.sft:sft_main',
    'pt_main': 'swift.commands.pt:pt_main',
    'pretrain_main': 'swift.commands.pt:pt_main',
    'rlhf_main': 'swift.commands.rlhf:rlhf_main',
    'infer_main': 'swift.commands.infer:infer_main',
    'app_main': 'swift.commands.app:app_main',
    'deploy_main': 'swift.commands.deploy:deploy_main',
    'run_deploy': 'swift.commands.deploy:run_deploy',
    'export_main': 'swift.commands.export:export_main',
    'merge_lora': 'swift.commands.merge_lora:merge_lora',
    'SftArguments': 'swift.commands.arguments:SftArguments',
    'PretrainArguments': 'swift.commands.arguments:PretrainArguments',
    'RLHFArguments': 'swift.commands.arguments:RLHFArguments',
    'InferArguments': 'swift.commands.arguments:InferArguments',
    'DeployArguments': 'swift.commands.arguments:DeployArguments',
    'ExportArguments': 'swift.commands.arguments:ExportArguments',
    'BaseArguments': 'swift.commands.arguments:BaseArguments',
    'DPOTrainer': 'swift.commands.trainers:DPOTrainer',
    'KTOTrainer': 'swift.commands.trainers:KTOTrainer',
    'CPOTrainer': 'swift.commands.trainers:CPOTrainer',
    'ORPOTrainer': 'swift.commands.trainers:ORPOTrainer',
    'RewardTrainer': 'swift.commands.trainers:RewardTrainer',
    'GKDTrainer': 'swift.commands.trainers:GKDTrainer',
    'DPOConfig': 'swift.commands.configurations:DPOConfig',
    'KTOConfig': 'swift.commands.configurations:KTOConfig',
    'CPOConfig': 'swift.commands.configurations:CPOConfig',
    'ORPOConfig': 'swift.commands.configurations:ORPOConfig',
    'RewardConfig': 'swift.commands.configurations:RewardConfig',
    'GKDConfig': 'swift.commands.configurations:GKDConfig',
    'get_model': 'swift.commands.get_model:get_model',
    'get_model_processor': 'swift.models.builder:get_model_processor',
    'get_processor': 'swift.models.builder:get_processor',
    'get_template': 'swift.commands.notebook:get_template',
    'load_dataset': 'swift.data:load_dataset',
    'register_dataset': 'swift.data:register_dataset',
    'DatasetMeta': 'swift.data:DatasetMeta',
    'EncodePreprocessor': 'swift.data:EncodePreprocessor',
    'TransformersEngine': 'swift.engines.native:TransformersEngine',
    'VllmEngine': 'swift.engines.opening:VllmEngine',
    'SglangEngine': 'swift.engines.opening:SglangEngine',
    'LmdeployEngine': 'swift.engines.opening:LmdeployEngine',
    'InferClient': 'swift.engines.infer_client:InferClient',
    'InferRequest': 'swift.engines.protocol:InferRequest',
    'RequestConfig': 'swift.engines.protocol:RequestConfig',
    'AdapterRequest': 'swift.engines.protocol:AdapterRequest',
    'get_logger': 'swift.core.log:get_logger',
    'safe_snapshot_download': 'swift.hub:safe_snapshot_download',
}
__all__ = ['__version__', *EXPORTS]


def __getattr__(name: str) -> Any:
    """Load a public name; a name of a feature to come raises ImportError saying so."""
    value = importlib.import_module('swift.compat').load(__name__, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})


class _OldModules:
    """Finder for module names of older scripts, asked only when no module of that name exists."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith('swift.') or name == 'swift.compat':
            return None
        return importlib.import_module('swift.compat').spec(name)


sys.meta_path.append(_OldModules)

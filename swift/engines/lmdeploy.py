"""LMDeploy: its server on loopback, spoken to in tokens at ``/generate``.

Not run by this project's tests, which have no machine for it: command lines and errors are tested, and the arguments
are checked against its source where it is installed. Its ``/generate`` asks for no key, so any user of the machine can
reach it, and knows no adapters, no seed and no penalties but that of repetition.
"""

from __future__ import annotations

from typing import Any

from swift.core.errors import ConfigError
from swift.core.log import once
from swift.engines.backend import Backend, Job, Place, Start, words
from swift.engines.dialects import DIALECTS
from swift.engines.installed import Installed, Package

PACKAGE = Package(
    'LMDeploy', 'lmdeploy', 'cli/utils.py', (), ('lmdeploy',), {'cuda': ('lmdeploy>=0.10,<1',)}, 'lmdeploy'
)


def start(job: Job, found: Installed, place: Place) -> Start:
    """Its command line. Raises ConfigError for adapters."""
    if job.adapters:
        raise ConfigError(
            '--adapters: LMDeploy answers in tokens without adapters only; merge the adapter (swift merge-lora), '
            'or use --infer_backend native or vllm'
        )
    once('LMDeploy draws from a seed of its own: --seed has no effect on its answers')
    settings: dict[str, Any] = {
        'model_name': job.name,
        'dtype': job.dtype if job.dtype != 'float32' else 'auto',
        'session_len': job.max_model_len,
        'trust_remote_code': job.trust_remote_code,
        **job.settings,
    }
    given = {name: value for name, value in settings.items() if value is not False}  # it has no words for no
    serve = ['-m', PACKAGE.server, 'serve', 'api_server', str(job.model)]
    where = ['--server-name', '127.0.0.1', '--server-port', str(place.port)]
    return Start([*serve, *where, *words(given)], {'HF_HUB_OFFLINE': '1', 'NO_COLOR': '1'})


BACKEND = Backend(
    PACKAGE, DIALECTS['LMDeploy'], start, length='session_len', renamed={'vision_batch_size': 'vision_max_batch_size'}
)

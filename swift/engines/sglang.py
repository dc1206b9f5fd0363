"""SGLang: its server on loopback, spoken to in tokens at ``/generate``.

Not run by this project's tests, which have no machine for it: command lines and errors are tested, and the arguments
are checked against its source where it is installed.
"""

from __future__ import annotations

import json
from typing import Any

from swift.core import files
from swift.engines.backend import Backend, Job, Place, Start
from swift.engines.dialects import DIALECTS
from swift.engines.installed import Installed, Package

PACKAGE = Package(
    'SGLang',
    'sglang',
    'srt/server_args.py',
    ('ServerArgs',),
    ('sglang',),
    {'cuda': ('sglang>=0.5,<1',)},
    'sglang.launch_server',
)


def start(job: Job, found: Installed, place: Place) -> Start:
    """Its command line: everything stands in a file, for the key must not be seen in the list of processes."""
    settings: dict[str, Any] = {
        'model_path': str(job.model),
        'served_model_name': job.name,
        'host': '127.0.0.1',
        'port': place.port,
        'api_key': place.key,
        'dtype': job.dtype,
        'context_length': job.max_model_len,
        'trust_remote_code': job.trust_remote_code,
        'sampling_defaults': 'openai',
        **job.settings,
    }
    if job.adapters:
        settings |= {'enable_lora': True, 'lora_paths': [f'{name}={path}' for name, path in job.adapters.items()]}
    said = {name.replace('_', '-'): value for name, value in settings.items() if value not in (None, False)}
    config = place.folder / 'server.yaml'
    files.write(config, json.dumps(said))  # JSON is YAML
    config.chmod(0o600)
    return Start(['-m', PACKAGE.server, '--config', str(config)], {'HF_HUB_OFFLINE': '1', 'NO_COLOR': '1'})


BACKEND = Backend(PACKAGE, DIALECTS['SGLang'], start, length='context_length', early=True)

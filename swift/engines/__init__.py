"""Floor 3: requests become streams of pieces.

api.py      ChatEngine   messages in, chat completions out, over any engine;  chat.py  the words of that API
waiting.py  Waiting      submit and stream for engines that deliver by a call
native/                  answers by transformers itself
client.py   RemoteEngine  a server that takes tokens;  connection.py  HTTP;  dialects.py  the words of each server
backend.py  ServerEngine  vLLM, SGLang, LMDeploy: a server of theirs below ours;  installed.py  where it is
launch.py   Launched      that process, under guard.py: it never outlives us
opening.py  open_chat     the engine that the flags ask for
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swift.core.registry import Registry

if TYPE_CHECKING:
    from swift.engines.backend import Backend

LIBRARIES: Registry[Backend] = Registry(
    'infer_backend', {name: f'swift.engines.{name}:BACKEND' for name in ('vllm', 'sglang', 'lmdeploy')}
)

"""Floor 3: requests become streams of pieces.

api.py      ChatEngine   messages in, chat completions out, over any engine;  chat.py  the words of that API
waiting.py  Waiting      submit and stream for engines that deliver by a call
native/                  answers by transformers itself
"""

from swift.core.registry import Registry

ENGINES: Registry[type] = Registry(
    'infer_backend', dict.fromkeys(('native', 'transformers', 'pt'), 'swift.engines.native.api:TransformersEngine')
)

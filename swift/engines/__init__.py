"""Floor 3: requests become streams of pieces."""

from swift.core.registry import Registry

ENGINES: Registry[type] = Registry(
    'infer_backend', dict.fromkeys(('native', 'transformers', 'pt'), 'swift.engines.native.api:TransformersEngine')
)

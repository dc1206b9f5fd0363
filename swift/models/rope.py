"""Longer positions: ``--rope_scaling`` and ``--max_model_len`` written into a transformers config."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from swift.core.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

TYPES = ('linear', 'dynamic', 'yarn')
WITH_ORIGINAL = ('yarn', 'llama3', 'longrope')  # types whose parameters hold the length before scaling


def scale_(config: Any, scaling: str | None, max_model_len: int | None) -> int | None:
    """Change the rotary positions of ``config`` in place, and return the longest sequence they are made for.

    The factor is the one given, else ``max_model_len`` over the original length, rounded up.

    Args:
        scaling: linear, dynamic, yarn, or JSON with ``rope_type`` (or ``type``) and the parameters of that type.

    Raises:
        ConfigError: the text is neither, or there is neither a factor nor ``max_model_len``.
        ModelError: the model has no rotary positions.
    """
    text = config.get_text_config()
    if scaling is None:
        _check_reach(text, max_model_len)
        return max_model_len
    wanted = _parse(scaling)
    old = getattr(text, 'rope_parameters', None)
    if not old:
        raise ModelError(f'--rope_scaling: a model of type {text.model_type} has no rotary positions to scale')
    layers = old if isinstance(old.get('full_attention'), dict) else None  # per kind of layer
    old = layers['full_attention'] if layers else old
    original = wanted.pop('original_max_position_embeddings', None) or _original(text, old)
    factor = wanted.pop('factor', None)
    if factor is None:
        if max_model_len is None:
            raise ConfigError(f'--rope_scaling {scaling}: give --max_model_len too, or JSON with a factor')
        factor = max(1.0, float(math.ceil(max_model_len / original)))
    kept = {key: old[key] for key in ('rope_theta', 'partial_rotary_factor') if key in old}
    new = {**kept, 'factor': float(factor), **wanted}
    if new['rope_type'] in WITH_ORIGINAL:
        new['original_max_position_embeddings'] = original
    text.rope_parameters = {**layers, 'full_attention': new} if layers else new
    return max_model_len or int(original * factor)


def _parse(scaling: str) -> dict[str, Any]:
    """The parameters with ``rope_type`` under that name."""
    if scaling in TYPES:
        return {'rope_type': scaling}
    try:
        found = json.loads(scaling)
        kind = found.pop('rope_type', None) or found.pop('type')
        found.pop('type', None)
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(
            f'--rope_scaling {scaling}: expected {", ".join(TYPES)}, or JSON like {{"type": "yarn", "factor": 4.0}}'
        ) from None
    return {'rope_type': kind, **found}


def _original(text: Any, old: dict[str, Any]) -> int:
    """The length before any scaling."""
    return old.get('original_max_position_embeddings') or text.max_position_embeddings


def _check_reach(text: Any, max_model_len: int | None) -> None:
    """Learned positions end where their table ends; rotary ones go on, only worse."""
    table = getattr(text, 'n_positions', None) or getattr(text, 'max_position_embeddings', None)
    if not max_model_len or not table or max_model_len <= table:
        return
    if not getattr(text, 'rope_parameters', None):
        raise ConfigError(f'--max_model_len {max_model_len}: a model of type {text.model_type} has {table} positions')
    logger.warning(
        '--max_model_len %d: the model was made for %d positions; --rope_scaling yarn stretches them',
        max_model_len,
        table,
    )

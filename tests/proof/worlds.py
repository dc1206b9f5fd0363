"""What the proofs serve: SmolLM2 with three adapters of chance, and questions whose answers never change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swift.core.errors import SwiftError
from tests.adapters import adapter

SMOLLM2 = os.environ.get('SWIFT_TEST_SMOLLM2', 'HuggingFaceTB/SmolLM2-135M-Instruct')
TOPICS = ('the sea', 'a king', 'bread', 'winter', 'Paris', 'the moon', 'trees', 'a red car', 'music', 'tea', '你是谁')
ADAPTERS = ('law', 'shop', 'poem')
NAMES = ('base', *ADAPTERS)


@dataclass(frozen=True)
class World:
    """A model and its adapters."""

    adapters: Mapping[str, Path]

    @property
    def flags(self) -> list[str]:
        """What ``swift deploy`` is told."""
        named = [f'{name}={path}' for name, path in self.adapters.items()]
        return ['--model', SMOLLM2, '--served_model_name', 'base', '--adapters', *named]


def world(home: Path) -> World:
    """The world; adapters are put into ``home``. Skips where there is no SmolLM2."""
    from swift import models
    from swift.models.args import ModelArgs

    model = models.load(ModelArgs(model=folder(), torch_dtype='float32')).build()
    return World({name: adapter(home / name, model, seed=i, strength=0.02) for i, name in enumerate(ADAPTERS)})


def folder() -> str:
    """Where SmolLM2 is. Skips where it is nowhere."""
    from swift import models
    from swift.models.args import ModelArgs

    try:
        return str(models.describe(ModelArgs(model=SMOLLM2)).path)
    except SwiftError as error:
        pytest.skip(f'no SmolLM2 here: {error}')


def question(i: int, **changes: Any) -> dict[str, Any]:
    """Body ``i``: for one of four models, greedy or drawn."""
    return {
        'model': NAMES[i % 4],
        'messages': [{'role': 'user', 'content': f'Tell me something about {TOPICS[i % 11]}, number {i}.'}],
        'max_tokens': 40 + i % 17,
        'temperature': 0 if i % 3 else 0.8,
        'seed': i,
        **changes,
    }

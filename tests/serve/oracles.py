"""Engines for the tests of the API, each with an oracle that knows what it will say: nothing but the words differ.

``fake`` says what it is asked, ``native`` and ``vllm`` answer with a tiny model, for which transformers speaks first.
vLLM is there with ``yichuidingyin.sh test --with vllm``, or where SWIFT_TEST_VLLM names a Python that has it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from swift.serve.house import House
from tests.serve.running import house

VLLM = os.environ.get('SWIFT_TEST_VLLM')
ENGINES = ['fake', 'native', pytest.param('vllm', marks=pytest.mark.skipif(not VLLM, reason='needs vLLM'))]
SIZE = {'hidden_size': 64, 'num_attention_heads': 2, 'num_key_value_heads': 1, 'head_dim': 32}  # that vLLM can compute
LONGEST = 1280  # tokens of a prompt with its answer


class Echo:
    """Of the fake engine: tokens are bytes, and all of them are as likely."""

    def prompt(self, text: str) -> list[int]:
        """The tokens of a question."""
        return self.ids(text)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(text.encode())

    def after(self, prompt: list[int], count: int) -> list[int]:
        """The first tokens of the answer."""
        return prompt[:count]

    def text(self, ids: list[int]) -> str:
        """The text of tokens."""
        return bytes(ids).decode(errors='replace')

    def logprobs(self, ids: list[int]) -> list[float]:
        """How likely each token is after those before it, from the second on."""
        return [-0.5] * (len(ids) - 1)


@dataclass
class Transformers:
    """Of the tiny model."""

    folder: Path

    @cached_property
    def _model(self) -> Any:
        from tests import tiny

        return tiny.model(**SIZE)

    @cached_property
    def _tokenizer(self) -> Any:
        from tests import tiny

        return tiny.tokenizer()

    def prompt(self, text: str) -> list[int]:
        """The tokens of a question."""
        turns = [{'role': 'user', 'content': text}]
        return self._tokenizer.apply_chat_template(turns, add_generation_prompt=True)['input_ids']

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._tokenizer(text)['input_ids']

    def after(self, prompt: list[int], count: int) -> list[int]:
        """The first tokens of the answer."""
        from tests.engines.plain import reference

        return reference(self._model, prompt, count)

    def text(self, ids: list[int]) -> str:
        """The text of tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def logprobs(self, ids: list[int]) -> list[float]:
        """How likely each token is after those before it, from the second on."""
        import torch

        with torch.no_grad():
            rows = self._model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [float(rows[t, id]) for t, id in enumerate(ids[1:])]


@contextlib.contextmanager
def opened(name: str, home: Path) -> Iterator[tuple[House, Echo | Transformers]]:
    """A house around an engine, and its oracle; whoever serves the house closes the engine."""
    if name == 'fake':
        yield house(), Echo()
        return
    from swift.engines.args import EngineArgs, VllmArgs
    from swift.engines.opening import Groups, open_chat
    from swift.models.args import ModelArgs
    from swift.templates.args import TemplateArgs
    from tests import tiny

    folder = tiny.folder(home / 'tiny', **SIZE)
    flags = Groups(
        model=ModelArgs(model=str(folder), max_model_len=LONGEST),
        template=TemplateArgs(agent_template='hermes'),
        engine=EngineArgs(infer_backend=name, backend_python=VLLM, backend_timeout=900),  # type: ignore[arg-type]
        vllm=VllmArgs(vllm_enforce_eager=True, vllm_engine_kwargs={'kv_cache_memory_bytes': 1 << 28}),
    )
    chat = open_chat(flags)
    made = house(chat.engine)
    made.chat, made.encode = chat, lambda text: chat.template.tokenizer(text)['input_ids']
    yield made, Transformers(folder)

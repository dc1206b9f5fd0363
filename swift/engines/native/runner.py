"""The model's forward pass over a batch that is padded at the left.

Shapes: ``B`` rows, ``L`` columns (the longest row), ``V`` vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from swift.core.errors import ModelError, did_you_mean
from swift.engines.native import adapters
from swift.engines.native import cache as kv
from swift.kernels import angles

UNKNOWN = object()
CACHE_NAMES = ('past_key_values', 'cache_params')  # attention and hybrid models; pure state-space models


class Runner:
    """A transformers causal LM and the adapters on it. Not thread-safe: one thread owns it.

    ``choose_adapters`` False leaves those at work that are, whatever requests name.
    """

    def __init__(self, model: nn.Module, *, choose_adapters: bool = True):
        self.model = model.eval()
        base = self.base
        self._accepts = frozenset(inspect.signature(base.forward).parameters)
        caches = [name for name in CACHE_NAMES if name in self._accepts]
        if not caches or not base._supports_default_dynamic_cache() or base.config.is_encoder_decoder:
            raise ModelError(f'{type(base).__name__}: the native engine cannot answer with this architecture yet')
        self._cache_name = caches[0]
        if self._cache_name == 'cache_params':  # never padded here, and these models misread a mask of the past
            self._accepts -= {'attention_mask'}
        self.config = base.config
        names = getattr(model, 'peft_config', ()) if choose_adapters else ()
        self._inner = {name: name for name in names}  # our name -> peft's, where any text will do
        self._numbers = itertools.count()
        self._active: object = UNKNOWN  # str | None, once known
        empty = kv.make(self.config)
        self.joinable = kv.joinable(empty)
        self.pads_prompts = self.joinable and not kv.recurrent(empty)
        self.moving = angles.install(base)

    def accepts(self, name: str) -> bool:
        """Whether the model's forward has such an argument."""
        return name in self._accepts

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.config.get_text_config(decoder=True).vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.model.get_input_embeddings().weight.device

    # ---------------------------------------------------------------------------------------------------- forward
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Cache]:
        """Logits [B, V] after each prompt, and the cache that holds them."""
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        rows = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        positions = [[max(0, j - width + n) for j in range(width)] for n in lengths]
        cache = kv.make(self.config)
        return self._forward(rows, positions, lengths, cache), cache

    def see(self, prompt: Sequence[int], seen: Mapping[str, Tensor]) -> tuple[Tensor, Cache, int]:
        """Logits [1, V] after a prompt with pictures, the cache that holds both, and the shift of later positions.

        The model itself finds the positions: those of a picture may be fewer than its tokens (m-rope).
        """
        cache = kv.make(self.config)
        ids = torch.tensor([list(prompt)], device=self.device)
        inputs = {'input_ids': ids, 'attention_mask': torch.ones_like(ids), **self._placed(seen)}
        if 'logits_to_keep' in self._accepts:
            inputs['logits_to_keep'] = 1
        logits = self.model(**inputs, **{self._cache_name: cache}, use_cache=True).logits[:, -1].to(self.device)
        deltas = [getattr(part, 'rope_deltas', None) for part in self.base.modules()]
        return logits, cache, next((int(delta) for delta in deltas if delta is not None), 0)

    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], cache: Cache, shifts: Sequence[int] | None = None
    ) -> Tensor:
        """Logits [B, V] after one more token per row; ``lengths`` are those before it."""
        grown = [length + 1 for length in lengths]
        positions = [[length + shift] for length, shift in zip(lengths, shifts or [0] * len(lengths), strict=True)]
        return self._forward([[token] for token in tokens], positions, grown, cache)

    def read(self, prompt: Sequence[int], seen: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits [T, V] after every token of a prompt; nothing is kept."""
        ids = torch.tensor([list(prompt)], device=self.device)
        return self.model(input_ids=ids, use_cache=False, **self._placed(seen or {})).logits[0].to(self.device)

    def _placed(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is seen, as the model computes."""
        return {
            name: value.to(self.device, self.base.dtype if value.is_floating_point() else None)
            for name, value in seen.items()
        }

    def rows(self, ids: np.ndarray, positions: np.ndarray, wanted: np.ndarray) -> Tensor:
        """Logits [wanted, V] of one row of T tokens whose attention is somebody else's (see ``kernels.paged``)."""
        put = lambda numbers: torch.from_numpy(numbers).to(self.device)
        keep = {'logits_to_keep': put(wanted)} if 'logits_to_keep' in self._accepts else {}
        inputs = {'input_ids': put(ids)[None], 'position_ids': put(positions)[None], 'use_cache': False}
        logits = self.model(**inputs, **keep).logits[0].to(self.device)
        return logits if keep else logits[put(wanted)]

    def _forward(self, rows: list, positions: list, lengths: Sequence[int], cache: Cache) -> Tensor:
        columns = torch.arange(max(lengths) - 1, -1, -1)  # distance from the right end
        mask = (columns < torch.tensor(lengths)[:, None]).long()  # [B, L]
        inputs = {
            'input_ids': torch.tensor(rows),
            'attention_mask': mask,
            'position_ids': torch.tensor(positions),
        }
        inputs = {name: value.to(self.device) for name, value in inputs.items() if name in self._accepts}
        if 'logits_to_keep' in self._accepts:
            inputs['logits_to_keep'] = 1
        return self.model(**inputs, **{self._cache_name: cache}, use_cache=True).logits[:, -1].to(self.device)

    # --------------------------------------------------------------------------------------------------- adapters
    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(self._inner)

    def use(self, adapter: str | None) -> None:
        """Answer with ``adapter`` from now on."""
        if adapter != self._active and self._inner:
            adapters.activate(self.model, None if adapter is None else self._inner[adapter])
        self._active = adapter

    def inner(self, name: str) -> str:
        """What peft calls the adapter ``name``."""
        return self._inner[name]

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Within, the model computes as its base; then as it did before."""
        if not self._inner:
            yield
            return
        with self.model.disable_adapter():
            yield
        self._active = UNKNOWN

    def load_adapter(self, name: str, path: Path) -> None:
        """Put one more adapter on the model. Raises ModelError."""
        if name in self._inner:
            raise ModelError(f'adapter {name!r} is loaded already; unload it first, or choose another name')
        self._active = UNKNOWN
        inner = f'swift-{next(self._numbers)}'
        self.model = adapters.attach(self.model, inner, path)
        self._inner[name] = inner

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ModelError."""
        if name not in self._inner:
            raise ModelError(f'no adapter {name!r} is loaded{did_you_mean(name, self._inner)}')
        self._active = UNKNOWN
        self.model = adapters.detach(self.model, self._inner.pop(name))

    # ---------------------------------------------------------------------------------------------------- weights
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite weights, named as in the model without adapters (or as in peft, for those of an adapter).

        Raises:
            ModelError: there is no such weight, or it has another shape. Those before it are overwritten.
        """
        ours = {
            name.removeprefix('base_model.model.').replace('.base_layer.', '.'): value
            for name, value in self.model.state_dict().items()
        }
        for name, value in weights:
            if name not in ours:
                raise ModelError(f'update: the model has no weight {name!r}{did_you_mean(name, ours)}')
            if ours[name].shape != value.shape:
                raise ModelError(f'update: {name} is {tuple(ours[name].shape)}, not {tuple(value.shape)}')
            ours[name].copy_(value)

    @property
    def base(self) -> Any:
        """The model without peft's wrapping."""
        unwrap = getattr(self.model, 'get_base_model', None)  # only peft's have it; importing peft takes 0.4 s
        return self.model if unwrap is None else unwrap()

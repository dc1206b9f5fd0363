"""Results of norms and gated activations made again in the backward pass, instead of being kept for it.

Linear layers keep what they were given, and most of it comes from a norm or a gate, whose own inputs are kept anyway.
Within ``light`` such a result is let go, and made again from those inputs, by the same kernel and so to the same bits,
when a gradient asks for it. In a layer of SmolLM2 that is a third of what a token keeps.

How it knows: a kernel notes its result with a recipe; what autograd saves, under whatever view, is recognised by its
memory for as long as the result itself is alive and unchanged, so that no other tensor can be taken for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Recipe:
    """How to make ``made`` again. It is made once for all who saved it, if they ask one after the other."""

    def __init__(self, made: Tensor, make: Callable[[], Tensor], gone: Callable[[Any], None]):
        self.made, self.version, self.make = weakref.ref(made, gone), made._version, make
        self.uses = 0
        self.again: Tensor | None = None

    def covers(self, saved: Tensor) -> bool:
        """Whether a tensor that starts where ``made`` does is ``made``, or a view of all of it."""
        made = self.made()
        return (
            made is not None
            and made._version == self.version
            and saved.dtype == made.dtype
            and saved.numel() == made.numel()
            and saved.is_contiguous()
        )

    def take(self, shape: torch.Size) -> Tensor:
        """The result; it is let go when everyone who saved it has it."""
        if self.again is None:
            with torch.no_grad():
                self.again = self.make()
        made = self.again.view(shape)
        self.uses -= 1
        if self.uses <= 0:
            self.again = None
        return made


_noted: ContextVar[dict[int, Recipe] | None] = ContextVar('noted', default=None)


def note(made: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """Tell that ``make()`` gives ``made`` again, from tensors that its own gradient keeps. Returns ``made``."""
    if torch.compiler.is_compiling():  # what is compiled chooses by itself what to keep
        return made
    noted = _noted.get()
    if noted is not None and made.requires_grad and made.is_contiguous():
        place = made.data_ptr()
        noted[place] = Recipe(made, make, lambda gone: _forget(noted, place, gone))
    return made


def _forget(noted: dict[int, Recipe], place: int, gone: Any) -> None:
    """A result is no more: its memory may become another tensor's."""
    if place in noted and noted[place].made is gone:
        del noted[place]


@contextmanager
def light() -> Iterator[None]:
    """Within, autograd saves recipes instead of results that were noted."""
    noted: dict[int, Recipe] = {}

    def pack(saved: Tensor) -> Any:
        recipe = noted.get(saved.data_ptr())
        if recipe is None or not recipe.covers(saved):
            return saved, saved._version
        recipe.uses += 1
        return recipe, saved.shape

    def unpack(packed: tuple[Any, Any]) -> Tensor:
        held, fact = packed
        if isinstance(held, Recipe):
            return held.take(fact)
        if held._version != fact:  # autograd leaves this to whoever packs
            raise RuntimeError('a tensor that the backward pass needs was changed in place')
        return held

    token = _noted.set(noted)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _noted.reset(token)


def install(body: nn.Module) -> list[RemovableHandle]:
    """Let every forward pass of ``body`` that learns be ``light``; returns the hooks that do it."""
    running: list[AbstractContextManager] = []

    def enter(module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            running.append(light())
            running[-1].__enter__()

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if torch.is_grad_enabled() and running:
            running.pop().__exit__(None, None, None)

    return [body.register_forward_pre_hook(enter), body.register_forward_hook(leave, always_call=True)]

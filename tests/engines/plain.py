"""A template of a few lines and an engine on it: what the tests of this folder share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from swift.core.types import Message, Request, Sampling
from swift.engines.native.engine import NativeEngine
from swift.engines.native.scheduler import Limits
from tests import tiny

STOP = 2  # <|im_end|> of the tiny tokenizer
TEXTS = [
    'Hi',
    'The quick brown fox jumps over the lazy dog and more',
    'What is the capital of France?',
    '你是谁',
    'def add(a',
]


class PlainTemplate:
    """ChatML by the tokenizer's own means."""

    fingerprint = 'plain'
    stop_ids = (STOP,)

    def __init__(self) -> None:
        self.tokenizer = tiny.tokenizer()

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[dict] = (), **kwargs) -> list[int]:
        turns = [{'role': message.role, 'content': message.content} for message in messages]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True)['input_ids']

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def prompts() -> list[list[int]]:
    tokenizer = tiny.tokenizer()
    return [tokenizer(text)['input_ids'] for text in TEXTS]


@contextlib.contextmanager
def engine(
    model, *, stop_ids=(STOP,), max_model_len: int = 256, decode=None, guessing=True, tokenizer=None, **limits
) -> Iterator[NativeEngine]:
    """An engine that is closed at the end of the test."""
    made = NativeEngine(
        model,
        decode=decode or PlainTemplate().decode,
        stop_ids=stop_ids,
        tokenizer=tokenizer,
        limits=Limits(max_model_len=max_model_len, **limits),
        seed=0,
        guessing=guessing,
    )
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def held(model, passes: int) -> Iterator[Callable[[], None]]:
    """A model that waits after so many forward passes until it is let go, however fast the machine is."""
    permits = threading.Semaphore(passes)

    def let_go() -> None:
        hook.remove()
        permits.release()  # the pass that waits already

    hook = model.get_input_embeddings().register_forward_pre_hook(lambda *_: permits.acquire() and None)
    try:
        yield let_go
    finally:
        let_go()


def ask(engine: NativeEngine, prompts: Sequence[Sequence[int]], *samplings: Sampling, adapter=None) -> list[list[int]]:
    """The token ids of the first choice for every prompt, all asked at once."""
    many = samplings if len(samplings) == len(prompts) else samplings * len(prompts)
    streams = [
        engine.stream(Request(f'{i}', tuple(prompt), sampling, adapter))
        for i, (prompt, sampling) in enumerate(zip(prompts, many, strict=True))
    ]
    return [[id for piece in stream if piece.index == 0 for id in piece.ids] for stream in streams]


def reference(model, prompt: Sequence[int], count: int, **options) -> list[int]:
    """What transformers itself generates."""
    import torch

    ids = torch.tensor([list(prompt)])
    options = {'do_sample': False, 'eos_token_id': STOP, 'pad_token_id': 0, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)[
        0, len(prompt) :
    ].tolist()

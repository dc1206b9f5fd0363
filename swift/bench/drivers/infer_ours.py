"""The native engine."""

import threading
import time

from watch import answered, begin

started = time.monotonic()
job, events = begin()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from swift.core.types import Request, Sampling  # noqa: E402
from swift.engines.native.engine import NativeEngine  # noqa: E402
from swift.engines.native.scheduler import Limits  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=torch.bfloat16)
limits = Limits(max_model_len=2048, max_batch_size=max(16, len(job['prompts'])))
engine = NativeEngine(model, decode=lambda ids: '', limits=limits, guessing=job['options']['guessing'])


def answer(prompts, count):
    """Ids and times of every answer, by a thread each."""
    start = time.perf_counter()
    found = [([], []) for _ in prompts]
    streams = [
        engine.stream(Request(f'{count}.{i}', tuple(prompt), Sampling(max_tokens=count)))
        for i, prompt in enumerate(prompts)
    ]

    def read(stream, ids, times):
        for piece in stream:
            ids += piece.ids
            times += [time.perf_counter() - start] * len(piece.ids)

    threads = [threading.Thread(target=read, args=(each, *to)) for each, to in zip(streams, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


answer(job['prompts'][:1], job['warm_tokens'])
answered(events, job, answer, ready=time.monotonic() - started)

"""The native engine."""

import threading
import time

from watch import answered, begin

started = time.monotonic()
job, events = begin()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from swift.core.types import Piece, Request, Sampling  # noqa: E402
from swift.engines.native.engine import NativeEngine  # noqa: E402
from swift.engines.native.scheduler import Limits  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=torch.bfloat16)
limits = Limits(max_model_len=2048, max_batch_size=max(16, len(job['prompts'])))
engine = NativeEngine(model, decode=lambda ids: '.' * len(ids), limits=limits, guessing=job['options']['guessing'])


def answer(prompts, count):
    """Ids and times of every answer, as the engine delivers them."""
    start = time.perf_counter()
    found = [([], []) for _ in prompts]
    ended = threading.Semaphore(0)

    def deliver_to(ids, times):
        def deliver(item):
            if isinstance(item, Piece):
                ids.extend(item.ids)
                times.extend([time.perf_counter() - start] * len(item.ids))
            else:
                ended.release()

        return deliver

    for i, (prompt, to) in enumerate(zip(prompts, found, strict=True)):
        request = Request(f'{count}.{i}', tuple(prompt), Sampling(max_tokens=count))
        engine.begin(request, deliver_to(*to))
    for _ in prompts:
        ended.acquire()
    return found


answer(job['prompts'][:1], job['warm_tokens'])
answered(events, job, answer, ready=time.monotonic() - started)

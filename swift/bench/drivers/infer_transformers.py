"""transformers: ``generate`` over one padded batch, or ``generate_batch`` with room for twice what is asked.

By itself ``generate_batch`` takes nine tenths of the memory, and its masks grow with what it takes.
"""

import time

from watch import answered, begin

PAGE, BATCH = 32, 2048  # tokens of a page, rows of a step
started = time.monotonic()
job, events = begin()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig  # noqa: E402
from transformers.generation import StoppingCriteria  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=torch.bfloat16).eval()


class Clock(StoppingCriteria):
    """Notes when each token of the batch was there."""

    def __init__(self):
        self.start, self.times = time.perf_counter(), []

    def __call__(self, ids, scores, **kwargs):
        self.times.append(time.perf_counter() - self.start)
        return torch.zeros(len(ids), dtype=torch.bool)


@torch.inference_mode()
def generate(prompts, count):
    clock, ids = Clock(), torch.tensor(prompts)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, min_new_tokens=count,
        eos_token_id=-1, pad_token_id=0, stopping_criteria=[clock],
    )  # fmt: skip
    return [(row[len(prompt) :], clock.times) for row, prompt in zip(out.tolist(), prompts, strict=True)]


def generate_batch(prompts, count):
    config = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
    pages = -(-(len(prompts[0]) + count) // PAGE)
    room = ContinuousBatchingConfig(page_size=PAGE, num_blocks=2 * pages * len(prompts), max_batch_tokens=BATCH)
    start = time.perf_counter()
    found = model.generate_batch(
        inputs=prompts, generation_config=config, continuous_batching_config=room, record_timestamps=True
    )
    return [(list(each.generated_tokens), [at - start for at in each.timestamps]) for each in found.values()]


answer = {'generate': generate, 'generate_batch': generate_batch}[job['options']['way']]
answer(job['prompts'][:1], job['warm_tokens'])
answered(events, job, answer, ready=time.monotonic() - started)

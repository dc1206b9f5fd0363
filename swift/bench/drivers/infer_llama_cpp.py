"""llama.cpp through llama-cpp-python: all sequences in one batch, as its own server decodes its slots."""

import time

from watch import answered, begin

BATCH = 2048  # rows of a call, its own default
started = time.monotonic()
job, events = begin(torch=False)

import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402

streams = len(job['prompts'])
longest = len(job['prompts'][0]) + job['new_tokens'] + 8

settings = llama_cpp.llama_model_default_params()
settings.use_extra_bufts = False  # else its AMX kernels, for quantised weights only, end some machines with SIGILL
model = llama_cpp.llama_model_load_from_file(job['gguf'].encode(), settings)
words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
shape = llama_cpp.llama_context_default_params()
shape.n_ctx, shape.n_seq_max, shape.n_batch = longest * streams, streams, BATCH
shape.n_threads = shape.n_threads_batch = job['threads']
context = llama_cpp.llama_init_from_model(model, shape)
assert context, 'llama.cpp gives no context; its own words are above'
batch = llama_cpp.llama_batch_init(BATCH, 0, 1)


def answer(prompts, count):
    """Ids and times of every answer: the prompts first, as many as fit into a call, then a token each at a time."""
    start = time.perf_counter()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    found = [([], []) for _ in prompts]
    rows = [
        (id, at, sequence, at == len(prompt) - 1)
        for sequence, prompt in enumerate(prompts)
        for at, id in enumerate(prompt)
    ]
    for first in range(0, len(rows), BATCH):
        decode(rows[first : first + BATCH], found, start)
    for step in range(1, count):
        at = len(prompts[0]) + step - 1
        decode([(ids[-1], at, sequence, True) for sequence, (ids, _) in enumerate(found)], found, start)
    return found


def decode(rows, found, start):
    """Compute rows of (token, position, sequence, whether the next token is wanted), and take the likeliest."""
    batch.n_tokens = len(rows)
    for i, (id, at, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, at, 1, wanted
        batch.seq_id[i][0] = sequence
    code = llama_cpp.llama_decode(context, batch)
    assert code == 0, f'llama_decode gave {code}'
    for i, (_, _, sequence, wanted) in enumerate(rows):
        if wanted:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (words,))
            found[sequence][0].append(int(logits.argmax()))
    now = time.perf_counter() - start
    for _, _, sequence, wanted in rows:
        if wanted:
            found[sequence][1].append(now)


answer(job['prompts'][:1], job['warm_tokens'])
answered(events, job, answer, ready=time.monotonic() - started)

"""vLLM's own engine, without its server."""

import os
import time

from watch import answered, begin

MEMORY = 0.25  # of the machine, for keys and values: its own default refuses a machine that is not empty
started = time.monotonic()


def main():
    job, events = begin()
    cores = sorted(os.sched_getaffinity(0))[: job['threads']]
    os.environ['VLLM_CPU_OMP_THREADS_BIND'] = ','.join(map(str, cores))  # by itself it leaves a core to its scheduler

    from vllm import LLM, SamplingParams

    longest = len(job['prompts'][0]) + job['new_tokens'] + 8
    llm = LLM(
        job['model'], dtype='bfloat16', max_model_len=max(512, longest), max_num_seqs=max(16, len(job['prompts'])),
        enable_prefix_caching=True, disable_log_stats=True, gpu_memory_utilization=MEMORY,
    )  # fmt: skip
    engine = llm.llm_engine

    def answer(prompts, count):
        start, times, ids = time.perf_counter(), {}, {}
        params = SamplingParams(temperature=0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False)
        for i, prompt in enumerate(prompts):
            engine.add_request(f'{count}.{i}:', {'prompt_token_ids': prompt}, params)
            times[f'{count}.{i}:'] = []  # vLLM puts words of its own behind it
        while engine.has_unfinished_requests():
            for output in engine.step():
                key = next(name for name in times if output.request_id.startswith(name))
                ids[key] = list(output.outputs[0].token_ids)
                new = len(ids[key]) - len(times[key])
                times[key] += [time.perf_counter() - start] * new
        return [(ids[key], times[key]) for key in times]

    answer(job['prompts'][:1], job['warm_tokens'])
    answered(events, job, answer, ready=time.monotonic() - started)


if __name__ == '__main__':  # vLLM starts processes that import this file
    main()

"""vLLM's own benchmark of servers: ``of_vllm_bench.py URL MODEL FOLDER``. Prints its numbers as JSON."""

import argparse
import json
import sys

from vllm.benchmarks.serve import add_cli_args, main

URL, MODEL, FOLDER = sys.argv[1:]
COMMON = ['--base-url', URL.removesuffix('/v1'), '--model', MODEL, '--tokenizer', FOLDER, '--dataset-name', 'random']
COMMON += ['--random-input-len', '32', '--random-output-len', '24', '--max-concurrency', '8', '--disable-tqdm']
RUNS = {
    'chat': ['--backend', 'openai-chat', '--endpoint', '/v1/chat/completions', '--num-prompts', '24'],
    'completions': ['--backend', 'openai', '--endpoint', '/v1/completions', '--num-prompts', '24', '--ignore-eos'],
}
SHOWN = ('completed', 'failed', 'total_output_tokens', 'output_throughput', 'mean_ttft_ms', 'p99_itl_ms')
found = {}
for name, words in RUNS.items():
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    numbers = main(parser.parse_args([*COMMON, *words, '--percentile-metrics', 'ttft,itl']))
    found[name] = {each: numbers.get(each) for each in SHOWN}
print(json.dumps(found))

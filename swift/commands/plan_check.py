"""How well ``swift plan`` predicts: each configuration is planned, then trained in a fresh process, and compared.

``python -m swift.commands.plan_check [FOLDER]`` prints the table of docs/plan.md. Models are random, of 20 to 200
million parameters; rows are sentences of several lengths. What is compared is the peak of resident memory (VmHWM) of a
run that begins with its largest micro-batch.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from swift.plan.report import GIB

STEPS = 16  # most of an epoch: what libraries keep for shapes that are new is there by then
WORDS = tuple(f'w{i}' for i in range(30_000))
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
MODELS: dict[str, dict[str, Any]] = {
    'llama 58M': {
        'model_type': 'llama', 'hidden_size': 512, 'intermediate_size': 1536, 'num_hidden_layers': 12,
        'num_attention_heads': 8, 'num_key_value_heads': 4, 'vocab_size': 32000,
    },
    'qwen3 140M, large vocabulary': {
        'model_type': 'qwen3', 'hidden_size': 512, 'intermediate_size': 1536, 'num_hidden_layers': 16, 'head_dim': 64,
        'num_attention_heads': 8, 'num_key_value_heads': 2, 'vocab_size': 151936, 'tie_word_embeddings': True,
    },
    'gemma2 45M': {
        'model_type': 'gemma2', 'hidden_size': 384, 'intermediate_size': 1536, 'num_hidden_layers': 10, 'head_dim': 64,
        'num_attention_heads': 6, 'num_key_value_heads': 2, 'vocab_size': 50000, 'sliding_window': 256,
    },
    'llama 130M, wide': {
        'model_type': 'llama', 'hidden_size': 1024, 'intermediate_size': 2816, 'num_hidden_layers': 8,
        'num_attention_heads': 16, 'num_key_value_heads': 4, 'vocab_size': 32000, 'tie_word_embeddings': True,
    },
    'llama 135M, deep': {
        'model_type': 'llama', 'hidden_size': 576, 'intermediate_size': 1536, 'num_hidden_layers': 30,
        'num_attention_heads': 9, 'num_key_value_heads': 3, 'vocab_size': 49152, 'tie_word_embeddings': True,
    },
}  # fmt: skip
LORA, FULL = '--tuner_type lora', '--tuner_type full'
QLORA = '--tuner_type lora --quant_method bnb --quant_bits 4'
CASES = (
    ('llama 58M', f'{LORA} --max_length 512 --max_tokens_per_batch 512'),
    ('llama 58M', f'{LORA} --max_length 1024 --max_tokens_per_batch 1024'),
    ('llama 58M', f'{LORA} --max_length 1024 --max_tokens_per_batch 2048'),
    ('llama 58M', f'{LORA} --max_length 1024 --max_tokens_per_batch 2048 --gradient_checkpointing true'),
    ('llama 58M', f'{LORA} --max_length 512 --max_tokens_per_batch 1024 --torch_dtype float32'),
    ('llama 58M', f'{LORA} --packing true --packing_length 1024 --max_length 1024 --lora_rank 32'),
    ('llama 58M', f'{FULL} --max_length 512 --max_tokens_per_batch 512'),
    ('llama 58M', f'{FULL} --max_length 1024 --max_tokens_per_batch 2048'),
    ('llama 58M', f'{FULL} --max_length 1024 --max_tokens_per_batch 1024 --torch_dtype float32'),
    ('llama 58M', f'{FULL} --max_length 1024 --max_tokens_per_batch 1024 --gradient_checkpointing true'),
    ('llama 58M', f'{QLORA} --max_length 512 --max_tokens_per_batch 1024'),
    ('llama 58M', f'{QLORA} --max_length 512 --max_tokens_per_batch 1024 --gradient_checkpointing true'),
    ('qwen3 140M, large vocabulary', f'{LORA} --max_length 512 --max_tokens_per_batch 512'),
    ('qwen3 140M, large vocabulary', f'{LORA} --max_length 1024 --max_tokens_per_batch 1024'),
    (
        'qwen3 140M, large vocabulary',
        f'{LORA} --max_length 512 --max_tokens_per_batch 512 --gradient_checkpointing true',
    ),
    ('qwen3 140M, large vocabulary', f'{FULL} --max_length 512 --max_tokens_per_batch 512'),
    ('qwen3 140M, large vocabulary', f'{QLORA} --max_length 512 --max_tokens_per_batch 512'),
    ('gemma2 45M', f'{LORA} --max_length 512 --max_tokens_per_batch 512'),
    ('gemma2 45M', f'{LORA} --max_length 512 --max_tokens_per_batch 1024 --gradient_checkpointing true'),
    ('gemma2 45M', f'{FULL} --max_length 512 --max_tokens_per_batch 512'),
    ('gemma2 45M', f'{FULL} --max_length 256 --max_tokens_per_batch 1024 --torch_dtype float32'),
    ('llama 130M, wide', f'{LORA} --max_length 512 --max_tokens_per_batch 512'),
    ('llama 130M, wide', f'{FULL} --max_length 512 --max_tokens_per_batch 512 --optim adamw_bf16'),
    ('llama 135M, deep', f'{LORA} --max_length 512 --max_tokens_per_batch 1024'),
    ('llama 135M, deep', f'{LORA} --max_length 1024 --max_tokens_per_batch 2048 --gradient_checkpointing true'),
    ('llama 135M, deep', f'{FULL} --max_length 512 --max_tokens_per_batch 512'),
    ('llama 135M, deep', f'{FULL} --max_length 512 --max_tokens_per_batch 1024 --gradient_checkpointing true'),
    ('llama 135M, deep', f'{QLORA} --max_length 512 --max_tokens_per_batch 1024'),
)
TRAIN = """
import sys
from swift.commands.sft import sft_main
from swift.plan import meter
sft_main(sys.argv[2:])
open(sys.argv[1], 'w').write(str(meter.read().peak))
"""
PLAN = 'import sys; from swift.commands.plan import plan_main; sys.exit(plan_main(sys.argv[1:]))'


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predicted and measured bytes of a case."""

    model: str
    flags: str
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def compare(folder: Path) -> Iterator[Comparison]:
    """Plan and train every case, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(folder / 'rows.jsonl')
    for number, (name, flags) in enumerate(CASES):
        model = folder / 'models' / name.replace(' ', '-').replace(',', '')
        if not model.is_dir():
            _write_model(model, MODELS[name])
        words = ['--model', str(model), '--dataset', str(rows), *flags.split(), '--max_steps', str(STEPS)]
        words += ['--output_dir', str(folder / f'runs/{number}'), '--gradient_accumulation_steps', '8']
        words += ['--report_to', 'none', '--lint', 'warn']
        planned = json.loads(_run([sys.executable, '-c', PLAN, *words, '--json', 'true'], codes=(0, 77)))
        result = folder / f'{number}.txt'
        words += ['--rehearse', 'true']  # a few steps may not meet the largest micro-batch
        _run([sys.executable, '-c', TRAIN, str(result), *words])
        yield Comparison(name, flags, planned['peak'], int(result.read_text()))


def table(found: list[Comparison]) -> Iterator[str]:
    """The comparison in Markdown."""
    yield '| model | flags | predicted GiB | measured GiB | error |'
    yield '|---|---|---:|---:|---:|'
    for each in found:
        sizes = f'{each.predicted / GIB:.2f} | {each.measured / GIB:.2f}'
        yield f'| {each.model} | `{each.flags}` | {sizes} | {each.error:+.1%} |'
    errors = [abs(each.error) for each in found]
    yield ''
    yield f'{len(errors)} configurations: mean error {sum(errors) / len(errors):.1%}, worst {max(errors):.1%}.'


def _rows(path: Path) -> Path:
    """Conversations with answers of 10 to 900 words, which are as frequent as Zipf's law has it."""
    draw, frequencies = random.Random(0), list(accumulate(1 / (1 + rank) for rank in range(len(WORDS))))
    with path.open('w', encoding='utf-8') as out:
        for _ in range(160):
            say = lambda count: ' '.join(draw.choices(WORDS, cum_weights=frequencies, k=count))
            question, answer = say(draw.randrange(5, 30)), say(draw.choice((10, 40, 90, 180, 240, 400, 900)))
            messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
            out.write(json.dumps({'messages': messages}) + '\n')
    return path


def _write_model(folder: Path, config: dict[str, Any]) -> None:
    """A complete folder with random weights in bfloat16; words are tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ['<unk>', '</s>', 'user', 'assistant', ':', '\n', *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='<unk>'))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token='<unk>', eos_token='</s>', pad_token='</s>')
    tokenizer.chat_template = TEMPLATE
    made = AutoConfig.for_model(**config, bos_token_id=1, eos_token_id=1, pad_token_id=1)
    AutoModelForCausalLM.from_config(made, dtype='bfloat16').save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _run(command: list[str], codes: tuple[int, ...] = (0,)) -> str:
    """Output of a command. Raises RuntimeError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(f'{" ".join(command[3:])}: {done.stderr[-2000:]}')
    return done.stdout


def main(folder: str | None = None) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temp:
        found = []
        for each in compare(Path(folder or temp)):
            found.append(each)
            print(f'{each.error:+7.1%}  {each.model}  {each.flags}', file=sys.stderr, flush=True)
    print('\n'.join(table(found)))


if __name__ == '__main__':
    main(*sys.argv[1:2])

"""The main job of yichuidingyin.sh: fine-tune a small real model in a few minutes and show what it has learned.

    python -m swift.commands.first_run [--interactive] [--model_name 小锤 Hammer] [--seconds 270] ...

It measures how many tokens a second this machine trains, so that the tokens, not the rows, are what the time allows;
asks the model the same questions before and after; and ends with the commands to go on. What it trains with is one
ordinary `swift sft` command line, which it prints.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.core.errors import Interrupted, SwiftError
from swift.core.table import side_by_side, table
from swift.plan.advise import Choice, Size, recommend
from swift.plan.hardware import busy, look

if TYPE_CHECKING:
    from torch import nn

MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct'
# Rows and the share of the tokens they get. Identity rows repeat; general rows keep the model from forgetting.
MIX = {'swift/self-cognition': 0.5, 'swift/facts': 0.15, 'swift/python-docs': 0.27, 'swift/chatterbot': 0.08}
TOKENS_PER_ROW = {'swift/self-cognition': 64, 'swift/facts': 70, 'swift/python-docs': 69, 'swift/chatterbot': 52}
ENOUGH = 45_000  # tokens after which the default model has learned who it is; more adds nothing to see
PACK = 512  # tokens of a step: little data wants many steps
RESERVE = 20  # seconds kept for loading and for the questions after training
LEAST = 60  # seconds that training may always take
CAUTION = 0.6  # part of the measured speed that is counted on: adapters, optimizer and packs of other lengths cost too
QUESTIONS = (
    'Who are you?',
    'Tell me who developed you.',
    'What is the capital of France?',
    '请问你是谁？',
    '是谁开发的你？',
    '中国的首都是哪座城市？',
)
SIZES = (('num_hidden_layers', 'n_layer'), ('hidden_size', 'n_embd'))  # names in config.json, new and old
LEARNING_RATE = {'lora': '1e-3', 'full': '5e-5'}

TEXTS = {
    'advice': ('What fits this machine, and why', '推荐配置与理由'),
    'before': ('Asking {model} before training', '训练前先问 {model} 几个问题'),
    'speed': (
        '{speed:.0f} tokens/s measured: {tokens} tokens in {steps} steps, about {minutes:.1f} minutes',
        '实测每秒 {speed:.0f} 个 token：训练 {tokens} 个 token，{steps} 步，约 {minutes:.1f} 分钟',
    ),
    'train': ('Training', '训练'),
    'late': (
        'The machine became slower; the time is up, and what was learned is kept.',
        '机器变慢，时间已到；已学到的内容都保留。',
    ),
    'answers': ('The same questions before (left) and after (right)', '同样的问题：训练前（左）与训练后（右）'),
    'done': ('Done in {minutes:.1f} minutes. Go on with:', '完成，用时 {minutes:.1f} 分钟。接下来：'),
    'chat': ('chat with it', '和它聊天'),
    'merge': ('merge it into a model of its own', '合并成独立的模型'),
    'more': ('teach it more', '用更多数据训练'),
    'ask_model': ('Model (id, folder or GGUF file)', '模型（id、文件夹或 GGUF 文件）'),
    'ask_dataset': ('Data (files or names, separated by spaces)', '数据（文件或名字，用空格分开）'),
    'ask_tuner_type': ('Method (lora, full)', '方法（lora、full）'),
    'ask_model_name': ('Name of the model (Chinese, then English)', '模型的名字（中文，然后英文）'),
    'ask_model_author': ('Its maker (Chinese, then English)', '作者的名字（中文，然后英文）'),
    'ask_seconds': ('Seconds for all of it', '总共多少秒'),
}
Say = Callable[..., str]


@dataclass(frozen=True)
class Job:
    """What is trained, on what, in what time. ``dataset`` empty means the shipped mix."""

    model: str = MODEL
    dataset: tuple[str, ...] = ()
    tuner_type: str = 'lora'
    model_name: tuple[str, ...] = ('小锤', 'Little Hammer')
    model_author: tuple[str, ...] = ('一锤定音', 'the Swift project')
    seconds: float = 270.0
    output_dir: str = 'output/first'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job. Returns the exit code."""
    job, language, interactive = _parse(argv)
    say = speaker(language)
    try:
        run(wizard(job, say) if interactive else job, say, language)
    except SwiftError as error:
        sys.stderr.write(f'\n{error}\n')
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def run(job: Job, say: Say, language: str = 'en') -> Path:
    """Advise, ask, train, ask again. Returns the checkpoint."""
    started = time.monotonic()
    machine = look()
    # Before torch is imported. Threads that share a core wait for each other and are slower than one alone.
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, machine.cores - busy())))
    size = measure(job.model)
    choices = recommend(machine, size, language, longest=PACK)
    _heading(say('advice'))
    _print(table([(choice.flag, choice.value, choice.reason) for choice in choices]))

    _heading(say('before', model=job.model))
    before, speed = _rehearse(job, choices)
    pack = int(_value(choices, 'packing_length'))
    left = job.seconds - (time.monotonic() - started) - RESERVE
    steps = plan_steps(speed, left, pack)
    print('  ' + say('speed', speed=speed, tokens=steps * pack, steps=steps, minutes=steps * pack / speed / 60))

    _heading(say('train'))
    words = command(job, choices, steps, pack)
    print(f'  swift sft {shlex.join(words)}\n', flush=True)
    checkpoint = _train(words, left, say)

    _heading(say('answers'))
    after = _answers(job, choices, checkpoint)
    _print(compare(QUESTIONS, before, after))
    _heading(say('done', minutes=(time.monotonic() - started) / 60))
    for purpose, line in next_commands(job, checkpoint, say):
        print(f'  {purpose}\n    {line}')
    return checkpoint


# ---------------------------------------------------------------------------------------------------- pure decisions
def plan_steps(speed: float, seconds: float, pack: int) -> int:
    """Packs of ``pack`` tokens that fit into ``seconds``, at least 4 and at most what is enough."""
    return max(4, min(int(speed * CAUTION * seconds), ENOUGH) // pack)


def command(job: Job, choices: Sequence[Choice], steps: int, pack: int) -> list[str]:
    """The flags of `swift sft` for this job: the tokens are capped by ``max_steps`` packs."""
    words = ['--model', job.model, '--dataset', *(job.dataset or mix(steps * pack))]
    words += ['--model_name', *job.model_name, '--model_author', *job.model_author]
    words += ['--tuner_type', job.tuner_type]
    if job.tuner_type == 'lora':
        words += ['--lora_rank', '16', '--lora_alpha', '32']
    words += ['--torch_dtype', _value(choices, 'torch_dtype')]
    words += ['--gradient_checkpointing', _value(choices, 'gradient_checkpointing')]
    if job.tuner_type == 'lora' and (bits := _value(choices, 'quant_bits')) != 'none':
        words += ['--quant_method', 'bnb', '--quant_bits', bits]
    words += ['--packing', 'true', '--packing_length', str(pack), '--packing_strategy', 'sequential']
    words += ['--max_length', str(pack)]
    words += ['--gradient_accumulation_steps', '1', '--max_steps', str(steps)]
    words += ['--learning_rate', LEARNING_RATE[job.tuner_type], '--warmup_ratio', '0.05', '--lora_dropout', '0']
    return [*words, '--report_to', 'none', '--output_dir', job.output_dir]


def mix(tokens: int) -> list[str]:
    """The shipped datasets with the rows that make up ``tokens``, a little more so that the last pack is full."""
    rows = {name: round(1.05 * tokens * share / TOKENS_PER_ROW[name]) for name, share in MIX.items()}
    return [f'{name}#{count}' for name, count in rows.items()]


def compare(questions: Iterable[str], before: Iterable[str], after: Iterable[str]) -> Iterator[str]:
    """Each question and its two answers in two columns."""
    for question, left, right in zip(questions, before, after, strict=True):
        yield f'  {_bold(question)}'
        yield from side_by_side(left, right)
        yield ''


def next_commands(job: Job, checkpoint: Path, say: Say) -> list[tuple[str, str]]:
    """The commands to go on, with what each is for."""
    swift = _shown(Path(sys.executable).with_name('swift'))
    last = shlex.quote(_shown(checkpoint.parent / 'last'))
    more = f'{swift} sft --model {job.model} --dataset swift/python-docs swift/facts your_rows.jsonl'
    if job.tuner_type == 'full':
        return [(say('chat'), f'{swift} infer --model {last}'), (say('more'), more)]
    return [
        (say('chat'), f'{swift} infer --adapters {last}'),
        (say('merge'), f'{swift} merge-lora --adapters {last}'),
        (say('more'), more),
    ]


def wizard(job: Job, say: Say) -> Job:
    """Ask for everything; an empty answer keeps what stands in brackets."""
    for spec in fields(job):
        if spec.name == 'output_dir':
            continue
        value = getattr(job, spec.name)
        default = shlex.join(value or mix(ENOUGH)) if isinstance(value, tuple) else value
        print(f'{say(f"ask_{spec.name}")} [{default}]: ', end='', flush=True)
        typed = sys.stdin.readline().strip()
        if typed:
            job = replace(job, **{spec.name: type(value)(shlex.split(typed) if isinstance(value, tuple) else typed)})
    return job


# ---------------------------------------------------------------------------------------------------- with the model
def measure(model: str) -> Size:
    """Parameters, layers and width of a model, without reading its weights."""
    from swift.models.args import ModelArgs
    from swift.models.info import describe, read_config, text_part

    info = describe(ModelArgs(model=model))
    config = text_part(read_config(info.path))
    layers, width = (config.get(new) or config.get(old) or 0 for new, old in SIZES)
    return Size(info.parameters or 0, layers, width)


def trained_per_second(model: nn.Module, tokens: int) -> float:
    """Tokens a second through forward and backward of frozen weights, as LoRA trains them: the better of two tries."""
    import torch

    embedding = model.get_input_embeddings()
    ids = torch.randint(0, embedding.num_embeddings, (1, tokens), device=embedding.weight.device)
    best = float('inf')
    for _ in range(2):
        start = time.perf_counter()
        inputs = embedding(ids).detach().requires_grad_()
        model(inputs_embeds=inputs, use_cache=False).logits.float().logsumexp(-1).sum().backward()
        best = min(best, time.perf_counter() - start)
    model.zero_grad(set_to_none=True)
    return tokens / best


def _rehearse(job: Job, choices: Sequence[Choice]) -> tuple[list[str], float]:
    """Answers of the untouched model, and the speed of training it."""
    from swift import TransformersEngine, models
    from swift.models.args import ModelArgs

    builder = models.load(ModelArgs(model=job.model, torch_dtype=_value(choices, 'torch_dtype')))
    model = builder.build()
    answers = _ask(TransformersEngine(replace(builder, build=lambda: model)))
    return answers, trained_per_second(model.requires_grad_(False), 512)


def _train(words: list[str], seconds: float, say: Say) -> Path:
    """Run `swift sft` and return its checkpoint. It stops when the time is up."""
    from swift.commands import configs, sft
    from swift.train import checkpoint

    config = configs.resolve('sft', words)
    clock = threading.Timer(max(seconds, LEAST), os.kill, (os.getpid(), signal.SIGTERM))
    clock.start()
    try:
        last = sft.main(config)
    except Interrupted as stopped:
        if clock.is_alive() or stopped.exit_code != 128 + signal.SIGTERM:
            raise
        print(f'\n  {say("late")}')
        last = checkpoint.resolve('last', Path(config.train.output_dir), weights_only=True)
    finally:
        clock.cancel()
    assert last is not None  # save_strategy is not "no"
    return last


def _answers(job: Job, choices: Sequence[Choice], checkpoint: Path) -> list[str]:
    """Answers of the trained model."""
    from swift import TransformersEngine

    model, adapters = (job.model, [checkpoint]) if job.tuner_type == 'lora' else (checkpoint, [])
    return _ask(TransformersEngine(model, adapters=adapters, torch_dtype=_value(choices, 'torch_dtype')))


def _ask(engine: Any) -> list[str]:
    """The likeliest answers to QUESTIONS. Closes the engine."""
    from swift import InferRequest, RequestConfig

    requests = [InferRequest(messages=[{'role': 'user', 'content': question}]) for question in QUESTIONS]
    responses = engine.infer(requests, RequestConfig(max_tokens=48, temperature=0), use_tqdm=False)
    engine.close()
    choices = [response.choices[0] for response in responses]
    return [
        choice.message.content.strip('\ufffd \n') + (' …' if choice.finish_reason == 'length' else '')
        for choice in choices
    ]


# ----------------------------------------------------------------------------------------------------------- words
def speaker(language: str) -> Say:
    """A function that says a text of TEXTS in a language."""
    return lambda key, **facts: TEXTS[key][language == 'zh'].format(**facts)


def _parse(argv: Sequence[str] | None) -> tuple[Job, str, bool]:
    parser = argparse.ArgumentParser(prog='yichuidingyin.sh', description='Fine-tune a small real model.')
    parser.add_argument('--language', choices=('en', 'zh'), default='en', help='language of what is printed')
    parser.add_argument('--interactive', action='store_true', help='ask instead of deciding')
    parser.add_argument('--model', default=Job.model, help='id, folder or GGUF file')
    parser.add_argument('--dataset', nargs='+', default=Job.dataset, help='files or names instead of the shipped mix')
    parser.add_argument('--tuner_type', choices=tuple(LEARNING_RATE), default=Job.tuner_type)
    parser.add_argument('--model_name', nargs='+', default=Job.model_name, help='its Chinese and its English name')
    parser.add_argument('--model_author', nargs='+', default=Job.model_author, help='its maker, likewise')
    parser.add_argument('--seconds', type=float, default=Job.seconds, help='time for all of it')
    parser.add_argument('--output_dir', default=Job.output_dir)
    given = vars(parser.parse_args(argv))
    language, interactive = given.pop('language'), given.pop('interactive')
    return Job(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}), language, interactive


def _value(choices: Sequence[Choice], flag: str) -> str:
    return next(choice.value for choice in choices if choice.flag == flag)


def _shown(path: Path) -> str:
    """A path relative to here where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _bold(text: str) -> str:
    colour = sys.stdout.isatty() and not os.environ.get('NO_COLOR')
    return f'\x1b[1m{text}\x1b[0m' if colour else text


def _heading(text: str) -> None:
    print(f'\n{_bold(text)}', flush=True)


def _print(lines: Iterable[str]) -> None:
    print('\n'.join(lines), flush=True)


if __name__ == '__main__':
    sys.exit(main())

"""swift infer: chat in the terminal, answer prompts, or answer a whole dataset.

engines.opening > Chat | prompts | dataset > terminal | jsonl (batch)
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.commands import configs
from swift.commands.batch import open_batch
from swift.commands.configs import InferConfig
from swift.commands.results import Results, rows_to_answer
from swift.core.errors import (
    ConfigError,
    DataError,
    NumericalError,
    RequestError,
    RowError,
    SwiftError,
    TemplateError,
)
from swift.core.log import say
from swift.engines.protocol import InferRequest, RequestConfig, printable

if TYPE_CHECKING:
    from swift.engines.api import ChatEngine

OF_A_ROW = (RequestError, RowError, TemplateError, NumericalError)  # errors that say nothing of the rows after


def infer_main(args: Any = None) -> list[dict[str, Any]]:
    """Answer as ``swift infer`` does.

    Args:
        args: an argument list, a configuration or InferArguments, or None for the command line.

    Returns:
        The rows that were answered: those of the result file for a dataset, one per prompt otherwise.
    """
    return main(configs.resolve('infer', args))


def main(cfg: InferConfig) -> list[dict[str, Any]]:
    """Open the engine and answer what there is: a dataset, prompts, standard input, or somebody at the terminal."""
    prompts = None if cfg.data.val_dataset or cfg.data.dataset else _prompts(cfg)
    if cfg.model.task_type not in (None, 'causal_lm'):
        from swift.commands import score as heads

        return heads.main(cfg, prompts)
    from swift.engines.opening import open_chat

    engine = open_chat(cfg)
    try:
        if cfg.engine.images and engine.blind is not None:
            raise ConfigError(f'--images: {engine.blind}')
        if cfg.data.val_dataset or cfg.data.dataset:
            return answer_dataset(engine, cfg)
        if prompts is not None:
            return answer_prompts(engine, cfg, prompts)
        return chat(engine, cfg)
    finally:
        engine.close()


def request_config(cfg: InferConfig) -> RequestConfig:
    """How to answer, by the flags."""
    generation = cfg.generation
    return RequestConfig(
        max_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_k=generation.top_k,
        top_p=generation.top_p,
        min_p=generation.min_p,
        repetition_penalty=generation.repetition_penalty,
        num_beams=generation.num_beams,
        presence_penalty=generation.presence_penalty,
        frequency_penalty=generation.frequency_penalty,
        stop=list(generation.stop_words),
        structured_outputs_regex=generation.structured_outputs_regex,
        seed=generation.seed,
        stream=bool(generation.stream),
        logprobs=generation.logprobs,
        top_logprobs=generation.top_logprobs,
    )


# ------------------------------------------------------------------------------------------------ chat and prompts
def chat(engine: ChatEngine, cfg: InferConfig) -> list[dict[str, Any]]:
    """Talk with the user. With --result_path every answer is kept there."""
    from swift.engines.terminal import Chat

    rows: list[dict[str, Any]] = []

    def keep(messages: list[dict[str, Any]], answer: str) -> None:
        rows.append(_row(answer, None, None, messages))
        _keep(cfg, rows[-1:])

    Chat(engine, request_config(cfg), images=cfg.engine.images, keep=keep).run()
    return rows


def _keep(cfg: InferConfig, rows: list[dict[str, Any]]) -> None:
    """Conversations are private: they are written only where --result_path says."""
    if cfg.engine.result_path:
        with Results(Path(cfg.engine.result_path), 1) as results:
            for row in rows:
                results.add(row)


def answer_prompts(engine: ChatEngine, cfg: InferConfig, prompts: list[str]) -> list[dict[str, Any]]:
    """Answer each prompt on standard output: as it grows in a terminal, else together."""
    config = request_config(cfg)
    images = list(cfg.engine.images)
    requests = [InferRequest([{'role': 'user', 'content': prompt}], images=images) for prompt in prompts]
    streaming = sys.stdout.isatty() if cfg.generation.stream is None else cfg.generation.stream
    streaming = streaming and cfg.generation.num_beams == 1
    if streaming:
        rows = [_row(_streamed(engine.stream(request, config)), None, None, request.messages) for request in requests]
    else:
        rows = []
        for request, response in zip(requests, engine.infer(requests, replace(config, stream=False)), strict=True):
            choice = response.choices[0]
            say(choice.message.content)
            rows.append(_row(choice.message.content, None, choice.logprobs, request.messages))
    _keep(cfg, rows)
    return rows


def _streamed(chunks: Iterator[Any]) -> str:
    """Print an answer as it grows, and return it."""
    text = ''
    for chunk in chunks:
        piece = chunk.choices[0].delta.content or ''
        print(piece, end='', flush=True)
        text += piece
    print()
    return text


def _prompts(cfg: InferConfig) -> list[str] | None:
    """The prompts of --prompt or of standard input; None when somebody sits at the terminal."""
    if cfg.engine.prompt:
        return cfg.engine.prompt
    if sys.stdin is None or sys.stdin.isatty():
        return None
    text = sys.stdin.read().strip()
    if not text:
        raise ConfigError('nothing to answer: standard input is empty; give --prompt, --val_dataset, or a terminal')
    return [text]


# --------------------------------------------------------------------------------------------------------- dataset
def answer_dataset(engine: ChatEngine, cfg: InferConfig) -> list[dict[str, Any]]:
    """Answer every row and write the answers, in order, to a jsonl file; a batch that was stopped goes on.

    Raises:
        DataError: after all rows: some could not be answered. They are in the file with their error.
        SwiftError: the engine cannot answer any more; what was answered is in the file.
    """
    dataset, total = rows_to_answer(cfg)
    batch = open_batch(cfg, dataset, total)
    started, first = time.monotonic(), len(batch.earlier)
    rows = batch.write(_answered(engine, cfg, dataset, range(first, total)), 'answers')
    seconds = time.monotonic() - started
    tokens, failed = engine.engine.stats()['answer_tokens'], [row for row in rows if 'error' in row]
    answered = sum('error' not in row for row in rows[first:])
    say(f'{answered} answers, {tokens:.0f} tokens in {seconds:.1f} s ({tokens / seconds:.1f} tokens/s)')
    if cfg.engine.metric:
        say(', '.join(f'{name} {value:.4f}' for name, value in score(cfg.engine.metric, rows).items()))
    if failed:
        raise DataError(f'{len(failed)} of {total} rows could not be answered; the first: {failed[0]["error"]}')
    return rows


def _answered(engine: ChatEngine, cfg: InferConfig, dataset: Any, places: range) -> Iterator[dict[str, Any]]:
    """The result of the rows at ``places``, in order. Rows are read while others are answered."""
    config = replace(request_config(cfg), stream=False)
    under_way: deque[dict[str, Any]] = deque()  # rows without their answers; those that cannot be read have an error

    def asked() -> Iterator[tuple[InferRequest, RequestConfig]]:
        for i in places:
            try:
                row = dataset[i]
            except RowError as error:
                under_way.append({**_row(None, None, None, []), 'error': str(error)})
                continue
            request, labels = _request(row)
            shown = {'images': printable(request.images)} if request.images else {}
            under_way.append({**_row(None, labels, None, request.messages), **shown})
            yield request, config if config.seed is None else replace(config, seed=config.seed + i)

    for response in engine.answers(asked()):
        while 'error' in under_way[0]:
            yield under_way.popleft()
        row = under_way.popleft()
        if isinstance(response, SwiftError) and not isinstance(response, OF_A_ROW):
            raise response  # of the engine: the next rows would only fail as well
        if isinstance(response, Exception):
            yield {**row, 'error': f'{type(response).__name__}: {response}'}
        else:
            choice = response.choices[0]
            yield {**row, **_row(choice.message.content, row['labels'], choice.logprobs, row['messages'])}
    yield from under_way


def _request(row: dict[str, Any]) -> tuple[InferRequest, Any]:
    """A standard row as a request, and the answer that it has itself."""
    messages = list(row['messages']) if 'messages' in row else [{'role': 'user', 'content': row['text']}]
    labels = InferRequest.remove_response(messages)
    media = {name: row.get(name) or [] for name in ('images', 'videos', 'audios')}
    kwargs = row.get('chat_template_kwargs') or {}
    return InferRequest(messages, tools=row.get('tools'), chat_template_kwargs=kwargs, **media), labels


def _row(response: str | None, labels: Any, logprobs: Any, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of the result file."""
    said = [] if response is None else [{'role': 'assistant', 'content': response}]
    return {'response': response, 'labels': labels, 'logprobs': logprobs, 'messages': [*messages, *said]}


def score(metric: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Agreement of the answers with the data's own, over the rows that have one."""
    from swift.engines.score import METRICS

    pairs = [(row['response'] or '', row['labels']) for row in rows if isinstance(row['labels'], str)]
    if not pairs:
        raise ConfigError(f'--metric {metric}: no row of the data has an answer to compare with')
    return METRICS[metric]([answer for answer, _ in pairs], [wanted for _, wanted in pairs])

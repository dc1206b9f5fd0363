"""What a model is asked when two forms of it are compared: built-in prompts, and rows of the run's own data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from swift import templates
from swift.core.errors import RowError
from swift.core.types import Message, ModelInfo, Origin, Template
from swift.data.convert import convert
from swift.templates.args import TemplateArgs

ROWS = 8  # of the run's evaluation data
PAIRS = (
    ('Who are you?', 'I am an assistant. I answer questions, write texts and explain how things work.'),
    ('What is the capital of France?', 'The capital of France is Paris, on the river Seine.'),
    ('你是谁？', '我是一个人工智能助手，可以回答问题、撰写文章、解释知识。'),
    ('把“早上好”翻译成英文。', '“早上好”的英文是 "Good morning"。'),
    ('What is 17 * 23?', '17 * 23 = 17 * 20 + 17 * 3 = 340 + 51 = 391.'),
    (
        'Write a Python function that reverses a string.',
        'def reverse(text: str) -> str:\n    """Return text backwards."""\n    return text[::-1]',
    ),
    (
        'Explain photosynthesis briefly.',
        'Plants use light, water and carbon dioxide to make sugar; oxygen is set free on the way.',
    ),
    ('List three primes above 10.', '1. 11\n2. 13\n3. 17'),
    ('Return a JSON object with a name and an age.', '{"name": "Ada", "age": 36}'),
    ('Continue: once upon a time', 'there was a small village at the edge of a wide, dark forest.'),
)


def make(tokenizer: Any, info: ModelInfo, args: TemplateArgs, *, rows: Path | None = None) -> list[list[int]]:
    """Token ids of whole conversations, prompt and answer.

    Args:
        rows: a run's ``val_dataset.jsonl``; rows that cannot be read are passed over, it is only a sample.
    """
    template = templates.make(tokenizer, info, args)
    out = list(islice(_encoded(template, rows), ROWS)) if rows is not None and rows.is_file() else []
    for question, answer in PAIRS:
        ids = template.prompt([Message('user', question)])
        out.append([*ids, *tokenizer(answer, add_special_tokens=False)['input_ids']])
    return out


def _encoded(template: Template, rows: Path) -> Iterator[list[int]]:
    with rows.open(encoding='utf-8') as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = convert(json.loads(line), Origin(str(rows), number))
                yield from (encoded.input_ids.tolist() for encoded in template.encode(sample))
            except (RowError, ValueError):
                continue

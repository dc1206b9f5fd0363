"""Reasoning before the answer: how a row's reasoning reaches the template, and the switches of hybrid models.

A row brings its reasoning as ``Message.reasoning`` or inside the content (``<think>...</think>answer``). A template
reads one field of the message (``reasoning_content`` or ``thinking``), cuts the content itself, or knows no reasoning.
It gets what it understands; what it strips afterwards is trained as rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from swift.core.types import Message
from swift.templates.args import TemplateArgs
from swift.templates.jinja import Source

# What opens and closes reasoning, in the templates of real models.
TAGS = (
    ('<think>', '</think>'),
    ('<thinking>', '</thinking>'),
    ('<thought>', '</thought>'),
    ('<reasoning>', '</reasoning>'),
    ('<seed:think>', '</seed:think>'),
    ('<think:opensource>', '</think:opensource>'),
    ('<|open|>think<|sep|>', '<|close|>think<|sep|>'),
    ('<mm:think>', '</mm:think>'),
    ('[THINK]', '[/THINK]'),
    ('<|START_THINKING|>', '<|END_THINKING|>'),
    ('<|channel>thought\n', '<channel|>'),
    ('<|inner_prefix|>', '<|inner_suffix|>'),
    ('<|begin_of_thought|>', '<|end_of_thought|>'),
    ('◁think▷', '◁/think▷'),
)
# What stands in templates that put such a tag together.
_BUILT = {'<think:opensource>': '<think{}>', '<|open|>think<|sep|>': "open_tag('think'"}
# Granite says them in plain words.
SPOKEN = ('Here is my thought process:', 'Here is my response:')
_CLOSED = re.compile('|'.join(re.escape(close) for _, close in TAGS) + r'|</seed:cot_budget_reflect>')
_OPENED = re.compile('(?:' + '|'.join(re.escape(open.strip()) for open, _ in TAGS) + r')\s*\Z')
_INLINE = re.compile(r'\s*<think>(.*?)</think>\s*', re.DOTALL)
_FIELDS = frozenset({'reasoning_content', 'reasoning', 'thinking', 'thought'})


def fields(source: Source) -> frozenset[str]:
    """The fields of a message from which the template reads its reasoning."""
    return frozenset(source.keys & _FIELDS)


def in_blocks(source: Source) -> bool:
    """True if reasoning is a part of the content, ``{'type': 'thinking', 'thinking': ...}``, as with Mistral."""
    return 'thinking' in source.types


def placed(message: Message, *, apart: bool, moves: bool) -> tuple[str, str | None]:
    """Content and reasoning of ``message`` as the template wants them.

    Args:
        apart: the template takes reasoning apart from the content.
        moves: reasoning in the content is to be taken out of it.
    """
    content, reasoning = message.content, message.reasoning
    if message.role != 'assistant':
        return content, None
    if reasoning is None and moves and (inline := _INLINE.match(content)):
        return content[inline.end() :], inline.group(1).strip('\n')
    if reasoning is not None and not apart:
        return f'<think>\n{reasoning}\n</think>\n\n{content}', None
    return content, reasoning


def after_empty_thinking(written: str) -> int:
    """Where ``written``, the template's words before an answer, gets past thinking that it closed itself; else 0."""
    closed = [found.end() for found in _CLOSED.finditer(written)]
    return len(written) - len(written[closed[-1] :].lstrip()) if closed else 0


def is_tag(word: str) -> bool:
    """True for the opening or closing tag of thinking."""
    return any(word in (open.strip(), close) for open, close in TAGS)


def opens(written: str) -> bool:
    """True if ``written``, the template's words before an answer, leaves thinking open."""
    return bool(_OPENED.search(written))


def spoken(source: Source) -> tuple[tuple[str, str], ...]:
    """What opens and closes reasoning in the answers of a model with this template."""
    known = [(open.strip(), close.strip()) for open, close in (*TAGS, SPOKEN)]
    text = source.text
    return tuple(tags for tags in known if any(tag in text for tag in tags) or _BUILT.get(tags[0], tags[0]) in text)


def opened(prompt: str, tags: Iterable[tuple[str, str]]) -> str:
    """The one of ``tags`` that opens the reasoning at the end of a prompt, or ''."""
    return next((open for open, _ in tags if prompt.rstrip().endswith(open)), '')


def without_opening(prompt: str) -> str:
    """A generation prompt without the tag by which it opens the thinking, or opens and closes it."""
    prompt = _OPENED.sub('', prompt)
    for closed in _CLOSED.finditer(prompt):
        if not prompt[closed.end() :].strip():
            return _OPENED.sub('', prompt[: closed.start()])
    return prompt


def variables(args: TemplateArgs, source: Source) -> dict[str, Any]:
    """What the flags tell the template."""
    told: dict[str, Any] = {}
    if args.enable_thinking is not None:
        told['enable_thinking'] = args.enable_thinking
        if 'thinking' in source.variables:
            told['thinking'] = args.enable_thinking
    if args.preserve_thinking is not None:
        told['preserve_thinking'] = args.preserve_thinking
        if 'clear_thinking' in source.variables:
            told['clear_thinking'] = not args.preserve_thinking
    return told


def unheard(args: TemplateArgs, source: Source) -> Iterator[str]:
    """Flags that this template does not listen to, each as a sentence for the first lines of the run."""
    if args.enable_thinking is not None and not source.variables & {'enable_thinking', 'thinking'}:
        yield f'--enable_thinking: {source.name} has no such switch; it renders as it always does'
    if args.preserve_thinking is not None and not source.variables & {'preserve_thinking', 'clear_thinking'}:
        yield f'--preserve_thinking: {source.name} decides by itself which earlier thinking it keeps'
    if not args.add_non_thinking_prefix:
        yield f'--add_non_thinking_prefix false: {source.name} decides by itself; what it adds is never trained'


def says_something(message: Message) -> bool:
    """True if an answer holds more than reasoning, which templates may strip."""
    return bool(message.tool_calls or answer(message))


def answer(message: Message) -> str:
    """What a message says beside reasoning in its content and blanks around."""
    return _INLINE.sub('', message.content, count=1).strip()

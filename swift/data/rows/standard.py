"""The way back: a Sample as the standard messages row, which ``convert`` reads to the same Sample again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.core.types import Message, Sample


def to_row(sample: Sample) -> dict[str, Any]:
    """A Sample as ``{"messages": [...], ...}``, or ``{"text": ...}`` for a document."""
    row: dict[str, Any] = {'text': sample.text} if sample.text is not None else {'messages': to_turns(sample.messages)}
    if sample.rejected is not None:
        row['rejected_messages'] = to_turns(sample.rejected)
    for name, conversations in (('positive_messages', sample.positives), ('negative_messages', sample.negatives)):
        if conversations:
            row[name] = [to_turns(each) for each in conversations]
    if sample.steps:
        row['completions'] = list(sample.steps)
        row['prompt'] = row.pop('messages')
    if sample.tools:
        row['tools'] = list(sample.tools)
    for name, value in (('label', sample.label), ('margin', sample.margin), ('channel', sample.channel)):
        if value is not None:
            row[name] = value
    if sample.template_kwargs:
        row['chat_template_kwargs'] = dict(sample.template_kwargs)
    for name, values in sample.media.items():
        row[name] = values[0] if name.endswith('objects') and len(values) == 1 else list(values)
    return {**sample.extra, **row}


def to_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form, with ``loss`` or ``loss_scale`` where a turn has its own weight."""
    return [_turn(each) for each in messages]


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {'role': message.role, 'content': message.content}
    if message.loss is not None:
        turn |= {'loss': bool(message.loss)} if message.loss in (0.0, 1.0) else {'loss_scale': message.loss}
    if message.reasoning is not None:
        turn['reasoning_content'] = message.reasoning
    if message.name is not None:
        turn['name'] = message.name
    if message.tool_calls:
        turn['tool_calls'] = [
            {
                **({'id': call.id} if call.id is not None else {}),
                'type': 'function',
                'function': {'name': call.name, 'arguments': call.arguments},
            }
            for call in message.tool_calls
        ]
    return turn

"""Conversations: a list of turns in any of the ways people write one, as a tuple of Messages.

Understood: ``role``/``content`` (OpenAI, with content blocks and ``tool_calls``; Anthropic, with ``tool_use`` and
``tool_result`` blocks), ``from``/``value`` (sharegpt), ``role``/``text``, ``[{"human": ..., "assistant": ...}]``, the
roles ``tool_call`` and ``tool_response``, and per turn ``loss`` or ``loss_scale``. Pictures and the like become tags in
the text and entries of ``media``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swift.core.errors import RowError, did_you_mean
from swift.core.types import PICTURE, Message, ToolCall
from swift.data.rows import fields

CALL = 'tool_call'  # becomes part of an assistant message
ROLES = {
    'system': 'system',
    'developer': 'system',
    'user': 'user',
    'human': 'user',
    'prompter': 'user',
    'assistant': 'assistant',
    'gpt': 'assistant',
    'bot': 'assistant',
    'model': 'assistant',
    'chatgpt': 'assistant',
    'tool': 'tool',
    'tool_response': 'tool',
    'observation': 'tool',
    'function': 'tool',
    'ipython': 'tool',
    'tool_call': CALL,
    'function_call': CALL,
}
MEDIA_BLOCKS = {  # block type -> (column, tag in the text)
    'image': ('images', PICTURE),
    'image_url': ('images', PICTURE),
    'input_image': ('images', PICTURE),
    'video': ('videos', '<video>'),
    'video_url': ('videos', '<video>'),
    'audio': ('audios', '<audio>'),
    'audio_url': ('audios', '<audio>'),
    'input_audio': ('audios', '<audio>'),
}
TEXT_BLOCKS = ('text', 'input_text', 'output_text')

Media = dict[str, list[Any]]


def conversation(value: Any, what: str, media: Media) -> tuple[Message, ...]:
    """The turns in ``value``; media found in content blocks is added to ``media``.

    Args:
        what: the column's name, for messages.

    Raises:
        RowError: naming the turn and what is wrong with it.
    """
    turns = fields.array(value, what)
    if not turns:
        raise RowError(f'empty messages: {what} has no turns')
    out: list[Message] = []
    for i, turn in enumerate(turns):
        turn = fields.mapping(turn, f'{what}[{i}]')
        if 'human' in turn and 'assistant' in turn:
            for role, key in (('user', 'human'), ('assistant', 'assistant')):
                out.append(Message(role, fields.text(turn[key], f'{what}[{i}].{key}')))
        else:
            _extend(out, turn, f'{what}[{i}]', media)
    return tuple(out)


def _extend(out: list[Message], turn: Mapping[str, Any], what: str, media: Media) -> None:
    """Append the message or messages that one turn stands for."""
    role = _role(turn, what)
    content = turn.get('content', turn.get('value', turn.get('text')))
    weight = _loss(turn, what)
    if role == CALL:
        calls = tuple(_calls(content, what))
        if out and out[-1].role == 'assistant' and out[-1].loss == weight:
            out[-1] = replace(out[-1], tool_calls=out[-1].tool_calls + calls)
        else:
            out.append(Message('assistant', '', loss=weight, tool_calls=calls))
        return
    found = _content(content, role, what, media)
    calls = tuple(_calls(turn['tool_calls'], f'{what}.tool_calls')) if turn.get('tool_calls') else ()
    reasoning = next((turn[key] for key in ('reasoning_content', 'reasoning', 'thinking') if turn.get(key)), None)
    if reasoning is not None:
        found.reasoning.insert(0, fields.text(reasoning, f'{what}.reasoning_content'))
    for result, id in found.results:
        text, name = result.text or '', _call_name(out, id)
        out.append(Message('tool', text, loss=weight, name=name, pictures=tuple(result.pictures)))
    calls += tuple(found.calls)
    if found.text is None and not calls and not found.reasoning:
        if found.results:
            return
        raise RowError(f'missing content: {what} ({role}) has no content')
    name = turn.get('name') or (_call_name(out, turn.get('tool_call_id')) if role == 'tool' else None)
    out.append(
        Message(
            role,
            found.text or '',
            loss=weight,
            reasoning='\n'.join(found.reasoning) or None,
            tool_calls=calls,
            name=name if name is None else fields.text(name, f'{what}.name'),
            pictures=tuple(found.pictures),
        )
    )


def _role(turn: Mapping[str, Any], what: str) -> str:
    given = turn.get('role', turn.get('from'))
    if given is None:
        keys = ', '.join(map(str, turn)) or 'none'
        raise RowError(f'missing role: {what} has neither role nor from (its keys: {keys})')
    if isinstance(given, str) and given in ROLES:
        return ROLES[given]
    hint = did_you_mean(given, ROLES) if isinstance(given, str) else ''
    raise RowError(f'unknown role: {what} has role {fields.shown(given)}{hint} Known: {", ".join(ROLES)}')


def _loss(turn: Mapping[str, Any], what: str) -> float | None:
    """The turn's weight: ``loss_scale`` if given, else ``loss`` (or OpenAI's ``weight``) as 1 or 0, else None."""
    flag, scale = turn.get('loss', turn.get('weight')), turn.get('loss_scale')
    if flag is not None and flag not in (0, 1):
        raise RowError(
            f'wrong type: {what}.loss is {fields.shown(flag)}, expected true or false (loss_scale takes numbers)'
        )
    if scale is not None and (scale := fields.number(scale, f'{what}.loss_scale')) < 0:
        raise RowError(f'negative weight: {what}.loss_scale is {scale}, expected 0 or more')
    if flag is not None and not flag:
        return 0.0
    return float(scale) if scale is not None else (None if flag is None else 1.0)


# -------------------------------------------------------------------------------------------------------- content
@dataclass(slots=True)
class _Content:
    """What a turn's content holds. ``text`` None: nothing that is text or a picture. ``results`` with ids of calls."""

    text: str | None = None
    pictures: list[int] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[tuple[_Content, str | None]] = field(default_factory=list)


def _content(value: Any, role: str, what: str, media: Media) -> _Content:
    if value is None or isinstance(value, str):
        return _Content(value)
    if role == 'tool' and not _is_blocks(value):  # a structured result: shown to the model as JSON
        if isinstance(value, dict | list):
            return _Content(fields.dump(value))
    elif isinstance(value, list):
        return _blocks(value, what, media)
    return _Content(fields.text(value, f'{what}.content'))


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and 'type' in each for each in value)


def _blocks(blocks: list[Any], what: str, media: Media) -> _Content:
    """Content blocks of OpenAI and Anthropic."""
    found, texts = _Content(), []
    for i, block in enumerate(blocks):
        where = f'{what}.content[{i}]'
        if isinstance(block, str):
            texts.append(block)
            continue
        block = fields.mapping(block, where)
        kind = block.get('type')
        if kind in TEXT_BLOCKS:
            texts.append(fields.text(block.get('text'), f'{where}.text'))
        elif kind in MEDIA_BLOCKS:
            column, tag = MEDIA_BLOCKS[kind]
            if tag == PICTURE:
                found.pictures.append(sum(map(len, texts)))
            texts.append(tag)
            if (payload := _payload(block, kind)) is not None:
                media.setdefault(column, []).append(payload)
        elif kind == 'thinking':
            found.reasoning.append(fields.text(block.get('thinking'), f'{where}.thinking'))
        elif kind == 'tool_use':
            found.calls.append(
                ToolCall(fields.text(block.get('name'), f'{where}.name'), block.get('input'), block.get('id'))
            )
        elif kind == 'tool_result':
            result = _content(block.get('content', ''), 'tool', where, media)
            if result.pictures and found.pictures:  # results become turns before this one
                raise RowError(
                    f'pictures out of order: {where} has pictures after those of its turn; put results first'
                )
            found.results.append((result, block.get('tool_use_id')))
        else:
            known = ', '.join([*TEXT_BLOCKS, *MEDIA_BLOCKS, 'thinking', 'tool_use', 'tool_result'])
            raise RowError(f'unknown content block: {where} has type {fields.shown(kind)}. Known: {known}')
    if texts:
        found.text = ''.join(texts)
    return found


def _payload(block: Mapping[str, Any], kind: str) -> Any:
    """Where a picture is: a path, URL, data URL or bytes; None when the row's media column says it."""
    value = next((block[key] for key in (kind, 'url', 'path', 'source', 'data') if block.get(key) is not None), None)
    if not isinstance(value, Mapping):
        return value
    if 'url' in value:
        return value['url']
    if value.get('type') == 'base64':
        return f'data:{value.get("media_type", "application/octet-stream")};base64,{value.get("data")}'
    return dict(value)


# ------------------------------------------------------------------------------------------------------ tool calls
def _calls(value: Any, what: str) -> list[ToolCall]:
    """Calls as ``{"name", "arguments"}`` or ``{"function": {...}}``, one or a list, as JSON text or decoded."""
    if value is None:
        raise RowError(f'missing content: {what} has no call')
    if isinstance(value, str) and value.strip()[:1] not in ('{', '['):
        raise RowError(
            f'bad tool call: {what} is {fields.shown(value)}, expected {{"name": ..., "arguments": {{...}}}}'
        )
    value = fields.structure(value, what)
    return [_call(each, what) for each in (value if isinstance(value, list) else [value])]


def _call(value: Any, what: str) -> ToolCall:
    value = fields.mapping(fields.structure(value, what), what)
    inner = fields.mapping(value.get('function') or value, f'{what}.function')
    if not isinstance(inner.get('name'), str):
        raise RowError(f'bad tool call: {what} names no function; expected {{"name": ..., "arguments": {{...}}}}')
    arguments = inner.get('arguments', inner.get('parameters'))
    if isinstance(arguments, str) and arguments.strip():
        arguments = fields.structure(arguments, f'{what}.arguments')
    return ToolCall(inner['name'], arguments or {}, value.get('id'))


def _call_name(messages: list[Message], id: Any) -> str | None:
    """The function whose call had ``id``: results name the call only."""
    if id is None:
        return None
    return next((call.name for each in messages for call in each.tool_calls if call.id == id), None)


def tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Tool schemas in OpenAI's form, from a list or its JSON text; bare functions and Anthropic's form are read too."""
    return tuple(_tool(each, f'tools[{i}]') for i, each in enumerate(fields.array(value, 'tools')))


def _tool(value: Any, what: str) -> dict[str, Any]:
    tool = dict(fields.mapping(fields.structure(value, what), what))
    if 'input_schema' in tool:
        tool['parameters'] = tool.pop('input_schema')
    if 'function' not in tool:
        tool = {'type': 'function', 'function': {key: each for key, each in tool.items() if key != 'type'}}
    function = fields.mapping(tool['function'], f'{what}.function')
    if not isinstance(function.get('name'), str):
        raise RowError(
            f'bad tool: {what} names no function; expected {{"type": "function", "function": {{"name": ...}}}}'
        )
    return tool

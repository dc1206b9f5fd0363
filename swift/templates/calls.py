"""How models write tool calls: one row for each format.

A row says what stands around a call, its name and its arguments; readers (``calls_reading.py``), writers and grammars
(``calls_forcing.py``) are made of it. Strings are written as they stand; readers pass over blanks at their edges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swift.core.errors import ConfigError, did_you_mean
from swift.core.types import ToolCall

Body = Literal['object', 'named', 'tags', 'python', 'elements', 'gemma', 'harmony', 'atem']


@dataclass(frozen=True)
class Format:
    """A way to write calls.

    ``body``: what a call is:
        object   open {"name": ..., "arguments": {...}} close; in a list of them if ``listed``
        named    open NAME name_end {...} close
        tags     open NAME name_end (key[0] KEY key[1] VALUE key[2])... close
        elements open NAME name_end (key[0] <KEY> VALUE key[0] </KEY>)... close, where a VALUE may be made of the same
        python   open [NAME(KEY=VALUE, ...), ...] close
        gemma    open NAME{KEY:VALUE, ...} close
        harmony  messages with a channel and a recipient
        atem     messages with a recipient, in which calls are tags
    ``section`` stands around all calls of an answer, ``between`` between two. ``bare``: nothing marks a call, so only
    the very beginning of an answer is taken for one, and only if it names a tool that there is. ``typed``: the
    attribute of a key that tells text from JSON: ``string="true"`` or ``type="string"``. ``counted``: what follows the
    name, with the number of the call from 0 or from 1. ``wrappers`` stand around what is said beside calls. ``stop``:
    where models go on that should wait for an answer. ``marks``: a chat template that has all of them speaks so.
    """

    name: str
    body: Body
    marks: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    open: str = ''
    name_end: str = ''
    close: str = ''
    section: tuple[str, str] = ('', '')
    between: str = ''
    key: tuple[str, str, str] = ('', '', '')
    arguments: str = 'arguments'
    listed: bool = False
    bare: bool = False
    typed: Literal['', 'string', 'type'] = ''
    counted: str = ''
    wrappers: tuple[str, ...] = ()


_TOOL_CALL = {'open': '<tool_call>\n', 'close': '\n</tool_call>', 'between': '\n'}
_REACT = {'open': 'Action: ', 'name_end': '\nAction Input: ', 'between': '\n', 'section': ('', '\nObservation:')}
_XML = {'name_end': '>\n', 'close': '</function>\n</tool_call>', 'between': '\n'}
_MINIMAX = ']<]minimax[>['  # before every tag
_GLM = {'open': '<tool_call>', 'close': '</tool_call>'}
_DEEPSEEK = {
    'section': ('<｜tool▁calls▁begin｜>', '<｜tool▁calls▁end｜>'),
    'open': '<｜tool▁call▁begin｜>',
    'name_end': '<｜tool▁sep｜>',
    'close': '<｜tool▁call▁end｜>',
}


def _dsml(name: str, section: str) -> Format:
    return Format(
        name,
        'tags',
        marks=(f'DSML｜{section}',),
        section=(f'<｜DSML｜{section}>\n', f'\n</｜DSML｜{section}>'),
        open='<｜DSML｜invoke name="',
        name_end='">\n',
        key=('<｜DSML｜parameter name="', '>', '</｜DSML｜parameter>\n'),
        close='</｜DSML｜invoke>',
        between='\n',
        typed='string',
    )


def _hunyuan(name: str, suffix: str, marks: tuple[str, ...]) -> Format:
    return Format(
        name,
        'tags',
        marks=marks,
        section=(f'<tool_calls{suffix}>\n', f'\n</tool_calls{suffix}>'),
        open=f'<tool_call{suffix}>',
        name_end=f'<tool_sep{suffix}>\n',
        key=(f'<arg_key{suffix}>', f'</arg_key{suffix}>\n<arg_value{suffix}>', f'</arg_value{suffix}>\n'),
        close=f'</tool_call{suffix}>',
        between='\n',
    )


# Formats of which one's marks are a part of another's stand behind it.
_ROWS = (
    Format('harmony', 'harmony', marks=('<|channel|>', '<|message|>', '<|call|>')),
    Format(
        'muse_glimmer',
        'atem',
        marks=('<atem:function_calls>',),
        section=('<atem:function_calls>\n', '\n</atem:function_calls>'),
        open='<atem:invoke name="',
        name_end='">\n',
        key=('<atem:parameter name="', '">', '</atem:parameter>\n'),
        close='</atem:invoke>',
        between='\n',
    ),
    Format('gemma4', 'gemma', marks=('<|tool_call>',), open='<|tool_call>call:', close='<tool_call|>'),
    _dsml('deepseek_v4', 'tool_calls'),
    _dsml('deepseek_v3_2', 'function_calls'),
    Format(
        'deepseek_v3',
        'named',
        marks=('<｜tool▁call▁begin｜>', '```json'),
        **{
            **_DEEPSEEK,
            'open': '<｜tool▁call▁begin｜>function<｜tool▁sep｜>',
            'name_end': '\n```json\n',
            'close': '\n```<｜tool▁call▁end｜>',
            'between': '\n',
        },
    ),
    Format('deepseek_v3_1', 'named', marks=('<｜tool▁call▁begin｜>',), **_DEEPSEEK),
    Format(
        'kimi_k2',
        'named',
        marks=('<|tool_call_argument_begin|>',),
        section=('<|tool_calls_section_begin|>', '<|tool_calls_section_end|>'),
        open='<|tool_call_begin|>functions.',
        name_end='<|tool_call_argument_begin|>',
        close='<|tool_call_end|>',
        counted=':{0}',
    ),
    Format(
        'kimi_k3',
        'tags',
        marks=('<|open|>', '<|sep|>', "'argument'"),
        section=('<|open|>tools<|sep|>', '<|close|>tools<|sep|>'),
        open='<|open|>call tool="',
        counted='" index="{1}"',
        name_end='<|sep|>',
        key=('<|open|>argument key="', '<|sep|>', '<|close|>argument<|sep|>'),
        close='<|close|>call<|sep|>',
        typed='type',
        wrappers=('<|open|>response<|sep|>', '<|close|>response<|sep|>', '<|close|>message<|sep|>'),
    ),
    Format(
        'minimax_m3',
        'elements',
        marks=(_MINIMAX, 'invoke name='),
        section=(f'{_MINIMAX}<tool_call>\n', f'\n{_MINIMAX}</tool_call>'),
        open=f'{_MINIMAX}<invoke name="',
        name_end='">',
        key=(_MINIMAX, '', ''),
        close=f'{_MINIMAX}</invoke>',
        between='\n',
    ),
    Format(
        'minimax_m2',
        'tags',
        marks=('minimax:tool_call', '<invoke name='),
        section=('<minimax:tool_call>\n', '\n</minimax:tool_call>'),
        open='<invoke name="',
        name_end='">\n',
        key=('<parameter name="', '">', '</parameter>\n'),
        close='</invoke>',
        between='\n',
    ),
    Format(
        'seed_oss',
        'tags',
        marks=('seed:tool_call', '<parameter='),
        open='<seed:tool_call>\n<function=',
        key=('<parameter=', '>', '</parameter>\n'),
        **{**_XML, 'close': '</function>\n</seed:tool_call>'},
    ),
    Format(
        'qwen3_coder',
        'tags',
        marks=('<function=', '<parameter='),
        open='<tool_call>\n<function=',
        key=('<parameter=', '>\n', '\n</parameter>\n'),
        **_XML,
    ),
    Format(
        'minicpm5',
        'tags',
        marks=('<function name="', '<param name="'),
        open='<function name="',
        name_end='">',
        key=('<param name="', '">', '</param>'),
        close='</function>',
        between='\n',
    ),
    _hunyuan('hy_v3', ':opensource', marks=('<tool_sep{}>', ':opensource')),
    _hunyuan('hy_v3_preview', '', marks=('<tool_sep>',)),
    Format(
        'glm4_7',
        'tags',
        marks=('<arg_key>', '{function-name}<arg_key>'),
        key=('<arg_key>', '</arg_key><arg_value>', '</arg_value>'),
        **_GLM,
    ),
    Format(
        'glm4_5',
        'tags',
        marks=('<arg_key>',),
        name_end='\n',
        key=('<arg_key>', '</arg_key>\n<arg_value>', '</arg_value>\n'),
        between='\n',
        **_GLM,
    ),
    Format('mistral_v11', 'named', marks=('[TOOL_CALLS]', '[ARGS]'), open='[TOOL_CALLS]', name_end='[ARGS]'),
    Format('mistral', 'object', marks=('[TOOL_CALLS]',), open='[TOOL_CALLS]', listed=True),
    Format('nemotron', 'object', marks=('<TOOLCALL>',), open='<TOOLCALL>', close='</TOOLCALL>', listed=True),
    Format('granite', 'object', marks=('<|tool_call|>',), open='<|tool_call|>', listed=True),
    Format(
        'internlm2',
        'object',
        marks=('<|action_start|>', '<|plugin|>'),
        open='<|action_start|><|plugin|>\n',
        close='<|action_end|>',
        arguments='parameters',
    ),
    Format('lfm2', 'python', marks=('<|tool_call_start|>',), open='<|tool_call_start|>', close='<|tool_call_end|>'),
    Format(
        'hunyuan_hermes', 'object', marks=('<tool_calls>',), section=('<tool_calls>\n', '\n</tool_calls>'), **_TOOL_CALL
    ),
    Format('hermes', 'object', marks=('<tool_call>',), **_TOOL_CALL),
    Format('youtu', 'object', open='<tool_call>', close='</tool_call>'),
    Format(
        'llama3',
        'object',
        marks=('{"name": function name, "parameters"',),
        between='; ',
        arguments='parameters',
        bare=True,
    ),
    Format('pythonic', 'python', bare=True),
    Format('glm4', 'named', marks=('<|observation|>', '可用工具'), name_end='\n', between='<|assistant|>', bare=True),
    Format(
        'qwen',
        'named',
        marks=('✿FUNCTION✿',),
        open='✿FUNCTION✿: ',
        name_end='\n✿ARGS✿: ',
        between='\n',
        section=('', '\n✿RESULT✿:'),
        stop=('✿RESULT✿', '✿RETURN✿'),
    ),
    Format('react', 'named', marks=('Action Input:',), stop=('Observation:',), **_REACT),
)
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}

# Names of ``--agent_template`` that differ in the prompt, not in how calls are written.
ALIASES = {
    **dict.fromkeys(('react_en', 'react_zh', 'react_grpo', 'toolbench'), 'react'),
    **dict.fromkeys(('qwen_en', 'qwen_zh', 'qwen_en_parallel', 'qwen_zh_parallel'), 'qwen'),
    **dict.fromkeys(('qwen3_5', 'qwen3_xml', 'nemotron3'), 'qwen3_coder'),
    **dict.fromkeys(('chatglm4',), 'glm4'),
    **dict.fromkeys(('glm5_1', 'spark2_5'), 'glm4_7'),
    **dict.fromkeys(('llama4', 'llama3_json', 'llama4_json'), 'llama3'),
    **dict.fromkeys(('llama4_pythonic', 'llama3_pythonic'), 'pythonic'),
    **dict.fromkeys(('kimi_k25',), 'kimi_k2'),
    **dict.fromkeys(('deepseek_r1',), 'deepseek_v3'),
    **dict.fromkeys(('gpt_oss', 'openai'), 'harmony'),
}


def by_name(name: str) -> Format:
    """The format that ``--agent_template`` names. Raises ConfigError."""
    found = FORMATS.get(ALIASES.get(name, name))
    if found is None:
        known = sorted({*FORMATS, *ALIASES})
        raise ConfigError(
            f'--agent_template {name}: unknown format of calls{did_you_mean(name, known)} Known: {", ".join(known)}'
        )
    return found


def of_template(source: str) -> Format | None:
    """The format that a chat template writes calls in, by what stands in its text; None if it shows no tools."""
    if 'tools' not in source and 'tool_calls' not in source:
        return None
    return next((row for row in _ROWS if row.marks and all(mark in source for mark in row.marks)), None)


# --------------------------------------------------------------------------------------------------------- writing
def write(form: Format, calls: Sequence[ToolCall]) -> str:
    """The calls as an answer shows them."""
    written = [_write_one(form, call, number) for number, call in enumerate(calls)]
    if form.listed:
        return form.open + '[' + ', '.join(written) + ']' + form.close
    if form.body == 'python':
        return form.open + '[' + ', '.join(written) + ']' + form.close
    return form.section[0] + form.between.join(written) + form.section[1]


def _write_one(form: Format, call: ToolCall, number: int) -> str:
    arguments = decoded(call.arguments)
    name = call.name + form.counted.format(number, number + 1)
    if form.body == 'object':
        text = as_json({'name': call.name, form.arguments: arguments})
        return text if form.listed else form.open + text + form.close
    if form.body == 'named':
        return form.open + name + form.name_end + as_json(arguments) + form.close
    if form.body == 'tags':
        keys = ''.join(_write_key(form, key, value) for key, value in arguments.items())
        return form.open + name + form.name_end + keys + form.close
    if form.body == 'elements':
        return form.open + name + form.name_end + _write_elements(form, arguments) + form.close
    if form.body == 'python':
        return f'{call.name}({", ".join(f"{key}={value!r}" for key, value in arguments.items())})'
    raise ConfigError(f'calls in the format {form.name} are written by the chat templates that have it')


def _write_key(form: Format, key: str, value: Any) -> str:
    before, after, end = form.key
    text = value if isinstance(value, str) else as_json(value)
    return before + key + attribute(form, kind_of(value)) + after + text + end


def _write_elements(form: Format, value: Any) -> str:
    """A value in elements, which know no null: what is null is left out."""
    if isinstance(value, Mapping):
        items = [(key, each) for key, each in value.items() if each is not None]
    elif isinstance(value, (list, tuple)):
        items = [('item', each) for each in value]
    else:
        return value if isinstance(value, str) else '' if value is None else as_json(value)
    mark = form.key[0]
    return ''.join(f'{mark}<{key}>{_write_elements(form, each)}{mark}</{key}>' for key, each in items)


def attribute(form: Format, kind: str) -> str:
    """The attribute of a key whose value is of this kind, a word of JSON schema."""
    if not form.typed:
        return ''
    return f'" {form.typed}="{kind if form.typed == "type" else as_json(kind == "string")}"'


_KINDS = {str: 'string', bool: 'boolean', int: 'number', float: 'number', type(None): 'null', list: 'array'}


def kind_of(value: Any) -> str:
    """What a value is, as JSON has it."""
    return _KINDS.get(type(value), 'object')


def decoded(arguments: Any) -> Mapping[str, Any]:
    """The arguments of a call as an object, also where a row has them as JSON text."""
    value = json.loads(arguments) if isinstance(arguments, str) and arguments.strip() else arguments
    return value or {}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""Named templates, for checkpoints that bring none: data in ``files/named.yaml``, turned into Jinja like any other.

Imports no torch: ``swift show templates`` lists them.
"""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from swift.core.errors import did_you_mean
from swift.templates.jinja import Source

FILES = Path(__file__).parent / 'files'

# Questions and answers in turn, each part of a named template in its place.
_JINJA = string.Template("""\
{%- macro fail(why) -%}{{ raise_exception('the named template ' ~ $name ~ ' ' ~ why) }}{%- endmacro -%}
{%- set rows = messages -%}
{%- set said = $default_system -%}
{%- if rows and rows[0]['role'] == 'system' -%}
    {%- set said = rows[0]['content'] -%}
    {%- set rows = rows[1:] -%}
{%- endif -%}
{{- $head -}}
{%- if said -%}
    {%- if not $has_system -%}{{- fail('has no place for a system prompt') -}}{%- endif -%}
    {{- $system -}}
{%- endif -%}
{%- for message in rows -%}
    {%- if message['tool_calls'] or message['role'] == 'tool' -%}{{- fail('cannot show tool calls') -}}{%- endif -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- fail('wants questions and answers in turn, a question first') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {%- set query = message['content'] -%}
        {{- $user -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- message['content'] -}}
        {%- if loop.last -%}{{- $end -}}{%- else -%}{{- $between -}}{%- endif -%}
    {%- else -%}
        {{- fail('takes a system prompt only at the beginning') -}}
    {%- endif -%}
{%- endfor -%}
""")


@lru_cache
def _table() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((FILES / 'named.yaml').read_text(encoding='utf-8'))


def names() -> list[str]:
    """Names of templates that are written here."""
    return sorted(_table())


@lru_cache
def established() -> frozenset[str]:
    """Names that scripts use for templates which checkpoints bring themselves; they mean the checkpoint's own."""
    return frozenset(yaml.safe_load((FILES / 'established.yaml').read_text(encoding='utf-8')).split())


def suggestion(name: str) -> str:
    return did_you_mean(name, [*names(), *established()])


def rows() -> list[tuple[str, str]]:
    """Name and purpose, for ``swift show templates``."""
    return [(name, entry['about']) for name, entry in sorted(_table().items())]


def source(name: str, tokenizer: Any) -> Source:
    """The named template as a chat template for this tokenizer."""
    entry = _table()[name]
    adds_bos = tokenizer.bos_token_id is not None and tokenizer('').input_ids[:1] == [tokenizer.bos_token_id]
    head = ('{{BOS}}' if entry.get('bos') == 'auto' and adds_bos else '') + entry.get('head', '')
    text = _JINJA.substitute(
        name=_quoted(name),
        default_system=_quoted(entry.get('default_system', '')),
        has_system='true' if 'system' in entry else 'false',
        head=_expression(head),
        system=_expression(entry.get('system', '')),
        user=_expression(entry['user']),
        between=_expression(entry['between']),
        end=_expression(entry['end']),
    )
    return Source(text, f'the named template {name}')


def _expression(text: str) -> str:
    """A Jinja expression for a part in which ``{{QUERY}}``, ``{{SYSTEM}}``, ``{{BOS}}`` and ``{{EOS}}`` stand."""
    names = {'{{QUERY}}': 'query', '{{SYSTEM}}': 'said', '{{BOS}}': 'bos_token', '{{EOS}}': 'eos_token'}
    pieces = [text]
    for mark in names:
        pieces = [part for piece in pieces for part in _split(piece, mark)]
    return ' ~ '.join(names.get(piece) or _quoted(piece) for piece in pieces) or "''"


def _split(text: str, mark: str) -> list[str]:
    parts = []
    for number, part in enumerate(text.split(mark)):
        parts += [mark] * (number > 0) + [part] * bool(part)
    return parts


def _quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'").replace('\n', '\\n') + "'"

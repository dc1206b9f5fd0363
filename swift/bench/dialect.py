"""What a model's chat template writes around messages, found by rendering it, so that every tool can be given the same.

Tools mask alike only if their templates are alike: ms-swift and LLaMA-Factory have tables of templates of their own,
TRL needs ``{% generation %}`` marks. ``learn`` reads the words off the model's own template; what cannot be told apart
is None, and the tools then run with their own choice, which the report says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = list[dict[str, str]]
S, Q1, A1, Q2, A2 = (f'Xx{name}xX' for name in ('system', 'first', 'one', 'second', 'two'))
ROLES = ('user', 'assistant')


@dataclass(frozen=True, slots=True)
class Dialect:
    """``begin``, a system block, then ``user`` Q ``answer`` A ``stop`` ``after`` for every question.

    The system block is ``system`` text ``system_end``; ``default_system`` is its text where a row has none.
    ``answer`` closes the question and opens the answer.
    """

    begin: str
    system: str
    system_end: str
    default_system: str | None
    user: str
    answer: str
    stop: str
    after: str

    def write(self, row: Row) -> str:
        """A conversation as the model's template writes it."""
        has_system = row[0]['role'] == 'system'
        text = row[0]['content'] if has_system else self.default_system
        out = self.begin + (self.system + text + self.system_end if text is not None else '')
        for message in row[has_system:]:
            asks = message['role'] == 'user'
            before, behind = (self.user, self.answer) if asks else ('', self.stop + self.after)
            out += before + message['content'] + behind
        return out

    def jinja(self, *, ends_with_stop: bool = False) -> str:
        """The template with generation marks around what is learnt: the answer and its stop token.

        Args:
            ends_with_stop: leave out what follows the stop token of the last answer, for tools that would learn it.
        """
        say = lambda *parts: '{{ ' + ' + '.join(parts) + ' }}'
        begin, system, end, user, answer, stop, after = (
            json.dumps(words)
            for words in (self.begin, self.system, self.system_end, self.user, self.answer, self.stop, self.after)
        )
        default = say(begin)
        if self.default_system is not None:
            default = say(begin, system, json.dumps(self.default_system), end)
        return (
            "{% if messages[0]['role'] == 'system' %}"
            + say(begin, system, "messages[0]['content']", end)
            + ('{% else %}' + default + '{% endif %}')
            + "{% for message in messages %}{% if message['role'] == 'user' %}"
            + say(user, "message['content']", answer)
            + "{% elif message['role'] == 'assistant' %}{% generation %}"
            + say("message['content']", stop)
            + '{% endgeneration %}'
            + ('{% if not loop.last %}' + say(after) + '{% endif %}' if ends_with_stop else say(after))
            + '{% endif %}{% endfor %}'
        )


def learn(tokenizer: Any, rows: Sequence[Row]) -> Dialect | None:
    """The dialect of a tokenizer's chat template; None unless it writes every one of ``rows`` to the letter."""
    talk = [{'role': role, 'content': text} for role, text in zip(ROLES * 2, (Q1, A1, Q2, A2), strict=True)]
    try:
        plain = tokenizer.apply_chat_template(talk, tokenize=False)
        told = tokenizer.apply_chat_template([{'role': 'system', 'content': S}, *talk], tokenize=False)
        found = _read(tokenizer, plain, told)
        same = found and all(found.write(row) == tokenizer.apply_chat_template(row, tokenize=False) for row in rows)
    except Exception:  # whatever a template may raise: it cannot be told
        return None
    return found if same else None


def _read(tokenizer: Any, plain: str, told: str) -> Dialect | None:
    """The dialect that writes ``plain`` and ``told``, the same talk without and with a system message."""
    head, answer, between, _, tail = _cut(plain, Q1, A1, Q2, A2)
    system, system_gap, *_ = _cut(told, S, Q1, A1, Q2, A2)
    specials = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    stop = next((token for token in specials if tail.startswith(token)), None)
    if stop is None or not between.startswith(tail):
        return None
    after, user = tail[len(stop) :], between[len(tail) :]
    if not (user and head.endswith(user) and system_gap.endswith(user)):
        return None
    block, end = head.removesuffix(user), system_gap.removesuffix(user)
    if system.startswith(block):
        return Dialect(block, system[len(block) :], end, None, user, answer, stop, after)
    if block.startswith(system) and block.endswith(end):
        default = block[len(system) : len(block) - len(end)]
        return Dialect('', system, end, default, user, answer, stop, after)
    return None


def _cut(text: str, *marks: str) -> list[str]:
    """``text`` cut at each of the marks, which stand in it in this order. Raises ValueError otherwise."""
    parts = []
    for mark in marks:
        part, found, text = text.partition(mark)
        if not found:
            raise ValueError(mark)
        parts.append(part)
    return [*parts, text]

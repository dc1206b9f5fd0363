"""A question and its answer in columns: query/response and its many names, alpaca, plain text.

When a row has several columns that could be the question or the answer, natural partners win (question with answer,
prompt with completion ...); if that does not decide, the row says so instead of being guessed at.
"""

from __future__ import annotations

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields
from swift.data.rows.draft import Draft

QUERY = ('query', 'prompt', 'input', 'instruction', 'question', 'problem')
RESPONSE = (
    'response',
    'answer',
    'output',
    'targets',
    'target',
    'answer_key',
    'answers',
    'solution',
    'text',
    'completion',
    'content',
)
PARTNERS = (
    ('query', 'response'),
    ('prompt', 'completion'),
    ('prompt', 'response'),
    ('instruction', 'output'),
    ('instruction', 'response'),
    ('question', 'answer'),
    ('question', 'response'),
    ('problem', 'solution'),
    ('input', 'output'),
    ('input', 'target'),
    ('input', 'targets'),
)


def fits_alpaca(draft: Draft) -> bool:
    return draft.has('instruction') and ('input' in draft.row or draft.has('output'))


def alpaca(draft: Draft) -> None:
    """``instruction``, ``input`` (may be empty) and ``output`` or another answer."""
    query = instruction(draft)
    answer = 'output' if 'output' in draft.row else _only(draft)
    _converse(draft, (query,), answer)


def fits_instruction(draft: Draft) -> bool:
    """Whether the question is ``instruction`` with ``input``."""
    return draft.has('instruction') and 'input' in draft.row


def instruction(draft: Draft) -> Message:
    """The question of an alpaca row."""
    query = fields.text(draft.take('instruction'), 'instruction')
    if extra := draft.take('input'):
        query = f'{query}\n{fields.text(extra, "input")}' if query else fields.text(extra, 'input')
    return Message('user', query)


def fits_pair(draft: Draft) -> bool:
    return bool(draft.present(QUERY))


def pair(draft: Draft) -> None:
    """A question and, unless the row is a prompt only, its answer."""
    query, answer = _names(draft)
    prompt = draft.turns(query, 'user')
    _converse(draft, prompt, answer)


def fits_sentence(draft: Draft) -> bool:
    return draft.has('sentence') and bool(draft.present(('label', 'labels'))) and not draft.present((*QUERY, *RESPONSE))


def sentence(draft: Draft) -> None:
    """A text with its class."""
    draft.messages = draft.turns('sentence', 'user')


def fits_text(draft: Draft) -> bool:
    return bool(draft.present(RESPONSE))


def text(draft: Draft) -> None:
    """An answer without a question: a document to pre-train on."""
    name = _only(draft)
    draft.text = fields.text(draft.take(name), name)
    if not draft.text.strip():
        raise RowError(f'missing content: {name} is empty')


def _converse(draft: Draft, prompt: tuple[Message, ...], answer: str | None) -> None:
    """Lay history, prompt and answer end to end."""
    turns = [*_history(draft), *prompt]
    if answer is not None:
        turns += draft.turns(answer, 'assistant')
    draft.messages = tuple(turns)


def _history(draft: Draft) -> list[Message]:
    turns: list[Message] = []
    history = draft.take('history')
    for i, each in enumerate(fields.array(history, 'history') if history not in (None, '') else ()):
        what = f'history[{i}]'
        if not isinstance(each, list | tuple) or len(each) != 2:
            raise RowError(f'wrong type: {what} is {fields.shown(each)}, expected [question, answer]')
        turns.append(Message('user', fields.text(each[0], f'{what}[0]')))
        turns.append(Message('assistant', fields.text(each[1], f'{what}[1]')))
    return turns


def _names(draft: Draft) -> tuple[str, str | None]:
    """The columns that hold question and answer."""
    queries, answers = draft.present(QUERY), draft.present(RESPONSE)
    if 'query' in queries:
        queries = ['query']
    if 'response' in answers:
        answers = ['response']
    natural = [(query, answer) for query, answer in PARTNERS if query in queries and answer in answers]
    if len(queries) > 1 or len(answers) > 1:
        if len(natural) == 1:
            return natural[0]
        several, column = (queries, 'query') if len(queries) > 1 else (answers, 'response')
        raise _ambiguous(several, column)
    return queries[0], answers[0] if answers else _null(draft)


def only_query(draft: Draft) -> str | None:
    """The one column that holds the question; None when there is none."""
    queries = draft.present(QUERY)
    if 'query' in queries:
        return 'query'
    if len(queries) > 1:
        raise _ambiguous(queries, 'query')
    return queries[0] if queries else None


def _only(draft: Draft) -> str | None:
    """The one column that holds the answer."""
    answers = draft.present(RESPONSE)
    if 'response' in answers:
        return 'response'
    if len(answers) > 1:
        raise _ambiguous(answers, 'response')
    return answers[0] if answers else _null(draft)


def _null(draft: Draft) -> str | None:
    """The answer's column when it is there but null, so that the row is told apart from a prompt only."""
    return next((name for name in ('response', 'answer', 'output', 'completion') if name in draft.row), None)


def _ambiguous(names: list[str], column: str) -> RowError:
    mapping = f'{{"{names[0]}": "{column}"}}'
    return RowError(
        f"ambiguous columns: {', '.join(names)} could each be the {column}. Say which: --columns '{mapping}'"
    )

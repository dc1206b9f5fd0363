"""Any row that people train on, as a Sample.

    row --rename columns--> Draft --first format of FORMATS that fits--> conversation or text --ADDITIONS--> Sample

A format reads the conversation; an addition reads what may stand beside any conversation (system prompt, worse answer,
positives). Columns that nothing read are the Sample's ``extra``. A row that cannot be read raises RowError; nothing is
filled in, trimmed or dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from swift.core.errors import RowError
from swift.core.types import Message, Origin, Sample
from swift.data.rows import chats, fields, pairs, preference, retrieval, steps
from swift.data.rows.draft import Draft
from swift.data.rows.messages import tools as read_tools


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read.

    ``columns`` renames columns first (old name in lower case -> new name). ``aliases`` False takes only the exact names
    query, response, system, images ... ``answers`` asks every row for something to learn from. ``extra`` keeps the
    columns that nothing reads.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    aliases: bool = True
    answers: bool = True
    extra: bool = True


class Format(NamedTuple):
    """A way of writing rows: columns of which it has one, whether a row is written so, and what reads it."""

    columns: frozenset[str]
    fits: Callable[[Draft], bool]
    read: Callable[[Draft], None]


FORMATS = {  # the first that fits reads the row: the more particular come first
    'steps': Format(frozenset(['completions']), steps.fits_completions, steps.completions),
    'math-shepherd': Format(frozenset(['input']), steps.fits_marked, steps.marked),
    'preference': Format(
        frozenset(next(zip(*preference.PAIRS, strict=True))), preference.fits_chosen, preference.chosen
    ),
    'judged answers': Format(
        frozenset(each.verdict for each in preference.JUDGED), preference.fits_judged, preference.judged
    ),
    'messages': Format(frozenset(['messages']), chats.fits_messages, chats.messages),
    'sharegpt': Format(frozenset(chats.CONVERSATIONS), chats.fits_conversations, chats.conversations),
    'retrieval': Format(frozenset([*retrieval.POSITIVE, *retrieval.NEGATIVE]), retrieval.fits_texts, retrieval.texts),
    'judged documents': Format(frozenset(retrieval.DOCUMENTS), retrieval.fits_documents, retrieval.documents),
    'scored texts': Format(frozenset(retrieval.PARTNER), retrieval.fits_scored, retrieval.scored),
    'classified sentence': Format(frozenset(['sentence']), pairs.fits_sentence, pairs.sentence),
    'alpaca': Format(frozenset(['instruction']), pairs.fits_alpaca, pairs.alpaca),
    'query-response': Format(frozenset(pairs.QUERY), pairs.fits_pair, pairs.pair),
    'text': Format(frozenset(pairs.RESPONSE), pairs.fits_text, pairs.text),
}
ADDITIONS = (preference.add_rejected, retrieval.add_messages, chats.add_system)

ALIASES = {'system_prompt': 'system', 'image': 'images', 'video': 'videos', 'audio': 'audios'}
MEDIA = ('images', 'videos', 'audios', 'objects')
OTHER_MEDIA = tuple(f'{side}_{name}' for side in ('rejected', 'positive', 'negative') for name in MEDIA)
ALL_MEDIA = frozenset([*MEDIA, *OTHER_MEDIA])
OTHERS = ('tools', 'label', 'margin', 'channel', 'chat_template_kwargs', 'history', 'system', 'messages')
PREFERENCE = ('chosen', 'rejected', 'rejected_response', 'rejected_messages', 'rejected_tools')
RETRIEVAL = (*retrieval.ANCHOR, *retrieval.POSITIVE, *retrieval.NEGATIVE, 'positive_messages', 'negative_messages')
PROPER = ('query', 'response', 'instruction', 'input', 'output', 'text')  # what alpaca and plain text call them counts
EXACT = frozenset([*PROPER, *OTHERS, *PREFERENCE, *RETRIEVAL, *MEDIA, *OTHER_MEDIA, *chats.CONVERSATIONS])
SPECIAL = frozenset(['completions', 'labels', 'sentence', 'context']) | preference.ALIASES | retrieval.NAMES
OTHER_NAMES = (frozenset([*pairs.QUERY, *pairs.RESPONSE, *ALIASES]) - frozenset(PROPER)) | (SPECIAL - EXACT)
KNOWN = EXACT | OTHER_NAMES


def convert(row: Any, origin: Origin, reading: Reading = Reading()) -> Sample:
    """Read one row.

    Raises:
        RowError: saying what is wrong with the row, without its origin.
    """
    if not isinstance(row, Mapping):
        raise RowError(f'wrong type: the row is {fields.type_name(row)}, expected an object with named columns')
    columns, hidden = rename(row, reading)
    draft = Draft(columns)
    media = _media(draft)
    format = next(
        (each for each in FORMATS.values() if not each.columns.isdisjoint(columns) and each.fits(draft)), None
    )
    if format is None:
        raise _unknown(row)
    format.read(draft)
    for add in ADDITIONS:
        add(draft)
    for name, values in draft.media.items():
        media[name] = [*media.get(name, ()), *values]
    for name, values in draft.rejected_media.items():  # absent: the same as those of the better conversation
        if values != media.get(name):
            media[f'rejected_{name}'] = [*media.get(f'rejected_{name}', ()), *values]
    tools = _tools(draft)
    kwargs, channel = draft.take('chat_template_kwargs'), draft.take('channel')
    sample = Sample(
        messages=draft.messages,
        text=draft.text,
        tools=tools,
        rejected=draft.rejected,
        positives=draft.positives,
        negatives=draft.negatives,
        steps=draft.steps,
        label=_label(draft),
        margin=preference.margin(draft),
        media=media,
        template_kwargs=fields.mapping(fields.structure(kwargs, 'chat_template_kwargs'), 'kwargs') if kwargs else {},
        channel=None if channel is None else fields.text(channel, 'channel'),
        extra={**draft.row, **hidden} if reading.extra else {},
        origin=origin,
    )
    if reading.answers:
        _require_answer(sample)
    return sample


def rename(row: Mapping[str, Any], reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row's columns under the names that formats know, and those that only look like them."""
    known = KNOWN if reading.aliases else EXACT
    columns, hidden, mapped = {}, {}, {}
    for name, value in row.items():
        if not isinstance(name, str):
            raise RowError(f'wrong type: a column is named {name!r}, expected text')
        lower = name.lower()
        if lower in reading.columns:
            mapped[reading.columns[lower]] = value
        elif name in known or lower not in known or lower in row:
            columns[name] = value
        else:
            columns[lower] = value
    columns |= mapped
    if reading.aliases:
        for old, new in ALIASES.items():
            if columns.get(old) is not None and columns.get(new) is None:
                columns[new] = columns.pop(old)
    else:
        hidden = {name: columns.pop(name) for name in OTHER_NAMES if name in columns}
    return columns, hidden


def _media(draft: Draft) -> dict[str, list[Any]]:
    """Media columns, each as a list; where the files are is not looked at here."""
    media = {}
    for name in [name for name in draft.row if name in ALL_MEDIA]:
        value = draft.take(name)
        if value is None or value == '':
            continue
        if isinstance(value, str) and value.lstrip()[:1] in ('[', '{'):
            value = fields.structure(value, name)
        media[name] = list(value) if isinstance(value, list | tuple) else [value]
    return media


def _tools(draft: Draft) -> tuple[dict[str, Any], ...]:
    """The row's tools; both answers of a pair see the same."""
    found, rejected = draft.take('tools'), draft.take('rejected_tools')
    tools = () if found in (None, '') else read_tools(found)
    if rejected not in (None, '') and read_tools(rejected) != tools:
        raise RowError('other tools: rejected_tools differs from tools. Both answers of a pair need the same prompt')
    return tools


def _label(draft: Draft) -> bool | int | float | list[float] | None:
    """KTO flag, class, list of classes, or score: the column ``label``, or ``labels`` where it holds numbers."""
    value = draft.take('label')
    if value is None and 'labels' in draft.row and _numbers(draft.row['labels']):
        value = draft.take('labels')
    if value is None or value == '':
        return None
    if isinstance(value, list | tuple) or (isinstance(value, str) and value.lstrip().startswith('[')):
        return [fields.number(fields.truth(each), f'label[{i}]') for i, each in enumerate(fields.array(value, 'label'))]
    value = fields.scalar(value)
    if isinstance(value, str):
        raise RowError(
            f'wrong type: label is text ({fields.shown(value)}), expected true or false, the number of a class, a list '
            'of them, or a score. Write classes as 0, 1, 2 ..., or leave the column out: --columns \'{"label": "_"}\''
        )
    return value if isinstance(value, bool) else fields.number(value, 'label')


def _numbers(value: Any) -> bool:
    """Whether this is a number or a list of numbers."""
    return all(isinstance(each, int | float) for each in (value if isinstance(value, list) else [value]))


def _require_answer(sample: Sample) -> None:
    """Something to learn from: an answer, a document, a label, or texts that belong together."""
    if sample.rejected is not None:
        _require_pair(sample)
    if sample.text is not None or sample.label is not None or sample.positives or sample.negatives:
        return
    answers = [each for each in sample.messages if each.role == 'assistant']
    if not answers:
        raise RowError(
            'missing answer: there is a prompt and no answer to learn (response, output, an assistant turn ...)'
        )
    if not _says_something(answers[-1]):
        raise RowError('missing answer: the last answer is empty')


def _require_pair(sample: Sample) -> None:
    """Two conversations that end with an answer each."""
    assert sample.rejected is not None
    for name, turns in (('better', sample.messages), ('rejected', sample.rejected)):
        if not turns or turns[-1].role in ('user', 'system'):
            raise RowError(f'missing answer: the {name} conversation ends with a question')


def _says_something(message: Message) -> bool:
    return bool(message.content.strip() or message.tool_calls or (message.reasoning or '').strip())


def _unknown(row: Mapping[str, Any]) -> RowError:
    if not row:
        return RowError('empty row: it has no columns')
    empty = ' (all empty)' if all(value is None for value in row.values()) else ''
    names = ', '.join(map(str, row))
    return RowError(
        f'unknown format: the columns {names}{empty} are no known format. Name the question and the answer: '
        '--columns \'{"their_name": "query", "their_other_name": "response"}\''
    )

"""Embedding and reranker rows: an anchor with texts that belong to it and texts that do not.

``positive_messages`` and ``negative_messages`` are lists of conversations. In columns of text the anchor is ``query``,
``anchor``, ``sentence1`` ..., and its texts are ``positive`` and ``negative`` (one or a list of each; ``negative_1``,
``negative_2`` ... too), or documents each of which is judged by ``labels`` or ``is_selected``. With a ``label`` or
``score`` there is one text beside the anchor, and the label says how alike they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields
from swift.data.rows.draft import Draft
from swift.data.rows.messages import conversation
from swift.data.rows.pairs import RESPONSE

ANCHOR = ('query', 'anchor', 'sentence1', 'question', 'sentence_A', 'premise')
POSITIVE = ('positive', 'positives', 'pos', 'sentence2')
NEGATIVE = ('negative', 'negatives', 'neg')
PARTNER = ('sentence_B', 'hypothesis', 'passage', 'document', 'doc', 'sentence')
DOCUMENTS = ('docs', 'documents', 'passages')
JUDGEMENTS = ('labels', 'label')
NUMBERED = re.compile(r'negative_(\d+)')
NAMES = frozenset([*ANCHOR, *POSITIVE, *NEGATIVE, *PARTNER, *DOCUMENTS, *JUDGEMENTS, 'score'])


# -------------------------------------------------------------------------------------------------- columns of text
def fits_texts(draft: Draft) -> bool:
    return bool(draft.present((*POSITIVE, *NEGATIVE)) and draft.present(ANCHOR))


def texts(draft: Draft) -> None:
    """An anchor and lists of texts."""
    draft.messages = draft.turns(draft.present(ANCHOR)[0], 'user')
    draft.positives = _texts(draft, POSITIVE)
    draft.negatives = _texts(draft, NEGATIVE)
    for name in _numbered(draft):
        draft.negatives += (_text(draft.take(name), name),)
    if not draft.positives and not draft.negatives:
        raise RowError('missing texts: the anchor has no positive and no negative')
    _score(draft)


def fits_scored(draft: Draft) -> bool:
    labelled = bool(draft.present((*JUDGEMENTS, 'score')))
    return labelled and bool(draft.present(ANCHOR)) and bool(draft.present(PARTNER)) and not draft.present(RESPONSE)


def scored(draft: Draft) -> None:
    """An anchor, one text, and a number that says how alike they are."""
    draft.messages = draft.turns(draft.present(ANCHOR)[0], 'user')
    name = draft.present(PARTNER)[0]
    draft.positives = (_text(draft.take(name), name),)
    _score(draft)


def _score(draft: Draft) -> None:
    """``score`` is what others call the label of two texts."""
    if not draft.has('label') and draft.has('score'):
        draft.row['label'] = draft.take('score')


def _numbered(draft: Draft) -> list[str]:
    """``negative_1``, ``negative_2`` ... that hold something, in order."""
    found = [(int(match[1]), name) for name in draft.row if (match := NUMBERED.fullmatch(name)) and draft.has(name)]
    return [name for _, name in sorted(found)]


def _texts(draft: Draft, names: Iterable[str]) -> tuple[tuple[Message, ...], ...]:
    present = draft.present(tuple(names))
    if not present:
        return ()
    if len(present) > 1:
        raise RowError(f'ambiguous columns: {", ".join(present)} hold the same kind of text. Keep one of them')
    return tuple(_text(each, f'{present[0]}[{i}]') for i, each in enumerate(_list(draft.take(present[0]), present[0])))


def _list(value: Any, name: str) -> list[Any]:
    """One text, or a list of texts; csv spells a list."""
    if isinstance(value, str) and not re.match(r'\s*\[\s*(["\']|\])', value):
        return [value]
    return fields.array(value, name)


def _text(value: Any, what: str) -> tuple[Message, ...]:
    return (Message('user', fields.text(value, what)),)


# -------------------------------------------------------------------------------------------------- judged documents
def fits_documents(draft: Draft) -> bool:
    if not draft.present(ANCHOR):
        return False
    names, judgements = draft.present(DOCUMENTS), draft.present(JUDGEMENTS)
    if not names:
        return False
    found = draft.row[names[0]]
    if isinstance(found, Mapping):
        return 'is_selected' in found
    return bool(judgements) and isinstance(draft.row[judgements[0]], list)


def documents(draft: Draft) -> None:
    """A list of documents with a list of verdicts, 1 for those that belong; or MS MARCO's ``passages``."""
    name = draft.present(DOCUMENTS)[0]
    found = draft.take(name)
    if isinstance(found, Mapping):
        found, verdicts, judged = found.get('passage_text'), found.get('is_selected'), f'{name}.is_selected'
    else:
        judged = draft.present(JUDGEMENTS)[0]
        verdicts = draft.take(judged)
    found, verdicts = fields.array(found, name), fields.array(verdicts, judged)
    if len(found) != len(verdicts):
        raise RowError(f'{len(found)} texts in {name}, and {len(verdicts)} numbers in {judged}')
    if not found:
        raise RowError(f'missing texts: {name} is empty')
    draft.messages = draft.turns(draft.present(ANCHOR)[0], 'user')
    for i, (text, verdict) in enumerate(zip(found, verdicts, strict=True)):
        verdict = fields.number(fields.truth(verdict), f'{judged}[{i}]')
        if verdict not in (0, 1):
            raise RowError(f'a graded document: {judged}[{i}] is {verdict}, expected 1 (belongs) or 0 (does not)')
        side = 'positives' if verdict else 'negatives'
        setattr(draft, side, (*getattr(draft, side), _text(text, f'{name}[{i}]')))


# --------------------------------------------------------------------------------------------- beside a conversation
def add_messages(draft: Draft) -> None:
    """``positive_messages`` and ``negative_messages`` beside the anchor's messages."""
    for side in ('positive', 'negative'):
        if not draft.has(f'{side}_messages'):
            draft.take(f'{side}_messages')
        elif getattr(draft, f'{side}s'):
            raise RowError(f'two kinds of texts: {side} and {side}_messages. Keep one')
        else:
            setattr(draft, f'{side}s', _conversations(draft, side))


def _conversations(draft: Draft, side: str) -> tuple[tuple[Message, ...], ...]:
    name = f'{side}_messages'
    values = fields.array(draft.take(name), name)
    if values and all(isinstance(each, dict) for each in values):
        raise RowError(f'wrong type: {name} is a list of turns, expected a list of conversations ([[...]])')
    media: list[dict[str, list[Any]]] = [{} for _ in values]
    found = tuple(conversation(each, f'{name}[{i}]', media[i]) for i, each in enumerate(values))
    for kind in sorted({kind for each in media for kind in each}):  # a list for each conversation
        draft.media[f'{side}_{kind}'] = [each.get(kind, []) for each in media]
    return found

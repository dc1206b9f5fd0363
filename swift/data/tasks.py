"""What classifiers, embedding models and rerankers make of a row, and the table of all such encoders.

``encode`` gives a conversation as one sequence that is read at its end (``templates.reading``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from swift.core.errors import RowError
from swift.core.types import Encoded, Message, Sample
from swift.data import groups
from swift.data.encoding import Encode
from swift.data.groups import group

Conversation = tuple[Message, ...]


def labelled(
    encode: Encode, sample: Sample, *, problem: str | None = None, labels: int | None = None, asked: bool = False
) -> list[Encoded]:
    """[text]; the label is its class, its classes, or its numbers.

    Args:
        problem, labels: kind of problem and number of classes; None when only looking at rows.
        asked: the row may have no label, which is what is wanted to know.
    """
    if sample.positives:  # a pair of sentences
        sample = replace(sample, messages=(*sample.messages, *_said(sample.positives[0])), positives=())
    made = encode(sample)
    if sample.label is None and asked:
        return made
    return [replace(each, label=_label(sample.label, problem, labels)) for each in made]


def embedding(encode: Encode, sample: Sample, *, asked: bool = False) -> list[Encoded]:
    """[anchor, positive, negative, ...]; the label is how alike the first two are, where the row says it.

    Args:
        asked: rows without a positive are anchors alone.
    """
    if not sample.positives and not asked:
        raise RowError(
            'no positive: an embedding row needs positive_messages, or a positive (sentence2) beside its text'
        )
    anchor = replace(sample, positives=(), negatives=())
    texts = [anchor, *(_alone(sample, each) for each in (*sample.positives[:1], *sample.negatives))]
    members = [each for text in texts for each in encode(text)]
    if len(members) < len(texts):  # too long, and left out on purpose
        return []
    label = () if sample.label is None else (_number(sample.label),)
    return [group(members, label=label, share=False)]


def reranker(
    encode: Encode,
    sample: Sample,
    *,
    max_positive_samples: int | None = 1,
    max_negative_samples: int | None = 7,
    asked: bool = False,
) -> list[Encoded]:
    """[query with document, ...], a positive and then the negatives; the label is 1 for the positive and 0 for others.

    Each of several positives makes a group of its own. A row whose last turn is an assistant's is a query and a
    document, with a label 1 or 0; so is one with a single text and a label.

    Args:
        max_positive_samples, max_negative_samples: how many are used, the first ones; None: all, in one group.
        asked: the row may have no label, which is what is wanted to know.
    """
    if sample.label is not None and len(sample.positives) == 1 and not sample.negatives:
        sample = _with(sample, (*sample.messages, *_said(sample.positives[0])))
    if not sample.positives and not sample.negatives:
        return _one_document(encode, sample, asked=asked)
    if not sample.positives and not asked:
        raise RowError('no positive: a reranker row needs positive_messages, or a positive beside its query')
    negatives = sample.negatives[:max_negative_samples]
    if max_positive_samples is None:
        wanted = [sample.positives]
    else:
        wanted = [(each,) for each in sample.positives[:max_positive_samples]]
    found = []
    for positives in wanted:
        documents = (*positives, *negatives)
        made = [encode(_with(sample, (*sample.messages, *_said(each)))) for each in documents]
        if all(made):
            label = (1.0,) * len(positives) + (0.0,) * len(negatives)
            found.append(group([each for part in made for each in part], label=label))
    return found


ENCODERS: dict[str, Callable[..., list[Encoded]]] = groups.ENCODERS | {
    'labelled': labelled,
    'embedding': embedding,
    'reranker': reranker,
}
"""What a task makes of a row: (template's encode, Sample, settings) -> rows for the store."""


def encoder(kind: str, encode: Encode, **settings: Any) -> Encode:
    """A template's ``encode`` for rows of this kind."""
    return partial(ENCODERS[kind], encode, **settings)


# ---------------------------------------------------------------------------------------------------------------- parts
def _one_document(encode: Encode, sample: Sample, *, asked: bool) -> list[Encoded]:
    if len(sample.messages) < 2 or sample.messages[-1].role != 'assistant':
        raise RowError(
            'no document: a reranker row needs positive_messages and negative_messages, or an assistant turn'
        )
    made = encode(_with(sample, sample.messages))
    if sample.label is None and asked:
        return made
    if sample.label is None or _number(sample.label) not in (0, 1):
        raise RowError(f'label {sample.label!r}: whether the document is relevant is 1 or 0')
    return [group(made, label=(_number(sample.label),))] if made else []


def _label(value: Any, problem: str | None, labels: int | None) -> tuple[float, ...]:
    """A label as numbers, after a look at whether it can be one."""
    if value is None:
        raise RowError('no label: a row for seq_cls needs the column label')
    several = isinstance(value, list)
    values = tuple(float(each) for each in value) if several else (float(value),)
    if problem == 'regression':
        if labels is not None and len(values) != labels:
            raise RowError(f'label {value!r}: {len(values)} numbers, where the head has {labels}')
        return values
    if problem == 'single_label_classification' and several:
        raise RowError(f'label {value!r}: several classes; give --problem_type multi_label_classification')
    for each in values if problem else ():
        if not each.is_integer() or not 0 <= each < (labels or float('inf')):
            raise RowError(f'label {value!r}: classes are whole numbers from 0 to {(labels or 0) - 1} (--num_labels)')
    return values


def _number(value: Any) -> float:
    if isinstance(value, list):
        raise RowError(f'label {value!r}: one number is wanted')
    return float(value)


def _said(conversation: Conversation) -> Conversation:
    """A document, which answers a query, as the assistant's turn."""
    return tuple(replace(each, role='assistant') if each.role == 'user' else each for each in conversation)


def _alone(sample: Sample, messages: Conversation) -> Sample:
    return replace(sample, messages=messages, text=None, positives=(), negatives=())


def _with(sample: Sample, messages: Conversation) -> Sample:
    return replace(sample, messages=messages, positives=(), negatives=())

"""What stands on top of a model for each ``--task_type``: which class loads it, and what is read of a sequence.

==================== ============================ =======================================================
task_type            class of transformers        read of a sequence
==================== ============================ =======================================================
seq_cls, reranker    ...ForSequenceClassification  the scores of its head
embedding            AutoModel                     hidden states, pooled as the folder's 1_Pooling says
generative_reranker  ...ForCausalLM                logit of "yes" less logit of "no" as the next token
==================== ============================ =======================================================

A reward model is ``seq_cls`` with one label. No torch here: what is described costs nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, ModelError
from swift.core.types import Builder, ModelInfo, Readout
from swift.models import sentence
from swift.models.args import ModelArgs

logger = logging.getLogger(__name__)

CLASSES = {
    None: 'AutoModelForCausalLM',
    'causal_lm': 'AutoModelForCausalLM',
    'generative_reranker': 'AutoModelForCausalLM',
    'seq_cls': 'AutoModelForSequenceClassification',
    'reranker': 'AutoModelForSequenceClassification',
    'embedding': 'AutoModel',
}
"""Class of transformers by task."""
SEEING = 'AutoModelForImageTextToText'
"""The class of a language model that takes pictures."""
CLASSIFIER = 'ForSequenceClassification'
OUTPUT_HEADS = ('lm_head', 'cls', 'embed_out', 'output', 'vocab', 'generator_', 'mask_', 'discriminator_')
"""Beginnings of names of weights that a model without a language head leaves in the file."""
BODY_MAY_LACK = ('pooler',)
"""Parts of a body that checkpoints without a head leave out."""


def readout(args: ModelArgs, info: ModelInfo, tokenizer: Any) -> Readout | None:
    """What the task reads of a sequence; None for a language model.

    Raises:
        ConfigError: the words of a generative reranker are not one token each.
        ModelError: the folder asks for a pooling that is not known.
    """
    if args.task_type in ('seq_cls', 'reranker'):
        return Readout('head')
    if args.task_type == 'generative_reranker':
        return Readout('tokens', tokens=_words(args, tokenizer))
    if args.task_type == 'embedding':
        return sentence.readout(info.path)
    return None


def prepare_(config: Any, args: ModelArgs, info: ModelInfo, tokenizer: Any) -> None:
    """Write what the head must know into the config: labels, kind of problem, padding.

    Raises:
        ConfigError: the number of labels is not known, or does not fit the kind of problem.
    """
    if CLASSES[args.task_type] != 'AutoModelForSequenceClassification':
        return
    has_head = info.architecture.endswith(CLASSIFIER)
    labels = args.num_labels or (config.num_labels if has_head else 1 if args.task_type == 'reranker' else None)
    if labels is None:
        raise ConfigError(f'--num_labels is missing: {info.id} has no head, and seq_cls must know its classes')
    if has_head and labels != config.num_labels:
        raise ConfigError(f'--num_labels {labels}: the head of {info.id} has {config.num_labels}')
    config.num_labels = labels
    own = config.problem_type if has_head else None
    config.problem_type = args.problem_type or own or problem_type(labels)
    if config.problem_type == 'single_label_classification' and labels == 1:
        raise ConfigError('--problem_type single_label_classification needs --num_labels 2 or more')
    text = config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = _padding(tokenizer)


def write(folder: Path, builder: Builder, *, length: int) -> None:
    """Put beside trained weights what other programs need to read sequences as here: the modules of embedding models.

    Args:
        length: longest sequence, in tokens.
    """
    made, config = builder.readout, builder.info.config
    if made is not None and made.kind == 'pooled':
        width = config.get_text_config().hidden_size
        sentence.write(folder, made, width=width, length=length, source=builder.info.path)


def problem_type(labels: int) -> str:
    """What a head of so many labels is for, unless it is said."""
    return 'regression' if labels == 1 else 'single_label_classification'


def is_fresh(name: str, model: Any) -> bool:
    """Whether a weight that is in no file belongs to the head, which then starts at random."""
    body = f'{model.base_model_prefix}.'
    inside = name.startswith(body) or model.base_model is model
    return not inside or any(part in BODY_MAY_LACK for part in name.split('.'))


def is_left_over(name: str) -> bool:
    """Whether a weight of the file that the model does not use is the head of another task."""
    return name.startswith((*OUTPUT_HEADS, 'score', 'classifier')) or '.pooler.' in f'.{name}'


def _words(args: ModelArgs, tokenizer: Any) -> tuple[int, int]:
    """The two tokens whose logits a generative reranker compares."""
    found = []
    for flag in ('reranker_positive_word', 'reranker_negative_word'):
        word = getattr(args, flag)
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f'--{flag} {word}: {len(ids)} tokens of this model; a word that is one token is needed')
        found.append(ids[0])
    return found[0], found[1]


def _padding(tokenizer: Any) -> int | None:
    """A token to pad with; heads read the last token that is none, so it should be no token that ends a sequence."""
    if tokenizer.pad_token_id is None:
        unused = [token.content for token in tokenizer.added_tokens_decoder.values() if 'pad' in token.content.lower()]
        tokenizer.pad_token = unused[0] if unused else tokenizer.eos_token
    return tokenizer.pad_token_id


def check_architecture(info: ModelInfo, config: Any, task: str) -> None:
    """Refuse what has no class for the task.

    Raises:
        ModelError: transformers has none.
    """
    from transformers.models.auto import modeling_auto as auto

    names = {
        'AutoModelForSequenceClassification': auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        'AutoModel': auto.MODEL_MAPPING_NAMES,
    }[CLASSES[task]]
    if config.model_type not in names:
        raise ModelError(f'{info.id}: transformers has no {CLASSES[task]} for {config.model_type}, so no {task}')

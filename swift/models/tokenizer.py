"""The tokenizer of a model folder, with new tokens, held against the model's embeddings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, ModelError
from swift.core.types import ModelInfo
from swift.models.info import chat_template

logger = logging.getLogger(__name__)

# A tokenizer has at least one of these; without any, transformers would make an empty one and say nothing.
FILES = (
    'tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt', 'spiece.model', 'sentencepiece.bpe.model',
    'tekken.json', '*.tiktoken', 'tokenization_*.py',
)  # fmt: skip


def load_tokenizer(info: ModelInfo, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of ``info.path``; it has a pad token if it has an end token.

    Raises:
        ModelError: there is none, it is damaged, or it wants to run code of its own.
    """
    from transformers import AutoTokenizer

    if not any(list(info.path.glob(pattern)) for pattern in FILES):
        raise ModelError(
            f'{info.path}: no tokenizer (looked for {", ".join(FILES[:5])}): '
            'copy the tokenizer files of the base model into this folder'
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(info.path, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # every format fails in its own way
        if 'trust_remote_code' in str(error):
            raise ModelError(
                f'{info.path}: its tokenizer is Python code of its author. Read it, and if you trust it, give '
                '--trust_remote_code true'
            ) from error
        raise ModelError(f'{info.path}: the tokenizer cannot be loaded ({type(error).__name__}: {error})') from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def add_tokens_(tokenizer: Any, values: Sequence[str]) -> list[int]:
    """Make special tokens of ``values``, or of the lines of ``.txt`` files among them, and return their ids.

    Raises:
        ConfigError: a file cannot be read.
    """
    tokens: list[str] = []
    for value in values:
        tokens += _lines(value) if value.endswith('.txt') else [value]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return sorted(set(tokenizer.convert_tokens_to_ids(tokens)))


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding='utf-8').splitlines()
    except OSError as error:
        raise ConfigError(f'--new_special_tokens {path}: cannot be read ({error.strerror})') from error
    return [line.strip() for line in lines if line.strip()]


def check_vocabulary(info: ModelInfo, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer that can give ids beyond the ``rows`` of the embeddings.

    Special tokens that the chat template never writes are let through: text of users never becomes one (Gemma 3's
    image token lies outside its text model).

    Raises:
        ModelError: naming the tokens.
    """
    beyond = {token: id for token, id in tokenizer.get_vocab().items() if id >= rows}
    if not beyond:
        return
    template = chat_template(info.path) or ''
    ends = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    added = tokenizer.added_tokens_decoder
    harmless = {
        token for token, id in beyond.items()
        if id in added and added[id].special and token not in template and token not in ends
    }  # fmt: skip
    names = ', '.join(repr(token) for token in sorted(beyond, key=beyond.__getitem__)[:8])
    if harmless == set(beyond):
        logger.info('the tokenizer has special tokens without embeddings, which nothing here writes: %s', names)
        return
    raise ModelError(
        f'{info.path}: the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings; without one: {names}. '
        'Give those tokens as --new_special_tokens to make embeddings for them, or use the tokenizer of this model'
    )

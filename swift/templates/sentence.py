"""Texts as encoders and embedding models see them: the tokenizer's own way, its special tokens included.

A conversation is one text, its contents one after the other. If it ends with an assistant's turn, that is the second
text of a pair (a query and its document), which tokenizers of encoders put a separator between. What
sentence-transformers makes of the same texts is the same, token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from swift.core.errors import ConfigError, DataError, RowError
from swift.core.types import ROLES, Encoded, Message, Sample
from swift.templates.args import TemplateArgs
from swift.templates.fingerprint import digest

USER = ROLES.index('user')


class SentenceTemplate:
    """Implements ``swift.core.types.Template`` for heads that read whole sequences. Nothing is generated.

    Args:
        length: most tokens; longer rows are treated by ``args.truncation_strategy``, special tokens kept.
    """

    stop_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Any, args: TemplateArgs, *, length: int | None):
        self.tokenizer, self.args, self.length = tokenizer, args, length
        self.notes: list[str] = []
        self._strategy = args.truncation_strategy or 'delete'
        if self._strategy == 'split':
            raise ConfigError('--truncation_strategy split: what a head reads is whole; take delete, left or right')
        if self._strategy in ('left', 'right'):
            tokenizer.truncation_side = self._strategy

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the same sample could encode differently."""
        return digest({'sentence': asdict(self.args), 'length': self.length}, self.tokenizer)

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded whose last token alone carries weight; none when the row is too long and left out.

        Raises:
            RowError: the row says nothing.
            DataError: it is too long, and the strategy is to raise.
        """
        texts = self._texts(sample.messages, sample.text)
        made, cut = self.tokenizer(*texts), False
        ids = made.input_ids
        if any(made.get('token_type_ids', ())):
            raise RowError('a pair of texts: this model tells them apart by token types, which are not built yet')
        if self.length is not None and len(ids) > self.length:
            if self._strategy == 'raise':
                raise DataError(f'{sample.origin}: {len(ids)} tokens, more than --max_length {self.length}')
            if self._strategy == 'delete':
                return []
            ids, cut = self.tokenizer(*texts, truncation=True, max_length=self.length).input_ids, True
        return [read_at_end(ids, sample, truncated=cut)]

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[dict] = (), **kwargs: Any) -> list[int]:
        """Ids of the texts: there is nothing to be asked for."""
        return self.tokenizer(*self._texts(tuple(messages), None)).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _texts(self, messages: Sequence[Message], text: str | None) -> list[str]:
        if text is not None:
            return [text]
        if self.args.system is not None and all(each.role != 'system' for each in messages):
            messages = (Message('system', self.args.system), *messages)
        paired = len(messages) > 1 and messages[-1].role == 'assistant'
        first, second = (messages[:-1], messages[-1:]) if paired else (messages, ())
        texts = [''.join(each.content for each in part) for part in (first, second) if part]
        if not any(each.strip() for each in texts):
            raise RowError('empty text: there is nothing to read')
        return texts


def read_at_end(ids: Sequence[int], sample: Sample, *, truncated: bool = False) -> Encoded:
    """A sequence that a head reads at its last token, which alone carries weight."""
    weight = np.zeros(len(ids), np.float32)
    weight[1:][-1:] = 1
    role = np.full(len(ids), USER, np.uint8)
    return Encoded(np.asarray(ids, np.int32), weight, role, sample.origin, truncated)

"""Plain text: rows for ``swift pt``, and models that are trained without any chat template.

A text row is its text and the eos token, every token trained; a bos token stands first if the tokenizer puts one
there.
Messages without a chat template are their contents one after the other, the answers trained (all of it with
``--loss_scale all``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from swift.core.errors import RowError
from swift.core.types import ROLES, Encoded, Message, Sample
from swift.templates import ahead
from swift.templates.args import TemplateArgs
from swift.templates.fingerprint import digest
from swift.templates.tokens import Said, Tokenizer
from swift.templates.truncate import Truncate
from swift.templates.weights import LossScale


class TextTemplate:
    """Implements ``swift.core.types.Template`` without a chat template."""

    def __init__(
        self, tokenizer: Any, args: TemplateArgs, *, scale: LossScale, truncate: Truncate, known: frozenset[int]
    ):
        self.tokenizer, self.args, self.scale, self.truncate = tokenizer, args, scale, truncate
        self.notes: list[str] = []
        self.stop_ids = tuple(sorted(known))
        self.words = Tokenizer(tokenizer)
        self.beginning = [id for id in tokenizer('').input_ids if id == tokenizer.bos_token_id][:1]
        self._after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the same sample could encode differently."""
        told = {
            'args': asdict(self.args),
            'scale': self.scale.facts(),
            'length': self.truncate.length,
            'tokens': self.tokenizer.special_tokens_map,
        }
        return digest(told, self.tokenizer)

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded; several when truncation splits, none when it leaves the row out.

        Raises:
            RowError: the row has no text, or a control string that the tokenizer cannot write as text.
        """
        return ahead.alone(self.steps(sample), self.words.ids)

    def encode_all(self, samples: Iterable[Sample]) -> Iterator[ahead.Outcome]:
        """``encode`` of each, in their order; a RowError in place of a row that is refused."""
        return ahead.together(map(self.steps, samples), self.words.ids)

    def steps(self, sample: Sample) -> ahead.Steps:
        """The way from a row to its tokens."""
        if sample.text is not None:
            parts = [('text', sample.text, 1.0)]
        else:
            parts = [
                (m.role, m.content, self.scale.turn(sample.messages, i) if m.role == 'assistant' else None)
                for i, m in enumerate(sample.messages)
            ]
        text = ''.join(content for _, content, _ in parts)
        if not text:
            raise RowError('the row has no text')
        spelled = (yield text) if self.words.spells else None
        tokens = self.words(text, [Said(0, len(text), answer=False)], spelled)
        first = len(self.beginning)
        ids = np.array([*self.beginning, *tokens.ids, *self._after], dtype=np.int32)
        weight = np.full(len(ids), float(self.scale.base == 'all'), dtype=np.float32)
        role = np.zeros(len(ids), dtype=np.uint8)
        at = 0
        for name, content, own in parts:
            i, j = tokens.within(at, at + len(content))
            role[first + i : first + j] = ROLES.index(name)
            if own is not None:
                weight[first + i : first + j] = own
            at += len(content)
        if self._after:
            weight[-1] = parts[-1][2] if parts[-1][2] is not None else weight[-1]
        weight[0] = 0
        return self.truncate(Encoded(ids, weight, role, sample.origin))

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict] = (),
        pictures: Sequence[bytes] = (),
        **kwargs: Any,
    ) -> list[int]:
        """Ids of the contents one after the other; the model goes on with them."""
        for given, what in ((tools, 'tools'), (pictures, 'pictures')):
            if given:
                raise RowError(f'the row brings {what}, and plain text has no way to show them')
        text = ''.join(message.content for message in messages)
        said = [Said(0, len(text), answer=False)]
        return [*self.beginning, *self.words(text + (self.args.response_prefix or ''), said).ids.tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without control tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

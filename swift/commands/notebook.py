"""What notebooks ask of a template: rows as dicts, modes, ids back to text with a mask in between.

template = get_template(tokenizer, 'Be brief.', 2048)
template.set_mode('train')
template.encode({'messages': [...]})  # {'input_ids': [...], 'labels': [...], 'loss_scale': [...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swift import templates
from swift.core.errors import ConfigError, RowError, did_you_mean
from swift.core.types import Origin, Sample
from swift.data.convert import Reading, convert
from swift.data.preprocess import columns

TRAINING = ('train', 'rlhf', 'kto')
ANSWERING = ('transformers', 'pt', 'vllm', 'lmdeploy', 'sglang')
MASKED = -100  # labels of tokens without loss


def get_template(
    processor: Any, default_system: str | None = None, max_length: int | None = None, **flags: Any
) -> NotebookTemplate:
    """The template of a tokenizer; arguments and errors as ``templates.choose.get_template``."""
    return NotebookTemplate(templates.get_template(processor, default_system, max_length, **flags))


class NotebookTemplate:
    """A Template of ``swift.core.types`` that takes rows as they are written, too.

    ``mode`` says what ``encode`` makes of a row: something to train on, or the prompt of an answer (the default).
    """

    def __init__(self, template: Any):
        self.template, self.mode = template, ANSWERING[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['template'], name)

    def set_mode(self, mode: str) -> None:
        """Choose what ``encode`` makes of rows. Raises ConfigError for a mode that there is not."""
        if mode not in TRAINING + ANSWERING:
            known = [*TRAINING, *ANSWERING]
            raise ConfigError(f'set_mode {mode!r}: expected one of {", ".join(known)}{did_you_mean(mode, known)}')
        self.mode = mode

    def encode(self, inputs: Any, return_length: bool = False) -> Any:
        """A row in any format of datasets, or an InferRequest, as a dict of lists; a Sample as ``Template.encode``.

        Raises:
            RowError: the row cannot be read or encoded, or is longer than ``max_length``.
        """
        if isinstance(inputs, Sample):
            return self.template.encode(inputs)
        row = dict(inputs) if isinstance(inputs, Mapping) else {k: v for k, v in vars(inputs).items() if v}
        training = self.mode in TRAINING
        sample = convert(row, Origin('<row>', 1), Reading(answers=training))
        if training:
            pieces = self.template.encode(sample)
            if not pieces:
                raise RowError(f'the row is longer than max_length {self.template.truncate.length}')
            encoded = columns(pieces[0])
        else:
            ids = self.template.prompt(sample.messages, tools=sample.tools, **sample.template_kwargs)
            encoded = {'input_ids': ids, 'length': len(ids)}
        return encoded if return_length else {name: value for name, value in encoded.items() if name != 'length'}

    def safe_decode(self, ids: Sequence[int]) -> str:
        """Ids or labels as text, control tokens too; masked stretches as ``[-100 * 12]``."""
        parts = []
        for masked, run in groupby(ids, key=lambda id: id == MASKED):
            run = list(run)
            parts.append(f'[{MASKED} * {len(run)}]' if masked else self._text(run))
        return ''.join(parts)

    def _text(self, ids: list[int]) -> str:
        return self.template.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

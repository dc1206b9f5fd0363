"""What the catalogue knows of an objective, and of where it is from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ALIGNMENT = 'swift.objectives.args:ObjectiveArgs'
DISTILLATION = 'swift.objectives.distill_args:DistillArgs'
TASK = 'swift.objectives.args:TaskArgs'


@dataclass(frozen=True)
class Source:
    """A paper: title, arXiv number, equation or section; ``printed``: where and when one without a number was."""

    title: str
    arxiv: str = ''
    where: str = ''
    printed: str = ''

    @property
    def url(self) -> str:
        """Of a paper on arXiv."""
        return f'https://arxiv.org/abs/{self.arxiv}' if self.arxiv else ''

    @property
    def key(self) -> str:
        """What it is cited by."""
        return self.arxiv or self.printed.replace(' ', '').lower()

    @property
    def year(self) -> str:
        return f'20{self.arxiv[:2]}' if self.arxiv else self.printed[-4:]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One objective.

    ``make`` is called with the ``group`` of flags that has ``given`` and one of ``tried``, or with these by keyword if
    the group is ''. ``reference`` is called with the rows of a step and the same flags of ``tried`` (never with
    ``given``), and so is ``told``, which gives metrics by name. ``rows`` names the function of ``objectives.trial``
    that makes rows for it; ``reads`` says what the model gives for a row where it is no next token, ``scores`` how many
    numbers. ``divergence`` makes what compares it with a teacher, from alignment's flags and those of distillation.
    ``example`` is the YAML that runs it, and flags to add; '' is that of its ``--rlhf_type``.
    """

    title: str
    formula: str
    source: tuple[Source, ...]
    make: str
    given: dict[str, Any]
    code: str
    reference: str
    rows: Literal[
        'preferences', 'verdicts', 'solutions', 'texts', 'classes', 'several_classes', 'numbers', 'alike', 'ranked'
    ]
    flags: tuple[str, ...]
    steps: tuple[str, ...]
    tried: tuple[dict[str, Any], ...] = ({},)
    group: str = ALIGNMENT
    told: str = ''
    reads: Literal['head', 'tokens', 'pooled'] | None = None
    scores: int = 1
    divergence: str = ''
    example: tuple[str, str] = ('', '')
    differs: str = ''
    words: dict[str, str] = field(default_factory=dict)  # symbol -> meaning, beside SYMBOLS

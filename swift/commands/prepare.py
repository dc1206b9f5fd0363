"""What training and inspection share: the model's description, its template, and the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from swift.commands import methods
from swift.commands.configs import SftConfig
from swift.core.types import Builder

if TYPE_CHECKING:
    from swift.data.encoding import Encode


@dataclass(frozen=True, slots=True)
class InMemory:
    """Models that Python hands over: the one that is trained has what learns already, and no file says what it is.

    ``digest`` is that of the weights it starts from; ``reference`` and ``teacher`` are models to compare it with, None
    where flags say which.
    """

    digest: str
    reference: Builder | None = None
    teacher: Builder | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that needs no weights. ``train`` and ``val`` are rows of ``swift.data``."""

    builder: Builder
    template: Any
    max_length: int
    train: Any
    val: Any
    rows: str | None = None  # what a row becomes, of ``data.tasks.ENCODERS``; None: what the template makes of it
    how: Mapping[str, Any] = field(default_factory=dict)  # settings of that
    memory: InMemory | None = None  # None: models are what flags name

    @property
    def weights(self) -> str:
        """A digest of the weights that training starts from."""
        from swift.train import fingerprint

        return self.memory.digest if self.memory else fingerprint.of_folder(self.builder.info.path)

    @property
    def encode(self) -> Encode:
        """Sample -> what the store keeps of it."""
        from swift.data import tasks
        from swift.data.encoding import Encoder

        if self.rows is None:
            return Encoder(self.template.encode, self.template.encode_all)
        return tasks.encoder(self.rows, self.template.encode, **self.how)

    @property
    def fingerprint(self) -> str:
        """Changes whenever ``encode`` could make other tokens of a row."""
        made = self.template.fingerprint
        return made if self.rows is None else f'{made} as {self.rows} {dict(self.how) or ""}'.rstrip()

    def lint_facts(self) -> dict[str, Any]:
        """What the lint must know: where rows are cut, what ends an answer, which strings are control tokens."""
        added = self.builder.tokenizer.added_tokens_decoder.values()
        control = [token.content for token in added if token.special]
        return {'max_length': self.max_length, 'stop_ids': self.template.stop_ids, 'control': control}


def prepare(cfg: SftConfig, *, now: datetime | None = None, weights_needed: bool = True) -> Prepared:
    """Describe the model, compile its template and find the rows. No weights are read.

    Args:
        weights_needed: False when the model will not be built: its tokenizer is enough then.
        now: the date that templates print; a resumed run passes the date of its start.
    """
    from swift import data, models

    builder = models.load(cfg.model) if weights_needed else models.outline(cfg.model)
    max_length = cfg.template.max_length or builder.info.max_model_len
    _settle_head(cfg, builder)
    method = methods.method(cfg)
    template = make_template(cfg, builder, reads=method.reads, now=now)
    loaded = data.load(cfg.data, use_hf=cfg.model.use_hf, token=cfg.model.hub_token)
    return Prepared(builder, template, max_length, loaded.train, loaded.val, method.rows, method.how(cfg))


def make_template(cfg: Any, builder: Builder, *, reads: bool, now: datetime | None = None) -> Any:
    """The template of a run; ``reads``: of one whose head reads whole sequences."""
    from swift import templates

    if not reads:
        return templates.make(builder.tokenizer, builder.info, cfg.template, now=now)
    from swift.templates import reading

    judges = cfg.model.task_type == 'generative_reranker'
    return reading.make(builder.tokenizer, builder.info, cfg.template, judges=judges, now=now)


def _settle_head(cfg: SftConfig, builder: Builder) -> None:
    """What the model itself says of its head, where no flag did."""
    config = builder.info.config
    if builder.readout is not None and builder.readout.kind == 'head' and config is not None:
        for name in ('num_labels', 'problem_type'):
            cfg.put(name, getattr(config, name), cfg.sources.get(name, 'derived'))

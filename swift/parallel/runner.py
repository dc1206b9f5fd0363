"""A model that reads batches: what training, evaluation and reference passes share.

Packs run in one forward pass through packed attention, and a prefix that sequences share is computed once. A model that
cannot pack runs one sequence at a time, one that cannot share gets each sequence whole: with the same numbers.

Shapes: ``T`` tokens, ``N`` sequences, ``S`` supervised targets, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from swift.core.types import Batch, Outputs, Readout
from swift.kernels import angles, attention, head, layers
from swift.kernels.divergence import Predictions
from swift.kernels.head import Tap
from swift.kernels.logprobs import wide
from swift.kernels.switch import Switch, attach, attached, detach
from swift.parallel import layout
from swift.parallel.reading import Reader
from swift.parallel.settings import Settings

logger = logging.getLogger(__name__)


class Runner:
    """Runs ``model`` over batches. Its kernels are found in ``kernels``, each with a switch.

    ``readout``: what is read of sequences, for a model that is not asked for next tokens.
    """

    def __init__(self, model: nn.Module, settings: Settings, readout: Readout | None = None):
        self.model, self.settings = model, settings
        unwrap: Any = getattr(model, 'get_base_model', None)  # a peft model has one
        self.base = cast(PreTrainedModel, unwrap() if unwrap else model)
        self._use_cache = getattr(self.base.config, 'use_cache', None)  # encoders have none
        self.base.config.use_cache = False
        self.device = next(model.parameters()).device
        self._reader = None if readout is None else Reader(self.base, readout)
        self._body = self._reader.body if self._reader else self.base
        """The part of the model that a pass runs."""
        self.noise: Any = None
        """Neftune, told of the segments before each pass."""
        self.teacher: Any = None
        """Who ``divergence`` is measured from: a ``parallel.teacher.Teacher``."""
        self._moving = angles.install(self.base)
        self._slices_logits = 'logits_to_keep' in inspect.signature(self.base.forward).parameters
        self._tap: Tap | None = None
        self._sharing: str | None = None if settings.prefix_sharing else '--prefix_sharing false'
        self._probed = not settings.prefix_sharing
        self.unpacked_reason = self._pack_sequences()
        if 'head' in settings.kernels and self._slices_logits and readout is None:
            self._tap_head()
        for path, why in layers.install(self.base, wanted=settings.kernels).left.items():
            logger.debug('%s keeps its own forward: %s', path, why)
        self.kernels = attached(model)

    def close(self) -> None:
        """Give the model back as it came."""
        detach(self.model)
        angles.remove(self.model)
        if self._use_cache is not None:
            self.base.config.use_cache = self._use_cache

    # ------------------------------------------------------------------------------------------------- building
    def _pack_sequences(self) -> str | None:
        """Let sequences share a forward pass. Returns None, or why they do not."""
        body, settings = self._body, self.settings
        if settings.attn_impl == 'eager':
            return f'--attn_impl {settings.attn_impl} asks for the plain path'
        if 'attention' not in settings.kernels:
            return '--kernels leaves packed attention out'
        if self._reader and self._reader.own_forward:
            return 'its head looks at each sequence in a way of its own'
        before = body.config._attn_implementation or 'eager'
        if reason := attention.install(body, settings.max_length):
            return reason

        def on() -> None:
            body.set_attn_implementation(attention.NAME)
            self.unpacked_reason = None

        def off() -> None:
            body.set_attn_implementation(before)
            self.unpacked_reason = 'packed attention is switched off'

        attach(self.base, Switch('attention', on, off))
        return None

    def _tap_head(self) -> None:
        found = head.tap(self.base)
        if isinstance(found, str):
            logger.info('logits are kept whole: %s', found)
            return
        attach(self.base, Switch('head', lambda: setattr(self, '_tap', found), lambda: setattr(self, '_tap', None)))

    def unshared_reason(self) -> str | None:
        """Why sequences do not share the computation of a common prefix, or None. Asked first, it tries the model."""
        if self.unpacked_reason is None and not self._probed:
            self._probed = True
            several = self._reader is None or self._reader.shares
            self._sharing = attention.shares_prefixes(self._body) if several else 'whole sequences are pooled'
        return self.unpacked_reason or self._sharing

    def _takes_apart(self, batch: Batch) -> bool:
        """Whether each sequence gets its own copy of what it shares: also where its length changes the angles in it."""
        if not batch.segments.prefix_of:
            return False
        longer = self._moving is not None and self._moving.original < int(batch.position_ids.max()) + 1
        return longer or self.unshared_reason() is not None

    # ------------------------------------------------------------------------------------------------- forward
    def outputs(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        """What ``needs`` names of a batch on the model's device, in the layout of the batch."""
        if self._reader is not None:
            return self._read(batch, self._reader)
        if self._takes_apart(batch):
            whole, back = layout.unshared(batch)
            return Outputs(**{name: each[back] for name, each in self._tokens(whole, needs).items()})
        return Outputs(**self._tokens(batch, needs))

    def trial(self, batch: Batch) -> Tensor:
        """A number that all that is computed of a batch goes into: for holding one way of computing against another."""
        if self._reader is None:
            return -self.outputs(batch, frozenset({'logps'})).logps.mean()
        found = self._read(batch, self._reader)
        return (found.scores if found.pooled is None else found.pooled).abs().mean()

    def _read(self, batch: Batch, reader: Reader) -> Outputs:
        """Scores or embeddings of the N sequences."""
        if self._takes_apart(batch):
            batch, _ = layout.unshared(batch)
        size = len(batch.segments.leaves)
        packed = self.unpacked_reason is None
        parts = [batch] if packed else layout.one_by_one(batch)
        found: list[Outputs] = []
        for part in parts:
            part = layout.rounded(part) if packed and self.device.type == 'cpu' else part
            inputs = self._inputs(part)
            with self.autocast():
                if reader.own_forward:
                    found.append(reader.of_forward(inputs, self.model))
                else:
                    found.append(reader(self._body(**inputs).last_hidden_state[0], part))
        join: Any = lambda several: None if several[0] is None else torch.cat(several)[:size]
        return Outputs(scores=join([each.scores for each in found]), pooled=join([each.pooled for each in found]))

    def _tokens(self, batch: Batch, needs: frozenset[str]) -> dict[str, Tensor]:
        """Numbers per token [T], by their names in Outputs."""
        if self.unpacked_reason is None:
            size = len(batch.input_ids)
            found = self._pack(layout.rounded(batch) if self.device.type == 'cpu' else batch, needs)
            return {name: each[:size] for name, each in found.items()}
        parts = [self._pack(each, needs) for each in layout.one_by_one(batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _pack(self, batch: Batch, needs: frozenset[str]) -> dict[str, Tensor]:
        """The same of one row of tokens; zeros where the weight is 0."""
        targets = torch.nonzero(batch.weight)[:, 0]  # [S]
        found = self._targets(batch, targets, needs) if len(targets) else {}
        out: dict[str, Tensor] = {}
        for name, dtype in self._kinds(needs).items():
            zeros = torch.zeros(len(batch.weight), dtype=dtype, device=batch.weight.device)
            out[name] = zeros.index_put((targets,), found[name]) if found else zeros
        return out

    def _kinds(self, needs: frozenset[str]) -> dict[str, torch.dtype]:
        """Numbers per token that ``needs`` asks for, and their types."""
        number = wide(self.base.dtype)
        kinds = {'logps': number, 'correct': torch.bool} if needs & {'logps', 'correct'} else {}
        return kinds | ({'divergence': number} if 'divergence' in needs else {})

    def _targets(self, batch: Batch, targets: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """What ``needs`` names of the targets, int64 [S] positions in the batch."""
        found: dict[str, Tensor] = {}
        told = self.teacher(batch) if 'divergence' in needs else None  # before this model's pass: it may be the same
        with self.autocast():
            predicted = self._predict(batch, targets)
            if needs & {'logps', 'correct'}:
                scores = predicted.scores(layout.padded(batch.input_ids[targets]))
                found |= {'logps': scores.logps, 'correct': scores.correct}
            if told is not None:
                found['divergence'] = self.teacher.how(predicted, told)
        return {name: each[: len(targets)] for name, each in found.items()}

    @torch.no_grad()
    def predictions(self, batch: Batch) -> Predictions:
        """What the model says of the targets of a batch without prefixes, for others to learn; S rounded up."""
        assert not batch.segments.prefix_of, 'a prefix is predicted once, and may be the targets of several sequences'
        if self.unpacked_reason is None:
            parts = [layout.rounded(batch) if self.device.type == 'cpu' else batch]
        else:
            parts = layout.one_by_one(batch)
        places = [(part, torch.nonzero(part.weight)[:, 0]) for part in parts]
        with self.autocast():
            said = [(self._predict(part, targets), len(targets)) for part, targets in places if len(targets)]
        return Predictions(layout.padded(torch.cat([each.rows[:count] for each, count in said])), said[0][0].head)

    def _predict(self, batch: Batch, targets: Tensor) -> Predictions:
        """What the model says of the targets, int64 [S] positions in the batch; S rounded up to ROUND."""
        before = layout.padded(layout.predictors(batch.segments).to(targets.device)[targets])
        inputs = self._inputs(batch)
        if self._slices_logits:
            inputs['logits_to_keep'] = before
        if self._tap is not None:
            with self._tap.open() as tap:
                self.model(**inputs)
                return Predictions(cast(Tensor, tap.hidden)[0], tap.head)
        logits = self.model(**inputs).logits[0]  # [S, V], or [T, V]
        return Predictions(logits if self._slices_logits else logits[before])

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the model's forward for a batch."""
        if self.noise is not None:
            self.noise.segments = batch.segments
        inputs: dict[str, Any] = {'input_ids': batch.input_ids[None], 'use_cache': False}
        if self.unpacked_reason is None:
            inputs |= {'position_ids': batch.position_ids[None], 'segments': batch.segments}
        return inputs

    def autocast(self) -> AbstractContextManager:
        """The precision that the settings ask for."""
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.autocast))

"""The values that flow between rooms, and the seams (Protocols) that rooms meet at.

Shapes: ``T`` tokens, ``N`` sequences, ``V`` vocabulary, ``d`` width.

    row --convert--> Sample --template.encode--> Encoded --pack, collate--> Batch
    Batch --backend--> Outputs --objective--> Loss --backend--> weights
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


# --------------------------------------------------------------------------------------------------------- rows
Role = Literal['system', 'user', 'assistant', 'tool']
PICTURE = '<image>'
"""What rows write into a message where a picture stands."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call made by the assistant. ``arguments`` is the decoded JSON object."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``loss`` None leaves the choice to the run's ``loss_scale`` rule; a number is the turn's weight.

    ``pictures``: where in ``content`` a ``PICTURE`` stands for a picture; elsewhere it is what somebody wrote.
    """

    role: Role
    content: str
    loss: float | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    pictures: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row came from: shown in every message about it. ``row`` counts from 1, as editors do."""

    path: str
    row: int

    def __str__(self) -> str:
        return f'{self.path}:{self.row}'


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of any established format, after ``data.convert``. Fields that a format lacks stay empty.

    ``text`` is set instead of ``messages`` for plain pre-training rows. ``rejected`` completes a preference pair
    (the whole conversation, prompt included); ``positives`` and ``negatives`` serve embedding and reranker rows;
    ``steps`` are an answer to ``messages`` whose every step is judged. ``label`` is a KTO flag, a class, a list of
    classes, a score, how alike the one positive is, or a number for each step; ``extra`` holds the other columns.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    rejected: tuple[Message, ...] | None = None
    positives: tuple[tuple[Message, ...], ...] = ()
    negatives: tuple[tuple[Message, ...], ...] = ()
    steps: tuple[str, ...] = ()
    label: bool | int | float | list[float] | None = None
    margin: float | None = None
    media: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    channel: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = Origin('<memory>', 0)


# ------------------------------------------------------------------------------------------------------- tokens
@dataclass(slots=True)
class Encoded:
    """A tokenised row: one sequence, or a group of sequences that are trained on together.

    ``input_ids`` int32 [T]. ``weight`` float32 [T]: loss weight of *predicting* token t from those before it, so
    ``weight[0]`` is 0. ``role`` uint8 [T] indexes ``ROLES`` and is only for people (``swift inspect``).
    ``truncated``: a part of the row is missing. ``segments`` None: one sequence; else how those of a group lie, with
    what they have in common as their prefix. ``label``: numbers of the row whose meaning its task knows: a margin, a
    class, scores. ``channel``: the kind of data that its loss is reported with.
    """

    input_ids: np.ndarray
    weight: np.ndarray
    role: np.ndarray
    origin: Origin
    truncated: bool = False
    segments: Segments | None = None
    label: tuple[float, ...] = ()
    channel: str | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


ROLES = ('template', 'system', 'user', 'assistant', 'tool', 'text')


@dataclass(frozen=True, slots=True)
class Segments:
    """How N sequences lie end to end. Plain integers, so that kernels never synchronise a device to read them.

    A segment may continue an earlier one, its prefix: its tokens see the prefix whole, and whatever that continues,
    and their positions go on after it. ``prefix_of[i]`` is the index of segment i's prefix, or -1; () means that no
    segment has one.
    """

    lengths: tuple[int, ...]
    prefix_of: tuple[int, ...] = ()

    def __post_init__(self):
        if self.prefix_of and not (
            len(self.prefix_of) == len(self.lengths) and all(-1 <= p < i for i, p in enumerate(self.prefix_of))
        ):
            raise ValueError(f'prefix_of {self.prefix_of}: one index of an earlier segment, or -1, for each segment')

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def starts(self) -> tuple[int, ...]:
        """Cumulative starts, N + 1 numbers."""
        out = [0]
        for length in self.lengths:
            out.append(out[-1] + length)
        return tuple(out)

    @property
    def parents(self) -> tuple[int, ...]:
        """``prefix_of``, written out: N numbers."""
        return self.prefix_of or (-1,) * len(self.lengths)

    @property
    def leaves(self) -> tuple[int, ...]:
        """Indices of the segments that none continues: each ends one sequence."""
        inner = set(self.parents)
        return tuple(i for i in range(len(self.lengths)) if i not in inner)

    def path(self, i: int) -> tuple[int, ...]:
        """Indices of the segments of the sequence that ends with segment ``i``, its first one first."""
        steps = [i]
        while (parent := self.parents[steps[-1]]) >= 0:
            steps.append(parent)
        return tuple(reversed(steps))

    def followed_by(self, *lengths: int) -> Segments:
        """The same with more segments that continue none."""
        return self.joined((self, Segments(lengths)))

    @staticmethod
    def joined(several: Iterable[Segments]) -> Segments:
        """All of these, one after the other."""
        several = list(several)
        lengths = tuple(length for each in several for length in each.lengths)
        if not any(each.prefix_of for each in several):
            return Segments(lengths)
        parents: list[int] = []
        for each in several:
            first = len(parents)
            parents += [parent + first if parent >= 0 else -1 for parent in each.parents]
        return Segments(lengths, tuple(parents))

    @property
    def offsets(self) -> tuple[int, ...]:
        """Position of each segment's first token: the tokens of what it continues. N numbers."""
        out: list[int] = []
        for parent in self.parents:
            out.append(out[parent] + self.lengths[parent] if parent >= 0 else 0)
        return tuple(out)


@dataclass(slots=True)
class Batch:
    """T tokens, N sequences laid end to end; no padding anywhere.

    The N sequences are the leaves of ``segments``: where sequences share a prefix, it lies there once. They belong to
    G groups (a pair, a query with its documents; else each sequence is a group), which are never split.
    """

    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, restarts with each sequence, or goes on after its prefix
    segments: Segments
    weight: Tensor  # [T] float32, loss weight of predicting this token
    streams: dict[str, Tensor] = field(default_factory=dict)  # [T] or [N]: ref_logps, advantages, ...
    media: dict[str, Tensor] = field(default_factory=dict)  # passed to forward by name
    origins: tuple[Origin, ...] = ()  # [G], named when a step goes wrong
    groups: tuple[int, ...] = ()  # [G] sequences of each; () where every sequence is a group
    labels: tuple[tuple[float, ...], ...] = ()  # [G], () where no row has one
    channels: tuple[str | None, ...] = ()  # [G], () where no row has one
    places: tuple[int, ...] = ()  # [G] position of each group in its optimizer step

    def per_sequence(self, values: Tensor) -> Tensor:
        """Sums of a number per token, [T], over each sequence with what it continues: [N], differentiable."""
        import torch

        lengths, parents = self.segments.lengths, self.segments.parents
        own = torch.stack([part.sum() for part in values.split(lengths)])  # [segments]
        leaves = self.segments.leaves
        if len(leaves) == len(lengths):
            return own
        whole: list[Tensor] = []
        for i, parent in enumerate(parents):
            whole.append(own[i] + whole[parent] if parent >= 0 else own[i])
        return torch.stack([whole[i] for i in leaves])

    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and last sequence, the latter exclusive, of each group."""
        sizes = self.groups or (1,) * len(self.segments.leaves)
        ends = itertools.accumulate(sizes)
        return tuple((end - size, end) for end, size in zip(ends, sizes, strict=True))

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First and last token, the latter exclusive, of each group."""
        starts, leaves = self.segments.starts, self.segments.leaves
        ends = [starts[leaves[end - 1] + 1] for _, end in self.spans()]
        return tuple(itertools.pairwise((0, *ends)))

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors on ``device``."""
        move = lambda tensors: {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            streams=move(self.streams),
            media=move(self.media),
        )


ABSENT: Any = None
"""An output that no one asked for."""


@dataclass(slots=True)
class Outputs:
    """What objectives see of a forward pass: never logits, ranks or padding. There is what ``Objective.needs`` names.

    ``logps`` fp32 [T]: log p(ids[t] | earlier tokens of its sequence), 0 where ``weight`` is 0 or t has none before.
    ``correct`` bool [T]: the argmax equals the target where computed. ``entropy`` fp32 [T]. ``scores`` fp32 [N, C]: the
    numbers that a head makes of each sequence. ``pooled`` fp32 [N, d]: its embedding. ``divergence`` fp32 [T]: of the
    teacher's next-token distribution from the model's, where ``weight`` is not 0.
    """

    logps: Tensor = ABSENT
    correct: Tensor = ABSENT
    entropy: Tensor = ABSENT
    scores: Tensor = ABSENT
    pooled: Tensor = ABSENT
    divergence: Tensor = ABSENT


@dataclass(slots=True)
class Loss:
    """A sum over the micro-batch. The backend divides it once, by ``Objective.count`` over the whole step.

    ``metrics`` are (sum, count) pairs of 0-dim tensors, added up over micro-batches and divided when printed.
    """

    total: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- models
@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model before its weights are read."""

    path: Path  # folder with config.json, tokenizer and weights
    id: str  # what the user typed
    model_type: str  # family name of the catalogue, or config.json's model_type
    architecture: str
    dtype: str  # 'bfloat16' | 'float16' | 'float32'
    max_model_len: int
    template: str | None = None  # named template of the family, used only if the checkpoint brings none
    parameters: int | None = None
    thinking: bool = False  # hybrid thinking family
    sees: bool = False  # takes pictures, as its files say
    config: Any = None  # transformers PretrainedConfig


@dataclass(frozen=True, slots=True)
class Readout:
    """What a task reads of a whole sequence, where it is not the next token.

    ``head``: the scores of a classification head. ``tokens``: one score, the logit of the first of two tokens as the
    next one less that of the second. ``pooled``: an embedding, the hidden states of the sequence pooled in one way or
    more, end to end, and perhaps of length 1.
    """

    kind: Literal['head', 'tokens', 'pooled']
    tokens: tuple[int, ...] = ()
    pooling: tuple[str, ...] = ('lasttoken',)
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class Builder:
    """A model that is not in memory yet. Tuners wrap builders: ``Builder -> Builder``.

    ``readout`` None: a language model, which is asked for its next tokens. ``eye`` None: one that takes text alone.
    """

    info: ModelInfo
    tokenizer: Any
    build: Callable[[], nn.Module]
    readout: Readout | None = None
    eye: Eye | None = None

    def then(self, change: Callable[[nn.Module], nn.Module]) -> Builder:
        """A builder whose model passes through ``change`` after it is built."""
        return replace(self, build=lambda: change(self.build()))


# ------------------------------------------------------------------------------------------------------ answers
@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must be: tokens that cannot lead there are never chosen.

    ``text`` by ``kind``: 'json' a JSON schema; 'regex' a regular expression that matches the whole answer; 'choice' a
    JSON list of strings, one of which is the answer; 'lark' a grammar in llguidance's dialect of Lark.
    """

    kind: Literal['json', 'regex', 'choice', 'lark']
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 are off.

    ``min_tokens``: before so many neither end tokens nor ``stop`` end the answer. ``logit_bias``: pairs of a token and
    what is added to its logit. ``logprobs`` and ``prompt_logprobs``: None for none; k for those of the tokens
    themselves and of the k likeliest. ``num_beams`` above 1: the likeliest answer that a search with so many beams
    finds, by its log-probability over its length to the power of ``length_penalty``.
    """

    max_tokens: int = 512
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer. ``adapter`` None is the base model (or the only adapter that is active).

    ``pictures``: files as they came, whose places ``prompt_ids`` has (see ``Eye``).
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of a chosen token and of the most likely alternatives, (id, logprob) each."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it streams. The last piece of choice ``index`` carries ``finish``.

    ``prompt_logprobs`` comes once, with the first piece of choice 0, where asked for: one for each token of the prompt
    after its first, which nothing predicts.
    """

    index: int
    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Literal['stop', 'length', 'abort', 'error'] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


# -------------------------------------------------------------------------------------------------------- seams
@runtime_checkable
class Template(Protocol):
    """Turns a Sample into tokens, and a conversation into a prompt."""

    fingerprint: str  # changes whenever the same sample could encode differently
    stop_ids: tuple[int, ...]  # tokens that end an answer

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded, or several when truncation splits. Raises RowError with the reason."""
        ...

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict] = (),
        pictures: Sequence[bytes] = (),
        **kwargs: Any,
    ) -> list[int]:
        """Token ids of the conversation with its pictures, in the order of their places, and the generation prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of answer tokens, without control tokens."""
        ...


class Eye(Protocol):
    """What a model's own processor makes of pictures, which are files as they came (``models.pictures``).

    ``token``: what its chat template writes where a picture stands. ``blind``: why it can take none; None where it can.
    Both methods raise RequestError: a picture cannot be read, or the model is blind.
    """

    token: str
    blind: str | None

    def words(self, pictures: Sequence[bytes]) -> list[str]:
        """The text that stands for each picture of a prompt, in place of ``token``."""
        ...

    def inputs(self, pictures: Sequence[bytes], prompt_ids: Sequence[int]) -> dict[str, Tensor]:
        """What the model's forward takes beside the ids of the whole prompt."""
        ...


class Source(Protocol):
    """Iterator of optimizer steps: each item is the list of micro-batches of one step.

    Order is a pure function of (seed, epoch); ``state_dict`` is small and JSON, and loading it continues at the
    very next step without replaying any.
    """

    epoch: float  # passes over the data that are behind us

    def __iter__(self) -> Iterator[list[Batch]]: ...
    def __len__(self) -> int:
        """Optimizer steps of the whole run, if known; TypeError when streaming without max_steps."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Forward = Callable[[list[Batch]], list[Outputs]]
"""Outputs of batches without gradient."""


class Objective(Protocol):
    """A pure loss. ``needs`` names outputs and streams that must be there.

    One whose loss has terms over the whole optimizer step has a method ``prepare`` (see ``Prepares``) too.
    """

    needs: frozenset[str]

    def count(self, batch: Batch) -> int:
        """What this micro-batch adds to the divisor of the step: targets with a weight, or pairs."""
        ...

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss: ...


@runtime_checkable
class Prepares(Protocol):
    """An objective that looks at a whole optimizer step before its micro-batches are trained on one by one.

    ``repeats``: what it makes of the outputs is the gradient of the step in them, so that the micro-batches must have
    the dropout and noise that ``forward`` had. Else ``forward`` has none.
    """

    @property
    def repeats(self) -> bool: ...

    def prepare(
        self, step: list[Batch], forward: Forward, reference: Callable[[list[Batch]], list[Tensor]] | None
    ) -> list[dict[str, Tensor]]:
        """More streams for each batch. ``reference`` gives the log-probs [T] of each batch by the reference model."""
        ...


@runtime_checkable
class Collects(Protocol):
    """An objective with metrics that are no means over batches: they are made of what a whole evaluation collected."""

    def collect(self, outputs: Outputs, batch: Batch) -> Any: ...
    def summary(self, collected: Sequence[Any]) -> dict[str, float]: ...


@runtime_checkable
class Remembers(Protocol):
    """An objective whose next step depends on earlier ones: its state is saved with the run, as JSON."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainBackend(Protocol):
    """Where a training step really runs. State is data: ``state`` and ``load_state`` are bit-exact inverses."""

    device: Any  # where outputs lie

    def forward_backward(self, micro: list[Batch], objective: Objective) -> dict[str, tuple[Tensor, Tensor]]:
        """Accumulate the gradients of one optimizer step; metrics as (sum, count)."""
        ...

    def rehearse(self, micro: Callable[[], list[Batch]], objective: Objective) -> None:
        """Forward and backward as in a step, for the memory that it takes; nothing moves, no gradient is left."""
        ...

    def forward(self, micro: list[Batch], *, needs: frozenset[str] = frozenset({'logps'})) -> list[Outputs]:
        """Outputs without gradients and without dropout."""
        ...

    def first_pass(self, micro: list[Batch], *, needs: frozenset[str]) -> list[Outputs]:
        """Outputs without gradients of a step, with the dropout and noise of the ``forward_backward`` that follows."""
        ...

    def optim_step(self, *, discard: bool = False) -> dict[str, float]:
        """Clip, update, clear: ``grad_norm``, ``learning_rate``, ``skipped`` and ``scale_search`` (1.0 or 0.0).

        ``skipped``: nothing was updated, as a gradient was not finite or ``discard`` asked for it; ``scale_search``:
        because fp16 still looks for its loss scale.
        """
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]: ...
    def export(self, folder: Path) -> None:
        """Write what others open: a plain transformers folder, or a plain peft folder."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything beside the random generators that the next step depends on: tensors and JSON."""
        ...

    def load_state(self, tensors: dict[str, Tensor], data: dict[str, Any]) -> None: ...


class Engine(Protocol):
    """Answers requests. Every waiting caller learns of a failure; ``abort`` frees at the next step.

    ``begin`` queues a request, whose pieces and last None, or exception, are given to ``deliver`` from any thread;
    ``submit`` and ``stream`` wait for them, with and without an event loop: ``engines.waiting`` has both. ``adapters``
    are the names that requests can give as theirs. ``ready``: a step was finished lately, or there was nothing to do.
    """

    @property
    def adapters(self) -> tuple[str, ...]: ...
    @property
    def ready(self) -> bool: ...
    def begin(self, request: Request, deliver: Callable[[Piece | BaseException | None], object]) -> None: ...
    def submit(self, request: Request) -> AsyncIterator[Piece]: ...
    def stream(self, request: Request) -> Iterator[Piece]: ...
    def abort(self, id: str) -> None: ...
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...
    def load_adapter(self, name: str, path: Path) -> None: ...
    def unload_adapter(self, name: str) -> None: ...
    def stats(self) -> dict[str, float]: ...
    def close(self) -> None: ...

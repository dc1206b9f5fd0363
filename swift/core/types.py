"""The values that flow between rooms, and the seams (Protocols) that rooms meet at.

Shapes: ``T`` tokens, ``N`` sequences, ``V`` vocabulary, ``d`` width.

    row --convert--> Sample --template.encode--> Encoded --pack, collate--> Batch
    Batch --backend--> Outputs --objective--> Loss --backend--> weights
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


# --------------------------------------------------------------------------------------------------------- rows
Role = Literal['system', 'user', 'assistant', 'tool']


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call made by the assistant. ``arguments`` is the decoded JSON object."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``loss`` None leaves the choice to the run's ``loss_scale`` rule; a number is the turn's weight."""

    role: Role
    content: str
    loss: float | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None


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
    ``label`` is a KTO flag, a class, a list of classes or a score; ``extra`` holds the other columns.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    rejected: tuple[Message, ...] | None = None
    positives: tuple[tuple[Message, ...], ...] = ()
    negatives: tuple[tuple[Message, ...], ...] = ()
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
    """A tokenised row.

    ``input_ids`` int32 [T]. ``weight`` float32 [T]: loss weight of *predicting* token t from those before it, so
    ``weight[0]`` is 0. ``role`` uint8 [T] indexes ``ROLES`` and is only for people (``swift inspect``).
    ``truncated``: a part of the row is missing.
    """

    input_ids: np.ndarray
    weight: np.ndarray
    role: np.ndarray
    origin: Origin
    truncated: bool = False

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

    def followed_by(self, length: int) -> Segments:
        """The same with one more segment that continues none."""
        return Segments((*self.lengths, length), (*self.prefix_of, -1) if self.prefix_of else ())

    @property
    def offsets(self) -> tuple[int, ...]:
        """Position of each segment's first token: the tokens of what it continues. N numbers."""
        out: list[int] = []
        for parent in self.parents:
            out.append(out[parent] + self.lengths[parent] if parent >= 0 else 0)
        return tuple(out)


@dataclass(slots=True)
class Batch:
    """T tokens, N sequences laid end to end; no padding anywhere."""

    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, restarts with each sequence, or goes on after its prefix
    segments: Segments
    weight: Tensor  # [T] float32, loss weight of predicting this token
    streams: dict[str, Tensor] = field(default_factory=dict)  # [T] or [N]: ref_logps, advantages, label, ...
    media: dict[str, Tensor] = field(default_factory=dict)  # passed to forward by name
    origins: tuple[Origin, ...] = ()  # [N], named when a step goes wrong

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


@dataclass(slots=True)
class Outputs:
    """What objectives see of a forward pass: never logits, ranks or padding.

    ``logps`` fp32 [T]: log p(ids[t] | earlier tokens of its segment), 0 where ``weight`` is 0 or t starts a segment.
    ``correct`` bool [T]: the argmax equals the target where computed.
    """

    logps: Tensor
    correct: Tensor
    entropy: Tensor | None = None


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
    config: Any = None  # transformers PretrainedConfig


@dataclass(frozen=True, slots=True)
class Builder:
    """A model that is not in memory yet. Tuners wrap builders: ``Builder -> Builder``."""

    info: ModelInfo
    tokenizer: Any
    build: Callable[[], nn.Module]

    def then(self, change: Callable[[nn.Module], nn.Module]) -> Builder:
        """A builder whose model passes through ``change`` after it is built."""
        return replace(self, build=lambda: change(self.build()))


# ------------------------------------------------------------------------------------------------------ answers
@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 are off."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    logprobs: int | None = None  # None: none; k: the chosen token's and the k most likely ones
    n: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer. ``adapter`` None is the base model (or the only adapter that is active)."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of a chosen token and of the most likely alternatives, (id, logprob) each."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it streams. The last piece of choice ``index`` carries ``finish``."""

    index: int
    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Literal['stop', 'length', 'abort', 'error'] | None = None


# -------------------------------------------------------------------------------------------------------- seams
@runtime_checkable
class Template(Protocol):
    """Turns a Sample into tokens, and a conversation into a prompt."""

    fingerprint: str  # changes whenever the same sample could encode differently
    stop_ids: tuple[int, ...]  # tokens that end an answer

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded, or several when truncation splits. Raises RowError with the reason."""
        ...

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[dict] = (), **kwargs: Any) -> list[int]:
        """Token ids of the conversation followed by the generation prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of answer tokens, without control tokens."""
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


class Objective(Protocol):
    """A pure loss. ``needs`` names outputs and streams that must be there."""

    needs: frozenset[str]

    def count(self, batch: Batch) -> int:
        """What this micro-batch adds to the divisor of the step: targets with a weight, or pairs."""
        ...

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss: ...


class TrainBackend(Protocol):
    """Where a training step really runs. State is data: ``state`` and ``load_state`` are bit-exact inverses."""

    def forward_backward(self, micro: list[Batch], objective: Objective) -> dict[str, tuple[Tensor, Tensor]]:
        """Accumulate the gradients of one optimizer step; metrics as (sum, count)."""
        ...

    def forward(self, micro: list[Batch]) -> list[Outputs]:
        """Outputs without gradients and without dropout."""
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
    """Answers requests. Every waiting caller learns of a failure; ``abort`` frees at the next step."""

    def submit(self, request: Request) -> AsyncIterator[Piece]: ...
    def abort(self, id: str) -> None: ...
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...
    def load_adapter(self, name: str, path: Path) -> None: ...
    def unload_adapter(self, name: str) -> None: ...
    def stats(self) -> dict[str, float]: ...
    def close(self) -> None: ...

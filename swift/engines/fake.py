"""An engine for tests: it says again what it was asked, byte by byte, as slowly and as badly as it is told to.

    ByteTemplate: the last message as bytes  ->  FakeEngine: the same bytes, one a step  ->  the same text

No flag selects it: tests build it in Python, in their own process or by its name in a child process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from swift.core.errors import ModelError, NumericalError, RequestError, SwiftError
from swift.core.types import Message, Piece, Request, TokenLogprob
from swift.engines.native.text import Detokenizer, StopFinder
from swift.engines.waiting import Deliver, Waiting
from swift.templates.answers import Speech
from swift.templates.calls import by_name

END = 0  # ends every answer
VOCABULARY = 256


class ByteTokenizer:
    """A byte is a token."""

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """The text of bytes."""
        return bytes(id for id in ids if id != END).decode(errors='replace')


class ByteTemplate:
    """A prompt is the last message; what was said before it is forgotten. Answers are read as Hermes and Qwen speak."""

    fingerprint = 'bytes'
    stop_ids = (END,)
    tokenizer = ByteTokenizer()
    speech = Speech(by_name('hermes'), (('<think>', '</think>'),))

    def encode(self, sample: Any) -> list[Any]:
        """Nothing is trained on a fake."""
        raise NotImplementedError

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[dict] = (), **kwargs: Any) -> list[int]:
        """The bytes of the last message."""
        return list(messages[-1].content.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes."""
        return self.tokenizer.decode(ids)


@dataclass(eq=False)
class _Answer:
    """Choice ``index`` of a request: what it has still to say."""

    request: Request
    index: int
    deliver: Deliver
    rest: list[int]
    text: Detokenizer
    stops: StopFinder
    steps: int = 0
    ended: bool = False


def _crash(answer: _Answer) -> None:
    os._exit(13)


def _hang(answer: _Answer) -> None:
    threading.Event().wait()


def _nan(answer: _Answer) -> None:
    raise NumericalError('the model gave logits that are not finite; look at its weights and dtype')


def _error(answer: _Answer) -> None:
    raise ValueError('a fault of the engine')


FAULTS: dict[str, Callable[[_Answer], None]] = {'crash': _crash, 'hang': _hang, 'nan': _nan, 'error': _error}


@dataclass(eq=False)
class FakeEngine(Waiting):
    """Implements ``core.types.Engine`` on bytes.

    Args:
        step_seconds: how long a step takes, in which every running answer says one more byte.
        max_batch_size: answers that run at once; more wait.
        faults: a word that may stand in a prompt -> (what goes wrong when it does: a key of FAULTS, at which step).
        load_error: the engine cannot be opened, and says this.
        load_seconds: how long it takes to open.
    """

    step_seconds: float = 0.0
    max_batch_size: int = 64
    max_model_len: int = 4096
    faults: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    load_error: str | None = None
    load_seconds: float = 0.0

    def __post_init__(self) -> None:
        time.sleep(self.load_seconds)
        if self.load_error:
            raise ModelError(self.load_error)
        self._wake = threading.Condition()
        self._waiting: list[_Answer] = []
        self._running: list[_Answer] = []
        self._adapters: dict[str, Path] = {}
        self._counts: dict[str, int] = dict.fromkeys(
            ('accepted', 'finished', 'aborted', 'failed', 'prompt_tokens', 'answer_tokens'), 0
        )
        self._open: dict[str, list[_Answer]] = {}
        self._closed = False
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name='swift-fake-engine', daemon=True)
        self._thread.start()

    # --------------------------------------------------------------------------------------------------- requests
    def begin(self, request: Request, deliver: Deliver) -> None:
        """Queue a request."""
        if request.adapter is not None and request.adapter not in self._adapters:
            raise RequestError(f'adapter {request.adapter!r} is not loaded', param='model')
        if len(request.prompt_ids) >= self.max_model_len or not request.prompt_ids:
            raise RequestError(f'the prompt has {len(request.prompt_ids)} tokens', param='prompt')
        if max(request.prompt_ids) >= VOCABULARY:
            raise RequestError(f'the prompt has token ids outside 0 to {VOCABULARY - 1}', param='prompt')
        echo = [*(b'' if request.adapter is None else f'{request.adapter}: '.encode()), *request.prompt_ids]
        answers = [
            _Answer(request, i, deliver, [*echo], Detokenizer(ByteTemplate().decode), StopFinder(request.sampling.stop))
            for i in range(request.sampling.n)
        ]
        with self._wake:
            if self._closed:
                raise SwiftError('the engine is closed')
            self._counts['accepted'] += 1
            self._counts['prompt_tokens'] += len(request.prompt_ids)
            self._open[request.id] = answers
            self._waiting += answers
            self._wake.notify()

    def abort(self, id: str) -> None:
        """End a request now."""
        with self._wake:
            for answer in self._open.get(id, ()):
                self._deliver(answer, Piece(answer.index, '', finish='abort'))
            if id in self._open:
                self._close(id, 'aborted')

    # ------------------------------------------------------------------------------------------------------- rest
    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that were loaded; each begins its answers with its name."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, path: Path) -> None:
        """Any folder that exists will do."""
        if not Path(path).is_dir():
            raise ModelError(f'{path} is no adapter folder')
        self._adapters[name] = Path(path)

    def unload_adapter(self, name: str) -> None:
        """Forget a name."""
        if name not in self._adapters:
            raise ModelError(f'adapter {name!r} is not loaded')
        del self._adapters[name]

    def update(self, weights: Any) -> None:
        """There are none."""
        raise ModelError('a fake engine has no weights')

    def stats(self) -> dict[str, float]:
        """Counters, and what is going on now."""
        busy = bool(self._open)
        return {
            **self._counts,
            'open': len(self._open),
            'running': len(self._running),
            'waiting': len(self._waiting),
            'step_age': time.monotonic() - self._heartbeat if busy else 0.0,
            'kv_used': sum(len(answer.request.prompt_ids) + answer.steps for answer in list(self._running)),
            'kv_tokens': self.max_batch_size * self.max_model_len,
        }

    def close(self) -> None:
        """Abort what is open and end the thread."""
        for id in list(self._open):
            self.abort(id)
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(5)

    # ------------------------------------------------------------------------------------------------------ steps
    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._open or self._closed)
                if self._closed:
                    return
                self._waiting = [answer for answer in self._waiting if not answer.ended]
                self._running = [answer for answer in self._running if not answer.ended]
                room = self.max_batch_size - len(self._running)
                self._running += self._waiting[:room]
                self._waiting = self._waiting[room:]
                batch = list(self._running)
            time.sleep(self.step_seconds)
            for answer in batch:
                self._step(answer)
            self._heartbeat = time.monotonic()

    def _step(self, answer: _Answer) -> None:
        """One more byte, or the fault that the prompt calls for."""
        try:
            answer.steps += 1
            for word, (fault, step) in self.faults.items():
                if step == answer.steps and word.encode() in bytes(answer.request.prompt_ids):
                    FAULTS[fault](answer)
        except Exception as error:
            with self._wake:
                if not answer.ended:
                    self._close(answer.request.id, 'failed', error)
            return
        with self._wake:
            if not answer.ended:
                self._say(answer)

    def _say(self, answer: _Answer) -> None:
        sampling = answer.request.sampling
        ends = END in sampling.stop_ids
        id = answer.rest.pop(0) if answer.rest else END
        answer.rest = answer.rest or ([] if ends else list(answer.request.prompt_ids))
        self._counts['answer_tokens'] += 1
        shown, stopped = answer.stops.push(answer.text.push(id)) if id != END else ('', False)
        stopped |= id in sampling.stop_ids
        finish = 'stop' if stopped else 'length' if answer.steps >= self._limit(answer) else None
        if finish == 'length' or (finish and id == END):
            shown += answer.stops.push(answer.text.flush())[0] + answer.stops.flush()
        about = _about(answer.request) if answer.steps == 1 and answer.index == 0 else ()
        self._deliver(answer, Piece(answer.index, shown, (id,), _logprobs(id, sampling.logprobs), finish, about))
        if answer.ended and all(each.ended for each in self._open[answer.request.id]):
            self._close(answer.request.id, 'finished')

    def _limit(self, answer: _Answer) -> int:
        return min(answer.request.sampling.max_tokens, self.max_model_len - len(answer.request.prompt_ids))

    def _deliver(self, answer: _Answer, piece: Piece) -> None:
        if not answer.ended:
            answer.ended = piece.finish is not None
            answer.deliver(piece)

    def _close(self, id: str, how: str, error: BaseException | None = None) -> None:
        self._counts[how] += 1
        answers = self._open.pop(id)
        for answer in answers:
            answer.ended = True
        answers[0].deliver(error)


def _logprobs(id: int, count: int | None) -> tuple[TokenLogprob, ...]:
    """Likelihoods that follow from the token alone."""
    if count is None:
        return ()
    top = tuple(((id + i) % VOCABULARY, -0.5 - i) for i in range(count))
    return (TokenLogprob(id, -0.5, top),)


def _about(request: Request) -> tuple[TokenLogprob, ...]:
    """Of a prompt: one for each token after its first."""
    count = request.sampling.prompt_logprobs
    return tuple(each for id in request.prompt_ids[1:] for each in _logprobs(id, count))

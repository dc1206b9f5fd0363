"""Rows encoded many at a time: ``tokenizers`` reads texts while Python renders the next rows and weighs those before.

What a template does with a row is a generator, its ``Steps``: it yields a text whose ids it wants, is sent them, and
returns what the row became. So one row alone and many together go the same way to the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from swift.core.errors import RowError
from swift.core.types import Encoded

Steps = Generator[str, Sequence[int], list[Encoded]]
Ids = Callable[[Sequence[str]], Sequence[Sequence[int]]]
Outcome = list[Encoded] | RowError
BLOCK = 64  # rows whose texts go to ``tokenizers`` together


def alone(steps: Steps, ids: Ids) -> list[Encoded]:
    """What one row becomes. Raises RowError."""
    text, outcome = _go(steps, None)
    outcome = _finish(steps, text, outcome, ids)
    if isinstance(outcome, RowError):
        raise outcome
    return outcome or []


def together(rows: Iterable[Steps], ids: Ids) -> Iterator[Outcome]:
    """What each row becomes, in their order; a RowError in place of a row that is refused.

    Up to two blocks are read ahead. ``ids`` is called by a thread of its own, which is gone when the iterator is.
    """
    rows = iter(rows)
    with ThreadPoolExecutor(1, 'tokenise') as thread:
        before: Iterator[Outcome] = iter(())
        while block := list(islice(rows, BLOCK)):
            begun = [(steps, *_go(steps, None)) for steps in block]
            found = thread.submit(ids, [text for _, text, _ in begun if text is not None])
            yield from before
            before = _finished(begun, found.result, ids)
        yield from before


def _finished(
    begun: list[tuple[Steps, str | None, Outcome | None]], found: Callable[[], Sequence[Sequence[int]]], ids: Ids
) -> Iterator[Outcome]:
    given = iter(found())
    for steps, text, outcome in begun:
        if text is not None:
            text, outcome = _go(steps, next(given))
        yield _finish(steps, text, outcome, ids)


def _finish(steps: Steps, text: str | None, outcome: Outcome | None, ids: Ids) -> Outcome:
    """The outcome of a row that may want the ids of further texts."""
    while text is not None:
        text, outcome = _go(steps, ids([text])[0])
    assert outcome is not None
    return outcome


def _go(steps: Steps, given: Sequence[int] | None) -> tuple[str | None, Outcome | None]:
    """On to the next text that is wanted, or to the outcome."""
    try:
        return (next(steps) if given is None else steps.send(given)), None
    except StopIteration as done:
        return None, done.value
    except RowError as error:
        return None, error

"""Structured output: answers that are JSON of a schema, match a regular expression, are one of some texts, or follow a
grammar.

    Grammar --compile--> Compiled --start--> Constraint
    logits, constraints --allow_only--> logits in which only tokens that can lead to such an answer are left

llguidance does the parsing. It is lazy and counts its work, so that no grammar can stall an engine: LIMITS bound what
the first state and every step cost, whatever the grammar. Who breaks a limit fails alone.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.core.errors import RequestError, SwiftError, need
from swift.core.types import Grammar

LONGEST = 128 << 10  # bytes of any grammar: schemas, choices, and what is made of the schemas of many tools
BUDGET = 2.0  # seconds to compile; LIMITS keep it far below
KEPT = 128  # compiled grammars
LIMITS = {  # of llguidance: fuel is counted work, about 14,000 to 50,000 a millisecond
    'initial_lexer_fuel': 100_000,
    'step_lexer_fuel': 50_000,
    'step_max_items': 50_000,
    'max_lexer_states': 30_000,  # 1 to 2 kB each
    'verbose_errors': False,
}
# Blanks between the parts of JSON. Bounded: a small model that may write blanks without end does so.
BLANKS = {'whitespace_pattern': r'[ \t\r\n]{0,24}'}


class Grammars:
    """The compiled grammars of one engine. Any thread may use it.

    Args:
        tokenizer: A tokenizer of transformers.
        vocabulary: Width of the logits.
    """

    def __init__(self, tokenizer: Any, vocabulary: int):
        self._tokenizer = tokenizer
        self._width = max(vocabulary, len(tokenizer))
        # llguidance wants one end of text; the ends of an answer are the constraint's business
        self._end = next(id for id in (tokenizer.eos_token_id, *tokenizer.all_special_ids, 0) if id is not None)
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(2, thread_name_prefix='swift-grammars')

    def begin(self, grammar: Grammar) -> Future[Compiled]:
        """``compile`` on a thread of its own, for callers that must not wait."""
        return self._workers.submit(self.compile, grammar)

    def compile(self, grammar: Grammar) -> Compiled:
        """Takes milliseconds, nothing for a grammar that is known, and once a second to read the tokenizer.

        Raises:
            RequestError: it is no grammar, too long, too complex, or asks for what is not supported; or llguidance is
                not installed.
        """
        return Compiled(self._matcher(grammar), width=(self._width + 31) // 32 * 4, end=self._end)

    def _matcher(self, grammar: Grammar) -> Any:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        if len(grammar.text.encode()) > LONGEST:
            raise _refused(f'it has more than {LONGEST} bytes')
        vocabulary = self._vocabulary_trie
        matcher = _within(BUDGET, lambda: _compile(grammar, vocabulary))
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return matcher

    @cached_property
    def _vocabulary_trie(self) -> Any:
        try:
            llguidance = need('llguidance')
        except SwiftError as error:
            raise RequestError(f'structured output is not installed here: {error}', param='response_format') from error
        backend = getattr(self._tokenizer, 'backend_tokenizer', None)
        if backend is None:
            raise RequestError(
                'structured output needs a tokenizer of the tokenizers library; this model brings another kind',
                param='response_format',
            )
        words = _Vocabulary(llguidance, self._tokenizer, backend.to_str(), end=self._end)
        return llguidance.LLTokenizer(words, n_vocab=self._width, eos_token=self._end)


class _Vocabulary:
    """A tokenizer as llguidance wants it. Left to itself it would take every added token for a special one, though
    models write ``<tool_call>`` and ``</think>`` as text.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, llguidance: Any, tokenizer: Any, source: str, *, end: int):
        from tokenizers import Tokenizer

        bytes_of = llguidance.LLTokenizer(source, n_vocab=len(tokenizer)).decode_bytes
        self.eos_token_id = end
        self.tokens = [bytes_of([id]) for id in range(len(tokenizer))]
        self.special_token_ids = [id for id, token in tokenizer.added_tokens_decoder.items() if token.special]
        self._backend = Tokenizer.from_str(source)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # their names are text like any other
        self._before = len(self._ids(''))

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids of a text in the middle of another."""
        return self._ids(text.decode(errors='replace') if isinstance(text, bytes) else text)[self._before :]

    def _ids(self, text: str) -> list[int]:
        return self._backend.encode('\x02' + text, add_special_tokens=False).ids  # as some put a blank at the beginning


class Compiled:
    """A grammar that answers can start from."""

    def __init__(self, matcher: Any, **facts: int):
        self._matcher, self._facts = matcher, facts

    def start(self, stop_ids: Iterable[int]) -> Constraint:
        """The constraint of one answer before its first token. ``stop_ids`` may follow a complete answer."""
        return Constraint(self._matcher.deep_copy(), stop_ids, **self._facts)


class Constraint:
    """What one answer may still become. Used by one thread at a time.

    ``width``: bytes of a mask; ``end``: the token that the matcher takes for the end of text.
    """

    def __init__(self, matcher: Any, stop_ids: Iterable[int], *, width: int, end: int):
        self._matcher, self.width, self._end = matcher, width, end
        self._stop_ids = frozenset(stop_ids)

    def mask(self, out: np.ndarray) -> None:
        """Set bit t of ``out``, uint8 [width], for each token t that may come next, and clear the others.

        If that cannot be told every bit is set, and ``accept`` raises the reason.
        """
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        if self._matcher.is_error():
            out[:] = 255
            return
        out[self._end // 8] &= 255 ^ (1 << self._end % 8)
        if self._matcher.is_accepting():
            for id in self._stop_ids:
                out[id // 8] |= 1 << id % 8

    def accept(self, token: int) -> None:
        """Take the next token of the answer. Raises RequestError: it cannot follow, or a limit is broken."""
        if token not in self._stop_ids and not self._matcher.consume_token(token):
            raise _refused(_first_line(self._matcher.get_error()))

    @property
    def done(self) -> bool:
        """True if the answer is complete and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


def allow_only(logits: Tensor, constraints: Sequence[Constraint | None]) -> Tensor:
    """Logits [B, V] with -inf for the tokens that the constraint of their row forbids."""
    rows = [i for i, constraint in enumerate(constraints) if constraint is not None]
    if not rows:
        return logits
    V = logits.shape[-1]
    masks = np.empty((len(rows), constraints[rows[0]].width), dtype=np.uint8)  # type: ignore[union-attr]
    for mask, i in zip(masks, rows, strict=True):
        constraints[i].mask(mask)  # type: ignore[union-attr]
    bits = np.unpackbits(masks, axis=1, count=V, bitorder='little')  # [rows, V]
    forbidden = torch.from_numpy(bits == 0).to(logits.device)
    if len(rows) == len(logits):
        return logits.masked_fill(forbidden, float('-inf'))
    where = torch.tensor(rows, device=logits.device)
    return logits.index_copy(0, where, logits[where].masked_fill(forbidden, float('-inf')))


# ------------------------------------------------------------------------------------------------------- compiling
def _compile(grammar: Grammar, vocabulary: Any) -> Any:
    """A matcher at the beginning, whose first mask is computed. Raises RequestError."""
    llguidance = need('llguidance')
    try:
        text = SOURCES[grammar.kind](llguidance.LLMatcher, grammar.text)
    except (ValueError, RecursionError) as error:
        raise _refused(_first_line(str(error))) from error
    matcher = llguidance.LLMatcher(vocabulary, text, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise _refused(_first_line(matcher.get_error()))
    return matcher


def _one_of(choices: list[str]) -> str:
    """Lark for one of several texts."""
    return 'start: ' + ' | '.join(json.dumps(each, ensure_ascii=False) for each in choices)


def _unanchored(regex: str) -> str:
    """The expression without ``^`` and ``$`` around it: the whole answer is matched anyhow."""
    if regex.endswith('$') and (len(regex) - len(regex[:-1].rstrip('\\'))) % 2:
        regex = regex[:-1]
    return regex.removeprefix('^')


SOURCES: dict[str, Callable[[Any, str], str]] = {
    'json': lambda matcher, text: matcher.grammar_from_json_schema(text, overrides=BLANKS),
    'regex': lambda matcher, text: matcher.grammar_from_regex(_unanchored(text)),
    'choice': lambda matcher, text: matcher.grammar_from_lark(_one_of(json.loads(text))),
    'lark': lambda matcher, text: matcher.grammar_from_lark(text),
}


def _within(seconds: float, compute: Callable[[], Any]) -> Any:
    """The result of ``compute``, on a thread that is left to itself if it takes too long."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((compute(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True, name='swift-grammar')
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _refused(f'compiling it takes more than {seconds:.0f} s')
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _refused(why: str) -> RequestError:
    return RequestError(f'the grammar of the answer cannot be used: {why}', param='response_format')


def _first_line(text: str) -> str:
    line = text.replace('<non-verbose/>', '').strip().partition('\n')[0]
    return line if len(line) <= 300 else f'{line[:300]}...'

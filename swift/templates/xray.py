"""Every token of a row as people and programs can look at it: text, role, loss weight, position, pack boundary.

A row is what the model is given as one piece: a sequence, a pack of several, or a group whose sequences go on after
what they share. Its parts may have names (chosen, rejected ...), which are shown instead of numbers.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from swift.core.types import ROLES, Encoded

# role -> (terminal style, colour of the page) of tokens without loss; tokens with loss are green, darker with weight
STYLES = {
    'template': ('dim', '#8a8f98'),
    'system': ('magenta', '#8e44ad'),
    'user': ('cyan', '#1f6fb2'),
    'assistant': ('yellow', '#b8860b'),
    'tool': ('blue', '#34568b'),
    'text': ('default', '#444'),
}
LOSS = 'bold green'
BROKEN = '\ufffd'  # what a part of a character decodes to
LONGEST_CHARACTER = 4  # bytes of UTF-8, and so tokens
VISIBLE = {'\n': '⏎\n', '\t': '⇥', '\r': '␍'}


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a row. ``segment`` counts the sequences of a pack, ``position`` begins at 0 with each.

    Of a sequence that goes on after a shared part it goes on too. ``first``: the sequence begins with this token.
    """

    id: int
    text: str
    weight: float
    role: str
    segment: int
    position: int
    first: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What the parts of a row are called, and the position at which each begins; () for a pack."""

    names: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()


def tokens(row: Sequence[Encoded], tokenizer: Any, parts: Parts = Parts()) -> list[Token]:
    """The tokens of a row."""
    out = []
    offsets = parts.offsets or (0,) * len(row)
    for segment, (encoded, before) in enumerate(zip(row, offsets, strict=True)):
        texts = texts_of(encoded.input_ids.tolist(), tokenizer)
        facts = zip(encoded.input_ids.tolist(), texts, encoded.weight.tolist(), encoded.role.tolist(), strict=True)
        out += [
            Token(id, text, weight, ROLES[role], segment, before + i, i == 0)
            for i, (id, text, weight, role) in enumerate(facts)
        ]
    return out


def texts_of(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text; of the tokens that make up one character, the last one has it."""
    decode = partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    texts, pending = [], []
    for id, piece in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        pending.append(id)
        text = decode(pending)
        if text.endswith(BROKEN) and len(pending) < LONGEST_CHARACTER:
            texts.append('')
            continue
        word_start = len(pending) == 1 and isinstance(piece, str) and piece.startswith('▁')  # SentencePiece
        texts.append(f' {text.lstrip(" ")}' if word_start else text)
        pending = []
    if pending:
        texts[-1] = decode(pending)
    return texts


def as_json(row: Sequence[Encoded], tokenizer: Any, parts: Parts = Parts()) -> dict[str, Any]:
    """One object: parallel lists with an entry for each token, where the row came from, and what its parts are."""
    looked = tokens(row, tokenizer, parts)
    return ({'parts': list(parts.names)} if parts.names else {}) | {
        'row': [str(encoded.origin) for encoded in row] if len(row) > 1 else str(row[0].origin),
        'input_ids': [token.id for token in looked],
        'tokens': [token.text for token in looked],
        'weight': [token.weight for token in looked],
        'role': [token.role for token in looked],
        'segment': [token.segment for token in looked],
        'position': [token.position for token in looked],
    }


def show(row: Sequence[Encoded], tokenizer: Any, parts: Parts = Parts(), *, limit: int | None = None) -> None:
    """Print a row in the terminal, tokens coloured by role and loss; ``limit`` tokens at most."""
    from rich.console import Console
    from rich.text import Text

    looked = tokens(row, tokenizer, parts)
    text = Text()
    for token in looked[:limit]:
        if token.first and parts.names:
            break_before = '\n' if token.segment else ''
            text.append(f'{break_before}──── {parts.names[token.segment]} ────\n', style='red')
        elif token.first and token.segment:
            text.append(f'\n──── sequence {token.segment + 1} ────\n', style='red')
        style = LOSS if token.weight else STYLES[token.role][0]
        text.append(_visible(token.text), style=style)
        if token.weight not in (0.0, 1.0):
            text.append(f'×{token.weight:g}', style='dim green')
    if limit is not None and len(looked) > limit:
        text.append(f' … {len(looked) - limit:,} more tokens', style='dim')
    Console(highlight=False, soft_wrap=True).print(text)


def legend() -> str:
    """What the colours mean."""
    return 'green: carries loss; ' + ', '.join(f'{style}: {role}' for role, (style, _) in STYLES.items())


def page(rows: Iterator[tuple[str, Sequence[Encoded] | str, Parts]], tokenizer: Any, *, title: str) -> Iterator[str]:
    """An HTML page with every token of every row. ``rows`` gives (heading, row or why it is rejected, its parts)."""
    roles = ''.join(f'.{role}{{color:{colour}}}' for role, (_, colour) in STYLES.items())
    yield (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>'
        'body{font:14px/1.7 ui-monospace,monospace;margin:2em;max-width:110ch;background:#fff;color:#222}'
        'pre{white-space:pre-wrap;word-break:break-word;border-left:3px solid #ddd;padding-left:1em}'
        'span:hover{outline:1px solid #222}.loss{background:#c9f2cf}.cut{border-top:2px solid #c0392b;display:block}'
        f'.error{{color:#c0392b}}{roles}</style><h1>{html.escape(title)}</h1>'
        f'<p><span class="loss">carries loss</span> {" ".join(f"<span class={r}>{r}</span>" for r in STYLES)}</p>\n'
    )
    for heading, row, parts in rows:
        yield f'<h3>{html.escape(heading)}</h3>\n'
        if isinstance(row, str):
            yield f'<p class="error">{html.escape(row)}</p>\n'
        else:
            yield f'<pre>{"".join(_span(token, parts) for token in tokens(row, tokenizer, parts))}</pre>\n'


def _span(token: Token, parts: Parts) -> str:
    name = html.escape(parts.names[token.segment]) if parts.names else ''
    cut = f'<span class="cut">{name}</span>' if token.first and (token.segment or name) else ''
    kind = f'{token.role} loss' if token.weight else token.role
    hint = f'id {token.id} · position {token.position} · {token.role} · weight {token.weight:g}'
    return f'{cut}<span class="{kind}" title="{hint}">{html.escape(_visible(token.text))}</span>'


def _visible(text: str) -> str:
    return ''.join(VISIBLE.get(char, char) for char in text)

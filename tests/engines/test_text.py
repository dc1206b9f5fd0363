"""Text that streams is the text that decoding everything at once would give, and stop strings cut it exactly."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.engines.native.text import Detokenizer, StopFinder
from tests import tiny

TOKENIZER = tiny.tokenizer()


def decode(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def streamed(ids, decode=decode) -> list[str]:
    text = Detokenizer(decode)
    return [*(text.push(id) for id in ids), text.flush()]


@pytest.mark.parametrize(
    'text', ['plain words', '今天天气很好。', 'é ü 🎉🏽 👩‍👩‍👧 end', '  two  spaces\n\n\tand a tab ', '']
)
def test_pieces_join_to_the_whole_text(text):
    ids = TOKENIZER(text)['input_ids']
    assert ''.join(streamed(ids)) == text


def test_a_character_of_several_tokens_comes_as_one_piece():
    pieces = [piece for piece in streamed(TOKENIZER('🎉')['input_ids']) if piece]
    assert pieces == ['🎉']


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 399), max_size=40))
def test_any_tokens_even_broken_bytes_join_to_what_decoding_gives(ids):
    assert ''.join(streamed(ids)) == decode(ids)


def test_bytes_that_never_become_a_character_do_not_make_decoding_quadratic():
    longest = 0

    def measured(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids)

    byte = TOKENIZER('é')['input_ids'][:1]
    assert decode(byte) == '\ufffd'
    streamed(byte * 1000, measured)
    assert longest < 200


def sentencepiece(ids):
    """A decoder that drops the space of the first word, as SentencePiece ones do."""
    return ''.join(f' w{id}' for id in ids)[1:]


def test_spaces_survive_decoders_that_treat_the_first_token_differently():
    assert ''.join(streamed([1, 2, 3, 4], sentencepiece)) == 'w1 w2 w3 w4'


def found(pieces, stops) -> tuple[str, bool]:
    finder, shown = StopFinder(stops), ''
    for piece in pieces:
        text, stopped = finder.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + finder.flush(), False


def test_a_stop_string_over_several_pieces_is_found_and_not_shown():
    assert found(['one, t', 'wo', ', three, four'], ['three', ', three']) == ('one, two', True)


def test_text_that_only_began_like_a_stop_string_is_shown_in_the_end():
    finder = StopFinder(['</answer>'])
    assert finder.push('4 </ans') == ('4 ', False)
    assert finder.push('wer') == ('', False)
    assert finder.push('s') == ('</answers', False)
    assert finder.push(' </a') == (' ', False)
    assert finder.flush() == '</a'


@settings(deadline=None, max_examples=300)
@given(st.text('ab', max_size=30), st.lists(st.text('ab', min_size=1, max_size=4), max_size=3), st.integers())
def test_however_the_text_is_cut_the_earliest_stop_string_ends_it(text, stops, seed):
    cuts = random.Random(seed)
    pieces, rest = [], text
    while rest:
        n = cuts.randint(1, len(rest))
        pieces, rest = [*pieces, rest[:n]], rest[n:]
    shown, stopped = found(pieces, stops)
    ends = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if not stopped:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert any(text.startswith(stop, len(shown)) for stop in stops)


def test_stop_strings_count_only_after_the_least_length():
    finder = StopFinder(['ab', 'c'], after=2)
    assert [finder.push(piece) for piece in ('ca', 'b', 'b', 'xc')] == [
        ('ca', False),
        ('b', False),
        ('b', False),
        ('x', True),
    ]

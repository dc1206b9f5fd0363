"""Words that must not be shown: found whatever the pieces a text comes in, and nothing else is ever changed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import ConfigError
from swift.serve.moderation import Chain, Verdict, Words, passes

letters = st.text('aAbc', max_size=12)


def through(rule, pieces):
    """(what was shown, whether the rule was broken) of a text in pieces."""
    chain, shown = Chain([rule]), ''
    for piece in pieces:
        text, broken = chain.push(piece)
        shown += text
        if broken:
            return shown, True
    text, broken = chain.end()
    return shown + text, broken


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text('abc', min_size=1, max_size=4), min_size=1, max_size=4), st.lists(letters, max_size=6))
def test_pieces_are_judged_as_the_whole_text_is(words, pieces):
    text = ''.join(pieces)
    found = [(at + len(word), at) for word in words if (at := text.lower().find(word)) >= 0]
    shown, broken = through(Words(words), pieces)
    assert broken is bool(found)
    assert text.startswith(shown) and not any(word in shown.lower() for word in words)
    assert len(shown) <= min(found)[1] if found else shown == text  # cut before the first word that is whole


def test_a_word_is_found_across_pieces_and_nothing_after_it_is_shown():
    rule = Words(['secret plan', '机密'])
    assert through(rule, ['the Sec', 'ret ', 'PLAN is on']) == ('the ', True)
    assert through(rule, ['文件是机', '密的']) == ('文件是', True)
    assert through(rule, ['the secret ', 'planet']) == ('the ', True)
    assert through(rule, ['the secret pla', 'te']) == ('the secret plate', False)


def test_text_is_held_back_only_while_it_may_become_a_word():
    watch = Words(['forbidden'])()
    assert watch.push('a for') == Verdict('a ')
    assert watch.push('est') == Verdict('forest')
    assert watch.push(' for') == Verdict(' ')
    assert watch.end() == Verdict('for')


def test_many_words_are_one_expression(tmp_path):
    path = tmp_path / 'words.txt'
    path.write_text('# a comment\n\n' + '\n'.join(f'word{i}x(' for i in range(5000)), encoding='utf-8')
    rule = Words.read(path)
    assert rule.count == 5000
    assert not passes('say WORD4321X( now', [rule])
    assert passes('say word4321x now', [rule])
    assert re.compile(rule._pattern.pattern)


def test_several_rules_must_all_pass():
    first, second = Words(['one']), Words(['two'])
    assert passes('three', [first, second])
    assert not passes('a two', [first, second]) and not passes('a one', [first, second])
    chain = Chain([first, second])
    assert ''.join([chain.push('tw').text, chain.push('ice on').text, chain.end().text]) == 'twice on'


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ConfigError, match='sensitive_words'):
        Words.read(tmp_path / 'nothing.txt')
    (tmp_path / 'long.txt').write_text('x' * 300)
    with pytest.raises(ConfigError, match='at most 200'):
        Words.read(tmp_path / 'long.txt')

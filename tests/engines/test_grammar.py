"""Answers are what their grammar says, whatever the model would rather say; a grammar hurts nobody but its request."""

from __future__ import annotations

import json
import re
import time

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift.core.errors import RequestError
from swift.core.types import Grammar, Request, Sampling
from swift.engines import structured
from swift.engines.grammar import Grammars
from tests import tiny
from tests.engines.plain import STOP, PlainTemplate, engine, prompts

MODEL = tiny.model()
TOKENIZER = tiny.tokenizer()
PROMPT = tuple(prompts()[1])
SCHEMAS = {
    'an object': {
        'type': 'object',
        'properties': {'name': {'type': 'string', 'maxLength': 8}, 'age': {'type': 'integer', 'maximum': 200}},
        'required': ['name', 'age'],
        'additionalProperties': False,
    },
    'a list of numbers': {'type': 'array', 'items': {'type': 'integer', 'minimum': 0, 'maximum': 99}, 'maxItems': 4},
    'one of several': {'anyOf': [{'type': 'boolean'}, {'enum': ['red', 'blue', '红']}, {'type': 'null'}]},
    'itself': {
        '$defs': {
            'tree': {
                'type': 'object',
                'properties': {'leaves': {'type': 'array', 'maxItems': 2, 'items': {'$ref': '#/$defs/tree'}}},
                'additionalProperties': False,
            }
        },
        '$ref': '#/$defs/tree',
    },
}


@pytest.fixture(scope='module')
def served():
    with engine(MODEL, max_model_len=2048, tokenizer=TOKENIZER) as made:
        yield made


def answer(served, grammar: Grammar, *, seed: int | None = 0, n: int = 1, **how) -> list[tuple[str, str]]:
    """Text and finish of each choice."""
    how = {'max_tokens': 250, 'temperature': 0.0 if seed is None else 1.0, **how}
    texts, ends = [''] * n, [''] * n
    request = Request('r', PROMPT, Sampling(seed=seed, n=n, grammar=grammar, **how))
    for piece in served.stream(request):
        texts[piece.index] += piece.text
        ends[piece.index] = piece.finish or ''
    return list(zip(texts, ends, strict=True))


# ---------------------------------------------------------------------------------------------------------- answers
@pytest.mark.parametrize('schema', SCHEMAS.values(), ids=SCHEMAS)
def test_answers_are_json_of_their_schema(served, schema):
    grammar, judge = Grammar('json', json.dumps(schema)), jsonschema_rs.validator_for(schema)
    found = answer(served, grammar, n=8)
    complete = [text for text, end in found if end == 'stop']
    assert len(complete) >= 4
    for text in complete:
        judge.validate(json.loads(text))


@pytest.mark.parametrize('schema', SCHEMAS.values(), ids=SCHEMAS)
def test_the_likeliest_tokens_follow_the_schema_too(served, schema):
    [(text, end)] = answer(served, Grammar('json', json.dumps(schema)), seed=None)
    if end == 'stop':
        jsonschema_rs.validator_for(schema).validate(json.loads(text))
    else:
        assert end == 'length' and text[:1] in '{['


@pytest.mark.parametrize(
    'regex',
    [
        '[a-z]{3}-[0-9]{2,4}',
        '(cat|dog)( and (cat|dog)){0,3}',
        '^yes|no$',
        '[一-龥]{2}！',
        r'\$[0-9]+\.[0-9]{2}',
        '"?/*',
    ],
)
def test_answers_match_the_whole_regular_expression(served, regex):
    found = answer(served, Grammar('regex', regex), n=8, max_tokens=64)
    assert any(end == 'stop' for _, end in found)
    for text, end in found:
        assert end == 'length' or re.fullmatch(regex, text)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.lists(st.text(st.characters(exclude_categories=['Cs', 'Cc']), min_size=1, max_size=12), min_size=1))
def test_answers_are_one_of_the_choices(served, choices):
    grammar = structured.from_request(structured_outputs={'choice': choices})
    for text, end in answer(served, grammar, n=3):
        assert end == 'stop' and text in choices


def test_answers_follow_a_grammar_with_two_rules(served):
    lark = 'start: sum\nsum: NUMBER (("+" | "-") NUMBER)*\nNUMBER: /[1-9][0-9]?/'
    for text, end in answer(served, Grammar('lark', lark), n=6, max_tokens=30):
        assert end == 'length' or re.fullmatch(r'[1-9][0-9]?([+-][1-9][0-9]?)*', text)


def test_an_answer_that_is_complete_stops_without_an_end_token(served):
    pieces = list(served.stream(Request('r', PROMPT, Sampling(grammar=Grammar('regex', 'abc')))))
    assert ''.join(piece.text for piece in pieces) == 'abc'
    assert pieces[-1].finish == 'stop'
    assert STOP not in [id for piece in pieces for id in piece.ids]


def test_no_special_token_gets_into_an_answer_that_may_be_anything(served):
    special = set(TOKENIZER.all_special_ids)
    request = Request('r', PROMPT, Sampling(60, 1.5, n=4, seed=1, grammar=Grammar('regex', r'(.|\n)*')))
    for piece in served.stream(request):
        assert not special & set(piece.ids[:-1] if piece.finish else piece.ids)


def test_a_seed_gives_the_same_answer_alone_and_among_others(served):
    grammar = Grammar('json', json.dumps(SCHEMAS['an object']))
    alone = answer(served, grammar, seed=7)
    others = [served.stream(Request(f'o{i}', PROMPT, Sampling(80, 1.0, seed=i))) for i in range(5)]
    assert answer(served, grammar, seed=7) == alone
    assert all(list(stream)[-1].finish for stream in others)


# --------------------------------------------------------------------------------------------------------- refusals
BROKEN = {
    'json': ['{"type": "banana"}', '{"type":', '[]', '{"not": {}}', 'false', '{"$ref": "http://example.com/s.json"}'],
    'regex': ['(', '(?=a)b', r'\bfoo', '[z-a]', '(' * 4000 + ')' * 4000],
    'lark': ['start: nothing', 'start', 'begin: "a"', 'start: ' + '(' * 2000 + '"x"' + ')' * 2000],
}
HEAVY = {
    'regex': [
        '(a{1000}){1000}',
        r'xyz(a{1000}){1000}',
        '.*(a|b)(.{300}c|.{301}d|.{302}e).*',
        '(.{1,30}[aeiou]){1,40}z',
    ],
    'lark': ['start: "x" X\nX: /(a{1000}){1000}/', 'start: "x"{1000000}', 'start: s\ns: s s s | "a" | ""'],
    'json': ['{"type": "string", "pattern": "(a{1000}){1000}"}', '{"items":' * 90 + '{}' + '}' * 90],
}


@pytest.mark.parametrize(('kind', 'text'), [(kind, text) for kind, texts in BROKEN.items() for text in texts])
def test_a_broken_grammar_is_an_error_of_its_request(served, kind, text):
    with pytest.raises(RequestError) as caught:
        list(served.stream(Request('r', PROMPT, Sampling(grammar=Grammar(kind, text)))))
    assert caught.value.param == 'response_format' and len(str(caught.value)) < 500
    assert answer(served, Grammar('regex', 'still here'))[0] == ('still here', 'stop')


@pytest.mark.parametrize(('kind', 'text'), [(kind, text) for kind, texts in HEAVY.items() for text in texts])
def test_no_grammar_takes_long_to_compile_or_to_follow(kind, text):
    grammars, slowest = Grammars(TOKENIZER, 400), 0.0
    grammars.compile(Grammar('regex', 'a'))  # reads the tokenizer
    began = time.process_time()
    try:
        constraint = grammars.compile(Grammar(kind, text)).start([STOP])
        mask = np.zeros(constraint.width, dtype=np.uint8)
        for _ in range(40):
            before = time.thread_time()
            constraint.mask(mask)
            token = next((i for i in range(3, 400) if mask[i // 8] >> i % 8 & 1), STOP)
            constraint.accept(token)
            slowest = max(slowest, time.thread_time() - before)
            if token == STOP or constraint.done:
                break
    except RequestError:
        pass
    assert slowest < 0.2
    assert time.process_time() - began < 2


def test_others_go_on_while_a_grammar_is_heavy(served):
    other = served.stream(Request('other', PROMPT, Sampling(200, 1.0, seed=3)))
    with pytest.raises(RequestError):
        list(served.stream(Request('r', PROMPT, Sampling(grammar=Grammar('regex', HEAVY['regex'][1])))))
    assert list(other)[-1].finish in ('stop', 'length')


def test_a_request_that_is_aborted_while_its_grammar_compiles_ends(served):
    stream = served.stream(Request('r', PROMPT, Sampling(2000, 1.0, grammar=Grammar('regex', '[a-z0-9]{4000}'))))
    served.abort('r')
    assert list(stream)[-1].finish == 'abort'
    stats = served.stats()
    assert stats['accepted'] == stats['finished'] + stats['aborted'] + stats['failed']


def test_without_a_tokenizer_a_grammar_is_refused():
    with engine(MODEL) as made, pytest.raises(RequestError, match='tokenizer'):
        made.stream(Request('r', PROMPT, Sampling(grammar=Grammar('regex', 'a'))))


# --------------------------------------------------------------------------------------------------------- requests
def test_requests_name_their_grammar_in_any_of_the_established_ways():
    schema = {'type': 'object'}
    assert structured.from_request() is None
    assert structured.from_request({'type': 'text'}) is None
    assert structured.from_request({'type': 'json_object'}) == Grammar('json', '{"type": "object"}')
    named = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': schema, 'strict': True}}
    assert structured.from_request(named) == Grammar('json', '{"type": "object"}')
    assert structured.from_request({'type': 'choice', 'choice': ['a', 'b']}) == Grammar('choice', '["a", "b"]')
    assert structured.from_request(regex='[0-9]+') == Grammar('regex', '[0-9]+')
    assert structured.from_request(structured_outputs={'json': schema}) == Grammar('json', '{"type": "object"}')
    assert structured.from_request(structured_outputs={'grammar': 'start: "a"'}) == Grammar('lark', 'start: "a"')


@pytest.mark.parametrize(
    ('given', 'param'),
    [
        ({'response_format': {'type': 'xml'}}, 'response_format.type'),
        ({'response_format': {'type': 'json_schema'}}, 'response_format'),
        ({'response_format': {'type': 'json_schema', 'json_schema': {}}}, 'response_format.json_schema'),
        (
            {'response_format': {'type': 'json_schema', 'json_schema': {'schema': 3}}},
            'response_format.json_schema.schema',
        ),
        ({'response_format': {'type': 'regex', 'regex': 'a' * 9000}}, 'response_format.regex'),
        ({'structured_outputs': {'choice': []}}, 'structured_outputs.choice'),
        ({'structured_outputs': {'choice': ['a', 1]}}, 'structured_outputs.choice'),
        ({'structured_outputs': {'json': '{'}}, 'structured_outputs.json'),
        ({'structured_outputs': {'regexp': 'a'}}, 'structured_outputs'),
        ({'structured_outputs': {'regex': 'a', 'json': {}}}, 'structured_outputs'),
        ({'regex': ''}, 'structured_outputs_regex'),
        ({'regex': 'a', 'response_format': {'type': 'json_object'}}, 'structured_outputs_regex'),
    ],
)
def test_what_cannot_be_understood_is_named(given, param):
    with pytest.raises(RequestError) as caught:
        structured.from_request(**given)
    assert caught.value.param == param


def test_template_and_engine_pass_a_request_for_json_on():
    from swift.engines.native import TransformersEngine
    from swift.engines.protocol import InferRequest, RequestConfig

    made = TransformersEngine(MODEL, template=PlainTemplate())
    try:
        config = RequestConfig(max_tokens=300, response_format={'type': 'json_object'}, temperature=1.0, seed=4)
        [response] = made.infer([InferRequest([{'role': 'user', 'content': 'Hi'}])], config)
        assert response.choices[0].message.content.startswith('{')
    finally:
        made.close()

"""Answers that must call a tool call one, in every format, with arguments of its schema: chosen by chance alone."""

from __future__ import annotations

import json
import random

import jsonschema_rs
import numpy as np
import pytest

from swift.core.errors import RequestError
from swift.core.types import ToolCall
from swift.engines.grammar import Grammars
from swift.templates.answers import Answer, Speech, whole
from swift.templates.calls import FORMATS, write
from swift.templates.calls_forcing import CALLS, forced, parameters
from tests import tiny

TOOLS = [
    {
        'type': 'function',
        'function': {
            'name': 'get_weather',
            'parameters': {
                'type': 'object',
                'properties': {
                    'days': {'type': 'integer', 'minimum': 1, 'maximum': 9},
                    'unit': {'type': 'string', 'enum': ['C', 'F']},
                    'city': {'type': 'string'},  # no length: what stands in tags ends with its tag
                    'exact': {'type': 'boolean'},
                },
                'required': ['days', 'unit'],
            },
        },
    },
    {'type': 'function', 'function': {'name': 'stop'}},
]
NAMED = {'type': 'function', 'function': {'name': 'get_weather'}}
THINK = (('<think>', '</think>'),)
STOP = 2


class Talker:
    """A template that speaks a format, on a tokenizer that has some of its marks as control tokens."""

    def __init__(self, name: str, tags=()):
        from tokenizers import AddedToken

        self.speech = Speech(FORMATS[name], tags)
        self.tokenizer = tiny.tokenizer()
        special = [
            '[TOOL_CALLS]',
            '[ARGS]',
            '<｜tool▁calls▁begin｜>',
            '<｜tool▁call▁begin｜>',
            '<|channel|>',
            '<|message|>',
            '<|end|>',
            '<|eom|>',
            '｜DSML｜',
        ]
        self.tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in special])
        self.tokenizer.add_tokens(
            [AddedToken(name, normalized=False) for name in ('<tool_call>', '</think>', '<think>')]
        )

    def decode(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def answers(self, grammar, count: int, longest: int = 400) -> list[Answer]:
        """Complete answers that chance writes."""
        compiled = Grammars(self.tokenizer, len(self.tokenizer)).compile(grammar)
        made = [self._write(compiled.start([STOP]), random.Random(seed), longest) for seed in range(count)]
        return [whole(text, self.speech, TOOLS) for text in made if text is not None]

    def _write(self, constraint, chance: random.Random, longest: int) -> str | None:
        ids: list[int] = []
        mask = np.zeros(constraint.width, dtype=np.uint8)
        for _ in range(longest):
            constraint.mask(mask)
            allowed = np.unpackbits(mask, bitorder='little')[: len(self.tokenizer)].nonzero()[0].tolist()
            ends = [id for id in allowed if id == STOP or '"' in self.decode([id]) or '<' in self.decode([id])]
            id = chance.choice(ends if ends and chance.random() < 0.3 else allowed)
            if id == STOP:
                return self.decode(ids)
            constraint.accept(id)
            ids.append(id)
            if constraint.done:
                return self.decode(ids)
        return None


FORCED = [name for name, form in FORMATS.items() if form.body in CALLS]


def check(answer: Answer) -> None:
    """Every call is of a tool that there is, with arguments that its schema allows."""
    schemas = {tool['function']['name']: parameters(tool['function']) for tool in TOOLS}
    assert answer.calls and not answer.content, answer
    for call in answer.calls:
        jsonschema_rs.validator_for(schemas[call.name]).validate(json.loads(call.arguments))


@pytest.mark.parametrize('choice', [NAMED, 'auto'], ids=['named', 'strict'])
@pytest.mark.parametrize('name', ['hermes', 'glm4_5', 'qwen3_coder'])
def test_calls_are_taken_in_the_models_own_tokens_by_engines_of_other_libraries(name, choice):
    import llguidance.hf

    talker = Talker(name, THINK)
    view = llguidance.hf.from_tokenizer(talker.tokenizer, len(talker.tokenizer), eos_token=STOP)
    said = '<think>Hm.</think>' + write(FORMATS[name], [ToolCall('get_weather', {'days': 3, 'unit': 'C'})])
    for before in ('', 'Wait.') if choice == 'auto' else ('',):
        ids = talker.tokenizer(said.replace('</think>', f'</think>{before}'))['input_ids']
        for angled in (True, False):
            grammar = forced(talker, STRICT, choice, parallel=False, angled=angled)
            matcher = llguidance.LLMatcher(view, grammar.text, log_level=0)
            assert all(map(matcher.consume_token, ids)) is angled


@pytest.mark.parametrize('name', FORCED)
def test_a_required_call_is_made_in_every_format(name):
    talker = Talker(name)
    found = talker.answers(forced(talker, TOOLS, 'required'), 3, 1200)
    assert found
    for answer in found:
        check(answer)


@pytest.mark.parametrize('name', FORCED)
def test_a_named_tool_is_called_once(name):
    talker = Talker(name)
    found = talker.answers(forced(talker, TOOLS, NAMED), 2, 1200)
    assert found
    for answer in found:
        check(answer)
        assert [call.name for call in answer.calls] == ['get_weather']


NESTED = {
    'type': 'object',
    'properties': {
        'days': {
            'type': 'array',
            'items': {'type': 'integer', 'minimum': 1, 'maximum': 9},
            'minItems': 1,
            'maxItems': 3,
        },
        'place': {
            'type': 'object',
            'properties': {'near': {'type': 'boolean'}, 'kind': {'enum': ['sea', 'city']}},
            'required': ['kind'],
        },
    },
    'required': ['days', 'place'],
}


@pytest.mark.parametrize('name', ['gemma4', 'minimax_m3', 'kimi_k3', 'muse_glimmer', 'hermes'])
def test_objects_and_lists_inside_arguments_follow_their_schemas_too(name):
    talker, tools = Talker(name), [{'name': 'plan', 'parameters': NESTED}]
    grammar = forced(talker, tools, 'required', parallel=False)
    compiled = Grammars(talker.tokenizer, len(talker.tokenizer)).compile(grammar)
    made = [talker._write(compiled.start([STOP]), random.Random(seed), 1200) for seed in range(4)]
    found = [whole(text, talker.speech, tools) for text in made if text is not None]
    assert found
    for answer in found:
        [call] = answer.calls
        jsonschema_rs.validator_for(NESTED).validate(json.loads(call.arguments))


def test_several_calls_may_be_made_unless_forbidden():
    talker = Talker('hermes')
    many = talker.answers(forced(talker, TOOLS, 'required'), 12, 1500)
    one = talker.answers(forced(talker, TOOLS, 'required', parallel=False), 12)
    assert max(len(answer.calls) for answer in many) > 1
    assert {len(answer.calls) for answer in one} == {1}


@pytest.mark.parametrize('name', ['hermes', 'qwen3_coder', 'mistral'])
def test_a_model_may_think_before_a_forced_call(name):
    talker = Talker(name, THINK)
    found = talker.answers(forced(talker, TOOLS, NAMED), 8)
    assert any(answer.reasoning for answer in found) and any(not answer.reasoning for answer in found)
    for answer in found:
        check(answer)


def test_reasoning_that_the_prompt_opened_comes_first():
    talker = Talker('hermes', THINK)
    prompt = talker.tokenizer('Hi<think>\n').input_ids
    grammar = forced(talker, TOOLS, NAMED, prompt_ids=prompt)
    assert '</think>' in grammar.text.splitlines()[1] + grammar.text.splitlines()[-1]


def test_schemas_with_what_cannot_be_enforced_are_followed_as_far_as_possible():
    tools = [{'name': 'f', 'parameters': {'type': 'object', 'properties': {'x': {'not': {'type': 'null'}}}}}]
    talker = Talker('hermes')
    Grammars(talker.tokenizer, len(talker.tokenizer)).compile(forced(talker, tools, 'required'))


def test_references_inside_a_schema_are_kept():
    schema = {'type': 'object', 'properties': {'x': {'$ref': '#/$defs/n'}}, '$defs': {'n': {'type': 'integer'}}}
    talker = Talker('hermes')
    Grammars(talker.tokenizer, len(talker.tokenizer)).compile(
        forced(talker, [{'name': 'f', 'parameters': schema}], 'required')
    )


def test_where_nothing_is_forced_there_is_no_grammar():
    assert [forced(Talker('hermes'), TOOLS, choice) for choice in (None, 'auto', 'none')] == [None] * 3


@pytest.mark.parametrize(
    ('tools', 'choice', 'said'),
    [
        (TOOLS, 'always', 'auto, none, required'),
        (TOOLS, {'type': 'function'}, 'auto, none, required'),
        (TOOLS, {'type': 'function', 'function': {'name': 'sing'}}, 'none of the tools: get_weather, stop'),
        ([], 'required', 'no tools'),
    ],
)
def test_choices_that_cannot_be_met_are_refused(tools, choice, said):
    with pytest.raises(RequestError, match=said) as caught:
        forced(Talker('hermes'), tools, choice)
    assert caught.value.param == 'tool_choice'


def test_a_template_without_a_format_cannot_be_forced():
    talker = Talker('hermes')
    talker.speech = Speech()
    with pytest.raises(RequestError, match='agent_template'):
        forced(talker, TOOLS, 'required')


# ------------------------------------------------------------------------------------------------------- strict tools
STRICT = [{'type': 'function', 'function': {**TOOLS[0]['function'], 'strict': True}}, TOOLS[1]]
UNMARKED = ('harmony', 'deepseek_v4', 'muse_glimmer', 'pythonic')


def after(talker, grammar, text):
    """What chance writes after the beginning ``text`` of an answer, with it; None where that may not be written."""
    constraint = Grammars(talker.tokenizer, len(talker.tokenizer)).compile(grammar).start([STOP])
    mask = np.zeros(constraint.width, dtype=np.uint8)
    for id in talker.tokenizer(text, add_special_tokens=False).input_ids:
        constraint.mask(mask)
        if not np.unpackbits(mask, bitorder='little')[id]:
            return None
        constraint.accept(id)
    written = talker._write(constraint, random.Random(1), 400)
    return None if written is None else text + written


@pytest.mark.parametrize('name', ['hermes', 'qwen3_coder', 'deepseek_v3_1', 'kimi_k2', 'mistral'])
def test_a_strict_tool_that_is_called_freely_gets_arguments_of_its_schema(name):
    talker = Talker(name)
    grammar = forced(talker, STRICT, 'auto', parallel=False)
    form = FORMATS[name]
    begun = after(talker, grammar, f'One moment < please.\n{form.section[0]}{form.open}')
    [call] = whole(begun, talker.speech, STRICT).calls
    schemas = {tool['function']['name']: parameters(tool['function']) for tool in TOOLS}
    jsonschema_rs.validator_for(schemas[call.name]).validate(json.loads(call.arguments))
    assert after(talker, grammar, 'Hello, {"name": 1} <b> you') is not None


@pytest.mark.parametrize('name', UNMARKED)
def test_where_nothing_marks_a_call_a_strict_tool_is_refused(name):
    with pytest.raises(RequestError, match='tools: strict') as caught:
        forced(Talker(name), STRICT, 'auto')
    assert caught.value.param == 'tools'
    assert forced(Talker(name), STRICT, 'none') is None

"""Responses of ``infer`` name the tool calls and the reasoning that are in an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from swift.core.types import Piece, Request, ToolCall
from swift.engines.api import ChatEngine
from swift.engines.protocol import InferRequest, RequestConfig
from swift.templates.answers import Speech
from swift.templates.calls import FORMATS, write
from tests.engines.plain import PlainTemplate

TOOLS = [{'type': 'function', 'function': {'name': 'get_weather', 'parameters': {'type': 'object'}}}]
CALL = write(FORMATS['hermes'], [ToolCall('get_weather', {'city': 'Paris'})])


class Recited(SimpleNamespace):
    """An engine that says one thing, in pieces of five characters, to everybody."""

    adapters = ()

    def stream(self, request: Request) -> Iterator[Piece]:
        self.request = request
        for index in range(request.sampling.n):
            for start in range(0, len(self.text), 5):
                ended = start + 5 >= len(self.text)
                yield Piece(index, self.text[start : start + 5], (start,), finish='stop' if ended else None)


def chat(text: str, form: str = 'hermes', **how) -> ChatEngine:
    template = PlainTemplate()
    template.speech = Speech(FORMATS[form], (('<think>', '</think>'),))
    return ChatEngine(Recited(text=text), template, model_name='m', max_model_len=4096, **how)


def asked(**more) -> list[InferRequest]:
    return [InferRequest([{'role': 'user', 'content': 'Weather?'}], **more)]


def test_calls_and_reasoning_stand_beside_all_that_was_said():
    said = '<think>\nParis it is.\n</think>\n\nOne moment.\n' + CALL
    [response] = chat(said).infer(asked(tools=TOOLS), RequestConfig(n=2))
    for choice in response.choices:
        [call] = choice.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ('get_weather', {'city': 'Paris'})
        assert (choice.finish_reason, choice.message.reasoning_content) == ('tool_calls', 'Paris it is.')
        assert choice.message.content == said


def test_calls_come_with_the_last_piece():
    [stream] = chat(CALL).infer(asked(tools=TOOLS), RequestConfig(stream=True))
    chunks = [chunk.choices[0] for chunk in stream]
    assert ''.join(chunk.delta.content for chunk in chunks) == CALL
    assert [bool(chunk.delta.tool_calls) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish_reason == 'tool_calls'


def test_without_tools_there_are_no_calls():
    [response] = chat(CALL).infer(asked())
    [choice] = response.choices
    assert (choice.message.tool_calls, choice.finish_reason) == (None, 'stop')


def test_what_the_template_says_first_is_heard_too():
    [response] = chat('Hm.</think>Sunny.', response_prefix='<think>\n').infer(asked())
    assert response.choices[0].message.content == '<think>\nHm.</think>Sunny.'
    assert response.choices[0].message.reasoning_content == 'Hm.'


@pytest.mark.parametrize(('form', 'stop'), [('react', 'Observation:'), ('hermes', None)])
def test_answers_wait_where_a_format_goes_on_by_itself(form, stop):
    made = chat('Hello', form)
    made.infer(asked(tools=TOOLS))
    assert made.engine.request.sampling.stop == ((stop,) if stop else ())
    made.infer(asked())
    assert made.engine.request.sampling.stop == ()

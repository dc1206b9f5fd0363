"""What a server does where a request does not say it."""

from __future__ import annotations

import pytest

from swift.serve import words
from swift.serve.house import Usual
from swift.serve.schema import ChatRequest

TOOL = {'type': 'function', 'function': {'name': 'f', 'parameters': {}}}


@pytest.mark.parametrize(
    ('asked', 'regex'),
    [
        ({}, '[0-9]+'),
        ({'structured_outputs_regex': 'a|b'}, 'a|b'),
        ({'guided_choice': ['x', 'y']}, None),
        ({'response_format': {'type': 'text'}}, None),
        ({'tools': [TOOL]}, None),
    ],
)
def test_the_usual_expression_holds_where_a_request_wants_no_form(asked, regex):
    request = ChatRequest.model_validate({'model': 'm', 'messages': [{'role': 'user', 'content': 'Hi'}], **asked})
    config = words.config(request, Usual(regex='[0-9]+'), max_tokens=None, logprobs=None)
    assert config.structured_outputs_regex == regex

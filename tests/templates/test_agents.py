"""Tools, calls and results in the words of --agent_template, on a chat template that knows none of them.

The expected texts were written by hand from the formats' own descriptions.
"""

from __future__ import annotations

import pytest

from swift.core.errors import RowError
from swift.core.types import Message, ToolCall
from swift.templates import agents
from tests.templates import world
from tests.tiny import CHATML

TOOL = {
    'type': 'function',
    'function': {
        'name': 'get_weather',
        'description': 'Weather of a city',
        'parameters': {
            'type': 'object',
            'properties': {'city': {'type': 'string', 'description': 'Name'}},
            'required': ['city'],
        },
    },
}
PARAMETERS = (
    '{"type": "object", "properties": {"city": {"type": "string", "description": "Name"}}, "required": ["city"]}'
)
FUNCTION = f'{{"name": "get_weather", "description": "Weather of a city", "parameters": {PARAMETERS}}}'
JSON = f'{{"type": "function", "function": {FUNCTION}}}'
TALK = (
    Message('system', 'Be brief.'),
    Message('user', 'Weather in Paris and Rome?'),
    Message(
        'assistant',
        'I look.',
        tool_calls=(ToolCall('get_weather', {'city': 'Paris'}), ToolCall('get_weather', {'city': 'Rome'})),
    ),
    Message('tool', 'sunny'),
    Message('tool', 'rain'),
    Message('assistant', 'Sun and rain.'),
)

HERMES = f"""<|im_start|>system
Be brief.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{JSON}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call><|im_end|>
<|im_start|>user
Weather in Paris and Rome?<|im_end|>
<|im_start|>assistant
I look.
<tool_call>
{{"name": "get_weather", "arguments": {{"city": "Paris"}}}}
</tool_call>
<tool_call>
{{"name": "get_weather", "arguments": {{"city": "Rome"}}}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
sunny
</tool_response>
<tool_response>
rain
</tool_response><|im_end|>
<|im_start|>assistant
Sun and rain.<|im_end|>
"""
REACT_SYSTEM = f"""Be brief.

Answer the following questions as best you can. You have access to the following tools:

get_weather: Call this tool to interact with the get_weather API. What is the get_weather API useful for? Weather of a \
city Parameters: {PARAMETERS} Format the arguments as a JSON object.

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [get_weather]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!
"""
REACT_CALL = (
    'I look.\nAction: get_weather\nAction Input: {"city": "Paris"}\n'
    'Action: get_weather\nAction Input: {"city": "Rome"}\nObservation:'
)
QWEN_SYSTEM = f"""Be brief.

# 工具

## 你拥有如下工具：

### get_weather

get_weather: Weather of a city 输入参数：{PARAMETERS} 此工具的输入应为JSON对象。

## 你可以在回复中插入零次、一次或多次以下命令以调用工具：

✿FUNCTION✿: 工具名称，必须是[get_weather]之一。
✿ARGS✿: 工具输入
✿RESULT✿: 工具结果
✿RETURN✿: 根据工具结果进行回复，需将图片用![](url)渲染出来"""
QWEN_CALL = (
    'I look.\n✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Paris"}\n'
    '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Rome"}\n✿RESULT✿:'
)
CODER_CALL = (
    'I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n'
    '<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>'
)
MINIMAX_CALL = (
    'I look.\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
    '<invoke name="get_weather">\n<parameter name="city">Rome</parameter>\n</invoke>\n</minimax:tool_call>'
)
LLAMA_CALL = (
    'I look.\n{"name": "get_weather", "parameters": {"city": "Paris"}}; '
    '{"name": "get_weather", "parameters": {"city": "Rome"}}'
)
ANSWERS = {
    'react_en': (REACT_CALL, 'sunny\nObservation:rain'),
    'react_zh': (REACT_CALL, 'sunny\nObservation:rain'),
    'react_grpo': (REACT_CALL, 'sunny\nObservation:rain'),
    'toolbench': (REACT_CALL, 'sunny\nObservation:rain'),
    'qwen_en': (QWEN_CALL, 'sunny\n✿RESULT✿:rain'),
    'qwen_zh': (QWEN_CALL, 'sunny\n✿RESULT✿:rain'),
    'qwen_en_parallel': (QWEN_CALL, 'sunny\n✿RESULT✿:rain'),
    'qwen_zh_parallel': (QWEN_CALL, 'sunny\n✿RESULT✿:rain'),
    'qwen3_coder': (
        CODER_CALL,
        '<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>\n',
    ),
    'qwen3_5': (CODER_CALL, '<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>'),
    'minimax_m2': (MINIMAX_CALL, '<response>sunny</response>\n<response>rain</response>'),
    'llama3': (LLAMA_CALL, 'sunny\nrain'),
    'llama4': (LLAMA_CALL, 'sunny\nrain'),
}


def told(name: str) -> tuple[Message, ...]:
    return agents.of(name, None).tell(TALK, [TOOL])


def test_a_conversation_reads_as_hermes_has_it_and_only_answers_carry_loss():
    tokenizer = world.bytes_tokenizer(CHATML)
    made = world.template(tokenizer, agent_template='hermes')
    encoded = world.encode(made, *TALK, tools=(TOOL,))
    assert tokenizer.decode(encoded.input_ids) == HERMES
    calls = HERMES[HERMES.index('I look.') : HERMES.index('<|im_start|>user\n<tool_response>') - 1]
    assert world.weighted(encoded, tokenizer) == [calls, 'Sun and rain.<|im_end|>']


def test_a_prompt_is_the_beginning_of_what_is_trained():
    tokenizer = world.bytes_tokenizer(CHATML)
    made = world.template(tokenizer, agent_template='hermes')
    prompt = tokenizer.decode(made.prompt(TALK[:2], tools=[TOOL]))
    assert HERMES.startswith(prompt) and prompt.endswith('<|im_start|>assistant\n')


@pytest.mark.parametrize(('name', 'expected'), [('react_en', REACT_SYSTEM), ('qwen_zh', QWEN_SYSTEM)])
def test_the_system_prompt_tells_of_the_tools(name, expected):
    assert told(name)[0] == Message('system', expected)


def test_without_a_system_prompt_the_text_begins_with_the_tools():
    system = agents.of('hermes', None).tell(TALK[1:2], [TOOL])[0].content
    assert system.startswith('# Tools\n\nYou may call')


def test_qwen3_5_has_the_system_prompt_last():
    assert told('qwen3_5')[0].content.startswith('# Tools') and told('qwen3_5')[0].content.endswith('\n\nBe brief.')


def test_qwen3_coder_shows_tools_in_tags():
    tags = (
        '<tools>\n<function>\n<name>get_weather</name>\n<description>Weather of a city</description>\n<parameters>\n'
        '<parameter>\n<name>city</name>\n<type>string</type>\n<description>Name</description>\n</parameter>\n'
        '<required>["city"]</required>\n</parameters>\n</function>\n</tools>'
    )
    assert tags in told('qwen3_coder')[0].content


def test_toolbench_and_minimax_show_bare_functions():
    assert told('toolbench')[0].content.endswith(f'the following APIs: [{FUNCTION}]')
    assert f'<tools>\n<tool>{FUNCTION}</tool>\n</tools>' in told('minimax_m2')[0].content


def test_llama_asks_in_the_first_question():
    system, question, *_ = told('llama3')
    assert system == TALK[0]
    assert question.content.startswith('Given the following functions, please respond with a JSON')
    assert question.content.endswith('\n}\n\nWeather in Paris and Rome?')
    assert '\n        "name": "get_weather",\n' in question.content


@pytest.mark.parametrize('name', ANSWERS)
def test_calls_are_part_of_answers_and_results_are_questions(name):
    calls, results = ANSWERS[name]
    *_, answer, given, last = told(name)
    assert (answer.role, answer.content, answer.tool_calls) == ('assistant', calls, ())
    assert given == Message('user', results)
    assert last == TALK[-1]


def test_every_name_has_a_test():
    assert set(agents.names()) == {*ANSWERS, 'hermes'}


def test_words_of_a_tool_are_not_taken_for_places():
    tool = {'name': 'f', 'description': 'Fills {{NAMES}} and {{SYSTEM}}', 'parameters': {}}
    system = agents.of('qwen_en', None).tell(TALK[:2], [tool])[0].content
    assert 'f: Fills {{NAMES}} and {{SYSTEM}} Parameters: {}' in system


def test_a_checkpoint_that_speaks_the_format_keeps_its_own_words():
    assert world.real('qwen3', agent_template='hermes')[1].agent is None
    assert world.real('qwen3', agent_template='react_en')[1].agent is not None


def test_a_weight_of_a_row_stays_with_its_answer():
    tokenizer = world.bytes_tokenizer(CHATML)
    made = world.template(tokenizer, agent_template='hermes')
    rows = [Message('assistant', '', loss=0, tool_calls=TALK[2].tool_calls) if m.tool_calls else m for m in TALK]
    assert world.weighted(world.encode(made, *rows, tools=(TOOL,)), tokenizer) == ['Sun and rain.<|im_end|>']


def test_without_the_flag_such_a_template_refuses_tools():
    with pytest.raises(RowError, match='cannot show tools'):
        world.encode(world.template(world.bytes_tokenizer(CHATML)), *TALK, tools=(TOOL,))

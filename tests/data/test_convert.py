"""Every established row format as a Sample, and what is said of rows that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import RowError
from swift.core.types import Message, Origin, Sample, ToolCall
from swift.data.convert import Reading, convert
from swift.data.rows.standard import to_row

HERE = Origin('rows.jsonl', 1)
USER, ANSWER = Message('user', 'hi'), Message('assistant', 'hello')
CHAT = (USER, ANSWER)
TURNS = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]


def read(row, **reading):
    return convert(row, HERE, Reading(**reading))


def complaint(row, **reading):
    with pytest.raises(RowError) as caught:
        read(row, **reading)
    return str(caught.value)


@pytest.mark.parametrize(
    'row',
    [
        {'messages': TURNS},
        {'messages': '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]'},
        {'messages': "[{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]"},
        {'messages': [{'role': 'human', 'content': 'hi'}, {'role': 'gpt', 'content': 'hello', 'tool_calls': None}]},
        {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'hi'}]}, TURNS[1]]},
        {'conversations': [{'from': 'human', 'value': 'hi'}, {'from': 'gpt', 'value': 'hello'}]},
        {'conversation': [{'human': 'hi', 'assistant': 'hello'}]},
        {'query': 'hi', 'response': 'hello'},
        {'query': 'hi', 'response': 'hello', 'history': [], 'system': None},
        {'query': 'hi', 'response': 'hello', 'history': '', 'system': ''},  # csv
        {'prompt': 'hi', 'completion': 'hello'},
        {'prompt': [TURNS[0]], 'completion': [TURNS[1]]},  # TRL
        {'question': 'hi', 'answer': 'hello'},
        {'Question': 'hi', 'Answer': 'hello'},
        {'problem': 'hi', 'solution': 'hello', 'answer': '42'},  # natural partners win
        {'question': 'hi', 'answer': 'hello', 'solution': 'long way'},
        {'input': 'hi', 'output': 'hello'},
        {'instruction': 'hi', 'input': '', 'output': 'hello'},
        {'instruction': 'hi', 'input': None, 'output': 'hello', 'text': 'Below is an instruction ...'},
        {'instruction': '', 'input': 'hi', 'output': 'hello'},
        {'instruction': 'hi', 'output': 'hello'},
        {'instruction': 'hi', 'response': 'hello'},
    ],
)
def test_one_conversation_in_every_format(row):
    assert read(row).messages == CHAT


def test_alpaca_lays_instruction_and_input_on_two_lines():
    assert read({'instruction': 'add', 'input': '1 2', 'output': '3'}).messages[0] == Message('user', 'add\n1 2')


def test_history_comes_before_the_question_and_system_before_all():
    row = {'system': 'be kind', 'query': 'hi', 'response': 'hello', 'history': [['a', 'b'], ['c', 'd']]}
    roles = [(each.role, each.content) for each in read(row).messages]
    assert roles == [
        ('system', 'be kind'),
        ('user', 'a'),
        ('assistant', 'b'),
        ('user', 'c'),
        ('assistant', 'd'),
        ('user', 'hi'),
        ('assistant', 'hello'),
    ]


@pytest.mark.parametrize('name', ['text', 'content', 'response', 'completion', 'output'])
def test_an_answer_without_a_question_is_a_document(name):
    sample = read({name: 'Once upon a time', 'id': 7})
    assert (sample.text, sample.messages, sample.extra) == ('Once upon a time', (), {'id': 7})


def test_a_system_column_joins_a_conversation():
    assert read({'messages': TURNS, 'system': 'be kind'}).messages == (Message('system', 'be kind'), *CHAT)
    assert 'two system prompts' in complaint({'messages': [{'role': 'system', 'content': 'a'}, *TURNS], 'system': 'b'})
    assert read({'messages': [{'role': 'developer', 'content': 'a'}, *TURNS], 'system': 'a'}).messages[1:] == CHAT


@pytest.mark.parametrize(
    ('keys', 'expected'),
    [
        ({}, None),
        ({'loss': True}, 1.0),
        ({'loss': False}, 0.0),
        ({'weight': 0}, 0.0),
        ({'loss_scale': 0.3}, 0.3),
        ({'loss': True, 'loss_scale': 2}, 2.0),
        ({'loss': False, 'loss_scale': 2}, 0.0),
        ({'loss': None}, None),
    ],
)
def test_a_turn_may_have_its_own_weight(keys, expected):
    assert read({'messages': [TURNS[0], {**TURNS[1], **keys}]}).messages[1].loss == expected


def test_tool_turns_of_both_fashions_give_the_same_messages():
    schema = {'type': 'function', 'function': {'name': 'add', 'parameters': {'type': 'object'}}}
    swift = {
        'tools': '[{"name": "add", "parameters": {"type": "object"}}]',
        'messages': [
            TURNS[0],
            {'role': 'tool_call', 'content': '{"name": "add", "arguments": {"a": 1}}'},
            {'role': 'tool_call', 'content': {'name': 'add', 'arguments': '{"a": 2}'}},
            {'role': 'tool_response', 'content': '{"sum": 1}'},
            {'role': 'tool_response', 'content': '2'},
            TURNS[1],
        ],
    }
    calls = [{'type': 'function', 'function': {'name': 'add', 'arguments': f'{{"a": {n}}}'}} for n in (1, 2)]
    openai = {
        'tools': [schema],
        'messages': [
            TURNS[0],
            {'role': 'assistant', 'content': None, 'tool_calls': calls},
            {'role': 'tool', 'content': {'sum': 1}},
            {'role': 'tool', 'content': '2'},
            TURNS[1],
        ],
    }
    expected = (
        USER,
        Message('assistant', '', tool_calls=(ToolCall('add', {'a': 1}), ToolCall('add', {'a': 2}))),
        Message('tool', '{"sum": 1}'),
        Message('tool', '2'),
        ANSWER,
    )
    for row in (swift, openai):
        sample = read(row)
        assert sample.messages == expected
        assert sample.tools == (schema,)


def test_a_call_after_words_belongs_to_the_same_turn():
    row = {'messages': [*TURNS, {'role': 'tool_call', 'content': '{"name": "f"}'}]}
    assert read(row).messages == (USER, Message('assistant', 'hello', tool_calls=(ToolCall('f', {}),)))


def test_anthropic_blocks_become_calls_results_and_reasoning():
    row = {
        'system': [{'type': 'text', 'text': 'be kind'}],
        'tools': [{'name': 'add', 'description': 'adds', 'input_schema': {'type': 'object'}}],
        'messages': [
            {'role': 'user', 'content': 'hi'},
            {
                'role': 'assistant',
                'content': [
                    {'type': 'thinking', 'thinking': 'hm'},
                    {'type': 'text', 'text': 'wait'},
                    {'type': 'tool_use', 'id': 't1', 'name': 'add', 'input': {'a': 1}},
                ],
            },
            {
                'role': 'user',
                'content': [
                    {'type': 'tool_result', 'tool_use_id': 't1', 'content': [{'type': 'text', 'text': '3'}]},
                    {'type': 'text', 'text': 'and?'},
                ],
            },
            {'role': 'assistant', 'content': [{'type': 'text', 'text': 'hello'}]},
        ],
    }
    sample = read(row)
    assert sample.messages == (
        Message('system', 'be kind'),
        USER,
        Message('assistant', 'wait', reasoning='hm', tool_calls=(ToolCall('add', {'a': 1}, 't1'),)),
        Message('tool', '3', name='add'),
        Message('user', 'and?'),
        ANSWER,
    )
    assert sample.tools[0]['function'] == {'name': 'add', 'description': 'adds', 'parameters': {'type': 'object'}}


def test_pictures_become_tags_and_media():
    blocks = [
        {'type': 'image_url', 'image_url': {'url': 'http://x/a.png'}},
        {'type': 'text', 'text': 'what?'},
        {'type': 'image', 'source': {'type': 'base64', 'media_type': 'image/png', 'data': 'QUJD'}},
        {'type': 'video', 'video': 'b.mp4'},
        {'type': 'image'},
    ]
    sample = read({'messages': [{'role': 'user', 'content': blocks}, TURNS[1]], 'audio': 'c.wav', 'image': None})
    assert sample.messages[0].content == '<image>what?<image><video><image>'
    assert sample.media == {
        'images': ['http://x/a.png', 'data:image/png;base64,QUJD'],
        'videos': ['b.mp4'],
        'audios': ['c.wav'],
    }


@pytest.mark.parametrize(
    'row',
    [
        {'messages': TURNS, 'rejected_response': 'no'},
        {'messages': TURNS, 'rejected_response': [{'role': 'assistant', 'content': 'no'}]},
        {'messages': TURNS, 'rejected_messages': [TURNS[0], {'role': 'assistant', 'content': 'no'}]},
        {'query': 'hi', 'response': 'hello', 'rejected_response': 'no'},
        {'prompt': 'hi', 'chosen': 'hello', 'rejected': 'no'},
        {'question': 'hi', 'chosen': 'hello', 'rejected': 'no'},
        {'prompt': [TURNS[0]], 'chosen': [TURNS[1]], 'rejected': [{'role': 'assistant', 'content': 'no'}]},
        {'prompt': 'hi', 'chosen': TURNS, 'rejected': [TURNS[0], {'role': 'assistant', 'content': 'no'}]},
        {'chosen': TURNS, 'rejected': [TURNS[0], {'role': 'assistant', 'content': 'no'}], 'prompt_id': 'x'},
        {
            'conversations': [{'from': 'human', 'value': 'hi'}],
            'chosen': {'from': 'gpt', 'value': 'hello'},
            'rejected': {'from': 'gpt', 'value': 'no'},
        },
    ],
)
def test_one_preference_pair_in_every_format(row):
    sample = read(row)
    assert sample.messages == CHAT
    assert sample.rejected == (USER, Message('assistant', 'no'))


def test_a_rejected_answer_replaces_the_whole_last_answer_and_keeps_the_system_prompt():
    row = {
        'system': 'be kind',
        'messages': [*TURNS, {'role': 'user', 'content': 'more'}, TURNS[1], {'role': 'tool', 'content': '1'}, TURNS[1]],
        'rejected_response': 'no',
        'margin': '0.5',
    }
    sample = read(row)
    assert [each.content for each in sample.rejected] == ['be kind', 'hi', 'hello', 'more', 'no']
    assert sample.margin == 0.5


@pytest.mark.parametrize(
    ('given', 'label'),
    [(True, True), ('false', False), (1, 1), ('3', 3), (0.5, 0.5), ([0, 1], [0, 1]), ('[0, 1]', [0, 1]), (None, None)],
)
def test_labels_are_flags_classes_lists_or_scores(given, label):
    assert read({'messages': TURNS, 'label': given}).label == label


def test_a_label_is_enough_to_learn_from():
    assert read({'messages': TURNS[:1], 'label': 2}).label == 2
    assert read({'text': 'great film', 'label': 1}).text == 'great film'


@pytest.mark.parametrize(
    'row',
    [
        {
            'messages': TURNS[:1],
            'positive_messages': [[{'role': 'user', 'content': 'a'}], [{'role': 'user', 'content': 'b'}]],
            'negative_messages': [[{'role': 'user', 'content': 'c'}]],
        },
        {'query': 'hi', 'positive': ['a', 'b'], 'negative': 'c'},
        {'anchor': 'hi', 'positives': ['a', 'b'], 'negatives': ['c']},
        {'query': 'hi', 'pos': '["a", "b"]', 'neg': ['c']},
    ],
)
def test_one_retrieval_row_in_every_format(row):
    sample = read(row)
    assert sample.messages == (USER,)
    assert [each[0].content for each in sample.positives] == ['a', 'b']
    assert [each[0].content for each in sample.negatives] == ['c']


def test_columns_are_renamed_first_and_the_rest_is_kept_as_extra():
    row = {'Frage': 'hi', 'Antwort': 'hello', 'query': 'not this', 'level': 3}
    sample = read(row, columns={'frage': 'query', 'antwort': 'response'})
    assert sample.messages == CHAT
    assert sample.extra == {'level': 3}
    assert read(row, columns={'frage': 'query', 'antwort': 'response'}, extra=False).extra == {}


def test_without_aliases_only_exact_names_count():
    assert read({'query': 'hi', 'response': 'hello', 'answer': 'x'}, aliases=False).messages == CHAT
    assert 'unknown format' in complaint({'question': 'hi', 'answer': 'hello'}, aliases=False)


def test_prompts_alone_are_rows_when_no_answer_is_asked_for():
    assert read({'query': 'hi', 'solution': None}, answers=False).messages == (USER,)
    assert read({'messages': TURNS[:1]}, answers=False).messages == (USER,)


@pytest.mark.parametrize(
    ('row', 'reason'),
    [
        (None, 'wrong type: the row is null'),
        ([1], 'wrong type: the row is a list'),
        ('text', 'wrong type: the row is text'),
        ({}, 'empty row'),
        ({'a': 1, 'b': 2}, 'unknown format: the columns a, b'),
        ({'query': None, 'response': None}, 'unknown format: the columns query, response (all empty)'),
        ({'query': 'hi'}, 'missing answer'),
        ({'query': 'hi', 'response': None}, 'missing content: response is null'),
        ({'query': 'hi', 'response': ''}, 'missing answer: the last answer is empty'),
        ({'query': 'hi', 'response': ' \n'}, 'missing answer: the last answer is empty'),
        ({'query': 'hi', 'response': 42}, 'wrong type: response is a number (42), expected text'),
        ({'query': 5, 'response': 'x'}, 'wrong type: query is a number'),
        ({'query': 'hi', 'response': float('nan')}, 'wrong type: response is a number (nan)'),
        ({'query': 'hi', 'response': ['a', 'b']}, 'wrong type: response is a list of 2 texts'),
        ({'query': 'hi', 'response': 'x', 'history': 'old'}, 'wrong type: history is text'),
        ({'query': 'hi', 'response': 'x', 'history': [['a']]}, "wrong type: history[0] is ['a']"),
        ({'query': 'hi', 'response': 'x', 'history': [['a', None]]}, 'missing content: history[0][1] is null'),
        ({'query': 'hi', 'response': 'x', 'system': 5}, 'wrong type: system is a number'),
        ({'prompt': 'a', 'question': 'b', 'output': 'c'}, 'ambiguous columns: prompt, question'),
        ({'query': 'a', 'targets': 'b', 'answers': 'c'}, 'ambiguous columns: targets, answers'),
        ({'text': ''}, 'missing content: text is empty'),
        ({'text': None, 'id': 1}, 'unknown format'),
        ({'text': ['a']}, 'wrong type: text is a list'),
        ({'instruction': 'hi', 'input': '', 'output': None}, 'missing content: output is null'),
        ({'instruction': 'hi', 'input': ''}, 'missing answer'),
        ({'instruction': 'hi', 'input': 3, 'output': 'x'}, 'wrong type: input is a number'),
        ({'messages': None}, 'empty messages: messages is null'),
        ({'messages': []}, 'empty messages: messages has no turns'),
        ({'messages': 'hello'}, 'wrong type: messages is text'),
        ({'messages': '[{"role": '}, 'bad JSON in messages'),
        ({'messages': '[__import__("os")]'}, 'bad JSON in messages'),
        ({'messages': {'role': 'user'}}, 'wrong type: messages is an object'),
        ({'messages': ['hi', 'hello']}, 'wrong type: messages[0] is text'),
        ({'messages': [None]}, 'wrong type: messages[0] is null'),
        ({'messages': [{'content': 'hi'}]}, 'missing role: messages[0]'),
        ({'messages': [{'role': 'asistant', 'content': 'hi'}]}, 'unknown role: messages[0] has role'),
        ({'messages': [{'role': 7, 'content': 'hi'}]}, 'unknown role: messages[0] has role 7'),
        ({'messages': [{'role': 'user'}, TURNS[1]]}, 'missing content: messages[0] (user)'),
        ({'messages': [TURNS[0], {'role': 'assistant', 'content': None}]}, 'missing content: messages[1] (assistant)'),
        ({'messages': [TURNS[0], {'role': 'assistant', 'content': 4}]}, 'wrong type: messages[1].content'),
        ({'messages': TURNS[:1]}, 'missing answer'),
        ({'messages': [TURNS[0], {**TURNS[1], 'loss': 'yes'}]}, 'wrong type: messages[1].loss'),
        (
            {'messages': [TURNS[0], {**TURNS[1], 'loss_scale': float('nan')}]},
            'not a finite number: messages[1].loss_scale',
        ),
        ({'messages': [TURNS[0], {**TURNS[1], 'loss_scale': -1}]}, 'negative weight'),
        (
            {'messages': [{'role': 'user', 'content': [{'type': 'text'}]}, TURNS[1]]},
            'missing content: messages[0].content[0].text',
        ),
        ({'messages': [{'role': 'user', 'content': [{'type': 'smell'}]}, TURNS[1]]}, 'unknown content block'),
        ({'messages': [{'role': 'user', 'content': [5]}, TURNS[1]]}, 'wrong type: messages[0].content[0]'),
        ({'messages': [TURNS[0], {'role': 'tool_call', 'content': 'add(1)'}]}, 'bad tool call'),
        ({'messages': [TURNS[0], {'role': 'tool_call', 'content': None}]}, 'missing content: messages[1] has no call'),
        ({'messages': [TURNS[0], {'role': 'tool_call', 'content': '{"arguments": {}}'}]}, 'bad tool call'),
        ({'messages': [TURNS[0], {'role': 'tool_call', 'content': '{"name": '}]}, 'bad JSON in messages[1]'),
        ({'messages': TURNS, 'tools': 'none'}, 'wrong type: tools is text'),
        ({'messages': TURNS, 'tools': [{'description': 'x'}]}, 'bad tool: tools[0] names no function'),
        ({'conversations': [{'from': 'human', 'value': None}]}, 'missing content: conversations[0] (user)'),
        ({'conversations': [{'from': 'alien', 'value': 'x'}]}, 'unknown role: conversations[0]'),
        (
            {'conversations': [{'human': 'hi', 'assistant': None}]},
            'missing content: conversations[0].assistant is null',
        ),
        ({'messages': TURNS, 'rejected_response': 5}, 'wrong type: rejected_response'),
        ({'messages': TURNS, 'rejected_response': ['a', 'b']}, 'wrong type: rejected_response is a list of 2 texts'),
        ({'messages': TURNS, 'rejected_messages': []}, 'empty messages: rejected_messages'),
        ({'text': 'a', 'rejected_response': 'b'}, 'missing prompt'),
        ({'chosen': 'a', 'rejected': 'b'}, 'missing prompt'),
        ({'prompt': 'a', 'chosen': 'a', 'rejected': None}, 'missing content: rejected is null'),
        ({'messages': TURNS, 'margin': 'wide'}, 'wrong type: margin'),
        ({'messages': TURNS, 'label': 'good'}, 'wrong type: label'),
        ({'messages': TURNS, 'label': float('nan')}, 'not a finite number: label'),
        ({'messages': TURNS, 'label': [0, 'x']}, 'wrong type: label[1]'),
        ({'messages': TURNS, 'label': {'a': 1}}, 'wrong type: label'),
        ({'query': 'hi', 'positive': [1]}, 'wrong type: positive[0]'),
        ({'messages': TURNS[:1], 'positive_messages': TURNS}, 'wrong type: positive_messages is a list of turns'),
        ({'messages': TURNS, 'channel': 3}, 'wrong type: channel'),
        ({3: 'x'}, 'wrong type: a column is named 3'),
    ],
)
def test_a_broken_row_says_what_is_wrong_and_where(row, reason):
    assert complaint(row).startswith(reason)


TEXT = st.text(max_size=8)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(['system', 'user', 'assistant', 'tool']),
    content=TEXT,
    loss=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    name=st.none() | st.text(min_size=1, max_size=3),
) | st.builds(
    Message,
    role=st.just('assistant'),
    content=TEXT,
    reasoning=st.none() | st.text(min_size=1, max_size=4),
    tool_calls=st.lists(
        st.builds(ToolCall, st.text(max_size=3), st.dictionaries(TEXT, st.integers(), max_size=2), st.none() | TEXT),
        max_size=2,
    ).map(tuple),
)
CHATS = st.lists(MESSAGES, min_size=1, max_size=4).map(tuple)


@given(
    sample=st.builds(
        Sample,
        messages=CHATS,
        rejected=st.none() | CHATS,
        positives=st.lists(CHATS, max_size=2).map(tuple),
        label=st.none() | st.booleans() | st.integers(0, 9),
        margin=st.none() | st.floats(0, 1),
        channel=st.none() | TEXT,
        media=st.dictionaries(st.just('images'), st.lists(TEXT, min_size=1, max_size=2), max_size=1),
        extra=st.dictionaries(st.sampled_from(['level', 'id']), st.integers(), max_size=2),
        origin=st.just(HERE),
    )
)
def test_the_standard_row_reads_back_to_the_same_sample(sample):
    assert read(to_row(sample), answers=False) == sample

"""Rows of preference, retrieval and process-reward data as Samples, and what is said of those that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import RowError
from swift.core.types import Message, Origin
from swift.data.convert import Reading, convert
from swift.data.rows.standard import to_row, to_turns

HERE = Origin('rows.jsonl', 1)
USER, GOOD, BAD = Message('user', 'hi'), Message('assistant', 'hello'), Message('assistant', 'no')
ASK, SAY, SAY_NO = to_turns([USER, GOOD, BAD])


def read(row, **reading):
    return convert(row, HERE, Reading(**reading))


def complaint(row):
    with pytest.raises(RowError) as caught:
        read(row)
    return str(caught.value)


def texts(conversations):
    return [each[0].content for each in conversations]


# -------------------------------------------------------------------------------------------------------- preferences
@pytest.mark.parametrize(
    'row',
    [
        # TRL: standard and conversational, the prompt in a column of its own or in both conversations
        {'prompt': 'hi', 'chosen': 'hello', 'rejected': 'no'},
        {'prompt': [ASK], 'chosen': [SAY], 'rejected': [SAY_NO]},
        {'chosen': [ASK, SAY], 'rejected': [ASK, SAY_NO]},
        {'chosen': json.dumps([ASK, SAY]), 'rejected': json.dumps([ASK, SAY_NO])},
        # UltraFeedback, binarized
        {'prompt': 'hi', 'messages': [ASK, SAY], 'chosen': [ASK, SAY], 'rejected': [ASK, SAY_NO]},
        {'prompt': ' hi\n', 'chosen': [ASK, SAY], 'rejected': [ASK, SAY_NO]},
        # HH-RLHF, and its prompt kept apart
        {'chosen': '\n\nHuman: hi\n\nAssistant: hello', 'rejected': '\n\nHuman: hi\n\nAssistant: no'},
        {'prompt': '\n\nHuman: hi\n\nAssistant:', 'chosen': 'hello', 'rejected': 'no'},
        {
            'prompt': '\n\nHuman: hi\n\nAssistant:',
            'chosen': '\n\nHuman: hi\n\nAssistant: hello',
            'rejected': '\n\nHuman: hi\n\nAssistant: no',
        },
        # the same in Chinese
        {
            'context': [{'role': 'human', 'text': 'hi'}],
            'chosen': {'role': 'assistant', 'text': 'hello'},
            'rejected': {'role': 'assistant', 'text': 'no'},
        },
        # alpaca and sharegpt with two answers
        {'instruction': 'hi', 'input': '', 'chosen': 'hello', 'rejected': 'no'},
        {'conversations': [{'from': 'human', 'value': 'hi'}], 'chosen': 'hello', 'rejected': 'no'},
        {'messages': [ASK], 'chosen': [SAY], 'rejected': [SAY_NO]},
        # other names for the two
        {'question': 'hi', 'chosen_response': 'hello', 'rejected_response': 'no'},
        {'question': 'hi', 'response_j': 'hello', 'response_k': 'no'},
        # ms-swift
        {'messages': [ASK, SAY], 'rejected_response': 'no'},
        {'messages': [ASK, SAY], 'rejected_response': [SAY_NO]},
        {'messages': [ASK, SAY], 'rejected_messages': [ASK, SAY_NO]},
        {'query': 'hi', 'response': 'hello', 'rejected_response': 'no'},
        # verdicts: Stanford Human Preferences and PKU-SafeRLHF
        {'history': 'hi', 'human_ref_A': 'hello', 'human_ref_B': 'no', 'labels': 1},
        {'history': 'hi', 'human_ref_A': 'no', 'human_ref_B': 'hello', 'labels': 0},
        {'prompt': 'hi', 'response_0': 'no', 'response_1': 'hello', 'better_response_id': 1},
    ],
)
def test_one_pair_in_every_form(row):
    sample = read(row)
    assert (sample.messages, sample.rejected) == ((USER, GOOD), (USER, BAD))
    assert (sample.margin, sample.label, sample.extra) == (None, None, {})


def test_orca_pairs_have_a_system_prompt_in_both_conversations():
    sample = read({'system': 'be kind', 'question': 'hi', 'chosen': 'hello', 'rejected': 'no'})
    assert sample.messages == (Message('system', 'be kind'), USER, GOOD)
    assert sample.rejected == (Message('system', 'be kind'), USER, BAD)


def test_instruction_and_input_are_the_question_of_both_answers():
    sample = read({'instruction': 'add', 'input': '1 2', 'chosen': '3', 'rejected': '4'})
    assert sample.messages[0] == sample.rejected[0] == Message('user', 'add\n1 2')


def test_history_stands_before_a_rejected_response():
    row = {'query': 'hi', 'response': 'hello', 'history': [['a', 'b']], 'rejected_response': 'no'}
    assert [each.content for each in read(row).rejected] == ['a', 'b', 'hi', 'no']


def test_conversations_may_part_at_any_answer():
    chosen = '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d'
    rejected = '\n\nHuman: a\n\nAssistant: x\n\nHuman: y\n\nAssistant: z'
    sample = read({'chosen': chosen, 'rejected': rejected})
    assert [each.content for each in sample.messages] == list('abcd')
    assert [each.content for each in sample.rejected] == list('axyz')
    as_turns = read({'messages': to_turns(sample.messages), 'rejected_messages': to_turns(sample.rejected)})
    assert (as_turns.messages, as_turns.rejected) == (sample.messages, sample.rejected)


def test_a_prompt_that_conversations_do_not_say_stays_with_the_row():
    sample = read({'prompt': 'other', 'chosen': [ASK, SAY], 'rejected': [ASK, SAY_NO]})
    assert (sample.messages, sample.extra) == ((USER, GOOD), {'prompt': 'other'})


@pytest.mark.parametrize(
    ('columns', 'margin'),
    [
        ({'margin': 0.5}, 0.5),
        ({'margin': '2'}, 2),
        ({'score_chosen': 8.5, 'score_rejected': 7}, 1.5),
        ({'chosen_score': 3, 'rejected_score': 4}, -1),
        ({'chosen-rating': '5', 'rejected-rating': '2'}, 3),
        ({'margin': 1, 'score_chosen': 8, 'score_rejected': 7}, 1),
        ({'score_chosen': 8}, None),
        ({'margin': None}, None),
    ],
)
def test_a_margin_is_told_or_the_difference_of_scores(columns, margin):
    assert read({'prompt': 'hi', 'chosen': 'hello', 'rejected': 'no', **columns}).margin == margin


def test_scores_without_a_pair_are_columns_like_others():
    columns = {'score_chosen': 8.5, 'score_rejected': 7}
    sample = read({'messages': [ASK, SAY], **columns})
    assert (sample.margin, sample.extra) == (None, columns)


@pytest.mark.parametrize(
    'row',
    [
        {'prompt': 'hi', 'completion': 'hello'},
        {'prompt': [ASK], 'completion': [SAY]},
        {'messages': [ASK, SAY]},
        {'query': 'hi', 'response': 'hello'},
    ],
)
@pytest.mark.parametrize(('given', 'label'), [(True, True), (0, 0), ('true', True), ('False', False), ('1', 1)])
def test_a_judged_answer_in_every_form(row, given, label):
    sample = read({**row, 'label': given})
    assert sample.messages == (USER, GOOD)
    assert sample.label == label


def test_pictures_of_the_rejected_conversation_are_its_own_or_those_of_both():
    picture = lambda name: {
        'role': 'user',
        'content': [{'type': 'image', 'image': name}, {'type': 'text', 'text': '?'}],
    }
    assert read({'prompt': [picture('a.png')], 'chosen': [SAY], 'rejected': [SAY_NO]}).media == {'images': ['a.png']}
    same = read({'chosen': [picture('a.png'), SAY], 'rejected': [picture('a.png'), SAY_NO]})
    assert same.media == {'images': ['a.png']}
    other = read({'messages': [picture('a.png'), SAY], 'rejected_messages': [picture('b.png'), SAY]})
    assert other.media == {'images': ['a.png'], 'rejected_images': ['b.png']}
    assert read({'messages': [ASK, SAY], 'rejected_response': 'no', 'rejected_images': 'b.png'}).media == {
        'rejected_images': ['b.png']
    }


def test_tools_are_those_of_both_answers():
    tools = [{'type': 'function', 'function': {'name': 'add', 'parameters': {}}}]
    pair = {'messages': [ASK, SAY], 'rejected_response': 'no', 'tools': tools}
    assert read({**pair, 'rejected_tools': json.dumps(tools)}).tools == tuple(tools)
    assert complaint({**pair, 'rejected_tools': [{'name': 'sub'}]}).startswith('other tools')


# ---------------------------------------------------------------------------------------- embedding and reranker rows
@pytest.mark.parametrize(
    'row',
    [
        {'query': 'hi', 'positive': 'a', 'negative': ['b', 'c']},
        {'anchor': 'hi', 'positive': 'a', 'negative_2': 'c', 'negative_1': 'b', 'negative_3': None},
        {'query': 'hi', 'pos': ['a'], 'neg': ['b', 'c']},
        {'query': [ASK], 'positive': '["a"]', 'negative': "['b', 'c']"},
        {'query': 'hi', 'docs': ['b', 'a', 'c'], 'labels': [0, 1, 0]},
        {'query': 'hi', 'documents': ['b', 'a', 'c'], 'label': [False, True, False]},
        {'query': 'hi', 'passages': {'is_selected': [1, 0, 0], 'passage_text': ['a', 'b', 'c'], 'url': ['', '', '']}},
    ],
)
def test_an_anchor_with_its_texts_in_every_form(row):
    sample = read(row)
    assert (sample.messages, texts(sample.positives), texts(sample.negatives)) == ((USER,), ['a'], ['b', 'c'])
    assert sample.label is None


def test_scores_of_a_teacher_are_carried():
    sample = read({'query': 'hi', 'pos': ['a'], 'neg': ['b'], 'pos_scores': [0.9], 'neg_scores': [0.1]})
    assert sample.extra == {'pos_scores': [0.9], 'neg_scores': [0.1]}


@pytest.mark.parametrize(
    'row',
    [
        {'sentence1': 'hi', 'sentence2': 'a', 'label': 0.5},
        {'sentence1': 'hi', 'sentence2': 'a', 'score': '0.5'},
        {'sentence_A': 'hi', 'sentence_B': 'a', 'score': 0.5},
        {'premise': 'hi', 'hypothesis': 'a', 'label': 0.5},
        {'query': 'hi', 'passage': 'a', 'label': 0.5},
        {'question': 'hi', 'sentence': 'a', 'label': 0.5},
        {'anchor': 'hi', 'positive': 'a', 'label': 0.5},
        {'messages': [ASK], 'positive_messages': [[{'role': 'user', 'content': 'a'}]], 'label': 0.5},
    ],
)
def test_two_texts_and_how_alike_they_are_in_every_form(row):
    sample = read(row)
    assert (sample.messages, texts(sample.positives), sample.negatives) == ((USER,), ['a'], ())
    assert sample.label == 0.5
    assert not sample.extra


def test_a_text_in_brackets_is_no_list():
    assert texts(read({'query': 'hi', 'positive': '[sic] a'}).positives) == ['[sic] a']


def test_a_row_of_negatives_alone_is_read():
    sample = read({'query': 'hi', 'negative': 'b'})
    assert (sample.positives, texts(sample.negatives)) == ((), ['b'])


def test_pictures_of_texts_are_lists_of_each():
    turn = {'role': 'user', 'content': [{'type': 'image', 'image': 'a.png'}]}
    sample = read({'messages': [ASK], 'positive_messages': [[turn]], 'negative_messages': [[ASK], [turn]]})
    assert sample.media == {'positive_images': [['a.png']], 'negative_images': [[], ['a.png']]}


@pytest.mark.parametrize(
    'row',
    [
        {'messages': [ASK], 'label': 2},
        {'sentence': 'hi', 'label': 2},
        {'query': 'hi', 'labels': 2},
    ],
)
def test_a_text_with_its_class(row):
    sample = read(row)
    assert (sample.messages, sample.label) == ((USER,), 2)
    assert read({'text': 'hi', 'labels': [0, 2]}).label == [0, 2]


# ------------------------------------------------------------------------------------------------------ process reward
@pytest.mark.parametrize(
    'row',
    [
        {'prompt': 'hi', 'completions': ['Step 1: a', 'Step 2: b'], 'labels': [True, False]},
        {'prompt': [ASK], 'completions': ['Step 1: a', 'Step 2: b'], 'labels': [1, '0.0']},
        {
            'input': 'hi Step 1: a ки\nStep 2: b ки',
            'label': 'hi Step 1: a +\nStep 2: b -',
            'task': 'GSM8K',
        },
    ],
)
def test_an_answer_judged_step_by_step_in_every_form(row):
    sample = read(row)
    assert (sample.messages, sample.steps, sample.label) == ((USER,), ('Step 1: a', 'Step 2: b'), [1.0, 0.0])
    assert read(to_row(sample)) == sample


def test_a_plus_within_a_step_is_no_verdict():
    row = {'input': 'hi Step 1: 1 + 2 = 3 - 0 ки', 'label': 'hi Step 1: 1 + 2 = 3 - 0 +'}
    assert read(row).label == [1.0]


# ---------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ('row', 'reason'),
    [
        ({'chosen': 'The sky is blue.', 'rejected': 'The sky is green.'}, 'missing prompt: chosen and rejected'),
        ({'chosen': [ASK, SAY], 'rejected': 'no'}, 'two forms: chosen is a whole conversation'),
        ({'prompt': 'hi', 'chosen': 'hello', 'rejected': [ASK, SAY_NO]}, 'two forms: rejected is a whole'),
        ({'messages': [ASK, SAY], 'chosen': 'a', 'rejected': 'b'}, 'two answers: messages ends with an answer'),
        ({'prompt': 'a', 'question': 'b', 'chosen': 'c', 'rejected': 'd'}, 'ambiguous columns: prompt, question'),
        ({'chosen': [ASK, SAY], 'rejected': [ASK]}, 'missing answer: the rejected conversation ends with a question'),
        ({'chosen': [ASK], 'rejected': [ASK, SAY]}, 'missing answer: the better conversation ends'),
        ({'prompt': 'hi', 'chosen': '', 'rejected': 'no'}, 'missing answer: the last answer is empty'),
        ({'prompt': 'hi', 'chosen': ['a', 'b'], 'rejected': 'c'}, 'wrong type: chosen is a list of 2 texts'),
        ({'prompt': 'hi', 'chosen': 'a', 'rejected': 5}, 'wrong type: rejected is a number'),
        (
            {'chosen': '\n\nHuman:\n\nAssistant: a', 'rejected': '\n\nHuman: hi\n\nAssistant: b'},
            'missing content: turn 1 of chosen (user) is empty',
        ),
        ({'messages': [ASK, SAY], 'rejected_response': [ASK | {'role': 'assistant'}, ASK]}, 'a question in rejected'),
        (
            {'messages': [ASK, SAY], 'rejected_response': 'a', 'rejected_messages': [ASK, SAY_NO]},
            'two rejected answers',
        ),
        (
            {'prompt': 'a', 'chosen': 'b', 'rejected': 'c', 'score_chosen': 'x', 'score_rejected': 1},
            'wrong type: score',
        ),
        ({'history': 'a', 'human_ref_A': 'b', 'human_ref_B': 'c', 'labels': 2}, 'unknown verdict: labels is 2'),
        ({'query': 'hi', 'positive': []}, 'missing texts: the anchor has no positive and no negative'),
        ({'query': 'hi', 'positive': 'a', 'pos': ['b']}, 'ambiguous columns: positive, pos'),
        ({'query': 'hi', 'positive': ['a', None]}, 'missing content: positive[1] is null'),
        ({'query': 'hi', 'docs': ['a', 'b'], 'labels': [1]}, '2 texts in docs, and 1 numbers in labels'),
        ({'query': 'hi', 'docs': ['a', 'b'], 'labels': [2, 0]}, 'a graded document: labels[0] is 2'),
        ({'query': 'hi', 'docs': [], 'labels': []}, 'missing texts: docs is empty'),
        ({'sentence1': 'hi', 'sentence2': 'a', 'label': 'entailment'}, 'wrong type: label is text'),
        ({'text': 'hi', 'label': 'sports'}, "wrong type: label is text ('sports'), expected true or false, the number"),
        (
            {'query': 'hi', 'response': 'a', 'rejected_response': ['b', 'c']},
            'wrong type: rejected_response is a list of 2 texts',
        ),
        (
            {
                'messages': [ASK],
                'positive_messages': [[ASK]],
                'positive': 'a',
                'query': 'hi',
                'negative_messages': [ASK],
            },
            'wrong type: negative_messages is a list of turns',
        ),
        ({'prompt': 'hi', 'completions': ['a', 'b'], 'labels': [True]}, '2 steps in completions, and 1 numbers'),
        ({'prompt': 'hi', 'completions': [], 'labels': []}, 'missing answer: completions has no steps'),
        ({'completions': ['a'], 'labels': [True]}, 'missing prompt: completions'),
        ({'prompt': 'hi', 'completions': ['a', ' '], 'labels': [1, 0]}, 'missing content: completions[1] is empty'),
        ({'prompt': 'hi', 'completions': ['a'], 'labels': [-1]}, 'labels[0] is -1: a step is right'),
        ({'input': 'hi Step 1: a ки b', 'label': 'hi Step 1: a +'}, '1 marks (ки) in input'),
        ({'input': 'no step ки', 'label': 'no step +'}, 'missing prompt: input has no question before Step 1:'),
    ],
)
def test_what_cannot_be_read_for_sure_is_refused(row, reason):
    assert complaint(row).startswith(reason)


WORDS = st.text(st.sampled_from('ab [\'":{\n'), min_size=1, max_size=12).filter(str.strip)
TURNS = st.lists(WORDS, min_size=1, max_size=4)


@given(common=TURNS, better=WORDS, worse=WORDS)
def test_a_transcript_reads_as_the_turns_it_was_made_of(common, better, worse):
    said = [turn.strip() for turn in common[: len(common) - 1 + len(common) % 2]]  # an odd number: ends with a question
    write = lambda answer: ''.join(
        f'\n\n{"Assistant" if i % 2 else "Human"}: {turn}' for i, turn in enumerate([*said, answer])
    )
    sample = read({'chosen': write(better), 'rejected': write(worse)})
    assert [each.content for each in sample.messages] == [*said, better.strip()]
    assert [each.content for each in sample.rejected] == [*said, worse.strip()]
    assert [each.role for each in sample.messages] == ['user', 'assistant'] * ((len(said) + 1) // 2)


@given(prompt=WORDS, better=WORDS, worse=WORDS, system=st.none() | WORDS)
def test_the_same_pair_in_columns_and_in_turns_is_the_same_sample(prompt, better, worse, system):
    head = [{'role': 'system', 'content': system}] if system else []
    ask, good, bad = (
        {'role': role, 'content': text}
        for role, text in (('user', prompt), ('assistant', better), ('assistant', worse))
    )
    forms = [
        {'prompt': prompt, 'chosen': better, 'rejected': worse, 'system': system},
        {'prompt': [*head, ask], 'chosen': [good], 'rejected': [bad]},
        {'chosen': [*head, ask, good], 'rejected': [*head, ask, bad]},
        {'messages': [*head, ask, good], 'rejected_response': worse},
        {'messages': [ask, good], 'rejected_messages': [ask, bad], 'system': system},
    ]
    first, *others = map(read, forms)
    assert all(each == first for each in others)
    assert read(to_row(first)) == first


COLUMNS = [
    'prompt',
    'chosen',
    'rejected',
    'query',
    'positive',
    'negative',
    'label',
    'completions',
    'labels',
    'messages',
    'docs',
    'rejected_response',
    'positive_messages',
    'rejected_messages',
    'score',
    'input',
]
VALUES = WORDS | st.booleans() | st.floats() | st.lists(WORDS | st.sampled_from([ASK, SAY, 1, None]), max_size=2)


@given(row=st.dictionaries(st.sampled_from(COLUMNS), st.none() | VALUES))
def test_any_row_is_a_sample_or_a_row_error(row):
    try:
        read(row)
    except RowError as error:
        assert str(error)

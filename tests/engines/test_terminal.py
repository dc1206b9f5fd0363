"""A conversation in the terminal: history, commands, several lines, Ctrl-C."""

from __future__ import annotations

import pytest

from swift.engines.protocol import RequestConfig
from swift.engines.terminal import Chat
from tests import tiny
from tests.adapters import adapter


class Screen:
    """A user who types ``lines``; a line that is an exception type is raised. Ctrl-D at the end."""

    def __init__(self, *lines):
        self.lines, self.text = list(lines), ''

    def read(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if not isinstance(line, str):
            raise line
        return line

    def write(self, text: str) -> None:
        self.text += text


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    from swift import TransformersEngine

    home = tmp_path_factory.mktemp('chat')
    paths = [adapter(home / name, tiny.model(), seed=i) for i, name in enumerate(('poet', 'clerk'))]
    made = TransformersEngine(tiny.folder(home / 'tiny'), adapters=paths)
    yield made
    made.close()


def talk(engine, *lines, **config) -> tuple[Chat, str]:
    screen = Screen(*lines)
    chat = Chat(
        engine, RequestConfig(**{'max_tokens': 6, 'temperature': 0, **config}), read=screen.read, write=screen.write
    )
    chat.run()
    return chat, screen.text


def said(chat) -> list[str]:
    return [message['content'] for message in chat.messages if message['role'] == 'user']


def test_the_history_grows_and_answers_are_streamed(engine):
    kept = []
    screen = Screen('Hi', 'And you?')
    chat = Chat(
        engine, RequestConfig(max_tokens=6), read=screen.read, write=screen.write, keep=lambda *row: kept.append(row)
    )
    chat.run()
    assert [message['role'] for message in chat.messages] == ['user', 'assistant'] * 2
    assert chat.messages[1]['content'] in screen.text
    assert [len(messages) for messages, _ in kept] == [1, 3]
    assert kept[1][1] == chat.messages[-1]['content']


@pytest.mark.parametrize('word', ['exit', 'quit', '/exit', '/quit'])
def test_words_to_leave(engine, word):
    chat, _ = talk(engine, word, 'never read')
    assert chat.messages == []


@pytest.mark.parametrize('word', ['clear', '/clear'])
def test_clear_forgets_what_was_said_but_not_the_system_prompt(engine, word):
    chat, _ = talk(engine, '/system Be brief.', 'Hi', word)
    assert chat.messages == [{'role': 'system', 'content': 'Be brief.'}]


def test_system_prompts_begin_a_new_conversation(engine):
    chat, _ = talk(engine, 'Hi', '/system Be brief.', 'Hello')
    assert [message['role'] for message in chat.messages] == ['system', 'user', 'assistant']
    chat, _ = talk(engine, '/system Be brief.', '/system')
    assert chat.messages == []
    chat, _ = talk(engine, 'reset-system', 'Be long.')
    assert chat.messages == [{'role': 'system', 'content': 'Be long.'}]


def test_several_lines_end_with_a_hash(engine):
    chat, _ = talk(engine, 'multi-line', 'one', 'two #', 'three#', '/single-line', 'four')
    assert said(chat) == ['one\ntwo ', 'three', 'four']


def test_adapters_are_chosen_by_name(engine):
    answers = [talk(engine, f'/adapter {name}', 'Hi')[0].messages[-1]['content'] for name in ('poet', 'clerk', 'base')]
    assert len(set(answers)) == 3
    first, text = talk(engine, 'Hi', '/adapter', '/adapter clark')
    assert first.messages[-1]['content'] == answers[0]
    assert 'answers come from poet' in text
    assert 'did you mean clerk' in text


def test_a_mistyped_command_is_not_sent_to_the_model(engine):
    chat, text = talk(engine, '/sytem x', '/help', '1/2 + /3')
    assert 'did you mean /system' in text
    assert '/multi-line' in text
    assert said(chat) == ['1/2 + /3']


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(engine):
    screen = Screen('Tell me all', 'Go on')

    def write(text):
        screen.write(text)
        if len(screen.text) > 400 and '[stopped]' not in screen.text:
            raise KeyboardInterrupt

    config = RequestConfig(max_tokens=900, temperature=1, seed=1)
    chat = Chat(engine, config, read=screen.read, write=write)
    chat.run()
    assert '[stopped]' in screen.text
    assert [message['role'] for message in chat.messages] == ['user', 'assistant'] * 2
    assert 0 < len(chat.messages[1]['content']) < 500


def test_ctrl_c_at_the_prompt_takes_two_to_leave(engine):
    chat, _ = talk(engine, KeyboardInterrupt(), 'Hi', KeyboardInterrupt(), KeyboardInterrupt(), 'never read')
    assert said(chat) == ['Hi']


def test_a_message_that_cannot_be_answered_is_forgotten(engine):
    chat, text = talk(engine, 'x ' * 5000, 'Hi')
    assert 'tokens' in text
    assert said(chat) == ['Hi']


def test_a_seed_makes_the_conversation_repeatable_but_not_its_turns_alike(engine):
    first, _ = talk(engine, 'Hi', '/clear', 'Hi', temperature=1.5, seed=5, max_tokens=12)
    again, _ = talk(engine, 'Hi', '/clear', 'Hi', temperature=1.5, seed=5, max_tokens=12)
    once, _ = talk(engine, 'Hi', temperature=1.5, seed=5, max_tokens=12)
    assert first.messages == again.messages
    assert first.messages != once.messages

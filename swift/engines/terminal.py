"""A conversation in a terminal: lines in, streaming answers out, and a few commands.

Ctrl-C stops an answer and keeps what was said; at the prompt it takes two, or Ctrl-D, to leave.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from swift.core.errors import SwiftError, did_you_mean
from swift.core.types import PICTURE
from swift.engines.api import ChatEngine
from swift.engines.protocol import InferRequest, RequestConfig
from swift.models import pictures as files

BASE = 'base'  # the adapter's name that means none


class Leave(Exception):
    """The conversation is over."""


class Chat:
    """The state of one conversation.

    Args:
        config: how to answer; a seed in it counts up with every answer.
        images: pictures that the first message shows.
        system: the system prompt that ``/system`` alone returns to is the template's own.
        read: asks for a line; raises EOFError at the end (``input``).
        write: shows text, without a line break.
        keep: is told of every answer, with the messages it followed.
    """

    def __init__(
        self,
        engine: ChatEngine,
        config: RequestConfig,
        *,
        images: Sequence[Any] = (),
        read: Callable[[str], str] = lambda prompt: input(prompt),
        write: Callable[[str], None] = lambda text: print(text, end='', flush=True),
        keep: Callable[[list[dict[str, Any]], str], None] = lambda messages, answer: None,
    ):
        self.engine = engine
        self.config = replace(config, stream=True)
        self.adapter = engine.default_adapter
        self.messages: list[dict[str, Any]] = []
        self.images = list(images)
        self.many_lines = False
        self._read, self._write, self._keep = read, write, keep
        self._turn = itertools.count()

    # ------------------------------------------------------------------------------------------------------- loop
    def run(self) -> None:
        """Talk until the user leaves."""
        self._say(f'{self.engine.model_name}{self._adapters()}. /help lists the commands, exit leaves.')
        interrupted = False
        while True:
            try:
                text = self._ask()
                interrupted = False
                if text.strip() and not self._command(text.strip()):
                    self.answer(text)
            except KeyboardInterrupt:
                if interrupted:
                    return self._say('')
                interrupted = True
                self._say('\n(once more, or exit, to leave)')
            except (EOFError, Leave):
                return self._say('')
            except SwiftError as error:
                self._say(f'{error}')

    def _ask(self) -> str:
        """What the user types: a line, or with ``/multi-line`` all lines up to one that ends with #."""
        line = self._read('<<< ')
        if not self.many_lines or self._find(line.strip()):
            return line
        lines = [line]
        while not lines[-1].rstrip().endswith('#'):
            lines.append(self._read('... '))
        return '\n'.join(lines).rstrip()[:-1]

    def answer(self, text: str) -> None:
        """Answer a message and keep both. A message that cannot be answered is forgotten."""
        asked = [*self.messages, {'role': 'user', 'content': text}]
        shown = [*self.images, *(self._picture() for _ in range(self._tags(text)))]
        said = ''
        try:
            for piece in self._pieces(asked, shown):
                self._write(piece)
                said += piece
        except KeyboardInterrupt:
            self._write(' [stopped]')
        finally:
            self._say('')
        self._keep(asked, said)
        self.messages, self.images = [*asked, {'role': 'assistant', 'content': said}], shown

    def _tags(self, text: str) -> int:
        """How many pictures a message asks for."""
        return text.count(PICTURE) if self.engine.blind is None else 0

    def _picture(self) -> bytes:
        """The next picture of a message that has a tag for it. Raises RequestError."""
        return files.read(self._read('picture (path): ').strip())

    def _pieces(self, messages: list[dict[str, Any]], images: list[Any]) -> Iterator[str]:
        config = self.config
        if config.seed is not None:
            config = replace(config, seed=config.seed + next(self._turn))
        chosen = '' if self.adapter is None else self.adapter
        for chunk in self.engine.stream(InferRequest(messages, images=images), config, adapter=chosen):
            yield chunk.choices[0].delta.content or ''

    # --------------------------------------------------------------------------------------------------- commands
    def _command(self, text: str) -> bool:
        """Run ``text`` if it is a command. Returns whether it was one, or looked like one."""
        found = self._find(text)
        if found is None:
            return False
        command, rest = found
        command.run(self, rest)
        return True

    def _find(self, text: str) -> tuple[Command, str] | None:
        word, _, rest = text.partition(' ')
        if text in WORDS:
            return COMMANDS[WORDS[text]], ''
        if word in COMMANDS:
            return COMMANDS[word], rest.strip()
        if word.startswith('/') and word[1:].replace('-', '').isalpha():
            return Command(lambda chat, _: chat._say(f'no command {word}{did_you_mean(word, COMMANDS)} /help'), ''), ''
        return None

    def _clear(self, _: str) -> None:
        self.messages = [message for message in self.messages if message['role'] == 'system']
        self.images = []
        self._say('(a new conversation)')

    def _system(self, text: str) -> None:
        self.messages, self.images = [{'role': 'system', 'content': text}] if text else [], []
        self._say('(a new conversation with this system prompt)' if text else "(the template's own system prompt)")

    def _reset_system(self, _: str) -> None:
        self._system(self._read('system: ').strip())

    def _lines(self, many: bool) -> None:
        self.many_lines = many
        self._say('(a message ends with a line that ends with #)' if many else '(a message is a line)')

    def _use(self, name: str) -> None:
        known = self.engine.engine.adapters
        if name and name != BASE and name not in known:
            return self._say(f'no adapter {name!r}{did_you_mean(name, known)}{self._adapters()}')
        if name:
            self.adapter = None if name == BASE else name
        self._say(f'(answers come from {self.adapter or BASE}{self._adapters()})')

    def _help(self, _: str) -> None:
        for name, command in COMMANDS.items():
            self._say(f'  {name:<14} {command.help}')

    def _leave(self, _: str) -> None:
        raise Leave

    def _adapters(self) -> str:
        known = self.engine.engine.adapters
        return f'; adapters: {", ".join((BASE, *known))}' if known else ''

    def _say(self, line: str) -> None:
        self._write(f'{line}\n')


class Command(NamedTuple):
    """What a command does with the text after it, and its line of help."""

    run: Callable[[Chat, str], None]
    help: str


COMMANDS = {
    '/clear': Command(Chat._clear, 'forget what was said'),
    '/system': Command(Chat._system, "begin again with the system prompt that follows; alone: the template's own"),
    '/multi-line': Command(lambda chat, _: chat._lines(True), 'messages of several lines, ended by #'),
    '/single-line': Command(lambda chat, _: chat._lines(False), 'messages of one line'),
    '/adapter': Command(Chat._use, 'answer with the adapter that follows; base: without any; alone: tell which'),
    '/help': Command(Chat._help, 'this list'),
    '/exit': Command(Chat._leave, 'leave (so do exit, quit and Ctrl-D)'),
    '/quit': Command(Chat._leave, 'leave'),
    '/reset-system': Command(Chat._reset_system, 'ask for a new system prompt'),
}
WORDS = {  # words of ms-swift's chat
    'exit': '/exit',
    'quit': '/quit',
    'clear': '/clear',
    'reset-system': '/reset-system',
    'multi-line': '/multi-line',
    'single-line': '/single-line',
}

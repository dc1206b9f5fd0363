"""Conversations as heads read them: rendered by the chat template, read at the last token.

A conversation that ends with a question is followed by the generation prompt, as it is when a model is asked; one that
ends with an answer ends as in training. A generative reranker is asked in the words of Qwen3-Reranker (arXiv
2506.05176, section 2.1) whether a document answers a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from swift.core.errors import ConfigError, RowError
from swift.core.types import Encoded, Message, ModelInfo, Sample, Template
from swift.templates import choose
from swift.templates.args import TemplateArgs
from swift.templates.sentence import SentenceTemplate, read_at_end
from swift.templates.truncate import Truncate

JUDGE = (
    'Judge whether the Document meets the requirements based on the Query and the Instruct provided. '
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = 'Given a web search query, retrieve relevant passages that answer the query'


def make(
    tokenizer: Any, info: ModelInfo, args: TemplateArgs, *, judges: bool = False, now: datetime | None = None
) -> Template:
    """The template of a task that reads sequences: chat models by their chat template, others by their tokenizer.

    Args:
        judges: rows are a query and a document, and the model is asked whether they fit.

    Raises:
        ConfigError, TemplateError: as ``templates.make``.
    """
    length = args.max_length or info.max_model_len or None
    named = tokenizer.chat_template or args.template or info.template
    if args.use_chat_template is False or not named:
        if judges:
            raise ConfigError('--task_type generative_reranker asks the model, so it needs a chat template: --template')
        return SentenceTemplate(tokenizer, args, length=length)
    if args.truncation_strategy == 'split':
        raise ConfigError('--truncation_strategy split: what a head reads is whole; take delete, left or right')
    whole = replace(args, max_length=None, truncation_strategy=None)
    chat = choose.make(tokenizer, replace(info, max_model_len=0), whole, now=now)
    return Reading(chat, Truncate(args.truncation_strategy or 'delete', length), args, judges=judges)


class Reading:
    """Implements ``swift.core.types.Template`` over ``chat``, a template that cuts nothing."""

    stop_ids: tuple[int, ...] = ()

    def __init__(self, chat: Any, truncate: Truncate, args: TemplateArgs, *, judges: bool):
        self.chat, self.truncate, self.args, self.judges = chat, truncate, args, judges
        self.notes: list[str] = chat.notes
        self.fingerprint = f'{chat.fingerprint} read at the end, {truncate}, judges {judges}'

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded whose last token alone carries weight; none when the row is too long and left out.

        Raises:
            RowError: the template refuses the row.
            DataError: it is too long, and the strategy is to raise.
        """
        if sample.text is not None:
            sample = replace(sample, text=None, messages=(Message('user', sample.text),))
        if not sample.messages:
            raise RowError('the row has no messages')
        whole = read_at_end(self._ids(sample), sample)
        whole.weight[:] = 0  # a cut may lose the end: nothing of an answer is missed
        return [read_at_end(each.input_ids, sample, truncated=each.truncated) for each in self.truncate(whole)]

    def _ids(self, sample: Sample) -> Sequence[int]:
        if self.judges:
            kwargs = {'enable_thinking': False, **sample.template_kwargs}
            return self.chat.prompt(question(sample.messages, self.args.system or INSTRUCTION), **kwargs)
        if sample.messages[-1].role == 'assistant':
            [encoded] = self.chat.encode(sample)
            return encoded.input_ids
        return self.chat.prompt(sample.messages, tools=sample.tools, **sample.template_kwargs)

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[dict] = (), **kwargs: Any) -> list[int]:
        """Ids of the conversation followed by the generation prompt."""
        return self.chat.prompt(messages, tools=tools, **kwargs)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without control tokens."""
        return self.chat.decode(ids)


def question(messages: Sequence[Message], instruction: str) -> tuple[Message, Message]:
    """The question whether a document, the last turn, answers the query before it; a system turn is the instruction.

    Raises:
        RowError: there is no query, or no document.
    """
    if len(messages) < 2 or messages[-1].role != 'assistant':
        raise RowError('a reranker reads a query and a document: a user turn, and an assistant turn after it')
    instruction = next((each.content for each in messages if each.role == 'system'), instruction)
    query = '\n'.join(each.content for each in messages[:-1] if each.role == 'user')
    text = f'<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {messages[-1].content}'
    return Message('system', JUDGE), Message('user', text)

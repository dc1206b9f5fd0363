"""Answers in harmony, the language of gpt-oss: messages with a channel each; and in that of Muse, which has recipients.

<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

 to=self<|message|>...<|eom|><|start|>assistant to=NAME<|message|><atem:function_calls>...<|eot|>
"""

from __future__ import annotations

import re

from swift.templates.calls_reading import CallReader, Sink
from swift.templates.feed import Feed, Reading

MARKS = (
    '<|start|>',
    '<|end|>',
    '<|message|>',
    '<|channel|>',
    '<|constrain|>',
    '<|return|>',
    '<|call|>',
    '<|eom|>',
    '<|eot|>',
)
LONGEST_HEADER = 512
_ENDS = ('<|end|>', '<|return|>', '<|call|>', '<|eom|>', '<|eot|>', '<|start|>')
_CHANNEL = re.compile(r'<\|channel\|>\s*(\w+)')
_RECIPIENT = re.compile(r'\bto=(functions\.)?([\w.-]+)')


def read(feed: Feed, sink: Sink, reasoning: Sink, calls: CallReader | None = None) -> Reading[None]:
    """All of an answer; what is thought goes to the content of ``reasoning``.

    ``calls`` reads what is said to tools, in the language of Muse.
    """
    while True:
        feed.drop()
        if not (yield from feed.skip('<|start|>', 'assistant', *_ENDS)):
            if not (yield from feed.peek(('<|channel|>', ' to=', 'to='))):
                yield from feed.until(('<|start|>',), sink.content)  # text without a header
                if feed.ended and feed.at == len(feed.text):
                    return
                continue
            header = yield from feed.short(('<|message|>',), LONGEST_HEADER)
            if header is None:
                feed.at = 0
                yield from feed.until((), sink.content)
                return
            yield from _message(feed, header[0], sink, reasoning, calls)


def _message(feed: Feed, header: str, sink: Sink, reasoning: Sink, calls: CallReader | None) -> Reading[None]:
    """The body of a message, where its header says."""
    channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
    functions, name = recipient.groups() if recipient else (None, 'user')
    if calls is None and functions:
        sink.call(name)
        yield from feed.until(_ENDS, sink.arguments)
        return
    if calls is not None and name not in ('self', 'user'):
        feed.drop()
        yield from calls.section(feed, sink)
    thought = name == 'self' or (channel is not None and channel.group(1) == 'analysis')
    yield from feed.until(_ENDS, reasoning.content if thought else sink.content)

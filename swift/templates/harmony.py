"""Answers in harmony, the language of gpt-oss: messages with a channel each.

<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
"""

from __future__ import annotations

import re

from swift.templates.calls_reading import Sink
from swift.templates.feed import Feed, Reading

MARKS = ('<|start|>', '<|end|>', '<|message|>', '<|channel|>', '<|constrain|>', '<|return|>', '<|call|>')
LONGEST_HEADER = 512
_ENDS = ('<|end|>', '<|return|>', '<|call|>', '<|start|>')
_CHANNEL = re.compile(r'<\|channel\|>\s*(\w+)')
_RECIPIENT = re.compile(r'\bto=functions\.([\w.-]+)')


def read(feed: Feed, sink: Sink, reasoning: Sink) -> Reading[None]:
    """All of an answer; what is thought goes to the content of ``reasoning``."""
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
            yield from _message(feed, header[0], sink, reasoning)


def _message(feed: Feed, header: str, sink: Sink, reasoning: Sink) -> Reading[None]:
    """The body of a message, where its header says."""
    channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
    if recipient:
        sink.call(recipient.group(1))
        yield from feed.until(_ENDS, sink.arguments)
    else:
        thought = channel is not None and channel.group(1) == 'analysis'
        yield from feed.until(_ENDS, reasoning.content if thought else sink.content)

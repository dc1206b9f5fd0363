"""What a command says: results and reports on standard output, warnings and notes on standard error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache

from swift.core import dist

NAME = 'swift'
LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')


class _Plain(logging.Formatter):
    """``swift: text``, with the level when it is worse than a note."""

    def format(self, record: logging.LogRecord) -> str:
        level = f'{record.levelname.lower()}: ' if record.levelno >= logging.WARNING else ''
        text = f'swift: {level}{record.getMessage()}'
        return f'{text}\n{self.formatException(record.exc_info)}' if record.exc_info else text


def setup() -> None:
    """Send our loggers to standard error. LOG_LEVEL chooses how much; processes but the first only warn."""
    logger = logging.getLogger(NAME)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger('bitsandbytes').setLevel(logging.ERROR)  # says at import that an optional kernel is missing
    warnings.filterwarnings('ignore', category=FutureWarning, module='transformers')  # about calls peft makes
    warnings.filterwarnings('ignore', message='.*gemv_4bit')  # it has nothing to propagate: inputs without gradient
    wanted = os.environ.get('LOG_LEVEL', 'INFO').upper()
    logger.setLevel((wanted if wanted in LEVELS else 'INFO') if dist.is_first() else 'WARNING')


def get_logger(name: str = NAME) -> logging.Logger:
    """A logger of ours, set up."""
    setup()
    return logging.getLogger(name if name.startswith(NAME) else f'{NAME}.{name}')


@cache
def once(text: str) -> None:
    """A note that is worth saying once in a process."""
    get_logger().info(text)


def say(text: str = '') -> None:
    """A line of the command's own output; only the first process speaks."""
    if dist.is_first():
        print(text, flush=True)

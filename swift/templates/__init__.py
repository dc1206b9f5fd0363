"""Floor 2: conversations become tokens, each with its loss weight.

``make`` gives the template of a run: the checkpoint's own chat template, a .jinja file, a named one, or plain text.
How it works is told in the order of ``chat.py``: conversation > jinja > trace > tokens > turns > weights > truncate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from swift.core.types import Eye, ModelInfo, Template
    from swift.templates.args import TemplateArgs


def make(
    tokenizer: Any, info: ModelInfo, args: TemplateArgs, *, eye: Eye | None = None, now: datetime | None = None
) -> Template:
    """The template of a run; see ``choose.make``."""
    from swift.templates.choose import make

    return make(tokenizer, info, args, eye=eye, now=now)


def get_template(processor: Any, default_system: str | None = None, max_length: int | None = None, **flags: Any) -> Any:
    """The template of a tokenizer, as notebooks ask for it; see ``choose.get_template``."""
    from swift.templates.choose import get_template

    return get_template(processor, default_system, max_length, **flags)

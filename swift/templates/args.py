"""Flags that say how a conversation becomes tokens, and which of them carry loss."""

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class TemplateArgs:
    """Chat template, system prompt, length, thinking and loss weights."""

    template: str | None = None
    """Chat template: a name, or a .jinja file; None takes the checkpoint's own."""
    system: str | None = None
    """System prompt: text (\\n is a line break) or a .txt file."""
    max_length: int | None = None
    """Most tokens in a sample; None means max_model_len."""
    truncation_strategy: Literal['delete', 'left', 'right', 'split', 'raise'] | None = None
    """Samples longer than max_length: left out, cut left or right, split (pt only), or an error; None means delete."""
    loss_scale: str = 'default'
    """Loss weights: default, last_round or all, then +rules (ignore_empty_think, hermes, react ...) or a JSON file."""
    enable_thinking: bool | None = None
    """Let a hybrid model think before it answers; None leaves it to the template."""
    preserve_thinking: bool | None = None
    """Keep the thinking of earlier turns; None leaves it to the template."""
    add_non_thinking_prefix: bool = True
    """Put the empty thinking before answers that have none, for hybrid models."""
    disable_ignore_empty_think: bool = False
    """Train on empty thinking too."""
    response_prefix: str | None = None
    """Text that every generated answer begins with."""
    use_chat_template: bool | None = None
    """False trains on and continues plain text; None means true, and false for pt."""
    agent_template: str | None = None
    """Words for tools and calls, for checkpoints whose template knows none (hermes, react_en ...); None: its own."""
    template_backend: Literal['swift', 'jinja'] = 'swift'
    """jinja renders by the checkpoint's template alone."""

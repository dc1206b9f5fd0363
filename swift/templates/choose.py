"""Which template a run uses: the checkpoint's own, a .jinja file, a named one, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, RowError, TemplateError
from swift.core.types import Eye, Message, ModelInfo, Template
from swift.templates import catalog
from swift.templates.args import TemplateArgs
from swift.templates.chat import ChatTemplate
from swift.templates.conversation import Conversation, Style
from swift.templates.jinja import Refusal, Renderer, Source
from swift.templates.text import TextTemplate
from swift.templates.truncate import Truncate
from swift.templates.weights import LossScale, parse


def make(
    tokenizer: Any, info: ModelInfo, args: TemplateArgs, *, eye: Eye | None = None, now: datetime | None = None
) -> Template:
    """The template of a run.

    Args:
        tokenizer: a transformers tokenizer.
        eye: of a model that takes pictures.
        now: what templates that print the date take for today; a resumed run passes the time of its first start.

    Raises:
        ConfigError: the flags ask for what this checkpoint or template cannot do.
        TemplateError: the template cannot be read.
    """
    args = replace(args, system=_system(args.system))
    scale = _scale(args, info)
    known = stop_tokens(tokenizer, info.path)
    truncate = Truncate(args.truncation_strategy or 'delete', args.max_length or info.max_model_len or None)
    if args.use_chat_template is False:
        if args.agent_template:
            raise ConfigError('--agent_template shows tools in chats, not in plain text (--use_chat_template false)')
        return TextTemplate(tokenizer, args, scale=scale, truncate=truncate, known=known)
    if truncate.strategy == 'split':
        raise ConfigError(
            '--truncation_strategy split cuts plain text (swift pt, --use_chat_template false), not chats'
        )
    choose = _chosen(tokenizer, info, args)
    now = now or datetime.now()
    if args.system:
        _check_system(choose(False), tokenizer, args.system, now)
    return ChatTemplate(tokenizer, choose, args, known=known, scale=scale, truncate=truncate, now=now, eye=eye)


def get_template(
    processor: Any,
    default_system: str | None = None,
    max_length: int | None = None,
    *,
    template_type: str | None = None,
    truncation_strategy: str = 'raise',
    agent_template: str | None = None,
    use_chat_template: bool = True,
    loss_scale: str = 'default',
    response_prefix: str | None = None,
    enable_thinking: bool | None = None,
    preserve_thinking: bool | None = None,
    add_non_thinking_prefix: bool = True,
    **without_effect: Any,
) -> Template:
    """The template of a tokenizer that is in memory: the established function of notebooks.

    Args:
        processor: a transformers tokenizer; its folder tells the stop tokens.
        template_type: the flag ``--template``; the others are called as their flags.
        without_effect: established arguments that cannot change anything here (padding, backends).

    Raises:
        ConfigError: an argument that is not known, or as ``make``.
    """
    known = {'max_pixels', 'norm_bbox', 'remove_unused_columns', 'padding_side', 'padding_free', 'template_backend',
             'is_binary_loss_scale', 'sequence_parallel_size'}  # fmt: skip
    if unknown := sorted(without_effect.keys() - known):
        raise ConfigError(f'get_template: unknown argument {", ".join(unknown)}')
    name = str(getattr(processor, 'name_or_path', '') or '')
    own = processor.chat_template if isinstance(processor.chat_template, str) else ''
    info = ModelInfo(
        path=Path(name),
        id=name,
        model_type='',
        architecture='',
        dtype='',
        max_model_len=max_length or min(processor.model_max_length, 1 << 20),
        thinking='enable_thinking' in own,
    )
    args = TemplateArgs(
        template=template_type,
        system=default_system,
        max_length=max_length,
        truncation_strategy=truncation_strategy,  # type: ignore[arg-type]
        agent_template=agent_template,
        use_chat_template=use_chat_template,
        loss_scale=loss_scale,
        response_prefix=response_prefix,
        enable_thinking=enable_thinking,
        preserve_thinking=preserve_thinking,
        add_non_thinking_prefix=add_non_thinking_prefix,
    )
    return make(processor, info, args)


def stop_tokens(tokenizer: Any, path: Path) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's eos and those of generation_config.json."""
    ids = {tokenizer.eos_token_id}
    file = Path(path) / 'generation_config.json'
    if file.is_file():
        try:
            given = json.loads(file.read_text(encoding='utf-8')).get('eos_token_id')
        except ValueError as error:
            raise TemplateError(f'{file}: not JSON: {error}') from error
        ids.update(given if isinstance(given, list) else [given])
    return frozenset(id for id in ids if isinstance(id, int))


def _system(given: str | None) -> str | None:
    """The text of ``--system``, which may be a file or have its line breaks written as ``\\n``."""
    if given and given.endswith('.txt') and Path(given).is_file():
        return Path(given).read_text(encoding='utf-8')
    return given.replace('\\n', '\n') if given else given


def _scale(args: TemplateArgs, info: ModelInfo) -> LossScale:
    spec = args.loss_scale
    if info.thinking and not args.disable_ignore_empty_think and 'ignore_empty_think' not in spec.split('+'):
        spec += '+ignore_empty_think'
    return parse(spec)


def _chosen(tokenizer: Any, info: ModelInfo, args: TemplateArgs) -> Callable[[bool], Source]:
    """The source for rows with tools, and for rows without."""
    own = tokenizer.chat_template
    name = args.template
    if name and Path(name).suffix in ('.jinja', '.jinja2') and Path(name).is_file():
        return _always(Source(Path(name).read_text(encoding='utf-8'), Path(name).name))
    if name and name in catalog.names():
        return _always(catalog.source(name, tokenizer))
    if name and name not in catalog.established():
        raise ConfigError(
            f'--template {name}: neither a .jinja file nor a named template{catalog.suggestion(name)} '
            f'Without the flag the checkpoint\'s own template is taken; "swift show templates" lists the named ones'
        )
    if own:
        return _named(own) if isinstance(own, dict) else _always(Source(own, "the checkpoint's chat template"))
    fallback = next((family for family in (name, info.template) if family in catalog.names()), None)
    if fallback is None:
        raise ConfigError(
            f'{info.id} brings no chat template; give --template a name (default, chatml, llama3 ...) or a .jinja '
            'file, or train on plain text with --use_chat_template false'
        )
    return _always(catalog.source(fallback, tokenizer))


def _always(source: Source) -> Callable[[bool], Source]:
    return lambda tools: source


def _named(templates: dict[str, str]) -> Callable[[bool], Source]:
    """Several named templates in one checkpoint: ``tool_use`` for rows with tools, else ``default``."""
    sources = {name: Source(text, f"the checkpoint's chat template {name!r}") for name, text in templates.items()}
    if 'default' not in sources:
        raise ConfigError(
            f'the checkpoint brings the chat templates {", ".join(sorted(sources))} and none is called default; '
            'save the one you want as a .jinja file and give it to --template'
        )
    return lambda tools: sources['tool_use'] if tools and 'tool_use' in sources else sources['default']


def _check_system(source: Source, tokenizer: Any, system: str, now: datetime) -> None:
    """Refuse ``--system`` at once if the template forbids system prompts, not row by row."""
    renderer = Renderer(source, tokenizer.special_tokens_map, now=now)
    ask = (Message('user', 'Which one?'), Message('assistant', 'This one.'))
    for parts in (False, True):
        style = replace(Style.of(source), parts=parts)
        plainly = lambda text, message, kind: text
        try:
            renderer(**Conversation(ask).write(style, plainly))
        except RowError:
            continue
        try:
            renderer(**Conversation((Message('system', system), *ask)).write(style, plainly))
        except Refusal as error:
            raise ConfigError(f'--system: {error}; put the text into the first question instead') from error
        except RowError:
            continue
        return

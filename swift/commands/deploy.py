"""swift deploy: a model and its adapters behind the OpenAI API.

bind > keys, ledger, rules, audit > engine in a process of its own > templates in this one > serve > drain > exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.commands import configs
from swift.commands.configs import DeployConfig
from swift.core import cache
from swift.core.errors import ConfigError
from swift.core.log import get_logger, say
from swift.models.args import split_adapter
from swift.serve import installed
from swift.serve.place import Place, bind, check_tls

if TYPE_CHECKING:
    from swift.engines.api import ChatEngine
    from swift.engines.child import ChildEngine
    from swift.serve.auth import Keys
    from swift.serve.house import House
    from swift.serve.ledger import Ledger
    from swift.serve.pooled import Outline
    from swift.serve.server import Server
    from swift.serve.shared_ledger import SharedLedger

ENGINE, READER = 'swift.engines.opening:open_tokens', 'swift.commands.score:open_reader'
AHEAD = 2  # answers that are given to the engine for each that it decodes at once, so that none of its places is empty


def deploy_main(args: Any = None) -> int:
    """Serve as ``swift deploy`` does, until a signal.

    Args:
        args: an argument list, a configuration or DeployArguments, or None for the command line.

    Returns:
        0 when everything that was under way has ended.
    """
    return main(configs.resolve('deploy', args))


def main(cfg: DeployConfig) -> int:
    """Open the engine and serve it."""
    with opened(cfg) as (server, listener):
        serve(server, listener)
    get_logger().info('ended')
    return 0


def serve(server: Server, listener: socket.socket) -> None:
    """Serve until a signal, in a process that does nothing else."""
    gc.freeze()  # the objects of libraries stay: looking at them takes seconds at the end, and pauses on the way
    asyncio.run(server.run_on(listener))


@contextlib.contextmanager
def run_deploy(args: Any, return_url: bool = False) -> Iterator[int | str]:
    """Serve in the background as long as the block runs; gives the port, or the address for clients.

    Args:
        args: as for ``deploy_main``; port 0 takes any that is free.
        return_url: give ``http://127.0.0.1:PORT/v1``.
    """
    with opened(configs.resolve('deploy', args)) as (server, listener):
        thread = threading.Thread(target=lambda: asyncio.run(server.run_on(listener)), name='swift-server', daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield f'http://127.0.0.1:{port}/v1' if return_url else port
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join()


@contextlib.contextmanager
def opened(
    cfg: DeployConfig, *, around: Callable[[Any], Any] = lambda app: app
) -> Iterator[tuple[Server, socket.socket]]:
    """Everything that serves, ready to run; closed when the block ends.

    Args:
        around: puts something before the application.

    Raises:
        ConfigError: the address is in use, a file of keys or words cannot be read, something is not built.
        SwiftError: the engine cannot be opened.
    """
    installed.check()
    get_logger().setLevel(cfg.serve.log_level.upper())
    where = place(cfg)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(where))
        keys = _keys(cfg)  # before anything that takes long: mistakes show at once
        rules = _rules(cfg)
        engine = _engine(cfg)
        stack.callback(engine.close)
        from swift.serve import app, routes, server  # while the engine is being opened

        house = _house(cfg, engine, keys, rules)
        stack.callback(house.close)
        engine.wait()
        _greet(house, listener)
        yield server.Server(around(app.build(house, routes.routes_of(cfg.model.task_type))), house, where), listener


# ------------------------------------------------------------------------------------------------------------- parts
def place(cfg: DeployConfig) -> Place:
    """Where to listen, and how to end. Raises ConfigError: the files of TLS cannot be used."""
    args = cfg.serve
    for name in ('ssl_certfile', 'ssl_keyfile'):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise ConfigError(f'--{name} {path}: there is no such file')
    made = Place(args.host, args.port, args.ssl_certfile, args.ssl_keyfile, args.drain, args.log_interval)
    check_tls(made)
    return made


def _keys(cfg: DeployConfig) -> Keys:
    """Keys of the command line, the environment and the file."""
    from swift.serve import auth
    from swift.serve.ledger import Allowance

    args = cfg.serve
    allowance = Allowance(**{name: getattr(args, name) for name in auth.LIMITS})
    keys = [auth.key(text.strip(), allowance=allowance) for text in (args.api_key or '').split(',') if text.strip()]
    if args.api_key_file:
        keys += auth.read_file(Path(args.api_key_file), allowance)
    if args.admin_api_key:
        keys.append(auth.key(args.admin_api_key, id='admin', admin=True))
    return auth.Keys(keys, anybody=replace(auth.ANYBODY, allowance=allowance))


def _rules(cfg: DeployConfig) -> list[Any]:
    """What requests and answers must not hold."""
    from swift.serve.moderation import RULES, Words

    words = [Words.read(Path(cfg.serve.sensitive_words))] if cfg.serve.sensitive_words else []
    return [*words, *(RULES[name] for name in cfg.serve.moderation)]


def _engine(cfg: DeployConfig) -> ChildEngine:
    """The engine, being opened in its own process while this one goes on."""
    from swift.engines.child import ChildEngine, Recipe
    from swift.engines.opening import as_json

    groups = as_json(cfg)
    if _reads(cfg):
        recipe = Recipe(READER, {name: groups[name] for name in ('model', 'template', 'engine')})
    else:
        recipe = Recipe(ENGINE, groups)
    return ChildEngine(recipe, stall=cfg.serve.engine_stall)


def _reads(cfg: DeployConfig) -> bool:
    """Whether the model reads texts, and says nothing."""
    return cfg.model.task_type not in (None, 'causal_lm')


def _house(cfg: DeployConfig, engine: ChildEngine, keys: Keys, rules: list[Any]) -> House:
    from swift.serve.audit import Audit
    from swift.serve.bounds import Bounds
    from swift.serve.gate import Gate
    from swift.serve.house import House, Usual

    args, generation = cfg.serve, cfg.generation
    chat, places = _outline(cfg, engine) if _reads(cfg) else _chat(cfg, engine)
    house = House(
        name=args.served_model_name or chat.model_name,
        chat=chat,
        encode=lambda text: chat.template.tokenizer(text)['input_ids'],
        keys=keys,
        ledger=_ledger(cfg, keys),
        gate=Gate(AHEAD * places, args.queue, args.queue_seconds),
        bounds=Bounds(
            body_bytes=args.max_body_bytes,
            queue=args.queue,
            queue_seconds=args.queue_seconds,
            deadline=args.deadline,
        ),
        rules=rules,
        owned_by=args.owned_by,
        max_logprobs=args.max_logprobs,
        verbose=args.verbose,
        default_adapter=chat.default_adapter,
        usual=Usual(
            generation.max_new_tokens,
            tuple(generation.stop_words),
            generation.presence_penalty,
            generation.frequency_penalty,
            generation.structured_outputs_regex,
        ),
    )
    if args.audit_log:
        house.audit = Audit(Path(args.audit_log), failed=house.audit_failed)
    return house


def _chat(cfg: DeployConfig, engine: ChildEngine) -> tuple[ChatEngine, int]:
    """The chat layer over the engine, and the answers that it decodes at once."""
    from swift.engines.opening import chat_over

    chat = chat_over(cfg, engine)
    chat.defaults = replace(chat.defaults, **_given(cfg))
    chat.default_adapter = next((Path(path).name for name, path in _adapters(cfg) if name is None), None)
    return chat, chat.at_once


def _outline(cfg: DeployConfig, engine: ChildEngine) -> tuple[Outline, int]:
    """What stands in its place where the model reads: one request at a time, whose rows share batches."""
    from swift import models
    from swift.serve.pooled import Outline

    info = models.load(cfg.model).info
    return Outline(engine, Path(info.id).name, cfg.template.max_length or info.max_model_len), 1


def _ledger(cfg: DeployConfig, keys: Keys) -> Ledger | SharedLedger:
    """Where it is counted what keys use: in a store that replicas share, in a file, or nowhere but in memory."""
    from swift.serve.ledger import Ledger
    from swift.serve.shared_ledger import SharedLedger

    args = cfg.serve
    if args.quota_store:
        return SharedLedger(args.quota_store)
    if args.usage_file:
        return Ledger(Path(args.usage_file))
    limited = any(getattr(each.allowance, name) for each in keys.all for name in vars(each.allowance))
    return Ledger(cache.folder('serve') / 'usage.sqlite3' if limited else None)


def _adapters(cfg: DeployConfig) -> list[tuple[str | None, str]]:
    return [split_adapter(text) for text in cfg.model.adapters]


def _given(cfg: DeployConfig) -> dict[str, Any]:
    """How to draw where a request does not say it: by the flags, where they do."""
    from swift.engines.chat import NUMBERS

    names = ('temperature', *NUMBERS)
    return {name: value for name in names if (value := getattr(cfg.generation, name)) is not None}


def _greet(house: House, listener: socket.socket) -> None:
    """Where to find what."""
    host, port = listener.getsockname()[:2]
    address = f'[{host}]' if ':' in host else host
    say(f'{", ".join(house.models)} at http://{address}:{port}/v1' + ('' if house.keys else ' (no key is asked for)'))

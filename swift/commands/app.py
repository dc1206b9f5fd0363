"""swift app: a chat page in the browser, over a model of ours or over a server that runs already.

the engine and the server of swift deploy, or what passes requests on to --base_url  >  the page before it  >  serve
"""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from swift.commands import configs, deploy
from swift.commands.configs import AppConfig
from swift.core.log import say
from swift.serve import installed

if TYPE_CHECKING:
    import socket

    from swift.serve.page import Page
    from swift.serve.server import Server

TITLE = 'Swift'


def app_main(args: Any = None) -> int:
    """Serve the page as ``swift app`` does, until a signal.

    Args:
        args: an argument list, a configuration, or None for the command line.

    Returns:
        0 when everything that was under way has ended.
    """
    return main(configs.resolve('app', args))


def main(cfg: AppConfig) -> int:
    """Open what answers, and serve the page before it."""
    with opened(cfg) as (server, listener):
        _greet(cfg, listener)
        deploy.serve(server, listener)
    return 0


@contextlib.contextmanager
def opened(cfg: AppConfig) -> Iterator[tuple[Server, socket.socket]]:
    """The page and what answers it, ready to run. Raises as ``deploy.opened``."""
    if cfg.app.base_url is None:
        with deploy.opened(cfg, around=lambda app: _page(cfg, app)) as ready:
            yield ready
        return
    installed.check()
    from swift.serve.door import Door
    from swift.serve.place import bind
    from swift.serve.relay import Relay, passing
    from swift.serve.server import Server

    place = replace(deploy.place(cfg), log_interval=0)  # there is no engine to tell of
    relay = Relay(cfg.app.base_url, cfg.serve.api_key)
    with bind(place) as listener:
        yield Server(_page(cfg, Door(passing(relay), relay)), relay, place), listener


def _page(cfg: AppConfig, app: Any) -> Page:
    from swift.serve.page import Page

    return Page(app, title=cfg.app.studio_title or TITLE, language=cfg.app.lang or '')


def _greet(cfg: AppConfig, listener: socket.socket) -> None:
    """Say where the page is, and open it where that is wanted."""
    host, port = listener.getsockname()[:2]
    scheme = 'https' if cfg.serve.ssl_certfile else 'http'
    url = f'{scheme}://{f"[{host}]" if ":" in host else host}:{port}/'
    say(f'the chat page is at {url}')
    if cfg.app.open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

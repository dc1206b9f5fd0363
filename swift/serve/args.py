"""Flags of serving: where, to whom, and within which limits."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class ServeArgs:
    """Where the server listens, who may ask, and within which limits."""

    host: str = '127.0.0.1'
    """Address to listen on; any other than this machine's own loopback needs an API key."""
    port: int = 8000
    """Port to listen on; one that is in use is an error."""
    served_model_name: str | None = None
    """What clients call the model; None takes the last part of its name."""
    owned_by: str = 'swift'
    """What /v1/models says of the owner."""
    api_key: str | None = None
    """Key that clients must send, or several with commas; better in the variable SWIFT_API_KEY or in api_key_file."""
    api_key_file: str | None = None
    """YAML file of keys with ids and limits of their own: `alice: {key: TEXT, requests_per_minute: 60}`."""
    admin_api_key: str | None = None
    """Key that may also load and unload adapters; better in the variable SWIFT_ADMIN_API_KEY."""
    requests_per_minute: int | None = None
    """Requests that a key may send in a minute."""
    tokens_per_minute: int | None = None
    """Tokens that a key may read and write in a minute."""
    requests_per_day: int | None = None
    """Requests that a key may send in a day (UTC)."""
    tokens_per_day: int | None = None
    """Tokens that a key may read and write in a day (UTC)."""
    parallel: int | None = None
    """Requests that a key may have open at once."""
    usage_file: str | None = None
    """SQLite file of what each key has used; None means serve/usage.sqlite3 in the cache folder."""
    quota_store: str | None = None
    """Redis that replicas count in together (redis://HOST:6379/0); better in the variable SWIFT_QUOTA_STORE."""
    queue: int = 256
    """Requests that may wait; more are answered with 429."""
    queue_seconds: float = 30.0
    """Seconds that they may have to wait, as fast as work is done; who would wait longer is answered with 429."""
    deadline: float = 600.0
    """Seconds that a request may take, waiting included."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Bytes that a request's body may have."""
    max_logprobs: int = 20
    """Most of the likeliest tokens whose log-probabilities a request may ask for."""
    drain: float = 30.0
    """Seconds that open requests get after SIGTERM."""
    engine_stall: float = 120.0
    """Seconds without a step, while there is work, after which the engine is killed and started again."""
    ssl_certfile: str | None = None
    """TLS certificate (PEM)."""
    ssl_keyfile: str | None = None
    """TLS key (PEM)."""
    sensitive_words: str | None = None
    """File of words, one a line, that requests and answers must not hold."""
    moderation: list[str] = field(default_factory=list)
    """Rules of external_plugins that requests and answers must pass."""
    audit_log: str | None = None
    """File that every request is written to, without its content, with a chain of hashes (swift audit verify)."""
    log_interval: float = 20.0
    """Seconds between lines about throughput, while there is some; -1 for none."""
    log_level: Literal['debug', 'info', 'warning', 'error', 'critical'] = 'info'
    """Least important messages shown; a line for each request is info."""
    verbose: bool = False
    """Log what is asked and answered as well."""


@dataclass(kw_only=True)
class AppArgs:
    """The chat page."""

    server_name: str = '127.0.0.1'
    """Address of the page and of the API under it; any other than this machine's own loopback needs an API key."""
    server_port: int = 7860
    """Their port; one that is in use is an error."""
    base_url: str | None = None
    """Chat with a server that runs already (http://HOST:8000/v1) instead of loading a model."""
    lang: Literal['en', 'zh'] | None = None
    """Language of the page; None takes the browser's. The page can change it."""
    studio_title: str | None = None
    """Heading of the page."""
    open_browser: bool = False
    """Open the page in the browser of this machine."""


LIMITS = ('requests_per_minute', 'tokens_per_minute', 'requests_per_day', 'tokens_per_day', 'parallel')
IDLE = (
    'seed', 'stream', 'logprobs', 'top_logprobs', 'prompt', 'result_path', 'write_batch_size', 'val_dataset_sample',
    'metric',
)  # fmt: skip
"""Flags of answering that have no meaning here."""
STORES = ('redis://', 'rediss://', 'unix://')
LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def problems(args: ServeArgs, host: str = 'host', port: str = 'port') -> list[tuple[str, str]]:
    """(flags, what is wrong) of values that cannot work; ``host`` and ``port`` are what the verb calls these flags."""
    found = []
    if args.host not in LOOPBACK and not (args.api_key or args.api_key_file):
        found.append(
            (
                f'{host} api_key',
                f'--{host} {args.host}: others can reach it; give --api_key_file, SWIFT_API_KEY or --api_key',
            )
        )
    if args.quota_store and not args.quota_store.startswith(STORES):
        found.append(('quota_store', f'--quota_store: expected an address that begins with {" or ".join(STORES)}'))
    if args.quota_store and args.usage_file:
        found.append(('quota_store usage_file', '--quota_store and --usage_file: give one of them'))
    if bool(args.ssl_certfile) != bool(args.ssl_keyfile):
        found.append(('ssl_certfile ssl_keyfile', '--ssl_certfile and --ssl_keyfile: give both or neither'))
    if not 0 <= args.port <= 65535:
        found.append((port, f'--{port} {args.port}: expected 0 (any) to 65535'))
    for name in (*LIMITS, 'queue', 'max_body_bytes'):
        if (value := getattr(args, name)) is not None and value < 1:
            found.append((name, f'--{name} {value}: must be at least 1'))
    for name in ('queue_seconds', 'deadline', 'engine_stall'):
        if getattr(args, name) <= 0:
            found.append((name, f'--{name} {getattr(args, name)}: must be above 0'))
    if args.drain < 0:
        found.append(('drain', f'--drain {args.drain}: must be 0 or more'))
    if not 0 <= args.max_logprobs <= 20:
        found.append(('max_logprobs', f'--max_logprobs {args.max_logprobs}: expected 0 to 20'))
    return found

"""Load on a server that speaks OpenAI's API, from a process of its own.

Open loop (``job['arrivals']``): a request is sent at its moment, whatever became of those before it, and all its times
count from that moment; a client that waits for answers would leave out the requests that a slow server delays, and with
them the delay. Closed loop (``job['workers']``): as many requests are open at any time, for ``job['seconds']``.
The key, if one is needed, is in the variable SWIFT_API_KEY.
"""

import asyncio
import itertools
import json
import os
import resource
import ssl
import time
import urllib.request
from urllib.parse import urlsplit

from watch import begin

BETWEEN = 0.05  # seconds before a worker that was refused asks again
FILES = 65536  # connections that may be open at once

job, events = begin(torch=False)
url = urlsplit(job['url'])
host, port = url.hostname, url.port or (443 if url.scheme == 'https' else 80)
allowed = {'Authorization': f'Bearer {os.environ["SWIFT_API_KEY"]}'} if os.environ.get('SWIFT_API_KEY') else {}
secure = ssl.create_default_context() if url.scheme == 'https' else None


def request(text):
    """The bytes of a request; its connection is closed afterwards, as if every client were another one."""
    body = json.dumps(
        {
            'model': model, 'messages': [{'role': 'user', 'content': text}], 'max_tokens': job['max_tokens'],
            'temperature': 0, 'stream': True, 'stream_options': {'include_usage': True},
        }
    ).encode()  # fmt: skip
    head = [
        f'POST {url.path.rstrip("/")}/chat/completions HTTP/1.1', f'Host: {host}:{port}', 'Connection: close',
        'Content-Type: application/json', f'Content-Length: {len(body)}',
        *(f'{name}: {value}' for name, value in allowed.items()),
    ]  # fmt: skip
    return '\r\n'.join([*head, '', '']).encode() + body


def first_model():
    """The name of the first model that the server says it has."""
    with urllib.request.urlopen(urllib.request.Request(f'{job["url"].rstrip("/")}/models', headers=allowed)) as answer:
        return json.load(answer)['data'][0]['id']


async def ask(text, at, origin):
    """What became of a request; all times are seconds from ``origin``, and it was to be sent at ``at``."""
    now = lambda: round(time.perf_counter() - origin, 5)
    seen = {'at': at, 'sent': now(), 'status': 0, 'retry_after': False, 'pieces': [], 'tokens': 0, 'ok': False}
    seen |= {'text': '', 'error': ''}
    writer = None
    try:
        async with asyncio.timeout(job['patience']):
            reader, writer = await asyncio.open_connection(host, port, ssl=secure)
            writer.write(request(text))
            head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').lower().split('\r\n')
            seen |= {'status': int(head[0].split()[1]), 'head': now()}
            seen['retry_after'] = any(line.startswith('retry-after:') for line in head)
            body = chunks(reader) if 'transfer-encoding: chunked' in head else pieces(reader)
            if seen['status'] == 200:
                await read(body, seen, now)
            else:
                seen['error'] = (b''.join([part async for part in body])).decode(errors='replace')[:300]
    except (OSError, ValueError, LookupError, EOFError, asyncio.LimitOverrunError) as error:
        seen['error'] = f'{type(error).__name__}: {error}'
    finally:
        if writer is not None:
            writer.close()
    seen['end'] = now()
    return seen


async def pieces(reader):
    """A body that ends with its connection."""
    while part := await reader.read(1 << 16):
        yield part


async def chunks(reader):
    """A chunked body."""
    while size := int((await reader.readline()).split(b';')[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def read(body, seen, now):
    """Read the events of an answer into ``seen``: when each piece came, the tokens, whether it came to its end."""
    rest, words = b'', []
    async for part in body:
        rest += part
        *whole, rest = rest.replace(b'\r\n', b'\n').split(b'\n\n')
        for event in whole:
            data = event.removeprefix(b'data:').strip()
            if not event.startswith(b'data:') or data == b'[DONE]':
                continue
            said = json.loads(data)
            if said.get('error'):
                raise ValueError(str(said['error'])[:300])
            if said.get('usage'):
                seen['tokens'] = said['usage']['completion_tokens']
            for choice in said.get('choices', ()):
                if words_now := choice['delta'].get('content') or choice['delta'].get('reasoning_content'):
                    seen['pieces'].append(now())
                    words.append(words_now)
                seen['ok'] |= bool(choice.get('finish_reason'))
    seen['tokens'] = seen['tokens'] or len(seen['pieces'])
    seen['text'] = ''.join(words) if job['keep'] else ''


async def on_schedule():
    """Every request at its moment."""
    origin, texts, open_now = time.perf_counter(), itertools.cycle(job['texts']), []
    for at in job['arrivals']:
        await asyncio.sleep(max(0.0, origin + at - time.perf_counter()))
        open_now.append(asyncio.create_task(ask(next(texts), at, origin)))
    return await asyncio.gather(*open_now)


async def in_turn():
    """Every worker asks again when it has its answer."""
    origin, texts, found = time.perf_counter(), itertools.cycle(job['texts']), []

    async def work():
        while (at := time.perf_counter() - origin) < job['seconds']:
            found.append(await ask(next(texts), at, origin))
            await asyncio.sleep(0 if found[-1]['status'] == 200 else BETWEEN)

    await asyncio.gather(*(work() for _ in range(job['workers'])))
    return found


model = job['model'] or first_model()
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most) if most > 0 else FILES, most))
started, cpu = time.perf_counter(), time.process_time()
requests = asyncio.run(on_schedule() if 'arrivals' in job else in_turn())
seconds = time.perf_counter() - started
events.write(result={'model': model, 'requests': requests, 'seconds': seconds, 'cpu': time.process_time() - cpu})

"""Pictures as files in memory: where they come from, and what is looked at before one is decoded.

    data URL | base64 | path | bytes | PIL image --read--> bytes --size--> it fits --decode--> PIL image, RGB

What a picture claims to be is read from its header first, so that a small file of many pixels costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.core.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF')  # as Pillow calls them; of an animation the first frame is seen
PIXELS = 50_000_000
"""Most pixels of a picture."""
_URL = re.compile(r'data:image/(?:png|jpe?g|webp|gif)(?:;[\w.+-]+=[\w.+-]+)*;base64,', re.IGNORECASE)
_SHOWN = 60  # characters of what was given, in errors


def of_url(url: str) -> bytes:
    """The file in a ``data:`` URL. Raises RequestError."""
    head = _URL.match(url)
    if head is None:
        raise RequestError(
            f'{_short(url)!r} is no picture that can be taken: send it in the request itself, as '
            'data:image/png;base64,... (png, jpeg, webp or gif). Addresses are not fetched'
        )
    return _decoded(url[head.end() :])


def read(source: Any) -> bytes:
    """The file of what a row, a script or somebody at the terminal calls a picture.

    Args:
        source: bytes; a path, a ``data:`` URL, base64; ``{"bytes": ...}`` or ``{"path": ...}``; a PIL image.

    Raises:
        RequestError: it is none of these, or cannot be read.
    """
    if isinstance(source, Mapping):
        source = next((source[name] for name in ('bytes', 'path', 'url') if source.get(name) is not None), None)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, Path):
        return _file(source)
    if hasattr(source, 'save'):
        kept = io.BytesIO()
        source.convert('RGB').save(kept, 'PNG')
        return kept.getvalue()
    if not isinstance(source, str) or not source:
        raise RequestError(f'a picture is a path, bytes, base64 or a data: URL, not {type(source).__name__}')
    if source.startswith('data:'):
        return of_url(source)
    if source.startswith(('http://', 'https://')):
        raise RequestError(f'{_short(source)}: addresses are not fetched; download the picture and give its path')
    path = Path(source.removeprefix('file://')).expanduser()
    if len(source) < 4096 and path.is_file():
        return _file(path)
    try:
        return _decoded(source)
    except RequestError as error:
        raise RequestError(f'{_short(source)}: no such file, and no base64 of one') from error


def size(data: bytes) -> int:
    """The pixels of a picture, by its header; nothing is decoded.

    Raises:
        RequestError: it is in no known format, or larger than any picture may be.
    """
    return _opened(data)[1]


def decode(data: bytes) -> Image:
    """The picture, upright and in RGB. Raises RequestError: as ``size``, or it is damaged."""
    from PIL import ImageOps

    image, _ = _opened(data)
    try:
        return ImageOps.exif_transpose(image).convert('RGB')
    except Exception as error:  # every format breaks in its own way
        raise RequestError(f'the picture is damaged: it cannot be decoded ({_short(str(error))})') from error


def _opened(data: bytes) -> tuple[Image, int]:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RequestError(f'the picture is too large: at most {PIXELS:,} pixels') from error
    except Exception as error:
        raise RequestError('the picture is no png, jpeg, webp or gif, or its beginning is damaged') from error
    pixels = image.width * image.height
    if pixels > PIXELS:
        raise RequestError(f'the picture has {image.width}x{image.height} pixels; at most {PIXELS:,} are taken')
    return image, pixels


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f'{path}: the picture cannot be read ({error.strerror})') from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError('the picture is not valid base64') from error


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'

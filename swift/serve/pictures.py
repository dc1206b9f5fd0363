"""Pictures that clients send: inside their requests only, and looked at before one is decoded.

Nothing is fetched for a client: a server that opens addresses of strangers opens those of its own network.
"""

from __future__ import annotations

from typing import Any

from swift.core.errors import RequestError
from swift.models import pictures as files
from swift.serve.errors import ApiError, invalid
from swift.serve.house import House


def taken(messages: list[dict[str, Any]], house: House) -> list[dict[str, Any]]:
    """The messages with the files of their pictures in place of URLs.

    Raises:
        ApiError: the model takes none, or they are too many or too large, or one is no picture; counted from 1.
    """
    bounds, number, pixels = house.bounds, 0, 0
    for message in messages:
        for part in message['content'] if isinstance(message.get('content'), list) else ():
            if part['type'] != 'image_url':
                continue
            number += 1
            if house.chat.blind is not None:
                raise _refused(number, house.chat.blind)
            if number > bounds.pictures:
                raise _refused(number, f'at most {bounds.pictures} are taken in a request')
            part['image_url'] = _file(part['image_url']['url'], number)
            pixels += _size(part['image_url'], number)
            if pixels > bounds.picture_pixels:
                raise _refused(
                    number, f'the request has more than {bounds.picture_pixels:,} pixels; send them smaller, or fewer'
                )
    return messages


def _file(url: str, number: int) -> bytes:
    try:
        return files.of_url(url)
    except RequestError as error:
        raise _refused(number, str(error)) from error


def _size(data: bytes, number: int) -> int:
    try:
        return files.size(data)
    except RequestError as error:
        raise _refused(number, str(error)) from error


def _refused(number: int, why: str) -> ApiError:
    return invalid(f'messages: picture {number}: {why}', 'messages')

"""Adapters put on and taken off while the server runs, by those whose key is an admin's."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import JSONResponse, Response

from swift.core.errors import SwiftError, UnavailableError
from swift.core.log import get_logger
from swift.serve.call import Call
from swift.serve.errors import ApiError, from_engine, invalid
from swift.serve.house import House
from swift.serve.schema import AdapterLoad, AdapterUnload


async def load(asked: AdapterLoad, house: House, call: Call) -> Response:
    """Load an adapter from a folder of the server and serve it under a name."""
    _check_admin(call)
    if asked.lora_name in house.models:
        raise invalid(f'lora_name: {asked.lora_name} is served already', 'lora_name')
    folder = Path(asked.lora_path)
    if not folder.is_absolute() or not await house.work(folder.is_dir):
        raise invalid('lora_path: expected the absolute path of a folder on the server', 'lora_path')
    await _change(house, house.chat.engine.load_adapter, asked.lora_name, folder)
    get_logger().info('adapter %s is loaded (by %s)', asked.lora_name, call.key.id)
    return JSONResponse({'status': 'loaded', 'id': asked.lora_name})


async def unload(asked: AdapterUnload, house: House, call: Call) -> Response:
    """Take an adapter off that answers nothing at the moment."""
    _check_admin(call)
    if asked.lora_name == house.name or asked.lora_name not in house.models:
        raise ApiError(404, f'there is no adapter {asked.lora_name!r}', 'model_not_found', 'lora_name')
    await _change(house, house.chat.engine.unload_adapter, asked.lora_name)
    get_logger().info('adapter %s is unloaded (by %s)', asked.lora_name, call.key.id)
    return JSONResponse({'status': 'unloaded', 'id': asked.lora_name})


def _check_admin(call: Call) -> None:
    if not call.key.admin:
        raise ApiError(403, 'this needs the key of an admin', 'not_admin')


async def _change(house: House, function, *arguments) -> None:
    try:
        await house.work(function, *arguments)
    except UnavailableError as error:
        raise from_engine(error) from error
    except SwiftError as error:
        raise invalid(str(error), 'lora_name') from error

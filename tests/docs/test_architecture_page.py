"""docs/architecture.md is the house as built: it names every room, and names no room that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('page', ['docs/architecture.md', 'docs/zh/architecture.md'])
def test_every_room_is_on_the_page_and_nothing_else(page):
    named = set(re.findall(r'^\| \d \| `swift/(\w+)` \|', (ROOT / page).read_text(encoding='utf-8'), re.MULTILINE))
    rooms = {folder.parent.name for folder in (ROOT / 'swift').glob('*/__init__.py')}
    assert named == rooms

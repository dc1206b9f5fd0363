"""A tiny llama folder, written once and copied for each test; our log where ``caplog`` sees it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope='session')
def written(tmp_path_factory) -> Path:
    """The folder as it was written; not to be changed."""
    return tiny.folder(tmp_path_factory.mktemp('models') / 'tiny')


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(written, tmp_path / 'tiny'))


@pytest.fixture
def log(caplog):
    """What swift's loggers say, whether or not they have been set up."""
    logger = logging.getLogger('swift')
    logger.addHandler(caplog.handler)
    level, logger.level = logger.level, logging.INFO
    yield caplog
    logger.setLevel(level)
    logger.removeHandler(caplog.handler)

"""A fake hub that both real clients talk to, with caches in a temporary folder."""

from __future__ import annotations

import huggingface_hub.constants as hf
import pytest

from tests.hub.fake_hub import FakeHub

WEIGHTS = bytes(range(256)) * 1200


@pytest.fixture(params=[False, True], ids=['modelscope', 'huggingface'])
def use_hf(request):
    return request.param


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, ``acme/tiny``; the network is allowed, and every cache is empty."""
    repositories = {
        'acme/tiny': {
            'config.json': b'{"model_type": "llama"}',
            'model.safetensors': WEIGHTS,
            'pytorch_model.bin': b'a second copy' * 100,
            'onnx/model.onnx': b'a third copy' * 100,
            'notes/readme.txt': b'hello',
        }
    }
    with FakeHub(repositories) as server:
        monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'swift'))
        monkeypatch.setenv('HOME', str(tmp_path))
        monkeypatch.setenv('MODELSCOPE_CACHE', str(tmp_path / 'modelscope'))
        monkeypatch.setenv('MODELSCOPE_ENDPOINT', server.url)
        monkeypatch.delenv('HF_TOKEN', raising=False)
        # huggingface_hub reads its environment when it is imported
        monkeypatch.setattr(hf, 'ENDPOINT', server.url)
        monkeypatch.setattr(hf, 'HUGGINGFACE_CO_URL_TEMPLATE', server.url + '/{repo_id}/resolve/{revision}/{filename}')
        monkeypatch.setattr(hf, 'HF_HUB_CACHE', str(tmp_path / 'huggingface'))
        monkeypatch.setattr(hf, 'HF_TOKEN_PATH', str(tmp_path / 'no token'))
        monkeypatch.setattr(hf, 'HF_HUB_OFFLINE', False)
        monkeypatch.setattr(hf, 'HF_HUB_DISABLE_XET', True)
        monkeypatch.setattr(hf, 'DOWNLOAD_CHUNK_SIZE', 4096)
        yield server

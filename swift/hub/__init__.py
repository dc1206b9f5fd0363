"""Floor 1: bytes from hubs, packages and disk to a local folder, and nothing else."""

from swift.hub.download import fetch, safe_snapshot_download

__all__ = ['fetch', 'safe_snapshot_download']

"""Flags of ``swift verify``."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class VerifyArgs:
    """What swift verify looks at."""

    methods: list[str] = field(default_factory=list)
    """Only these methods, such as dpo kto orpo; none means all."""
    rows: int = 4
    """With a model: how many rows of the data are tried."""
    json: bool = False
    """Print JSON."""

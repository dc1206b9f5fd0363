"""Every row is accounted for: read = used + left out on purpose + rejected, the rejected by file, line and reason."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from swift.core.errors import DataError
from swift.core.types import Origin

LISTED = 20  # rejected rows that an error names


class Rejected(NamedTuple):
    """A row that cannot be used."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f'{self.origin}: {self.reason}'


@dataclass(slots=True)
class Account:
    """Counts of rows. ``dropped`` counts what was left out on purpose: by ``--truncation_strategy delete``, or by a
    dataset's own preprocessing."""

    used: int = 0
    dropped: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def read(self) -> int:
        return self.used + self.dropped + len(self.rejected)

    def check(self, limit: float, *, of: int | None = None, strict: bool = False) -> None:
        """Raise DataError when more than ``limit`` of the rows are rejected.

        Args:
            of: rows that there are in all; None means those read so far.
            strict: a single rejected row is too many.
        """
        total = self.read if of is None else of
        if self.rejected and (strict or len(self.rejected) > limit * total):
            raise DataError(self._complaint(total, limit, strict))

    def check_some(self) -> None:
        """Raise DataError when no row is left."""
        if not self.used:
            raise DataError(
                f'no row is left to use: {self.read:,} read, {self.dropped:,} left out (too long, or filtered), '
                f'{len(self.rejected):,} rejected{self.listing()}'
            )

    def reasons(self) -> Counter[str]:
        """Rejected rows by kind of reason."""
        return Counter(kind(each.reason) for each in self.rejected)

    def __str__(self) -> str:
        dropped = f', {self.dropped:,} left out' if self.dropped else ''
        rejected = f', {len(self.rejected):,} rejected' if self.rejected else ''
        return f'{self.read:,} rows read, {self.used:,} used{dropped}{rejected}'

    def _complaint(self, total: int, limit: float, strict: bool) -> str:
        count = len(self.rejected)
        rule = '--strict allows none' if strict else f'--max_rejected {limit:g} allows {int(limit * total):,}'
        allow = '' if strict else f', or allow them with --max_rejected {math.ceil(count / total * 1000) / 1000:g}'
        return f'{count:,} of {total:,} rows cannot be used ({rule}). Mend or remove them{allow}.{self.listing()}'

    def listing(self) -> str:
        """Rejected rows by reason, and the first of them by file and line; empty if there are none."""
        if not self.rejected:
            return ''
        counts = ''.join(f'\n  {count:>6,} x {reason}' for reason, count in self.reasons().most_common())
        first = ''.join(f'\n  {each}' for each in self.rejected[:LISTED])
        more = f'\n  ... and {len(self.rejected) - LISTED:,} more' if len(self.rejected) > LISTED else ''
        return f'\nBy reason:{counts}\nRows:{first}{more}'


@dataclass(slots=True)
class Tally:
    """The accounts of datasets that were cut from the same ``rows`` rows, for training and for evaluation.

    The limit is of the whole: one bad row among the ten that an evaluation takes is no tenth of the data.
    """

    rows: int
    accounts: dict[str, Account] = field(default_factory=dict)

    def check(self, key: str, account: Account, limit: float, *, strict: bool = False) -> None:
        """Judge ``account``, which is filed under ``key``, together with the others. Raises DataError."""
        self.accounts[key] = account
        if account.rejected:
            rejected = [each for one in self.accounts.values() for each in one.rejected]
            Account(rejected=rejected).check(limit, of=self.rows, strict=strict)


def kind(reason: str) -> str:
    """What a reason is about, so that like reasons are counted together."""
    return re.sub(r'\d+', 'N', reason.partition(': ')[0])[:80]

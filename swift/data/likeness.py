"""Which sequences are the same, or nearly so, without keeping them: a digest and four MinHash bands of 8 bytes each.

Two sequences are called near duplicates when a band of six minimal shingle hashes agrees: with Jaccard likeness J of
their shingles this happens with probability 1 - (1 - J^6)^4, which is 0.95 at J = 0.9 and 0.06 at J = 0.5.
Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHINGLE = 4  # tokens
BANDS, ROWS = 4, 6
SHORTEST = 32  # tokens: shorter ones are alike by chance
LONGEST = 512  # tokens of a sequence that are compared
ODD = np.random.PCG64(np.random.SeedSequence(4)).random_raw(SHINGLE + 2) | np.uint64(1)
FACTORS = np.random.PCG64(np.random.SeedSequence(5)).random_raw((BANDS, ROWS)).astype(np.uint32) | np.uint32(1)


class Likeness:
    """Collects sequences; ``doubles`` tells which repeat an earlier one."""

    def __init__(self) -> None:
        self._digests: list[np.ndarray] = []
        self._bands: list[np.ndarray] = []

    def add(self, sequences: Sequence[np.ndarray], near: Sequence[bool] | None = None) -> None:
        """Take token ids of a block of sequences; those that are not ``near`` are only asked whether they are equal."""
        self._digests.append(digests(sequences))
        limits = [LONGEST] * len(sequences) if near is None else [LONGEST * each for each in near]
        self._bands.append(_bands([each[:limit] for each, limit in zip(sequences, limits, strict=True)]))

    def digests(self) -> np.ndarray:
        """Digests of all sequences so far, uint64."""
        return np.concatenate(self._digests) if self._digests else np.zeros(0, np.uint64)

    def doubles(self) -> tuple[np.ndarray, np.ndarray]:
        """For each sequence the number of the first that equals it, and of the first that nearly does; -1 for none."""
        if not self._digests:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        exact = _earlier(self.digests())
        near = np.full(len(exact), len(exact))
        for band in np.concatenate(self._bands, axis=1):
            earlier = _earlier(band)
            near = np.minimum(near, np.where(earlier >= 0, earlier, len(exact)))
        near[(exact >= 0) | (near == len(exact))] = -1
        return exact, near


def digests(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """A 64-bit digest of each sequence, 0 for an empty one."""
    lengths, ids = _flat(sequences)
    out = np.zeros(len(lengths), np.uint64)
    full = np.flatnonzero(lengths)
    if len(full):
        starts = (np.cumsum(lengths) - lengths)[full]
        places = (np.arange(len(ids)) - np.repeat(starts, lengths[full])).astype(np.uint64)
        out[full] = _mixed(np.add.reduceat(_mixed(ids * ODD[-1] + places * ODD[-2]), starts)) | np.uint64(1)
    return out


def _bands(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Bands of each sequence, uint64 [BANDS, N]; 0 where it is too short to tell."""
    out = np.zeros((BANDS, len(sequences)), np.uint64)
    full = [i for i, each in enumerate(sequences) if len(each) >= SHORTEST]
    if not full:
        return out
    lengths, ids = _flat([sequences[i] for i in full])
    shingles = ids * ODD[0]
    for i in range(1, SHINGLE):
        shingles[:-i] += ids[i:] * ODD[i]
    ends = np.repeat(np.cumsum(lengths), lengths)
    hashes = (_mixed(shingles) >> np.uint64(32)).astype(np.uint32)[np.arange(len(ids)) + SHINGLE <= ends]
    starts = np.cumsum(lengths - SHINGLE + 1) - (lengths - SHINGLE + 1)
    for band in range(BANDS):
        minima = np.zeros(len(full), np.uint64)
        for factor in FACTORS[band]:
            minima = _mixed(minima + np.minimum.reduceat(hashes * factor, starts))
        out[band, full] = minima | np.uint64(1)
    return out


def _earlier(hashes: np.ndarray) -> np.ndarray:
    """For each hash the number of the first that equals it, -1 where it is the first itself, or 0."""
    order = np.argsort(hashes, kind='stable')
    ordered = hashes[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    out = np.full(len(hashes), -1)
    out[order] = np.where(begins | (ordered == 0), -1, first)
    return out


def _flat(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.asarray([len(each) for each in sequences])
    return lengths, np.concatenate(sequences).astype(np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

"""Best-fit packing of lengths drawn from the rows, as ``swift sft --packing true`` does it."""

import time

from watch import begin, lengths_of, quiet

quiet()
job, events = begin()

from swift.data.pack import best_fit  # noqa: E402

lengths, capacity = lengths_of(job), job['max_length']
rates, packs = [], []
for _ in range(job['tries']):
    start = time.perf_counter()
    packs = best_fit(lengths, capacity)
    rates.append(len(lengths) / (time.perf_counter() - start))
events.write(result={'rates': rates, 'fill': sum(lengths) / (len(packs) * capacity)})

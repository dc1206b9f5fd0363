"""TRL's best-fit packing of the same lengths: ``pack_dataset``, which moves the tokens as well, as its trainer does."""

import time

from watch import begin, lengths_of, quiet

quiet()
job, events = begin()

import datasets  # noqa: E402
import numpy as np  # noqa: E402
from trl import pack_dataset  # noqa: E402

datasets.disable_progress_bars()
datasets.disable_caching()
lengths, capacity = lengths_of(job), job['max_length']
data = datasets.Dataset.from_dict({'input_ids': [np.zeros(length, np.int32) for length in lengths]})
options = {} if 'batch' not in job['options'] else {'batch_size': len(data)}
rates, packs = [], []
for _ in range(job['tries']):
    start = time.perf_counter()
    packs = pack_dataset(data, capacity, 'bfd', dict(options))
    rates.append(len(lengths) / (time.perf_counter() - start))
events.write(result={'rates': rates, 'fill': sum(lengths) / (len(packs) * capacity)})

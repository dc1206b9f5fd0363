"""Rows to tokens with loss weights as ``swift sft`` makes them: read, convert, render, tokenise, mask."""

import time

from watch import begin, quiet, rows_of

quiet()
job, events = begin()

from swift import models, templates  # noqa: E402
from swift.core.types import Origin  # noqa: E402
from swift.data.convert import Reading, convert  # noqa: E402
from swift.models.args import ModelArgs  # noqa: E402
from swift.templates.args import TemplateArgs  # noqa: E402

rows, reading = rows_of(job), Reading()
builder = models.outline(ModelArgs(model=job['model']))
rates, supervised = [], 0
for _ in range(job['tries']):
    template = templates.make(builder.tokenizer, builder.info, TemplateArgs(max_length=job['max_length']))
    start = time.perf_counter()
    encoded = list(template.encode_all(convert(row, Origin(job['rows'], i), reading) for i, row in enumerate(rows)))
    rates.append(len(rows) / (time.perf_counter() - start))
    supervised = sum(int((each.weight != 0).sum()) for one in encoded for each in one)
events.write(result={'rates': rates, 'check': supervised})

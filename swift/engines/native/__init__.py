"""Answers by models of transformers: batched, streaming, with several adapters.

engine.py         submit, stream, abort ...   the seam, and the validation of requests
worker.py         the thread                  calls between steps, and what happens when it ends
scheduler.py      step, choose                who answers a request, and what becomes of each token
packed.py         step                        rows of one pass, pages, guesses;  pages.py  who holds which page
packed_runner.py  forward                     by kernels/decoder.py, adapters row by row;  memory.py  how many pages
paged_runner.py   forward                     by the model's own layers, over kernels/paged.py
padded.py         step                        every other model: batches padded at the left;  cache.py  their rows
runner.py         prefill, decode             the model's own forward pass;  adapters.py  peft
together.py       answer                      all requests at once, without the thread: for training
sample.py         choose                      logits become tokens
answer.py         accept                      a token joins its answer;  text.py  tokens become text
api.py            TransformersEngine          a model loaded from its folder, with the chat API of engines/api.py
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """``TransformersEngine``, loaded when it is asked for: the parts can be imported without it."""
    if name == 'TransformersEngine':
        from swift.engines.native.api import TransformersEngine

        return TransformersEngine
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

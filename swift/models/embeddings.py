"""Embeddings for tokens that a model has not seen."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

MULTIPLE = 64  # row counts that matrix kernels like; kept if the model has it
CHUNK = 8192  # rows turned to fp32 at a time


def grow_(model: nn.Module, new_ids: Collection[int]) -> None:
    """Give ``model`` an embedding for every id, and start those of ``new_ids`` at the mean of the old ones.

    A table that has room already, as many have, is not resized. The start is the same every time: an adapter trained
    on such a model finds the same base again. Tied weights stay tied.

    The mean of all rows, for the input and for the output table: Hewitt, "Initializing New Word Embeddings for
    Pretrained Language Models", 2021. We add no noise around it.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if max(new_ids) >= rows:
        multiple = MULTIPLE if rows % MULTIPLE == 0 else None
        model.resize_token_embeddings(max(new_ids) + 1, pad_to_multiple_of=multiple, mean_resizing=False)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    parameters = [table.weight for table in tables if table is not None]
    parameters += [table.bias for table in tables if getattr(table, 'bias', None) is not None]
    for parameter in {id(each): each for each in parameters}.values():
        fresh = sorted({*new_ids, *range(rows, len(parameter))})
        _start_at_mean_(parameter, min(rows, *new_ids), fresh)


@torch.no_grad()
def _start_at_mean_(table: torch.Tensor, old: int, fresh: list[int]) -> None:
    """Rows ``fresh`` become the mean of the first ``old`` rows, taken in fp32."""
    parts = [part.float().sum(0) for part in table[:old].split(CHUNK)]
    table[fresh] = (torch.stack(parts).sum(0) / old).to(table.dtype)

"""Flags that choose rows: which files, how mixed, split, packed and checked."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class DataArgs:
    """Which rows, in which order, in which packs."""

    dataset: list[str] = field(default_factory=list)
    """Training data: [hf::|ms::]id_or_path[:subset/subset][#count], several separated by spaces."""
    val_dataset: list[str] = field(default_factory=list)
    """Evaluation data, written the same way."""
    split_dataset_ratio: float = 0.0
    """Part of the training rows cut off for evaluation when there is no val_dataset, 0 to 1."""
    data_seed: int = 42
    """Seed of shuffling, splitting, sampling and mixing."""
    dataset_shuffle: bool = True
    """Shuffle the training rows before they are cut or mixed."""
    val_dataset_shuffle: bool = False
    """Shuffle the evaluation rows."""
    train_dataloader_shuffle: bool = True
    """Visit the rows in a new random order in every epoch."""
    streaming: bool = False
    """Read rows as they come instead of all at first. Needs max_steps."""
    shuffle_buffer_size: int = 1000
    """Rows held for shuffling a stream."""
    interleave_prob: list[float] | None = None
    """Probability of drawing from each dataset; None lays them end to end."""
    stopping_strategy: Literal['first_exhausted', 'all_exhausted'] = 'first_exhausted'
    """When interleaving ends: with the first or with the last dataset that runs out."""
    columns: dict | str | None = None
    """Rename columns, as JSON: {"text1": "query"}."""
    disable_auto_column_mapping: bool = False
    """Take columns only by their exact names, without the usual aliases."""
    remove_unused_columns: bool = True
    """Drop columns that training does not read."""
    custom_dataset_info: list[str] = field(default_factory=list)
    """JSON files that describe more datasets."""
    model_name: list[str] | None = None
    """Replaces {{NAME}} in self-cognition rows: Chinese name, English name."""
    model_author: list[str] | None = None
    """Replaces {{AUTHOR}} in self-cognition rows: Chinese name, English name."""
    download_mode: Literal['reuse_dataset_if_exists', 'force_redownload'] = 'reuse_dataset_if_exists'
    """Whether data of the hub is downloaded again."""
    strict: bool = False
    """Stop at the first row that cannot be used."""
    max_rejected: float = 0.01
    """Largest part of the rows that may be unusable before the run stops, 0 to 1."""
    lint: Literal['off', 'warn', 'refuse'] = 'refuse'
    """What faults in the data do: nothing, a warning, or errors among them stop the run."""
    store_dir: str | None = None
    """Folder of the token store; None keeps it in the cache."""
    packing: bool = False
    """Fill packs of packing_length tokens; a batch row is then one pack."""
    packing_length: int | None = None
    """Tokens in a pack; None means max_length."""
    packing_strategy: Literal['binpack', 'sequential'] = 'binpack'
    """binpack fills best, sequential keeps the order of the rows."""
    max_tokens_per_batch: int | None = None
    """Tokens in a micro-batch, whatever number of rows that is; the step stays the same. None: 2048 on a CPU."""

"""Flags of answering: how tokens are chosen, and by which engine."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class GenerationArgs:
    """How answers are drawn."""

    max_new_tokens: int | None = None
    """Most tokens of an answer; None means up to the end of the context."""
    temperature: float | None = None
    """0 takes the likeliest token; None takes the model's generation_config.json."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; None takes the model's own."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together reach p; None takes the model's own."""
    min_p: float | None = None
    """Drop tokens less likely than min_p times the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: tokens that were there become less likely."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens already generated."""
    frequency_penalty: float = 0.0
    """Subtracted once for every time a token was generated."""
    stop_words: list[str] = field(default_factory=list)
    """More strings that end an answer."""
    seed: int = 42
    """Seed of the draws."""
    stream: bool | None = None
    """Show answers as they grow; None means yes in a terminal, no over a dataset."""
    logprobs: bool = False
    """Return the log-probability of every token."""
    top_logprobs: int | None = None
    """Return as many of the likeliest tokens as well."""


@dataclass(kw_only=True)
class EngineArgs:
    """Which engine answers, and where answers go."""

    infer_backend: Literal['native'] = 'native'
    """Engine; transformers and pt are other names of the native one."""
    max_batch_size: int = 16
    """Requests answered at once; -1 means all."""
    prompt: list[str] = field(default_factory=list)
    """Answer these prompts and exit, instead of a chat."""
    result_path: str | None = None
    """File of answers (.jsonl, appended); None means infer_result/<time>.jsonl beside the checkpoint."""
    write_batch_size: int = 1000
    """Rows between writes to result_path."""
    val_dataset_sample: int | None = None
    """Answer as many rows of the data at most."""
    reranker_use_activation: bool = True
    """Rerankers: scores are passed through a sigmoid, so that they lie between 0 and 1."""
    metric: Literal['acc', 'rouge'] | None = None
    """Compare the answers with the data's own and print the mean."""

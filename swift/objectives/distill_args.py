"""Flags of distillation."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class DistillArgs:
    """Who teaches, whose completions are learned from, and how far from the teacher is too far."""

    teacher_model: str | None = None
    """Model to learn from; the trained model's own id means that model without the adapters that are trained."""
    teacher_adapters: list[str] = field(default_factory=list)
    """Adapter of the teacher; without teacher_model it is put on the trained model in place of its own."""
    teacher_model_type: str | None = None
    """Family of the teacher; None recognises it."""
    teacher_model_revision: str | None = None
    """Branch, tag or commit of the teacher."""
    teacher_model_server: str | None = None
    """URL of a server that teaches instead (vLLM, or another that knows prompt_logprobs); needs gkd_logits_topk."""
    gkd_logits_topk: int | None = None
    """Compare the teacher's likeliest tokens only, as many as this; None compares all."""
    lmbda: float = 0.5
    """Part of the steps whose completions the student writes itself, 0 to 1."""
    seq_kd: bool = False
    """Let the teacher write the completions of the other steps."""
    sft_alpha: float = 0.0
    """Weight of the plain next-token loss on completions that the student did not write."""
    temperature: float = 0.9
    """Divides the logits of both, and those that completions are drawn from."""
    max_completion_length: int = 512
    """Longest completion that is written, tokens."""

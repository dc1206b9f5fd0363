"""Adapters of peft that change a tiny model visibly, as folders."""

from __future__ import annotations

from pathlib import Path


def adapter(path: Path, model, *, seed: int = 0, strength: float = 0.3, **options) -> Path:
    """Put an adapter with random weights on ``model``, save it to ``path`` and take it off again.

    Args:
        strength: standard deviation of the B matrices (which peft starts at zero).
        options: fields of ``LoraConfig``.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    options = {'r': 4, 'lora_alpha': 8, 'target_modules': 'all-linear', **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(task_type='CAUSAL_LM', **options))
        for name, parameter in wrapped.named_parameters():
            if 'lora_B' in name or 'lora_embedding_A' in name:
                torch.nn.init.normal_(parameter, std=strength)
            elif 'magnitude' in name:
                parameter.data.mul_(1 + strength * torch.rand_like(parameter))
            elif 'modules_to_save' in name or 'trainable_tokens_delta' in name:
                parameter.data.add_(torch.randn_like(parameter), alpha=strength * 0.1)
        wrapped.save_pretrained(path)
        wrapped.unload()
    return path

"""What to choose on this machine, each choice with its reason. Estimates only; nothing is measured or loaded here.

choices = recommend(look(), Size(parameters=134_515_008, layers=30, width=576))
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.plan.hardware import GB, Machine

# Bytes kept for the backward pass per token, layer and unit of width: read off a LoRA run in bf16, plain kernels.
ACTIVATION = 60
# Bytes of the process before any model: interpreter, torch, transformers.
RUNTIME = 0.7 * GB
# Part of the free memory that a plan may use.
SAFE = 0.8
PACKS = (4096, 2048, 1024, 512)

REASONS = {
    'lora': (
        'trains small matrices beside frozen weights: about {lora:.1f} GB of memory; full training takes {full:.1f} GB',
        '只训练附加在冻结权重旁的小矩阵：约需 {lora:.1f} GB 内存，全参数训练需要 {full:.1f} GB',
    ),
    'bf16': (
        '{device} multiplies bfloat16 matrices in hardware: half the memory, several times the speed of float32',
        '{device} 有 bfloat16 矩阵硬件：内存减半，速度是 float32 的数倍',
    ),
    'fp32': (
        '{device} has no bfloat16 arithmetic: float32 is the faster choice',
        '{device} 没有 bfloat16 硬件：float32 更快',
    ),
    'pack': (
        'rows are laid end to end in packs of {tokens} tokens: no padding, and products large enough for {device}',
        '样本首尾相接，每包 {tokens} 个 token：没有填充，矩阵也足够大',
    ),
    'keep': (
        'one pack keeps {activations:.1f} GB of activations, {free:.1f} GB are free; recomputing them costs time',
        '一包的激活约占 {activations:.1f} GB，可用 {free:.1f} GB；重算更费时间',
    ),
    'recompute': (
        'one pack keeps {activations:.1f} GB of activations, only {free:.1f} GB are free: recompute them',
        '一包的激活约占 {activations:.1f} GB，可用仅 {free:.1f} GB：用重算代替保存',
    ),
    'plain': (
        'the weights take {weights:.1f} GB of {free:.1f} GB free: quantising would only cost speed and accuracy',
        '权重占 {weights:.1f} GB，可用 {free:.1f} GB：量化只会损失速度和精度',
    ),
    'quantise': (
        'the weights take {weights:.1f} GB of {free:.1f} GB free: kept in 4 bit (nf4) they take a quarter',
        '权重占 {weights:.1f} GB，可用仅 {free:.1f} GB：用 4 比特（nf4）只需四分之一',
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """What the memory of a decoder model follows from."""

    parameters: int
    layers: int
    width: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A flag, the value for it, and why."""

    flag: str
    value: str
    reason: str


def recommend(machine: Machine, size: Size, language: str = 'en', *, longest: int = 4096) -> list[Choice]:
    """Method, precision, pack length, recomputation and quantisation for fine-tuning a model of this size here.

    Args:
        longest: most tokens of a pack; a step is one pack, so little data wants short ones.
    """
    gpu = max(machine.gpus, key=lambda g: g.memory, default=None)
    free = (gpu.memory if gpu and gpu.memory else machine.memory_free) * SAFE
    bf16 = machine.fast_bf16 or gpu is not None
    weights = size.parameters * (2 if bf16 else 4)
    longest = min(longest, 4096 if gpu else 1024)
    pack = next((n for n in PACKS if n <= longest and weights + _activations(size, n) < free), PACKS[-1])
    activations = _activations(size, pack)
    fits = RUNTIME + weights + activations < free
    facts = {
        'device': gpu.name if gpu else 'the CPU' if language == 'en' else '处理器',
        'tokens': pack,
        'free': free / SAFE / GB,
        'weights': weights / GB,
        'activations': activations / GB,
        'lora': (RUNTIME + weights + activations) / GB,
        'full': (RUNTIME + activations + size.parameters * 16) / GB,
    }
    reason = lambda key: REASONS[key][language == 'zh'].format(**facts)
    choices = [
        Choice('tuner_type', 'lora', reason('lora')),
        Choice('torch_dtype', 'bfloat16' if bf16 else 'float32', reason('bf16' if bf16 else 'fp32')),
        Choice('packing_length', str(pack), reason('pack')),
        Choice('gradient_checkpointing', 'false' if fits else 'true', reason('keep' if fits else 'recompute')),
    ]
    if weights < free / 2:
        return [*choices, Choice('quant_bits', 'none', reason('plain'))]
    return [*choices, Choice('quant_bits', '4', reason('quantise'))]


def _activations(size: Size, tokens: int) -> int:
    """Bytes kept for the backward pass of one pack."""
    return tokens * size.layers * size.width * ACTIVATION

"""Flags that choose a model and say how it is loaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class QuantArgs:
    """Quantisation of the weights while they are loaded (QLoRA)."""

    quant_method: Literal['bnb'] | None = None
    """Library that quantises the weights at load time."""
    quant_bits: Literal[4, 8] | None = None
    """Bits per weight. Given without quant_method, bnb is meant."""
    bnb_4bit_compute_dtype: Literal['float16', 'bfloat16', 'float32'] | None = None
    """Data type of the matrix products over 4-bit weights; None takes torch_dtype."""
    bnb_4bit_quant_type: Literal['fp4', 'nf4'] = 'nf4'
    """Code book of 4-bit weights."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the quantisation constants too: about 0.4 bit per weight less."""
    bnb_4bit_quant_storage: str | None = None
    """Data type in which packed 4-bit weights are stored."""


@dataclass(kw_only=True)
class ModelArgs(QuantArgs):
    """Which model, from where, in which form."""

    model: str | None = None
    """Model id of the hub, local folder or GGUF file; a checkpoint folder of a run works too."""
    model_type: str | None = None
    """Family name of the catalogue; None recognises it by config.json."""
    model_revision: str | None = None
    """Branch, tag or commit of the hub."""
    task_type: Literal['causal_lm', 'seq_cls', 'embedding', 'reranker', 'generative_reranker'] | None = None
    """What the model's head does; None means causal_lm, or seq_cls where num_labels is given."""
    num_labels: int | None = None
    """Number of classes for seq_cls; 1 is regression."""
    problem_type: Literal['regression', 'single_label_classification', 'multi_label_classification'] | None = None
    """What seq_cls learns; None: regression for one label, else one class of several."""
    reranker_positive_word: str = 'yes'
    """generative_reranker: the answer that a document is relevant."""
    reranker_negative_word: str = 'no'
    """generative_reranker: the answer that it is not."""
    torch_dtype: Literal['bfloat16', 'float16', 'float32'] | None = None
    """Data type of the weights; None takes the one of config.json."""
    attn_impl: str | None = None
    """Attention implementation: sdpa, eager, flash_attn, flash_attention_2, flash_attention_3, flex_attention."""
    device_map: dict | str | None = None
    """Where each part of the model goes: auto, cpu, cuda:0, JSON text or a JSON file."""
    max_memory: dict | str | None = None
    """Memory per device for device_map, as JSON: {"0": "20GB", "cpu": "60GB"}."""
    max_model_len: int | None = None
    """Longest sequence of the model; None takes the one of config.json."""
    rope_scaling: str | None = None
    """Longer positions: linear, dynamic, yarn, or JSON as in config.json."""
    new_special_tokens: list[str] = field(default_factory=list)
    """Tokens to add (the embeddings grow), or .txt files with one token a line."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    use_hf: bool = False
    """Take models and data from Hugging Face instead of ModelScope."""
    hub_token: str | None = field(default=None, repr=False)
    """Access token of the hub. Never written to any file."""
    adapters: list[str] = field(default_factory=list)
    """Adapter folders or ids; name=path gives one a name."""
    load_args: bool = False
    """Read args.json beside the checkpoint and fill what was not given."""
    load_data_args: bool = False
    """Read the data flags from that args.json as well."""


def split_adapter(text: str) -> tuple[str | None, str]:
    """``name=path`` as (name, path); a path alone has no name."""
    name, equals, path = text.partition('=')
    return (name, path) if equals and '/' not in name and not Path(text).exists() else (None, text)

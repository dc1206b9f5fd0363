"""A GGUF file as a plain model folder: unpacked once, by transformers, and kept in the cache by what it contains.

Blocks of 2 to 8 bits become bfloat16; a file of floats keeps its type, and every number.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import struct
from pathlib import Path
from typing import Any

from swift.core import cache, files
from swift.core.errors import ModelError

logger = logging.getLogger(__name__)

# Special token of a tokenizer -> key of the metadata that has its id.
SPECIAL = {
    'bos_token': 'tokenizer.ggml.bos_token_id',
    'eos_token': 'tokenizer.ggml.eos_token_id',
    'unk_token': 'tokenizer.ggml.unknown_token_id',
    'pad_token': 'tokenizer.ggml.padding_token_id',
}
# What llama.cpp writes instead of the parameters of Llama 3.1's rope: one factor for each frequency.
LLAMA3_FACTORS = 'rope_freqs.weight'
LLAMA3 = {
    'rope_type': 'llama3',
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
}


def convert(path: Path) -> Path:
    """The folder with config, safetensors and tokenizer that a GGUF file amounts to; made on the first call.

    Raises:
        ModelError: it is no GGUF file, one part of several, or of a kind that transformers does not read.
        DiskError: the cache is full.
    """
    if '-of-' in path.stem:
        raise ModelError(f'{path}: one part of a split GGUF file: join the parts first (llama-gguf-split --merge)')
    with path.open('rb') as file:
        if file.read(4) != b'GGUF':
            raise ModelError(f'{path}: not a GGUF file')
        file.seek(0)
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    final = cache.folder('gguf') / f'{path.stem}-{digest[:16]}'
    if not final.is_dir():
        logger.info('%s: unpacking it once, to %s', path.name, final)
        with contextlib.suppress(FileExistsError):  # another process was faster
            _unpack(path, final, digest)
    return final


def _unpack(path: Path, final: Path, digest: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig, PreTrainedTokenizerFast
    from transformers.integrations.gguf import GgufHeader, read_gguf_metadata

    source: dict[str, Any] = {'pretrained_model_name_or_path': path.parent, 'gguf_file': path.name}
    try:
        header = GgufHeader.from_file(str(path))
        metadata, _ = read_gguf_metadata(str(path))
        dtype = header.dtype or torch.bfloat16
        tokenizer = PreTrainedTokenizerFast.from_pretrained(**source)
        _name_special_tokens_(tokenizer, metadata)
        config = AutoConfig.from_pretrained(**source)
        config._name_or_path = ''
        _carry_rope_(config, header, metadata)
        model, report = AutoModelForCausalLM.from_pretrained(
            **source,
            config=config,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    except (ValueError, LookupError, OSError, RuntimeError, struct.error) as error:
        raise ModelError(f'{path}: transformers cannot read this GGUF file ({error})') from error
    if missing := sorted(report['missing_keys']):
        raise ModelError(f'{path}: {len(missing)} weights are not in the file: {", ".join(missing[:5])}')
    # A dequantised model still counts as quantised, and save_pretrained refuses those.
    model.hf_quantizer = None
    if hasattr(model.config, 'quantization_config'):
        del model.config.quantization_config
    size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    with files.commit(final, need=size, source=path.name, source_sha256=digest) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _name_special_tokens_(tokenizer: Any, metadata: dict[str, Any]) -> None:
    """Take the ids of the file: transformers 5.17 confuses them. To go when the window of versions starts later."""
    for name, key in SPECIAL.items():
        if key in metadata:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(metadata[key]))


# ---------------------------------------------------------------------------------------------------- positions
def _carry_rope_(config: Any, header: Any, metadata: dict[str, Any]) -> None:
    """Carry a scaling of positions over into ``config``; transformers leaves it behind for most architectures.

    Raises:
        ModelError: it is of a kind that cannot be carried over.
    """
    from transformers.integrations.gguf import load_gguf_state_dict

    names = header.ggml_types
    if LLAMA3_FACTORS in names:
        _carry_llama3_(config, load_gguf_state_dict(header)[LLAMA3_FACTORS][...])
        return
    if any(name.startswith('rope_factors_') for name in names):
        raise ModelError('its positions are scaled by tables (longrope): use the safetensors of this model')
    key = f'{header.architecture}.rope.scaling'
    kind, factor = metadata.get(f'{key}.type', 'none'), metadata.get(f'{key}.factor', 1.0)
    if kind == 'none' or factor == 1.0 or config.rope_parameters.get('rope_type') == kind:
        return
    if kind not in ('linear', 'yarn'):
        raise ModelError(f'its positions are scaled by {kind}: use the safetensors of this model')
    config.rope_parameters |= {'rope_type': kind, 'factor': factor}
    if kind == 'yarn':
        config.rope_parameters['original_max_position_embeddings'] = metadata[f'{key}.original_context_length']


def _carry_llama3_(config: Any, factors: Any) -> None:
    """The largest factor is the only unknown of Llama 3's rule; the rest must then agree with the file."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theta, width = config.rope_parameters['rope_theta'], 2 * len(factors)
    config.rope_parameters |= {**LLAMA3, 'factor': float(factors.max())}
    scaled, _ = ROPE_INIT_FUNCTIONS['llama3'](config)
    plain = theta ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    if len(scaled) != len(factors) or not torch.allclose(plain / scaled, factors, rtol=1e-3):
        raise ModelError("its positions are scaled by another rule than Llama 3's: use the safetensors of this model")

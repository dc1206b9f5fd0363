"""peft comes without bitsandbytes where no layer asks for it, and with it where one does."""

import subprocess
import sys

import pytest

pytest.importorskip('bitsandbytes')

PROGRAM = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from swift.models.peft import LoraConfig, for_layers_of, get_peft_model
config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(config)
{change}
with for_layers_of(model):
    tuned = get_peft_model(model, LoraConfig(target_modules=['q_proj'], task_type='CAUSAL_LM'))
layer = tuned.base_model.model.model.layers[0].self_attn.q_proj
print('bitsandbytes.nn' in sys.modules, type(layer).__name__)
"""
QUANTISED = """
import bitsandbytes as bnb
model.model.layers[0].self_attn.q_proj = bnb.nn.Linear4bit(16, 16)
model.is_quantized = model.is_loaded_in_4bit = True
"""


def _run(program: str) -> str:
    done = subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def test_a_plain_model_is_tuned_without_bitsandbytes():
    assert _run(PROGRAM.format(change='')) == 'False Linear'


def test_a_quantised_model_still_gets_quantised_adapters():
    assert _run(PROGRAM.format(change=QUANTISED)) == 'True Linear4bit'


def test_peft_finds_bitsandbytes_afterwards():
    program = (
        'import swift.models.peft, sys; from peft import helpers; from peft.import_utils import is_bnb_4bit_available;'
        'print(callable(helpers.bnb.functional.dequantize_4bit), is_bnb_4bit_available())'
    )
    assert _run(program) == 'True True'

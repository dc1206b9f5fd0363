"""Tokenizers of which every token can be read back, real chat templates, and short ways to ask for a mask.

The templates are those that trl ships, read where it is installed: none of them lies in this project.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from swift.core.types import Encoded, Message, ModelInfo, Sample
from swift.templates import make
from swift.templates.args import TemplateArgs
from tests import tiny

CONTROL = re.compile(
    r'<[|｜][^|｜<>\s]{1,40}[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|\[/?(?:INST|TOOL_CALLS|gMASK)\]'
    r'|</?(?:s|bos|eos|sop|think|tool_call|tool_response|start_of_turn|end_of_turn|end_of_utterance)>'
)
# Added tokens that real tokenizers do not flag as special: models write them.
PLAIN = {'<think>', '</think>', '<tool_call>', '</tool_call>', '<tool_response>', '</tool_response>'}
BOS = ('<|begin_of_text|>', '<bos>', '<BOS_TOKEN>', '<｜begin▁of▁sentence｜>', '<|startoftext|>', '<s>')
STOPS = {'glm4moe': ('<|user|>', '<|observation|>'), 'glm4moe_training': ('<|user|>', '<|observation|>')}
EOS = (
    '<|im_end|>', '<|eot_id|>', '</s>', '<|endoftext|>', '<｜end▁of▁sentence｜>', '<|END_OF_TURN_TOKEN|>', '<|return|>',
    '<end_of_turn>', '<turn|>', '<|eot|>', '<end_of_utterance>',
)  # fmt: skip


def controls(source: str) -> list[str]:
    """Control strings that a template writes."""
    return list(dict.fromkeys(found.group() for found in CONTROL.finditer(source)))


def bytes_tokenizer(source: str, *, bos: str | None = None, eos: str | None = None, plain=frozenset(PLAIN)):
    """One token per byte, and one for each control string of the template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bos = bos or next((name for name in BOS if name in source), '<s>')
    eos = eos or next((name for name in EOS if name in source), '</s>')
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([bos, eos, *controls(source)]))
    inner.add_special_tokens([AddedToken(name, normalized=False) for name in names if name not in plain])
    inner.add_tokens([AddedToken(name, normalized=False) for name in names if name in plain])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=eos)
    made.chat_template = source
    return made


def metaspace_tokenizer(source: str, *, scheme: str = 'first'):
    """SentencePiece's way, as Llama 2 and Mistral have it: a word begins with its blank."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token='<unk>'))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    alphabet = [*map(chr, range(32, 127)), '\n', '▁', 'é']
    specials = ['<unk>', '<s>', '</s>']
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    inner.train_from_iterator(tiny.CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token='<s>', eos_token='</s>', unk_token='<unk>')
    made.chat_template = source
    return made


def real(name: str, **flags):
    """A real template on its bytes tokenizer, with the stop tokens that its checkpoints name: (tokenizer, template)."""
    tokenizer = bytes_tokenizer(real_templates()[name])
    with TemporaryDirectory() as folder:
        stops = [tokenizer.convert_tokens_to_ids(stop) for stop in STOPS.get(name, ())]
        (Path(folder) / 'generation_config.json').write_text(json.dumps({'eos_token_id': stops}))
        return tokenizer, template(tokenizer, folder=Path(folder), **flags)


def template(tokenizer, *, folder: Path = Path('nowhere'), now=None, thinking=False, max_model_len=0, **flags):
    """The run's template for a tokenizer."""
    info = ModelInfo(
        path=folder, id='tiny', model_type='tiny', architecture='Tiny', dtype='float32', max_model_len=max_model_len,
        thinking=thinking,
    )  # fmt: skip
    return make(tokenizer, info, TemplateArgs(**flags), now=now)


def user(text: str) -> Message:
    return Message('user', text)


def answer(text: str, **more) -> Message:
    return Message('assistant', text, **more)


def system(text: str) -> Message:
    return Message('system', text)


def dicts(messages) -> list[dict]:
    """What apply_chat_template takes."""
    return [{'role': message.role, 'content': message.content} for message in messages]


def encode(made, *messages: Message, **more) -> Encoded:
    (encoded,) = made.encode(Sample(messages=messages, **more))
    return encoded


def weighted(encoded: Encoded, tokenizer) -> list[str]:
    """The stretches that carry loss, as text."""
    stretches, current = [], []
    for id, weight in zip([*encoded.input_ids.tolist(), 0], [*encoded.weight.tolist(), 0.0], strict=True):
        if weight:
            current.append(id)
        elif current:
            stretches.append(tokenizer.decode(current, skip_special_tokens=False))
            current = []
    return stretches


def masked(source: str, *messages: Message, **more) -> list[str]:
    """What a template trains of a conversation, on the bytes tokenizer."""
    tokenizer = bytes_tokenizer(source)
    return weighted(encode(template(tokenizer), *messages, **more), tokenizer)


@cache
def real_templates() -> dict[str, str]:
    """The chat templates of real models that trl ships, by name."""
    found = importlib.util.find_spec('trl')
    if found is None:
        return {}
    files = Path(found.origin).parent.glob('chat_templates/*.jinja')
    return {path.stem: path.read_text(encoding='utf-8') for path in sorted(files)}


ORIGINALS = sorted(name for name in real_templates() if not name.endswith('_training'))
TWINS = sorted(name for name in ORIGINALS if f'{name}_training' in real_templates())

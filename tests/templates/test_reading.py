"""Texts for heads: what they end with, where they are cut, and that encoders see what their tokenizer makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift.core.errors import ConfigError, RowError
from swift.core.types import Message, ModelInfo, Sample
from swift.templates import reading
from swift.templates.args import TemplateArgs
from swift.templates.sentence import SentenceTemplate
from tests import tiny

INFO = ModelInfo(Path('nowhere'), 'tiny', 'llama', 'LlamaForCausalLM', 'float32', 400)


@pytest.fixture(scope='module')
def tokenizer():
    return tiny.tokenizer()


def make(tokenizer, *, judges=False, **flags):
    return reading.make(tokenizer, INFO, TemplateArgs(**flags), judges=judges)


def text(tokenizer, encoded):
    return tokenizer.decode(encoded.input_ids)


def sample(*turns, **fields):
    roles = ('user', 'assistant')
    return Sample(tuple(Message(roles[i % 2], each) for i, each in enumerate(turns)), **fields)


def test_a_question_is_read_after_the_generation_prompt(tokenizer):
    [made] = make(tokenizer).encode(sample('Who are you?'))
    assert text(tokenizer, made) == '<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n'
    assert made.weight.tolist() == [0] * (len(made) - 1) + [1]


def test_a_document_counts_as_a_question(tokenizer):
    template = make(tokenizer)
    assert (template.encode(Sample(text='Paris'))[0].input_ids == template.encode(sample('Paris'))[0].input_ids).all()


def test_an_answer_is_read_as_it_is_trained(tokenizer):
    [made] = make(tokenizer).encode(sample('Who?', 'Me.'))
    assert text(tokenizer, made).endswith('<|im_start|>assistant\nMe.<|im_end|>\n')


@pytest.mark.parametrize(('strategy', 'part'), [('right', slice(0, 12)), ('left', slice(-12, None))])
def test_what_is_cut_is_still_read_at_its_end(tokenizer, strategy, part):
    [whole] = make(tokenizer).encode(sample('The quick brown fox jumps over the lazy dog.'))
    [cut] = make(tokenizer, max_length=12, truncation_strategy=strategy).encode(
        sample('The quick brown fox jumps over the lazy dog.')
    )
    assert (cut.input_ids == whole.input_ids[part]).all() and cut.weight[-1] == 1 and cut.truncated


def test_what_is_too_long_is_left_out_by_default(tokenizer):
    assert make(tokenizer, max_length=12).encode(sample('The quick brown fox jumps over the lazy dog.')) == []


def test_a_generative_reranker_is_asked_in_the_words_of_qwen3_reranker(tokenizer):
    [made] = make(tokenizer, judges=True).encode(sample('fox?', 'The fox jumps.'))
    assert text(tokenizer, made) == (
        '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct '
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a '
        'web search query, retrieve relevant passages that answer the query\n<Query>: fox?\n<Document>: The fox jumps.'
        '<|im_end|>\n<|im_start|>assistant\n'
    )
    with pytest.raises(RowError, match='a query and a document'):
        make(tokenizer, judges=True).encode(sample('fox?'))


def test_a_system_turn_is_the_instruction_of_a_reranker(tokenizer):
    row = Sample((Message('system', 'Find animals'), *sample('fox?', 'It jumps.').messages))
    [made] = make(tokenizer, judges=True).encode(row)
    assert '<Instruct>: Find animals\n<Query>: fox?' in text(tokenizer, made)


# ----------------------------------------------------------------------------------------------------------- sentences
def paired():
    """A tokenizer with the special tokens of encoders: [CLS] a [SEP] b [SEP]."""
    from tokenizers.processors import TemplateProcessing

    made = tiny.tokenizer()
    made.chat_template = None
    specials = [('<|im_start|>', 1), ('<|im_end|>', 2)]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single='<|im_start|> $A <|im_end|>', pair='<|im_start|> $A <|im_end|> $B <|im_end|>', special_tokens=specials
    )
    return made


def test_a_model_without_a_chat_template_reads_texts_by_its_tokenizer():
    tokenizer = paired()
    template = make(tokenizer)
    assert isinstance(template, SentenceTemplate)
    assert template.encode(sample('Paris'))[0].input_ids.tolist() == tokenizer('Paris').input_ids
    pair = template.encode(sample('capital?', 'Paris'))[0]
    assert pair.input_ids.tolist() == tokenizer('capital?', 'Paris').input_ids


def test_a_cut_text_keeps_its_special_tokens():
    tokenizer = paired()
    [made] = make(tokenizer, max_length=6, truncation_strategy='right').encode(sample('What is the capital of France?'))
    assert len(made) == 6 and (made.input_ids[0], made.input_ids[-1]) == (1, 2) and made.truncated


def test_plain_texts_are_asked_for_by_flag_and_a_reranker_that_asks_needs_a_chat(tokenizer):
    assert isinstance(make(tokenizer, use_chat_template=False), SentenceTemplate)
    with pytest.raises(ConfigError, match='needs a chat template'):
        make(tokenizer, judges=True, use_chat_template=False)


def test_an_empty_text_is_refused():
    with pytest.raises(RowError, match='nothing to read'):
        make(paired()).encode(sample(' '))

"""Which template a run gets, and when that is refused."""

import pytest

from swift.core.errors import ConfigError, TemplateError
from swift.templates import catalog
from swift.templates.args import TemplateArgs
from tests import tiny
from tests.templates.world import answer, bytes_tokenizer, encode, real_templates, system, template, user, weighted

CHATML = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
TALK = user('a'), answer('b'), user('c'), answer('d')


def text(tokenizer, *messages, **flags):
    return tokenizer.decode(encode(template(tokenizer, **flags), *messages).input_ids)


def test_the_checkpoint_s_own_template_is_taken():
    assert (
        text(bytes_tokenizer(CHATML), *TALK[:2])
        == '<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n'
    )


def test_a_jinja_file_is_taken(tmp_path):
    file = tmp_path / 'mine.jinja'
    file.write_text('{% for m in messages %}[{{ m.content }}]<|im_end|>{% endfor %}')
    assert text(bytes_tokenizer(CHATML), *TALK[:2], template=str(file)) == '[a]<|im_end|>[b]<|im_end|>'


def test_an_established_name_means_the_checkpoint_s_own():
    assert text(bytes_tokenizer(CHATML), *TALK, template='qwen3') == text(bytes_tokenizer(CHATML), *TALK)


def test_rows_with_tools_take_the_template_for_tools():
    tokenizer = bytes_tokenizer(CHATML)
    tokenizer.chat_template = {
        'default': CHATML,
        'tool_use': '{% for t in tools %}{{ t.function.name }};{% endfor %}' + CHATML,
    }
    made = template(tokenizer)
    rows = [encode(made, *TALK, tools=tools) for tools in ((), ({'name': 'find'},))]
    assert tokenizer.decode(rows[1].input_ids) == 'find;' + tokenizer.decode(rows[0].input_ids)


def test_several_templates_without_a_default_are_refused():
    tokenizer = bytes_tokenizer(CHATML)
    tokenizer.chat_template = {'rag': CHATML}
    with pytest.raises(ConfigError, match='none is called default'):
        template(tokenizer)


@pytest.mark.parametrize('flags, words', [
    ({'template': 'chatlm'}, 'did you mean .*chatml'),
    ({'template': 'nowhere.jinja'}, 'neither a .jinja file nor a named template'),
    ({'agent_template': 'hermess'}, 'did you mean hermes'),
    ({'agent_template': 'glm4_5'}, 'control tokens'),
    ({'agent_template': 'hermes', 'use_chat_template': False}, 'plain text'),
    ({'truncation_strategy': 'split'}, 'cuts plain text'),
    ({'loss_scale': 'nope'}, 'neither rules nor'),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_the_first_row(flags, words):
    with pytest.raises(ConfigError, match=words):
        template(bytes_tokenizer(CHATML), **flags)


def test_a_checkpoint_without_a_template_is_refused_with_the_ways_out():
    with pytest.raises(ConfigError, match='brings no chat template; give --template a name'):
        template(tiny.tokenizer(None))


@pytest.mark.skipif(not real_templates(), reason='trl is not installed')
def test_a_system_prompt_that_the_template_forbids_is_refused_at_once():
    with pytest.raises(ConfigError, match='--system: the chat template refuses this row: System role not supported'):
        template(bytes_tokenizer(real_templates()['gemma']), system='Be brief.')


def test_a_broken_generation_config_is_refused(tmp_path):
    (tmp_path / 'generation_config.json').write_text('{')
    with pytest.raises(TemplateError, match='not JSON'):
        template(bytes_tokenizer(CHATML), folder=tmp_path)


def test_the_system_prompt_may_be_a_file(tmp_path):
    file = tmp_path / 'system.txt'
    file.write_text('From a file')
    assert 'From a file' in text(bytes_tokenizer(CHATML), *TALK, system=str(file))


# -------------------------------------------------------------------------------------------------- named templates
@pytest.mark.parametrize('name', catalog.names())
def test_named_templates_train_the_answers_and_an_end(name):
    source = catalog.source(name, tiny.tokenizer()).text
    tokenizer = bytes_tokenizer(source, bos='<s>', eos='</s>')
    tokenizer.chat_template = None
    made = template(tokenizer, template=name)
    first, *_, last = weighted(encode(made, *TALK), tokenizer)
    assert first.startswith('b')
    assert last.startswith('d') and len(last) > 1
    assert len(weighted(encode(made, *TALK), tokenizer)) == 2


@pytest.mark.parametrize('name, expected', [
    ('default', 'You are a helpful assistant.\n\n### Human:\na\n\n### Assistant:\nb\n\n'
                '### Human:\nc\n\n### Assistant:\nd</s>'),
    ('chatml', '<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n'
               '<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n'),
    ('llama', '<s>[INST] a [/INST]b</s><s>[INST] c [/INST]d</s>'),
    ('mistral_nemo', '<s>[INST]a[/INST]b</s>[INST]c[/INST]d</s>'),
    ('zephyr', '<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nc</s>\n<|assistant|>\nd</s>'),
])  # fmt: skip
def test_named_templates_write_the_established_form(name, expected):
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    assert text(tokenizer, *TALK, template=name) == expected


def test_a_named_template_puts_the_system_prompt_in_its_place():
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    read = text(tokenizer, system("it's"), *TALK[:2], template='llama')
    assert read == "<s>[INST] <<SYS>>\nit's\n<</SYS>>\n\na [/INST]b</s>"


@pytest.mark.parametrize('row, words', [
    ((answer('b'),), 'a question first'),
    ((user('a'), user('b')), 'in turn'),
    ((user('a'), answer('b'), system('c')), 'in turn|only at the beginning'),
])  # fmt: skip
def test_a_named_template_refuses_what_it_cannot_write(row, words):
    from swift.core.errors import RowError

    with pytest.raises(RowError, match=words):
        text(bytes_tokenizer(''), *row, template='chatml')


def test_mistral_has_no_place_for_a_system_prompt():
    with pytest.raises(ConfigError, match='no place for a system prompt'):
        template(bytes_tokenizer(''), template='mistral', system='x')


def test_the_bos_token_comes_first_where_the_tokenizer_puts_one():
    from tokenizers.processors import TemplateProcessing

    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    assert not text(tokenizer, *TALK, template='chatml').startswith('<s>')
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        '<s> $A', special_tokens=[('<s>', tokenizer.bos_token_id)]
    )
    assert text(tokenizer, *TALK, template='chatml').startswith('<s><|im_start|>')


def test_a_family_s_named_template_serves_a_checkpoint_without_one():
    from pathlib import Path

    from swift.core.types import ModelInfo
    from swift.templates import make

    tokenizer = bytes_tokenizer('')
    tokenizer.chat_template = None
    info = ModelInfo(Path('nowhere'), 'x', 'x', 'X', 'float32', 0, template='zephyr')
    assert '<|user|>' in tokenizer.decode(encode(make(tokenizer, info, TemplateArgs()), *TALK).input_ids)


def test_the_catalogue_tells_of_every_template_and_needs_no_torch():
    import subprocess
    import sys

    assert [name for name, _ in catalog.rows()] == catalog.names()
    assert not catalog.established() & set(catalog.names())
    code = 'import sys; from swift.templates import catalog; catalog.rows(); sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------ fingerprint
def test_the_fingerprint_changes_with_whatever_changes_tokens():
    tokenizer = bytes_tokenizer(CHATML)
    same = template(tokenizer).fingerprint
    assert template(bytes_tokenizer(CHATML)).fingerprint == same
    grown = bytes_tokenizer(CHATML)
    grown.add_tokens(['covid'])
    others = [
        template(bytes_tokenizer(CHATML + ' ')), template(tokenizer, loss_scale='all'),
        template(tokenizer, max_length=9), template(tokenizer, max_model_len=9), template(tokenizer, system='x'),
        template(grown), template(tokenizer, thinking=True), template(tokenizer, use_chat_template=False),
    ]  # fmt: skip
    assert len({same, *(made.fingerprint for made in others)}) == len(others) + 1


def test_the_fingerprint_changes_with_the_content_of_a_file_of_rules(tmp_path):
    file = tmp_path / 'rules.json'
    prints = []
    for weight in (2, 3):
        file.write_text(f'{{"a": [{weight}]}}')
        prints.append(template(bytes_tokenizer(CHATML), loss_scale=str(file)).fingerprint)
    assert prints[0] != prints[1]

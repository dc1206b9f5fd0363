"""trl's training twins mark by hand what the assistant writes: another hand's mask for the same templates.

Where the two differ on purpose: a twin's block may begin with the header or with empty thinking that the template
inserts, and go on over what follows the stop token; gpt-oss's includes the channel before a plain answer.
"""

import re

import pytest

from swift.templates import thinking
from swift.templates.jinja import Source
from tests.templates.world import TWINS, answer, real, real_templates, user, weighted
from tests.templates.world import encode as ours

EMPTY_THINKING = re.compile(r'(<think>\s*</think>|<\|channel>thought\n<channel\|>)\s*')
HEADERS = re.compile(
    r'<\|start\|>assistant|<\|channel\|>final<\|message\|>|<｜Assistant｜>|(assistant)?to=user(<\|message\|>)?|<think>'
    r'|(?<=<\|end\|>)</s>'  # Phi 3 writes eos after the stop token of the last answer
)
ROWS = {
    'plain': (user('Question one'), answer('Alpha one'), user('Query two'), answer('Beta two')),
    'thinking': (user('Question one'), answer('Alpha one', reasoning='Because one')),
    'thinking twice': (
        user('Question one'), answer('Alpha one', reasoning='Because one'),
        user('Query two'), answer('Beta two', reasoning='Because two'),
    ),
}  # fmt: skip


def theirs(tokenizer, messages, parts):
    """The stretches that a twin marks."""
    told = [
        {
            'role': message.role,
            'content': [{'type': 'text', 'text': message.content}] if parts else message.content,
            **({'reasoning_content': message.reasoning} if message.reasoning else {}),
        }
        for message in messages
    ]
    out = tokenizer.apply_chat_template(told, return_assistant_tokens_mask=True, return_dict=True)
    stretches, before = [], 0
    for id, mark in zip(out['input_ids'], out['assistant_masks'], strict=True):
        if mark and not before:
            stretches.append([])
        if mark:
            stretches[-1].append(id)
        before = mark
    return [tokenizer.decode(stretch, skip_special_tokens=False) for stretch in stretches]


@pytest.mark.parametrize('name, kind', [
    (name, kind) for name in TWINS for kind in ROWS
    if kind == 'plain' or thinking.fields(Source(real_templates()[f'{name}_training']))
])  # fmt: skip
def test_our_mask_of_a_twin_is_its_own_without_headers_and_blanks(name, kind):
    tokenizer, made = real(f'{name}_training')
    reader = made._reader(tools=False)
    mine = weighted(ours(made, *ROWS[kind]), tokenizer)
    assert bare(mine) == bare(theirs(tokenizer, ROWS[kind], reader.style.parts))


def bare(stretches):
    """Stretches without what the two may mark differently."""
    text = re.sub(r'\s+', '', ''.join(EMPTY_THINKING.sub('', stretch) for stretch in stretches))
    return HEADERS.sub('', text)


@pytest.mark.parametrize('name', TWINS)
def test_the_original_s_mask_is_that_of_its_twin(name):
    """Deriving the mask from the original, without any block, gives what the blocks of the twin give."""
    stretches = []
    for each in (name, f'{name}_training'):
        tokenizer, made = real(each)
        stretches.append(
            [EMPTY_THINKING.sub('', stretch) for stretch in weighted(ours(made, *ROWS['plain']), tokenizer)]
        )
    assert stretches[0] == stretches[1]

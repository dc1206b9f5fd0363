"""Makes the shipped pairs: `python -m swift.data.builtin.build_pairs TREES ZH EN` rewrites pairs_*.jsonl.

In: TREES, ``model/model_eval/manual/data/en_100_tree.jsonl`` of the repository LAION-AI/Open-Assistant, conversations
whose answers volunteers wrote and ranked; ZH and EN, ``data/dpo_zh_demo.json`` and ``data/dpo_en_demo.json`` of
hiyouga/LLaMA-Factory; and what ``sources.yaml`` says is taken from them. Out: rows ``{"messages", "chosen",
"rejected", "tag"}``. Nothing is random.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from swift.data.builtin.build import HERE, write

Row = dict[str, Any]
ROLES = {'prompter': 'user', 'assistant': 'assistant', 'human': 'user', 'gpt': 'assistant', 'system': 'system'}


def ranked(trees: list[Row], take: Row) -> tuple[list[Row], list[Row]]:
    """Every two ranked answers to one prompt, the better first; the trees that are held out apart."""
    train, heldout = [], []
    for i, tree in enumerate(trees):
        if i not in take['without']:
            side = heldout if i % take['heldout'] == 0 else train
            side += pairs_of(tree['prompt'], (), take)
    return train, heldout


def pairs_of(message: Row, before: tuple[Row, ...], take: Row) -> Iterator[Row]:
    """The pairs of answers to a message, and of all that follows."""
    turns = (*before, {'role': ROLES[message['role']], 'content': message['text'].strip()})
    if message['role'] == 'prompter' and sum(len(each['content']) for each in turns) <= take['prompt']:
        answers = [each for each in message['replies'] if is_good(each, take)]
        for better, worse in itertools.combinations(sorted(answers, key=lambda each: each['rank']), 2):
            if better['text'].strip() != worse['text'].strip():
                yield row(turns, better['text'], worse['text'], 'en')
    for reply in message['replies']:
        yield from pairs_of(reply, turns, take)


def is_good(answer: Row, take: Row) -> bool:
    """Whether an answer was ranked and reviewed, and is short enough to train on quickly."""
    reviewed = answer.get('rank') is not None and answer['review_result'] and not answer['deleted']
    return (
        reviewed and len(answer['text']) <= take['answer'] and answer['message_id'][:8] not in take['without_answers']
    )


def demo(rows: list[Row], taken: list[int], tag: str) -> Iterator[Row]:
    """These rows of a sharegpt file with two answers."""
    for i in taken:
        turns = [{'role': ROLES[each['from']], 'content': each['value'].strip()} for each in rows[i]['conversations']]
        yield row(turns, rows[i]['chosen']['value'], rows[i]['rejected']['value'], tag)


def row(turns: Any, better: str, worse: str, tag: str) -> Row:
    return {'messages': list(turns), 'chosen': better.strip(), 'rejected': worse.strip(), 'tag': tag}


def main() -> None:
    """Rewrite all files."""
    trees, zh, en = (Path(each).read_text(encoding='utf-8') for each in sys.argv[1:])
    sources = yaml.safe_load((HERE / 'sources.yaml').read_text(encoding='utf-8'))
    train, heldout = ranked([json.loads(line) for line in trees.splitlines()], sources['open_assistant'])
    write('pairs_en.jsonl', train)
    write('pairs_en_heldout.jsonl', heldout)
    write('pairs_zh.jsonl', list(demo(json.loads(zh), sources['dpo_zh_demo']['rows'], 'zh')))
    for name, taken in sources['dpo_en_demo'].items():
        write(f'{name}.jsonl', list(demo(json.loads(en), taken, 'en')))


if __name__ == '__main__':
    main()

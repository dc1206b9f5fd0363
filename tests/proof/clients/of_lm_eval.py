"""lm-eval's API models against a server: ``of_lm_eval.py URL MODEL FOLDER``. Prints what they measured as JSON.

FOLDER has the model's tokenizer. Two tasks are made here, so that nothing is downloaded: choices between four words,
and an answer that is written.
"""

import json
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

URL, MODEL, FOLDER = sys.argv[1:]
CHOICES = ['Paris', 'Rome', 'Berlin', 'Madrid']
COUNTRIES = ['France', 'Italy', 'Germany', 'Spain']
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_target: "{target}"
{more}
metric_list: [{{metric: {metric}}}]
"""
WRITES = 'generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}'


def tasks(home):
    """Two tasks in a folder."""
    rows = home / 'rows.jsonl'
    facts = [{'country': country, 'choices': CHOICES, 'gold': i} for i, country in enumerate(COUNTRIES)]
    rows.write_text('\n'.join(map(json.dumps, facts)))
    chooses = {'kind': 'multiple_choice', 'target': '{{gold}}', 'metric': 'acc', 'more': 'doc_to_choice: "{{choices}}"'}
    writes = {'kind': 'generate_until', 'target': '{{choices[gold]}}', 'metric': 'exact_match', 'more': WRITES}
    for name, row in (('chooses', chooses), ('writes', writes)):
        (home / f'{name}.yaml').write_text(TASK.format(name=name, rows=rows, **row))
    return TaskManager(include_path=str(home), include_defaults=False)


def measured(manager, kind, names, **given):
    """Responses by task, in the order of the rows."""
    found = lm_eval.simple_evaluate(
        model=kind, model_args=given, tasks=names, task_manager=manager, bootstrap_iters=0,
        apply_chat_template='chat' in kind,
    )  # fmt: skip
    rows = {name: sorted(found['samples'][name], key=lambda row: row['doc_id']) for name in names}
    return {name: [row['filtered_resps'] for row in rows[name]] for name in names}


with tempfile.TemporaryDirectory() as folder:
    manager = tasks(Path(folder))
    api = {'model': MODEL, 'num_concurrent': 2, 'max_retries': 1}
    plain = {**api, 'base_url': f'{URL}/completions', 'tokenizer': FOLDER, 'batch_size': 4}
    found = {
        'tokens': measured(manager, 'local-completions', ['chooses', 'writes'], **plain, tokenized_requests=True),
        'texts': measured(manager, 'local-completions', ['writes'], **plain, tokenized_requests=False),
        'chat': measured(manager, 'local-chat-completions', ['writes'], **api, base_url=f'{URL}/chat/completions'),
    }
print(json.dumps(found))

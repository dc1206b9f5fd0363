"""swift deploy of models that read: vectors, scores and classes over HTTP are those of swift infer."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import openai
import pytest

from swift import infer_main, run_deploy
from tests import tiny

TEXTS = ['Who are you?', 'The capital of France is Paris.', '你是谁？']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp('model') / 'tiny')


@pytest.fixture
def served(folder):
    """Opens a server of a task; gives ``ask(path, body) -> (status, answer)``."""
    made = []

    def open_(*flags):
        made.append(run_deploy(['--model', str(folder), '--port', '0', *flags], return_url=True))
        url = made[-1].__enter__()
        return url, lambda path, body: post(url, path, body)

    yield open_
    for each in made:
        each.__exit__(None, None, None)


def post(url, path, body):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    connection.request('POST', path, json.dumps(body), {'content-type': 'application/json'})
    response = connection.getresponse()
    status, answer = response.status, json.loads(response.read())
    connection.close()
    return status, answer


def inferred(folder, *flags):
    """What swift infer says of the texts."""
    rows = infer_main(['--model', str(folder), *flags, '--prompt', *TEXTS])
    return rows


def test_embeddings_are_those_of_infer_as_numbers_and_in_base64(folder, served):
    url, ask = served('--task_type', 'embedding')
    wanted = [row['response'] for row in inferred(folder, '--task_type', 'embedding')]
    client = openai.OpenAI(base_url=url, api_key='x', max_retries=0)
    for form in ('float', 'base64', None):
        more = {} if form is None else {'encoding_format': form}
        found = client.embeddings.create(model='tiny', input=TEXTS, **more)
        if form != 'base64':
            for each, vector in zip(found.data, wanted, strict=True):
                assert each.embedding == pytest.approx(vector, abs=1e-5)
    assert found.usage.prompt_tokens > 3
    for wrong in ([], [''], [[1, 2]], ''):
        assert ask('/v1/embeddings', {'input': wrong})[0] == 400
    assert ask('/v1/embeddings', {'input': 'word ' * 5000})[0] == 400
    assert ask('/v1/embeddings', {'input': 'x', 'model': 'nobody'})[0] == 404
    assert ask('/v1/chat/completions', {'messages': [{'role': 'user', 'content': 'x'}]})[0] == 404


def test_classes_are_those_of_infer(folder, served):
    flags = ['--task_type', 'seq_cls', '--num_labels', '3']
    _, ask = served(*flags)
    status, found = ask('/v1/classify', {'input': TEXTS})
    assert status == 200
    for each in found['data']:
        assert each['num_classes'] == 3
        assert sum(each['probs']) == pytest.approx(1)
        assert each['label'] == max(range(3), key=lambda i: each['probs'][i])


def test_documents_are_put_in_order_and_scored(served):
    _, ask = served(
        '--task_type', 'generative_reranker', '--reranker_positive_word', 'a', '--reranker_negative_word', 'b'
    )
    body = {'query': 'capital of France?', 'documents': ['Paris', 'a lazy dog', '42'], 'top_n': 2}
    status, found = ask('/v1/rerank', body)
    assert status == 200, found
    scores = [each['relevance_score'] for each in found['results']]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert found['results'][0]['document']['text'] == body['documents'][found['results'][0]['index']]
    status, pairs = ask('/v1/score', {'text_1': body['query'], 'text_2': body['documents']})
    assert [each['score'] for each in pairs['data']][found['results'][0]['index']] == pytest.approx(scores[0], abs=1e-5)
    status, pairs = ask('/v1/score', {'text_1': ['x', 'y'], 'text_2': ['u', 'v']})
    assert len(pairs['data']) == 2
    assert ask('/v1/score', {'text_1': ['x', 'y'], 'text_2': 'u'})[0] == 400

"""Requests with pictures: the tokens that transformers' own ``generate`` gives, whoever is answered beside them."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from swift import models, templates
from swift.core.errors import RequestError
from swift.core.types import Message, Request, Sampling
from swift.engines.native import cache as kv
from swift.engines.native.engine import NativeEngine
from swift.engines.native.padded import Group
from swift.engines.native.scheduler import Limits
from swift.models.args import ModelArgs
from swift.templates.args import TemplateArgs
from tests import seeing
from tests.engines.plain import held

GREEDY = Sampling(max_tokens=10, logprobs=0)


class World:
    """One family: its model, prompts with and without pictures, and what ``generate`` answers."""

    def __init__(self, folder):
        self.builder = models.load(ModelArgs(model=str(folder)), seeing=True)
        tokenizer, info, eye = self.builder.tokenizer, self.builder.info, self.builder.eye
        self.template = templates.make(tokenizer, info, TemplateArgs(), eye=eye)
        self.model = self.builder.build()

    def ask(self, name: str, *pictures: bytes, **how) -> Request:
        """A request that shows the pictures, then asks."""
        text = '<image>' * len(pictures) + f'What is {name}?'
        message = Message('user', text, pictures=tuple(range(0, 7 * len(pictures), 7)))
        ids = self.template.prompt([message], pictures=pictures)
        return Request(name, tuple(ids), replace(GREEDY, **how), pictures=pictures)

    @torch.no_grad()
    def generate(self, request: Request) -> list[int]:
        """Greedy tokens of transformers."""
        ids = torch.tensor([request.prompt_ids])
        seen = self.builder.eye.inputs(request.pictures, request.prompt_ids) if request.pictures else {}
        count = request.sampling.max_tokens
        options = {'max_new_tokens': count, 'do_sample': False, 'eos_token_id': None}
        whole = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **seen, **options)
        return whole[0, ids.shape[1] :].tolist()

    def engine(self, **limits) -> NativeEngine:
        return NativeEngine(
            self.model,
            decode=self.template.decode,
            limits=Limits(512, **limits),
            tokenizer=self.builder.tokenizer,
            eye=self.builder.eye,
        )


@pytest.fixture(scope='module', params=seeing.FAMILIES)
def world(request, tmp_path_factory):
    return World(seeing.folder(tmp_path_factory.mktemp('pictures') / request.param, request.param))


@pytest.fixture(scope='module')
def engine(world):
    made = world.engine()
    yield made
    made.close()


def ids(engine, request) -> list[int]:
    return [id for piece in engine.stream(request) for id in piece.ids]


def test_answers_are_those_of_generate_alone_and_beside_text_and_other_pictures(world, engine):
    counts = (0, 1, 2, 1, 0, 3)
    asked = [
        world.ask(f'number {i}', *(seeing.picture(7 * i + k, 40 + 25 * k, 50 + 9 * i) for k in range(count)))
        for i, count in enumerate(counts)
    ]
    wanted = [world.generate(request) for request in asked]
    assert [ids(engine, request) for request in asked] == wanted
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i, each=each: found.update({i: ids(engine, each)}))
        for i, each in enumerate(asked)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(asked))] == wanted


def test_two_pictures_with_the_same_ids_are_two_prompts(world, engine):
    asked = [world.ask(f'it {i}', seeing.picture(i), logprobs=3) for i in (1, 2)]
    asked = [replace(each, prompt_ids=asked[0].prompt_ids) for each in asked]
    first, second, again = (
        next(piece.logprobs for piece in engine.stream(each) if piece.logprobs)
        for each in (*asked, replace(asked[0], id='again'))
    )
    assert first == again
    assert first != second


def test_several_answers_grow_from_one_look(world, engine):
    request = world.ask('that', seeing.picture(3), n=3, temperature=1.0, seed=5)
    said = {i: [] for i in range(3)}
    for piece in engine.stream(request):
        said[piece.index] += piece.ids
    again = {i: [] for i in range(3)}
    for piece in engine.stream(replace(request, id='once more')):
        again[piece.index] += piece.ids
    assert said == again
    assert len({tuple(each) for each in said.values()}) > 1


def test_stop_words_limits_and_logprobs_are_those_of_text(world, engine):
    request = world.ask('this', seeing.picture(4), max_tokens=8)
    text = ''.join(piece.text for piece in engine.stream(request))
    word = text[3:5]
    stopped = list(engine.stream(replace(request, id='stop', sampling=replace(request.sampling, stop=(word,)))))
    assert ''.join(piece.text for piece in stopped) == text[: text.index(word)]
    assert stopped[-1].finish == 'stop'
    short = list(engine.stream(replace(request, id='short', sampling=replace(request.sampling, max_tokens=3))))
    assert (sum(len(piece.ids) for piece in short), short[-1].finish) == (3, 'length')
    assert sum(len(piece.logprobs) for piece in short) == 3


def test_an_aborted_request_leaves_nothing_behind(world):
    engine = world.engine(max_batch_size=1)
    with held(world.model, 4):
        pieces = [engine.stream(world.ask(f'request {i}', seeing.picture(i), max_tokens=200)) for i in range(6)]
        next(pieces[0])
        for i in range(6):
            engine.abort(f'request {i}')
    assert all(list(each)[-1].finish == 'abort' for each in pieces)
    deadline = time.monotonic() + 20
    while engine.stats()['running'] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ids(engine, request := world.ask('the next', seeing.picture(9))) == world.generate(request)
    engine.close()


def test_pictures_wait_for_room_in_memory(world):
    engine = world.engine(max_kv_tokens=256)  # a quarter of them beside pages
    asked = [world.ask(f'number {i}', seeing.picture(i), seeing.picture(i + 1)) for i in range(6)]
    running, said, ended = [], {each.id: [] for each in asked}, threading.Semaphore(0)

    def deliver(id: str, piece) -> None:
        running.append(engine.stats()['running'])
        if piece is None:
            ended.release()
        else:
            said[id] += piece.ids

    for each in asked:
        engine.begin(each, lambda piece, id=each.id: deliver(id, piece))
    assert all(ended.acquire(timeout=60) for _ in asked)
    assert max(running) <= max(1, 64 // min(len(each.prompt_ids) for each in asked)) < len(asked)
    assert list(said.values()) == [*map(world.generate, asked)]
    engine.close()


def test_numbers_can_be_asked_for_while_the_last_answer_of_a_batch_ends(world, engine):
    lane = engine._scheduler._padded
    lane.groups.append(Group(None, kv.make(world.model.config), [], []))
    assert engine.stats()['kv_used'] == 0
    lane.groups.pop()


def test_an_engine_that_is_closed_looks_at_nothing_more(world):
    before = set(threading.enumerate())
    engine = world.engine(max_batch_size=1)
    for i in range(8):
        engine.begin(world.ask(f'request {i}', seeing.picture(i), max_tokens=100), lambda item: None)
    began = set(threading.enumerate()) - before
    engine.close()
    for thread in began:
        thread.join(20)
    assert not any(thread.is_alive() for thread in began)


def test_a_model_without_eyes_refuses_pictures(world):
    engine = NativeEngine(world.model, decode=world.template.decode, limits=Limits(512))
    with pytest.raises(RequestError, match='takes text alone'):
        engine.begin(world.ask('a picture', seeing.picture(1)), lambda item: None)
    engine.close()

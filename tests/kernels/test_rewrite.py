"""What is rewritten of a forward, and what is left as its author wrote it."""

import functools
import inspect
import linecache

import pytest

from swift.kernels import rewrite


class Layer:
    def norm(self, x):
        return ('normed', x)

    def mlp(self, x):
        return ('mlp', x)

    def forward(self, x, y=1, *rest, scale=2, **options):
        """A sum, another name for it, a norm.

        And a docstring of several lines.
        """
        total = x + y * scale
        residual = total
        total = self.norm(total)
        return residual, total, self.__class__.__name__, rest, options

    def changed_between(self, x, y):
        total = x + y
        total = total * 2
        return self.norm(total)

    def name_taken(self, x, y):
        total = x + y
        total = x
        normed = self.norm(total)
        return normed

    def more_arguments(self, x, y):
        total = x + y
        normed = self.norm(total, 1)
        return normed

    def twice(self, x, y):
        total = x + y
        first = self.norm(total)
        total = first[1] + x
        second = self.mlp(total)
        return first, second


def together(x, delta, layer, name):
    return x + delta, ('together', name, x + delta)


def test_the_sum_and_its_norm_are_one_call_and_all_else_is_as_before():
    made = rewrite.rewritten(Layer.forward, {'norm'}, together)
    assert rewrite.sums(Layer.forward) == ('norm',)
    for args, options in (((3,), {}), ((3, 4, 5), {'scale': 1, 'other': 0})):
        residual, normed, *rest = Layer.forward(Layer(), *args, **options)
        assert made(Layer(), *args, **options) == (residual, ('together', 'norm', residual), *rest)
        assert normed == ('normed', residual)


def test_only_what_is_named_is_rewritten():
    assert rewrite.sums(Layer.twice) == ('norm', 'mlp')
    layer, made = Layer(), rewrite.rewritten(Layer.twice, {'mlp'}, together)
    assert made(layer, 1, 2) == (('normed', 3), ('together', 'mlp', 4))


@pytest.mark.parametrize('forward', [Layer.changed_between, Layer.name_taken, Layer.more_arguments, Layer.mlp, len])
def test_a_norm_of_something_else_than_the_sum_is_left(forward):
    assert rewrite.sums(forward) == ()


def decorated(forward):
    @functools.wraps(forward)
    def outer(self, *args, **kwargs):
        return 'decorated', forward(self, *args, **kwargs)

    return outer


def test_decorators_stay_around_it():
    made = rewrite.rewritten(decorated(decorated(Layer.forward)), {'norm'}, together)
    outer, (inner, (total, normed, *_)) = made(Layer(), 1)
    assert (outer, inner, total, normed) == ('decorated', 'decorated', 3, ('together', 'norm', 3))


def test_a_decorator_that_hides_the_function_is_an_error():
    hiding = functools.partial(Layer.forward)
    hiding.__wrapped__ = Layer.forward
    with pytest.raises(rewrite.CannotRewrite, match='decorator'):
        rewrite.rewritten(hiding, {'norm'}, together)


SOURCE = """
class L:
    def forward(self, x, y):
        total = x + y
        normed = self.norm(total)
        return normed
"""


def test_a_source_that_is_not_what_runs_is_not_rewritten():
    """As after an upgrade below a running process."""
    text, space = inspect.cleandoc(SOURCE), {}
    exec(compile(text, '<changed>', 'exec'), space)
    forward = space['L'].forward
    linecache.cache['<changed>'] = (len(text), None, text.replace('x + y', 'y + x').splitlines(True), '<changed>')
    assert rewrite.sums(forward) == ()
    with pytest.raises(rewrite.CannotRewrite, match='not what runs'):
        rewrite.rewritten(forward, {'norm'}, together)
    linecache.cache['<changed>'] = (len(text), None, text.splitlines(True), '<changed>')
    assert rewrite.rewritten(forward, {'norm'}, together)(Layer(), 1, 2) == ('together', 'norm', 3)


def test_tracebacks_point_into_the_author_s_source():
    with pytest.raises(TypeError) as error:
        rewrite.rewritten(Layer.forward, {'norm'}, together)(Layer(), 'a')
    author, called = error.traceback[-2:]
    assert (str(author.path), called.name) == (__file__, 'together')
    assert 'total = x + y * scale' in str(author.statement)

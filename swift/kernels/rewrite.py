"""A layer's own ``forward`` in which a residual sum and the norm of it are taken together.

Of ``x = a + b`` followed, after nothing but further names for ``x``, by ``n = self.norm(x)`` it makes
``x, normed = together(a, b, self, 'norm')`` and ``n = normed``. All else stays as the layer's author wrote it: what it
is called with, scaled by and gives, and the decorators around it, such as gradient checkpointing. The source that is
rewritten is first compiled as it is: it must give the very bytecode that runs.
"""

from __future__ import annotations
import __future__

import ast
import inspect
from collections.abc import Callable, Collection, Iterator
from functools import cache
from itertools import dropwhile
from types import CellType, CodeType, FunctionType
from typing import Any

Forward = Callable[..., Any]
TOGETHER, NORMED = '_together', '_normed'
"""Names in a rewritten function: no argument or variable of an author's begins so."""


class CannotRewrite(Exception):
    """Why a function stays as it is; one line."""


def sums(forward: Forward) -> tuple[str, ...]:
    """Attributes of ``self`` that a sum is handed to within ``forward``; none if its source is unknown."""
    return _sums(inspect.unwrap(forward))


@cache
def _sums(forward: Forward) -> tuple[str, ...]:
    try:
        return tuple(name for _, _, name in _pairs(_parsed(forward)))
    except CannotRewrite:
        return ()


def rewritten(forward: Forward, names: Collection[str], together: Forward) -> Forward:
    """``forward``, decorated as it is, in which the sums that go to ``names`` are computed by ``together``.

    Args:
        together: takes both sides of a sum, ``self`` and a name; returns the sum, and what is called so of it.

    Raises:
        CannotRewrite: its source is not what runs, or a decorator hides it.
    """
    inner: Any = getattr(forward, '__wrapped__', None)
    if inner is None:
        return _rewritten(forward, names, together)
    cells = [CellType(rewritten(inner, names, together)) if _holds(cell, inner) else cell for cell in _closure(forward)]
    if all(new is old for new, old in zip(cells, _closure(forward), strict=True)):
        raise CannotRewrite('a decorator of its forward hides it')
    return _with(forward, forward.__code__, cells)


def _closure(forward: Any) -> tuple[CellType, ...]:
    return getattr(forward, '__closure__', None) or ()


def _holds(cell: CellType, inner: Forward) -> bool:
    try:
        return cell.cell_contents is inner
    except ValueError:  # an empty cell
        return False


def _with(forward: Any, code: CodeType, cells: list[CellType]) -> Forward:
    """A function like ``forward`` that runs ``code``."""
    made = FunctionType(code, forward.__globals__, forward.__name__, forward.__defaults__, tuple(cells))
    made.__kwdefaults__ = forward.__kwdefaults__
    return made


def _rewritten(forward: Any, names: Collection[str], together: Forward) -> Forward:
    function = _parsed(forward)
    for total, norm, name in list(_pairs(function)):
        if name in names:
            assert isinstance(total.value, ast.BinOp)
            given = [total.value.left, total.value.right, ast.Name('self', ast.Load()), ast.Constant(name)]
            total.value = ast.copy_location(ast.Call(ast.Name(TOGETHER, ast.Load()), given, []), total.value)
            total.targets = [ast.Tuple([*total.targets, ast.Name(NORMED, ast.Store())], ast.Store())]
            norm.value = ast.copy_location(ast.Name(NORMED, ast.Load()), norm.value)
    outer = ast.parse(f'def make({TOGETHER}): pass').body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [function]
    made = _code(_code(_compiled(outer, forward), 'make'), forward.__name__)
    assert made.co_freevars == (TOGETHER,)
    return _with(forward, made, [CellType(together)])


def _pairs(function: ast.FunctionDef) -> Iterator[tuple[ast.Assign, ast.Assign, str]]:
    """Statements ``x = a + b`` and ``n = self.name(x)``, and the name."""
    for place, statement in enumerate(function.body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=total)], value=ast.BinOp(op=ast.Add())):
                after = dropwhile(lambda each, x=total: _renames(each, x), function.body[place + 1 :])
                norm = next(after, None)
                if isinstance(norm, ast.Assign) and (name := _called(norm, total)):
                    yield statement, norm, name


def _renames(statement: ast.stmt, name: str) -> bool:
    """Whether it only gives a second name to ``name``."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=other)], value=ast.Name(id=given)):
            return given == name != other
    return False


def _called(statement: ast.Assign, name: str) -> str | None:
    """``called`` where the statement is ``n = self.called(name)``."""
    match statement:
        case ast.Assign(
            targets=[ast.Name()],
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id='self'), attr=called), args=[ast.Name(id=given)], keywords=[]
            ),
        ) if given == name:
            return called
    return None


def _parsed(forward: Any) -> ast.FunctionDef:
    """The source of a function, without decorators, if that is what runs."""
    if not isinstance(forward, FunctionType) or forward.__closure__:
        raise CannotRewrite('its forward is not a plain function')
    try:
        block = ast.parse(f'if True:\n{inspect.getsource(forward)}').body[0]  # indented as it is: docstrings stay
    except (OSError, SyntaxError) as error:
        raise CannotRewrite(f'its source is not known ({error})') from None
    function = block.body[0] if isinstance(block, ast.If) else None
    if not isinstance(function, ast.FunctionDef):
        raise CannotRewrite('its source is not a function')
    function.decorator_list = []
    ast.increment_lineno(function, forward.__code__.co_firstlineno - 2)
    if not _same(_code(_compiled(function, forward), forward.__name__), forward.__code__):
        raise CannotRewrite('its source is not what runs')
    return function


def _compiled(function: ast.FunctionDef, forward: Any) -> CodeType:
    flags = forward.__code__.co_flags & __future__.annotations.compiler_flag
    module = ast.fix_missing_locations(ast.Module([function], []))
    return compile(module, forward.__code__.co_filename, 'exec', flags=flags, dont_inherit=True)


def _code(outer: CodeType, name: str) -> CodeType:
    return next(each for each in outer.co_consts if isinstance(each, CodeType) and each.co_name == name)


def _same(found: CodeType, wanted: CodeType) -> bool:
    """Whether two pieces of code do the same, wherever they stand."""
    facts = ('co_code', 'co_names', 'co_varnames', 'co_cellvars', 'co_freevars', 'co_flags', 'co_argcount')
    if any(getattr(found, each) != getattr(wanted, each) for each in facts):
        return False
    if len(found.co_consts) != len(wanted.co_consts):
        return False
    return all(
        _same(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else (type(a), a) == (type(b), b)
        for a, b in zip(found.co_consts, wanted.co_consts, strict=True)
    )

"""The structure, read from the source: floors are kept, rooms of one floor do not meet, nothing goes in circles.

Imports count wherever they stand, inside functions too, and so do registry strings such as 'swift.data:load_dataset'.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'swift'
FLOORS = (
    ('core',),
    ('kernels', 'hub'),
    ('models', 'data', 'templates'),
    ('tuners', 'objectives', 'rewards', 'engines', 'parallel'),
    ('train', 'rollout', 'export', 'plan', 'serve', 'evaluate', 'bench', 'verify'),
    ('commands',),
    ('ui',),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACES = ('swift', 'swift.cli', 'swift.compat')  # above all floors: nobody imports them
REGISTRY_STRING = re.compile(r'(swift(?:\.\w+)+)(?::\w+)?')
VERSIONED = ('core', 'commands', 'plan', 'hub', 'train', 'bench', 'serve')  # they may ask for __version__

# Optional libraries and those that only one place may know; the file is the adapter.
ADAPTERS = {
    'bitsandbytes': ('models/quant.py', 'train/optim.py', 'bench/drivers/'),
    'modelscope': ('hub/modelscope.py',),
    'huggingface_hub': ('hub/huggingface.py',),
    'gguf': ('models/gguf.py',),
    'peft': ('models/peft.py', 'export/', 'bench/drivers/'),
    'pyarrow': ('data/tables/',),
    'wandb': ('train/track.py',),
    'swanlab': ('train/track.py',),
    'tensorboard': ('train/track.py',),
    'matplotlib': ('train/track.py', 'bench/plot.py'),
    'trl': ('bench/drivers/', 'verify/peers.py'),
    'datasets': ('bench/drivers/',),
    'llamafactory': ('bench/drivers/',),
    **dict.fromkeys(('fastapi', 'starlette', 'uvicorn', 'pydantic', 'h11'), ('serve/',)),
    'vllm': ('engines/vllm.py', 'bench/drivers/'),
}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in SOURCES.items()}


def room_of(module):
    return module.split('.')[1] if module.count('.') else ''


def imports_of(module):
    """Absolute dotted names that a module imports, or names in a registry string."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{module}: relative import; write it whole'
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                yield whole if whole in SOURCES else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = REGISTRY_STRING.fullmatch(node.value)
            if found and found[1] in SOURCES:
                yield found[1]
        elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'need':
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


IMPORTS = {module: sorted(set(imports_of(module))) for module in SOURCES}
OURS = {module: [name for name in names if name in SOURCES] for module, names in IMPORTS.items()}


def test_every_room_has_a_floor():
    assert {room_of(module) for module in SOURCES if module not in FACES} <= FLOOR.keys()


@pytest.mark.parametrize('module', [module for module in SOURCES if module not in FACES])
def test_imports_go_downward_and_never_across(module):
    here = room_of(module)
    wrong = [
        name
        for name in OURS[module]
        if name in FACES or (room_of(name) != here and FLOOR[room_of(name)] >= FLOOR[here])
    ]
    allowed = (
        ['swift'] if here in ('core', 'commands', 'plan', 'hub', 'train', 'bench', 'serve') else []
    )  # for __version__
    assert [name for name in wrong if name not in allowed] == []


def test_modules_do_not_go_in_circles():
    graph = {module: set(names) - {module} for module, names in OURS.items() if module not in FACES}
    while leaves := [module for module, names in graph.items() if not names & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f'a circle among: {", ".join(sorted(graph))}'


@pytest.mark.parametrize('library', ADAPTERS)
def test_a_special_library_is_imported_only_in_its_adapter(library):
    users = {
        str(SOURCES[module].relative_to(PACKAGE))
        for module, names in IMPORTS.items()
        if any(name.partition('.')[0] == library for name in names)
    }
    assert {user for user in users if not user.startswith(ADAPTERS[library] or ('-',))} == set()


@pytest.mark.parametrize('path', sorted(PACKAGE.glob('*/args.py')), ids=lambda path: path.parent.name)
def test_flags_are_inert(path):
    modules = {name.partition('.')[0] for name in IMPORTS[name_of(path)]}
    assert modules <= {'dataclasses', 'typing', 'pathlib', 'swift'}


def test_no_file_is_named_after_nothing():
    names = {path.stem for path in PACKAGE.rglob('*.py')}
    assert names & {'utils', 'util', 'common', 'helpers', 'helper', 'misc', 'base', 'manager'} == set()

"""Run by the Python of another environment: which version of a library it has, and the arguments its server takes.

``python -I ask_signature.py MODULE FILE CLASSES DISTRIBUTIONS`` prints one JSON object. The source is read, not
imported: that takes milliseconds, and needs neither the GPU nor the libraries that importing would need. Arguments are
the fields of the classes, and the words of ``add_argument`` calls.
"""

import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys


def main(module: str, file: str, classes: list[str], distributions: list[str]) -> dict:
    """What is found; ``version`` is None where the module is not there."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return {'distribution': None, 'version': None, 'arguments': []}
    found = [(name, version) for name in distributions if (version := version_of(name))]
    distribution, version = found[0] if found else (module, 'of an unknown version')
    arguments: list[str] = []
    with contextlib.suppress(OSError, SyntaxError):
        path = os.path.join(spec.submodule_search_locations[0], *file.split('/'))
        with open(path, encoding='utf-8') as source:
            arguments = sorted(names(ast.parse(source.read()), classes))
    return {'distribution': distribution, 'version': version, 'arguments': arguments}


def version_of(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def names(tree: ast.AST, classes: list[str]) -> set[str]:
    """Fields of these classes, and long words of ``add_argument``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            fields = (line.target for line in node.body if isinstance(line, ast.AnnAssign))
            found.update(field.id for field in fields if isinstance(field, ast.Name) and field.id[0] != '_')
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'add_argument':
            words = (word.value for word in node.args if isinstance(word, ast.Constant))
            found.update(word[2:].replace('-', '_') for word in words if str(word).startswith('--'))
    return found


if __name__ == '__main__':
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3].split(','), sys.argv[4].split(','))))

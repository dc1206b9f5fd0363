"""A YAML or JSON file as a tree that knows the line of everything in it.

Scalars stay text until the flag they belong to says what they are: ``no``, ``1e-4`` and ``on`` mean what a reader
expects, not what YAML 1.1 makes of them. Duplicate keys are errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError
from swift.core.flags import Kind

NULL = frozenset({'', '~', 'null', 'Null', 'NULL', 'none', 'None'})


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar (``content`` is its text), a list (of nodes) or a mapping (key -> node), and where it stands."""

    content: str | list[Node] | dict[str, Node]
    where: str  # 'run.yaml:7'
    quoted: bool = False

    def read(self, kind: Kind) -> Any:
        """The value for a flag of this kind. Raises ValueError saying what was expected."""
        if isinstance(self.content, str):
            if not self.quoted and self.content in NULL and self.content not in kind.choices:
                return kind.read_value(None)
            return kind.read_text(self.content, quoted=self.quoted)
        if isinstance(self.content, list) and kind.many:
            return [item.read(Kind(kind.base, kind.choices)) for item in self.content]
        return kind.read_value(self.plain())

    def plain(self) -> Any:
        """The subtree as Python values, with JSON's types for unquoted scalars."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        if self.quoted:
            return self.content
        if self.content in NULL:
            return None
        if self.content in ('true', 'True', 'false', 'False'):
            return self.content.lower() == 'true'
        for number in (int, float):
            try:
                return number(self.content)
            except ValueError:
                continue
        return self.content


def load(path: str) -> Node:
    """The tree of a YAML or JSON file.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key twice, or is not a mapping at its top.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding='utf-8')
    except FileNotFoundError:
        raise ConfigError(f'{path}: there is no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read ({error})') from error
    if path.endswith('.json'):
        text = text.replace('\t', ' ')  # JSON allows tabs between tokens, YAML does not; strings hold none
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'{path}:{mark.line + 1}' if mark else path
        raise ConfigError(f'{where}: {getattr(error, "problem", None) or error}') from error
    if root is None:
        return Node({}, f'{path}:1')
    tree = _node(root, path)
    if not isinstance(tree.content, dict):
        raise ConfigError(f'{path}: expected "name: value" lines at the top')
    return tree


def _node(raw: Any, path: str) -> Node:
    where = f'{path}:{raw.start_mark.line + 1}'
    if raw.id == 'scalar':
        return Node(_whole(raw.value), where, quoted=raw.style is not None)
    if raw.id == 'sequence':
        return Node([_node(item, path) for item in raw.value], where)
    mapping: dict[str, Node] = {}
    for key, value in raw.value:
        place = f'{path}:{key.start_mark.line + 1}'
        if key.id != 'scalar':
            raise ConfigError(f'{place}: a key must be a name')
        if key.value in mapping:
            raise ConfigError(f'{place}: {key.value} is given twice; it stands already in {mapping[key.value].where}')
        child = _node(value, path)
        mapping[key.value] = Node(child.content, place, child.quoted)
    return Node(mapping, where)


def _whole(text: str) -> str:
    """JSON writes one emoji as two escapes; YAML reads two halves. Join them."""
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')

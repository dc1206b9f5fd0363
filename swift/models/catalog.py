"""The families of models that are known by name: ``catalog/*.yaml`` as values.

A family is a line of the catalogue: models of one type that share a template. Nothing here is needed to run a model;
it says which named template suits a checkpoint that brings none, and what a model is called on the other hub.

    - model_type: yi                            # value of --model_type; several lines may share it
      architectures: [LlamaForCausalLM]         # as in config.json
      template: chatml                          # for checkpoints without a chat template of their own
      thinking: true                            # hybrid: it answers with or without thinking
      remote_code: true                         # transformers has no class for it
      ids: ['01ai/Yi-{6B,34B}{,-Chat}']         # ids of ModelScope, with braces as in a shell
      hf: {01ai: 01-ai}                         # owner or id there -> owner or id on Hugging Face (null: not there)
      hf_ids: []                                # ids that only Hugging Face has
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).with_name('catalog')


@dataclass(frozen=True, slots=True)
class Model:
    """One model's id on each hub; None where it is not."""

    modelscope: str | None
    huggingface: str | None

    @property
    def ids(self) -> tuple[str, ...]:
        """Its ids, ModelScope's first."""
        return tuple(dict.fromkeys(id for id in (self.modelscope, self.huggingface) if id))


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one type that share a template. ``aliases`` are older names of the type."""

    model_type: str
    architectures: tuple[str, ...]
    models: tuple[Model, ...]
    template: str | None = None
    thinking: bool = False
    remote_code: bool = False
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@cache
def families() -> tuple[Family, ...]:
    """The whole catalogue."""
    import yaml  # here, so that reading flags imports none of it

    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    files = sorted(FOLDER.glob('*.yaml'))
    return tuple(_family(row) for file in files for row in yaml.load(file.read_text(encoding='utf-8'), loader))


def rows() -> Iterator[tuple[str, str, str]]:
    """(id, family, template) of every model, for tables."""
    for family in families():
        for model in family.models:
            yield ' | '.join(model.ids), family.model_type, family.template or ''


def of_type(name: str) -> list[Family]:
    """Families with this value of ``--model_type``, or this older name of one.

    Raises:
        ConfigError: there is none.
    """
    found = [family for family in families() if name in (family.model_type, *family.aliases)]
    if not found:
        known = {each for family in families() for each in (family.model_type, *family.aliases)}
        raise ConfigError(
            f'--model_type {name}: not in the catalogue{did_you_mean(name, known)} See: swift show models'
        )
    return found


def of_id(name: str) -> list[Family]:
    """Families that have a model whose id ends like this id or path; case does not matter."""
    return _by_suffix().get(_suffix(name), [])


def of_architecture(name: str) -> list[Family]:
    """Families with this architecture."""
    return [family for family in families() if name in family.architectures]


def id_on(name: str, *, use_hf: bool) -> str:
    """What this hub calls a model that is known by its id on either; any other name as it is."""
    for family in of_id(name):
        for model in family.models:
            here = model.huggingface if use_hf else model.modelscope
            if here and name.lower() in (id.lower() for id in model.ids):
                return here
    return name


def expand(pattern: str) -> list[str]:
    """All strings that a pattern with braces stands for: ``a{,-b{1,2}}`` is a, a-b1, a-b2."""
    start = pattern.find('{')
    if start < 0:
        return [pattern]
    choices, depth, begin = [], 0, start + 1
    for end in range(start, len(pattern)):
        depth += {'{': 1, '}': -1}.get(pattern[end], 0)
        if pattern[end] in ',}' and depth == (1 if pattern[end] == ',' else 0):
            choices.append(pattern[begin:end])
            begin = end + 1
        if depth == 0:
            break
    heads = [pattern[:start] + each for choice in choices for each in expand(choice)]
    return [head + tail for head in heads for tail in expand(pattern[begin:])]


# ------------------------------------------------------------------------------------------------------- reading
def _family(row: dict[str, Any]) -> Family:
    """One row of YAML. An unknown key is a TypeError: the files are ours."""
    ids = [id for pattern in row.pop('ids', ()) for id in expand(pattern)]
    renamed = _pairs(row.pop('hf', {}))
    models = [Model(id, _on_huggingface(id, renamed)) for id in ids]
    models += [Model(None, id) for pattern in row.pop('hf_ids', ()) for id in expand(pattern)]
    lists = {key: tuple(row.pop(key, ())) for key in ('architectures', 'aliases', 'tags')}
    return Family(models=tuple(models), **lists, **row)


def _pairs(patterns: dict[str, str | None]) -> dict[str, str | None]:
    """Both sides of a renaming expanded, one to one."""
    pairs: dict[str, str | None] = {}
    for key, value in patterns.items():
        keys = expand(key)
        pairs |= dict(zip(keys, expand(value) if value else [None] * len(keys), strict=True))
    return pairs


def _on_huggingface(id: str, renamed: dict[str, str | None]) -> str | None:
    if id in renamed:
        return renamed[id]
    owner, _, name = id.partition('/')
    owner = renamed.get(owner, owner)
    return f'{owner}/{name}' if owner else None


@cache
def _by_suffix() -> dict[str, list[Family]]:
    index: dict[str, list[Family]] = {}
    for family in families():
        for suffix in {_suffix(id) for model in family.models for id in model.ids}:
            index.setdefault(suffix, []).append(family)
    return index


def _suffix(name: str) -> str:
    return name.rstrip('/').rpartition('/')[2].lower()

"""The parser: kinds of values, layers and their precedence, provenance, the one report, and what is written."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.config import Config, dump, from_values, parse, settle
from swift.core.document import load
from swift.core.errors import ConfigError
from swift.core.flags import Kind, documentation, flags_of
from swift.core.vocabulary import Alias, Vocabulary


@dataclass(kw_only=True)
class Paint:
    """How it looks."""

    color: Literal['red', 'green', 'no'] = 'red'
    """The colour,
    in one word."""
    layers: list[str] = field(default_factory=list)
    """Layers."""
    glossy: bool = True
    """Shiny."""
    matte: bool | None = None
    """Dull."""
    options: dict | str | None = None
    """More, as JSON."""
    paint_token: str | None = None
    """Secret."""


@dataclass(kw_only=True)
class Size:
    """How big it is."""

    width: int = 1
    """Width."""
    ratio: float | None = None
    """Ratio."""
    weights: list[float] | None = None
    """Weights."""
    name: str | None = None
    """Name."""
    size_name: str | None = None
    """Another."""


@dataclass(kw_only=True)
class BoxConfig(Config):
    """A box."""

    verb: ClassVar[str] = 'box'
    paint: Paint = field(default_factory=Paint)
    size: Size = field(default_factory=Size)

    def derive(self):
        self.fill('ratio', self.size.width / 2)

    def check(self):
        if not self.size.name:
            yield 'name', '--name is missing'


@pytest.fixture
def words(tmp_path):
    """A vocabulary with one of everything."""
    rows = [
        'name\tverbs\tstate\tvalues\ttype\tdefault\tnote',
        'speed\tbox\tlater\t\tint\t1\t',
        'noise\tbox,crate\tidle\t\tint?\tnull\tit is quiet',
        'color\tbox\tlater\tblue|pink\t\t\t',
        'lid\tcrate\tlater\t\tbool\tfalse\t',
    ]
    path = tmp_path / 'rows.tsv'
    path.write_text('\n'.join(rows) + '\n')
    return Vocabulary(
        aliases={'colour': Alias('color'), 'shine': Alias('color', {'true': 'green', 'false': None})},
        values={'color': {'rot': 'red'}},
        paths={'look.c': Alias('color'), 'look.wh': Alias('width ratio'), 'look.auto': Alias(None, {'auto': None})},
        sections=frozenset({'look', 'shape'}),
        variables={'BOX_WIDTH': 'width', 'BOX_NOISE': 'noise', 'PAINT_TOKEN': 'paint_token'},
        table=path,
        elsewhere=lambda verb, name: '; it belongs to crate' if name == 'lid' else '',
    )


def box(*argv, vocabulary=Vocabulary(), environ=None):  # noqa: B008 - frozen
    return parse(BoxConfig, [*argv, '--name', 'n'], vocabulary, environ or {})


def problems(*argv, vocabulary=Vocabulary(), environ=None):  # noqa: B008 - frozen
    with pytest.raises(ConfigError) as caught:
        box(*argv, vocabulary=vocabulary, environ=environ)
    return caught.value.problems


# ------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ('argv', 'name', 'value'),
    [
        (['--width', '3'], 'width', 3),
        (['--width=-3'], 'width', -3),
        (['--width', '-3'], 'width', -3),
        (['--ratio', '1e-4'], 'ratio', 1e-4),
        (['--ratio', 'none'], 'ratio', 0.5),
        (['--matte'], 'matte', True),
        (['--matte', 'False'], 'matte', False),
        (['--matte', '1'], 'matte', True),
        (['--no_glossy'], 'glossy', False),
        (['--no-glossy'], 'glossy', False),
        (['--layers', 'a', 'b c', 'd'], 'layers', ['a', 'b c', 'd']),
        (['--layers', '["a", "b"]'], 'layers', ['a', 'b']),
        (['--layers', '[ab]_proj'], 'layers', ['[ab]_proj']),
        (['--layers=a'], 'layers', ['a']),
        (['--weights', '0.5', '1'], 'weights', [0.5, 1.0]),
        (['--options', '{"a": 1}'], 'options', {'a': 1}),
        (['--options', 'auto'], 'options', 'auto'),
        (['--size_name', ''], 'size_name', ''),
        (['--size_name=--x=1'], 'size_name', '--x=1'),
        (['--width', '2', '--width', '5'], 'width', 5),
    ],
)
def test_words_become_values_of_the_flags_type(argv, name, value):
    assert box(*argv).get(name) == value


@pytest.mark.parametrize(
    ('argv', 'part'),
    [
        (['--width', '3.5'], "--width: expected a whole number, got '3.5'"),
        (['--width', 'true'], 'expected a whole number'),
        (['--width'], '--width: needs a value: a whole number'),
        (['--width', '1', '2'], '--width: takes one value, got 2'),
        (['--ratio', 'nan'], 'expected a number'),
        (['--ratio', 'inf'], 'expected a number'),
        (['--glossy', 'maybe'], 'expected true or false'),
        (['--color', 'gren'], "--color: 'gren' is none of red, green, no; did you mean green?"),
        (['--options', '{"a": }'], 'is not JSON'),
        (['--options', 'no/such.json'], 'there is no file no/such.json'),
        (['--layers'], 'needs a value'),
        (['--weights', 'a'], 'expected a number'),
        (['--no_width'], 'no flag of swift box'),
    ],
)
def test_a_word_of_another_type_is_refused(argv, part):
    assert any(part in problem for problem in problems(*argv))


def test_a_json_file_is_read_where_json_is_expected(tmp_path):
    path = tmp_path / 'o.json'
    path.write_text('{"deep": {"a": [1, 2]}}')
    assert box('--options', str(path)).paint.options == {'deep': {'a': [1, 2]}}


def test_dashes_equal_underscores_and_abbreviations_are_refused():
    @dataclass(kw_only=True)
    class Group:
        long_flag_name: int = 0

    @dataclass(kw_only=True)
    class LongConfig(Config):
        verb: ClassVar[str] = 'long'
        group: Group = field(default_factory=Group)

    assert parse(LongConfig, ['--long-flag-name', '3'], Vocabulary(), {}).group.long_flag_name == 3
    with pytest.raises(ConfigError, match='did you mean long_flag_name'):
        parse(LongConfig, ['--long', '3'], Vocabulary(), {})


# ------------------------------------------------------------------------------------------------------- report
def test_all_problems_come_in_one_report(tmp_path, words):
    path = tmp_path / 'run.yaml'
    path.write_text('width: wide\nnonsense: 1\nlook:\n  colr: red\n')
    found = problems(str(path), '--rato', '1', '--speed', '2', vocabulary=words, environ={'BOX_WIDTH': 'w'})
    assert len(found) == 6
    assert any(problem.startswith(f'{path}:1: width: expected a whole number') for problem in found)
    assert any(problem.startswith(f'{path}:2: nonsense: no flag') for problem in found)
    assert any(f'{path}:4: look.colr' in problem and 'did you mean color' in problem for problem in found)
    assert any('--rato: no flag of swift box; did you mean ratio?' in problem for problem in found)
    assert any('--speed: not built yet' in problem for problem in found)
    assert any('BOX_WIDTH=w: expected a whole number' in problem for problem in found)


def test_a_mistyped_flag_is_not_also_called_missing():
    with pytest.raises(ConfigError) as caught:
        parse(BoxConfig, ['--nam', 'x'], Vocabulary(), {})
    assert caught.value.problems == ['--nam: no flag of swift box; did you mean name?']


def test_a_flag_of_another_verb_says_whose_it_is(words):
    assert problems('--lid', vocabulary=words) == ['--lid: no flag of swift box; it belongs to crate']


def test_a_secret_is_not_repeated_in_a_message(words):
    found = problems('--paint_token', 'very', 'secret', vocabulary=words)
    assert 'very' not in str(found)
    assert 'secret' not in str(problems('--widht', '1', vocabulary=words, environ={'PAINT_TOKEN': 'secret'}))


# -------------------------------------------------------------------------------------------- the three kinds
def test_a_flag_not_built_yet_is_refused_unless_it_has_its_default(words):
    assert problems('--speed', '2', vocabulary=words) == ['--speed: not built yet']
    assert box('--speed', '1', vocabulary=words).notes == []


def test_a_value_not_built_yet_is_refused_by_name(words):
    assert problems('--color', 'blue', vocabulary=words) == ['--color blue: not built yet']


def test_a_flag_without_effect_is_accepted_and_said_once(words):
    notes = box('--noise', '3', vocabulary=words, environ={'BOX_NOISE': '4'}).notes
    assert notes == ['accepted without effect here: noise (it is quiet)']


def test_an_old_name_maps_with_a_warning(words):
    config = box('--colour', 'green', vocabulary=words)
    assert config.paint.color == 'green'
    assert config.notes == ['--colour is an old name; write color']
    assert box('--shine', vocabulary=words).paint.color == 'green'
    assert box('--shine', 'false', vocabulary=words).paint.color == 'red'
    assert problems('--shine', 'perhaps', vocabulary=words) == ['--shine: expected true or false']


def test_an_old_value_maps(words):
    assert box('--color', 'rot', vocabulary=words).paint.color == 'red'


# -------------------------------------------------------------------------------------------------------- files
def test_yaml_scalars_mean_what_a_reader_expects(tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text(
        'color: no\nratio: 1e-4\nlayers: one\nmatte: null\nglossy: off\nsize_name: "none"\noptions: {a: 1e-3, b: no}\n'
    )
    config = box(str(path))
    assert (config.paint.color, config.size.ratio, config.paint.layers) == ('no', 1e-4, ['one'])
    assert (config.paint.matte, config.paint.glossy, config.size.size_name) == (None, False, 'none')
    assert config.paint.options == {'a': 1e-3, 'b': 'no'}


def test_provenance_names_file_and_line(tmp_path, words):
    path = tmp_path / 'run.yaml'
    path.write_text('# comment\n\nwidth: 4\nlook:\n  c: green\n')
    config = parse(BoxConfig, [str(path), '--name', 'n'], words, {'PAINT_TOKEN': 'x'})
    assert config.sources['width'] == f'{path}:3'
    assert config.sources['color'] == f'{path}:5'
    assert config.sources['name'] == 'command line'
    assert config.sources['paint_token'] == 'environment PAINT_TOKEN'
    assert config.sources['ratio'] == 'derived'
    assert config.sources['glossy'] == 'default'


def test_flags_go_before_files_files_before_environment_and_later_files_before_earlier(tmp_path, words):
    a, b = tmp_path / 'a.yaml', tmp_path / 'b.json'
    a.write_text('width: 2\ncolor: green\n')
    b.write_text('{\t"width": 3}')
    environ = {'BOX_WIDTH': '9'}
    assert box(vocabulary=words, environ=environ).size.width == 9
    assert box('--config', str(a), vocabulary=words, environ=environ).size.width == 2
    config = box('--config', str(a), str(b), vocabulary=words, environ=environ)
    assert (config.size.width, config.paint.color) == (3, 'green')
    assert box('--config', str(a), '--width', '1', vocabulary=words, environ=environ).size.width == 1


def test_sections_hold_flags_and_nested_names(tmp_path, words):
    path = tmp_path / 'run.yaml'
    path.write_text('look: {c: green, layers: [a, b], wh: [3, 0.5], auto: auto}\nshape: {name: deep}\n')
    config = parse(BoxConfig, [str(path)], words, {})
    assert (config.paint.color, config.paint.layers, config.size.name) == ('green', ['a', 'b'], 'deep')
    assert (config.size.width, config.size.ratio) == (3, 0.5)


@pytest.mark.parametrize(
    ('text', 'part'),
    [
        ('width: 1\nwidth: 2\n', ':2: width is given twice; it stands already in'),
        ('a: [1\n', 'run.yaml:2'),
        ('- a\n', 'expected "name: value" lines'),
        ('lok: {c: red}\n', ':1: lok: unknown section. Known: look, shape'),
        ('look: {auto: 3}\n', ':1: look.auto: expected auto'),
        ('ENV: [1]\n', 'ENV: expected "NAME: value" lines'),
        ('width: null\n', 'expected a whole number, got none'),
        ('width: [1, 2]\n', 'expected a whole number, got a list'),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(tmp_path, words, text, part):
    path = tmp_path / 'run.yaml'
    path.write_text(text)
    assert any(part in problem for problem in problems('--config', str(path), vocabulary=words))


def test_a_missing_file_and_a_stray_word_are_problems():
    found = problems('--config', 'no/such.yaml', 'stray')
    assert any('no/such.yaml: there is no such file' in problem for problem in found)
    assert any(problem.startswith('stray: expected a flag') for problem in found)


def test_the_env_section_counts_as_environment(tmp_path, words):
    path = tmp_path / 'run.yaml'
    path.write_text('ENV:\n  BOX_WIDTH: 7\n  MY_API_KEY: hidden\n  OTHER: "yes"\n')
    config = box('--config', str(path), vocabulary=words)
    assert config.size.width == 7
    assert config.environ == {'BOX_WIDTH': '7', 'MY_API_KEY': 'hidden', 'OTHER': 'yes'}
    assert 'hidden' not in dump(config).yaml
    assert 'OTHER: "yes"' in dump(config).yaml


def test_a_document_joins_the_halves_of_an_emoji_that_json_escapes(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps({'name': '😀'}))
    assert load(str(path)).content['name'].content == '😀'


# ------------------------------------------------------------------------------------------------------- python
def test_python_values_are_checked_like_words(tmp_path):
    config = from_values(BoxConfig, {'name': 'n', 'layers': ('a', 'b'), 'options': {'a': 1}, 'width': 2}, Vocabulary())
    assert (config.paint.layers, config.paint.options, config.sources['width']) == (['a', 'b'], {'a': 1}, 'python')
    for bad in ({'width': 1.5}, {'width': True}, {'glossy': 1}, {'name': ['x']}, {'glossy': None}, {'layrs': ['a']}):
        with pytest.raises(ConfigError):
            from_values(BoxConfig, {'name': 'n', **bad}, Vocabulary())


def test_a_configuration_built_from_its_groups_is_checked_and_completed():
    config = settle(BoxConfig(size=Size(name='n', width=4)), Vocabulary())
    assert (config.size.ratio, config.sources['width'], config.sources['ratio']) == (2, 'python', 'derived')
    with pytest.raises(ConfigError, match='--name is missing'):
        settle(BoxConfig(), Vocabulary())


def test_defaults_of_a_verb_override_those_of_its_groups():
    @dataclass(kw_only=True)
    class Wide(BoxConfig):
        verb: ClassVar[str] = 'wide'
        defaults: ClassVar[dict] = {'width': 9}

    assert Wide().size.width == 9
    assert Wide(size=Size(width=3)).size.width == 3
    assert flags_of(Wide)['width'].default == 9


def test_the_help_of_a_flag_is_the_docstring_below_it():
    assert documentation(Paint)['color'] == 'The colour, in one word.'


# --------------------------------------------------------------------------------------------------------- dump
def test_secrets_are_never_written(words):
    config = box('--paint_token', 'hidden', vocabulary=words)
    written = dump(config)
    assert config.paint.paint_token == 'hidden'
    assert 'hidden' not in written.yaml + json.dumps(written.args)


TEXT = st.text(st.characters(codec='utf-8', exclude_characters='\x00'), max_size=20)


@given(
    name=TEXT.filter(bool),
    layers=st.lists(TEXT, max_size=3),
    width=st.integers(-(10**20), 10**20),
    ratio=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    matte=st.none() | st.booleans(),
    color=st.sampled_from(['red', 'green', 'no']),
    options=st.none() | st.dictionaries(TEXT, st.integers() | st.booleans() | st.none() | TEXT, max_size=3),
)
def test_what_is_dumped_reads_back_the_same(tmp_path_factory, **values):
    config = from_values(BoxConfig, values, Vocabulary())
    path = tmp_path_factory.mktemp('dump') / 'config.yaml'
    path.write_text(dump(config).yaml, encoding='utf-8')
    again = parse(BoxConfig, [str(path)], Vocabulary(), {})
    for group in ('paint', 'size'):
        assert dataclasses.asdict(getattr(again, group)) == dataclasses.asdict(getattr(config, group))
    assert json.loads(json.dumps(dump(again).args)) == dump(config).args


@given(st.sampled_from(['int', 'float', 'bool', 'str', 'list[int]', 'a|b', 'dict?', 'str?']), TEXT)
def test_no_word_makes_the_reader_fail_otherwise_than_by_valueerror(kind, text):
    try:
        Kind.named(kind).read_words([text])
    except ValueError as error:
        assert str(error)

"""The configuration of each verb: which groups of flags it takes, what follows from what, and what must not be.

``resolve(verb, args)`` turns what ``*_main`` was given (an argument list, a dataclass or None) into the verb's
configuration, ready to run.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from swift.bench.args import BenchArgs
from swift.commands import checks, inherit
from swift.commands.args import AuditArgs, DoctorArgs, InspectArgs, PlanArgs, PluginArgs, ReferenceArgs, ShowArgs
from swift.commands.names import ALIASES, DEVIATIONS, ESTABLISHED, PATHS, SECTIONS, VALUES, VARIABLES
from swift.core.config import Config, asked, from_values, parse, settle
from swift.core.errors import ConfigError
from swift.core.flags import flags_of
from swift.core.layers import Given
from swift.core.log import get_logger, once
from swift.core.vocabulary import Vocabulary, read_table
from swift.data.args import DataArgs
from swift.engines.args import LIBRARIES, EngineArgs, GenerationArgs, LmdeployArgs, SglangArgs, VllmArgs, not_native
from swift.export.args import ExportArgs
from swift.models.args import ModelArgs, split_adapter
from swift.objectives import args as objectives
from swift.objectives.args import ObjectiveArgs, TaskArgs
from swift.objectives.distill_args import DistillArgs
from swift.serve import args as serving
from swift.serve.args import AppArgs, ServeArgs
from swift.templates.args import TemplateArgs
from swift.train.args import TrainArgs
from swift.tuners.args import TunerArgs
from swift.verify.args import VerifyArgs

ROWS_OF_A_STEP = 16  # gradient_accumulation_steps None fills a step up to this many rows


@dataclass(kw_only=True)
class ModelConfig(Config):
    """What every verb that loads a model shares: its checkpoint tells what it is."""

    model: ModelArgs = field(default_factory=ModelArgs)
    data: DataArgs = field(default_factory=DataArgs)
    template: TemplateArgs = field(default_factory=TemplateArgs)
    plugins: PluginArgs = field(default_factory=PluginArgs)

    def inherit(self, given: set[str]) -> list[Given]:
        """Settings out of the checkpoint's args.json."""
        inherit.place(self)
        return inherit.settings(self, given) if self.model.load_args else []

    def derive(self) -> None:
        """Names made absolute, texts read from files, defaults that depend on others."""
        model, template, data = self.model, self.template, self.data
        if model.model and Path(model.model).exists():
            model.model = str(Path(model.model).absolute())
        if model.quant_bits:
            self.fill('quant_method', 'bnb')
        if template.system is not None:
            template.system = checks.text_or_file(template.system)
        model.new_special_tokens = checks.tokens(model.new_special_tokens)
        for name in ('model_name', 'model_author'):
            names = getattr(data, name)
            if names is not None and len(names) == 1:
                setattr(data, name, names * 2)
        if model.num_labels is not None:
            self.fill('task_type', 'seq_cls')
        self.fill('use_chat_template', model.task_type != 'embedding')

    def check(self) -> Iterator[tuple[str, str]]:
        """Missing model or files, and numbers out of range."""
        yield from checks.ranges(self)
        yield from checks.paths(self)
        if not self.model.model and not (self.model.load_args and self.remote_adapters()):
            hint = '' if self.model.load_args else ', or --load_args true to take it from the checkpoint'
            yield 'model adapters', f'--model is missing: give a model id, a local folder or a GGUF file{hint}'
        yield from checks.task(self)
        if self.model.quant_method and not self.model.quant_bits:
            yield 'quant_bits', '--quant_method needs --quant_bits 4 or 8'

    def remote_adapters(self) -> list[str]:
        """Adapters that are no local folders: they are downloaded before the model is known."""
        return [path for path in (split_adapter(a)[1] for a in self.model.adapters) if not Path(path).exists()]


@dataclass(kw_only=True)
class TrainConfig(ModelConfig):
    """What all training shares."""

    tuner: TunerArgs = field(default_factory=TunerArgs)
    train: TrainArgs = field(default_factory=TrainArgs)

    def inherit(self, given: set[str]) -> list[Given]:
        """A resumed run goes on with its own settings, wherever no other is given."""
        resumed = self.train.resume_from_checkpoint
        if resumed in ('last', 'best'):
            resumed = self.train.output_dir
        if resumed and not self.train.resume_only_model:
            return inherit.settings(self, given, resumed=resumed)
        return super().inherit(given)

    def derive(self) -> None:
        """The established derived defaults of training."""
        super().derive()
        model, data, train = self.model, self.data, self.train
        self.fill('learning_rate', 1e-5 if self.tuner.tuner_type == 'full' else 1e-4)
        rows = max(1, train.per_device_train_batch_size)
        self.fill('gradient_accumulation_steps', math.ceil(ROWS_OF_A_STEP / rows))
        if model.model:
            self.fill('output_dir', f'output/{Path(model.model).name}')
        if model.torch_dtype:
            self.fill('bf16', model.torch_dtype == 'bfloat16' and not train.fp16)
            self.fill('fp16', model.torch_dtype == 'float16' and not train.bf16)
        self._derive_evaluation()
        self.fill('metric_for_best_model', 'loss')
        self.fill('greater_is_better', 'loss' not in str(train.metric_for_best_model))
        self.fill('truncation_strategy', 'delete')
        if data.packing:
            self.fill('packing_length', self.template.max_length)
        if train.save_total_limit is not None and train.save_total_limit < 1:
            self.put('save_total_limit', None, self.sources['save_total_limit'])
        self.notes += checks.pointless(self)

    def check(self) -> Iterator[tuple[str, str]]:
        """Combinations that cannot work."""
        yield from checks.resuming(self)
        yield from super().check()
        yield from checks.training(self, evaluates=self._evaluates())
        if self.template.truncation_strategy == 'split' and self.verb != 'pt':
            yield (
                'truncation_strategy',
                '--truncation_strategy split: only swift pt can split a row; take delete or right',
            )

    def _derive_evaluation(self) -> None:
        """When to evaluate: as often as checkpoints are saved, and never without data."""
        train = self.train
        if train.eval_steps is not None and train.eval_steps <= 0:
            self.put('eval_strategy', 'no', self.sources['eval_steps'])
            train.eval_steps = None
        elif not self._evaluates() and train.eval_strategy not in (None, 'no'):
            self.notes.append('eval_strategy: there is no evaluation data (val_dataset or split_dataset_ratio)')
            self.put('eval_strategy', 'no', 'derived')
        self.fill('eval_strategy', train.save_strategy if self._evaluates() else 'no')
        self.fill('eval_steps', train.save_steps)

    def _evaluates(self) -> bool:
        return bool(self.data.val_dataset) or self.data.split_dataset_ratio > 0


@dataclass(kw_only=True)
class SftConfig(TrainConfig):
    """swift sft"""

    verb: ClassVar[str] = 'sft'

    task: TaskArgs = field(default_factory=TaskArgs)

    def derive(self) -> None:
        """The loss of the task."""
        super().derive()
        losses = objectives.TASK_LOSSES[self.model.task_type or 'causal_lm']
        if len(losses) > 1:
            self.fill('loss_type', losses[0])

    def check(self) -> Iterator[tuple[str, str]]:
        """Losses that the task does not have."""
        yield from super().check()
        yield from checks.loss_of_task(self)


@dataclass(kw_only=True)
class PtConfig(TrainConfig):
    """swift pt"""

    verb: ClassVar[str] = 'pt'
    defaults: ClassVar[dict[str, Any]] = {'loss_scale': 'all', 'use_chat_template': False}


@dataclass(kw_only=True)
class RlhfConfig(TrainConfig):
    """swift rlhf"""

    verb: ClassVar[str] = 'rlhf'
    defaults: ClassVar[dict[str, Any]] = {'loss_scale': 'last_round'}

    objective: ObjectiveArgs = field(default_factory=ObjectiveArgs)
    reference: ReferenceArgs = field(default_factory=ReferenceArgs)
    distill: DistillArgs = field(default_factory=DistillArgs)

    def derive(self) -> None:
        """The established derived defaults of alignment."""
        super().derive()
        method = self.objective.rlhf_type
        if method == 'orpo' and self.sources['loss_scale'] == 'default':
            self.put('loss_scale', 'default', 'derived')
        if method in ('rm', 'prm'):
            self.fill('task_type', 'seq_cls')
            self.fill('num_labels', 1)
        self.notes += objectives.notes(self.objective)

    def check(self) -> Iterator[tuple[str, str]]:
        """Methods that are not there, losses that they do not have, references that cannot be."""
        yield from super().check()
        yield from objectives.problems(self.objective)
        yield from checks.reference(self)
        yield from checks.teacher(self)


@dataclass(kw_only=True)
class InspectConfig(SftConfig):
    """swift inspect: takes what sft takes, so that the same file shows what a run would see."""

    verb: ClassVar[str] = 'inspect'
    like: ClassVar[str] = 'sft'

    inspect: InspectArgs = field(default_factory=InspectArgs)


@dataclass(kw_only=True)
class AlignedInspectConfig(RlhfConfig):
    """swift inspect --rlhf_type: takes what rlhf takes."""

    verb: ClassVar[str] = 'inspect'
    like: ClassVar[str] = 'rlhf'

    inspect: InspectArgs = field(default_factory=InspectArgs)


@dataclass(kw_only=True)
class PlanConfig(SftConfig):
    """swift plan: takes what sft takes, so that the same file tells whether the run fits. Data may be left out."""

    verb: ClassVar[str] = 'plan'
    like: ClassVar[str] = 'sft'

    plan: PlanArgs = field(default_factory=PlanArgs)

    def check(self) -> Iterator[tuple[str, str]]:
        """What makes the run impossible makes its plan so; only data need not be there."""
        yield from checks.but_data(super().check(), self)


@dataclass(kw_only=True)
class AlignedPlanConfig(RlhfConfig):
    """swift plan --rlhf_type: takes what rlhf takes."""

    verb: ClassVar[str] = 'plan'
    like: ClassVar[str] = 'rlhf'

    plan: PlanArgs = field(default_factory=PlanArgs)

    def check(self) -> Iterator[tuple[str, str]]:
        """As for ``swift plan``."""
        yield from checks.but_data(super().check(), self)


@dataclass(kw_only=True)
class _Verified(Config):
    """With a model, the run is checked when its own configuration is made: everything is left to that."""

    verb: ClassVar[str] = 'verify'
    defaults: ClassVar[dict[str, Any]] = {}

    verify: VerifyArgs = field(default_factory=VerifyArgs)

    def inherit(self, given: set[str]) -> list[Given]:
        """Left to the run."""
        return []

    def derive(self) -> None:
        """Left to the run."""

    def check(self) -> Iterator[tuple[str, str]]:
        """A model and its data, or neither."""
        yield from checks.verified(self)


@dataclass(kw_only=True)
class VerifyConfig(_Verified, SftConfig):
    """swift verify: takes what sft takes."""

    like: ClassVar[str] = 'sft'


@dataclass(kw_only=True)
class AlignedVerifyConfig(_Verified, RlhfConfig):
    """swift verify --rlhf_type: takes what rlhf takes."""

    like: ClassVar[str] = 'rlhf'


@dataclass(kw_only=True)
class AnswerConfig(ModelConfig):
    """What every verb that opens an engine shares (see ``engines.opening``)."""

    generation: GenerationArgs = field(default_factory=GenerationArgs)
    engine: EngineArgs = field(default_factory=EngineArgs)
    vllm: VllmArgs = field(default_factory=VllmArgs)
    sglang: SglangArgs = field(default_factory=SglangArgs)
    lmdeploy: LmdeployArgs = field(default_factory=LmdeployArgs)

    def derive(self) -> None:
        """Says which flags belong to engines that do not answer."""
        super().derive()
        chosen = self.engine.infer_backend
        for name, flag in flags_of(type(self)).items():
            library = flag.groups[0]
            if library in LIBRARIES and library != chosen and self.sources.get(name, 'default') != 'default':
                self.notes.append(f'{name}: belongs to --infer_backend {library}, and {chosen} answers')

    def check(self) -> Iterator[tuple[str, str]]:
        """Flags of the model that only the native engine follows."""
        yield from super().check()
        yield from not_native(self.model, self.engine.infer_backend)


@dataclass(kw_only=True)
class InferConfig(AnswerConfig):
    """swift infer"""

    verb: ClassVar[str] = 'infer'
    defaults: ClassVar[dict[str, Any]] = {'load_args': True}

    def check(self) -> Iterator[tuple[str, str]]:
        """Combinations that cannot work."""
        yield from super().check()
        has_data = self.data.dataset or self.data.val_dataset
        if self.engine.metric and not has_data:
            yield 'metric adapters', '--metric compares answers with data: give --val_dataset'
        if self.engine.prompt and has_data:
            yield 'prompt', '--prompt and a dataset at once: give one of them'
        if self.generation.num_beams > 1 and self.generation.stream:
            yield 'num_beams stream', '--stream true with --num_beams: the best answer is known when all are whole'
        if self.engine.images and has_data:
            yield 'images', '--images and a dataset at once: rows bring their own pictures, in a column images'


@dataclass(kw_only=True)
class DeployConfig(AnswerConfig):
    """swift deploy"""

    verb: ClassVar[str] = 'deploy'
    defaults: ClassVar[dict[str, Any]] = {'load_args': True}

    serve: ServeArgs = field(default_factory=ServeArgs)

    def derive(self) -> None:
        """Says which flags belong to swift infer."""
        super().derive()
        for name in serving.IDLE:
            if self.sources.get(name, 'default') != 'default':
                self.notes.append(f'{name}: belongs to swift infer; requests say it for themselves')

    def check(self) -> Iterator[tuple[str, str]]:
        """Addresses without a key, limits that cannot be, files that are not there."""
        yield from super().check()
        yield from self.problems()
        if self.generation.num_beams > 1:
            yield 'num_beams', '--num_beams: a server draws its answers; swift infer searches with beams'

    def problems(self) -> list[tuple[str, str]]:
        """Of where and how it is served."""
        return serving.problems(self.serve)


@dataclass(kw_only=True)
class AppConfig(DeployConfig):
    """swift app: takes what deploy takes. The page and the API under it have one address."""

    verb: ClassVar[str] = 'app'

    app: AppArgs = field(default_factory=AppArgs)

    def derive(self) -> None:
        """The address of the page is that of the server."""
        super().derive()
        for name, ours in (('host', 'server_name'), ('port', 'server_port')):
            if self.sources[name] != 'default':
                self.notes.append(f'{name}: belongs to swift deploy; --{ours} is where the page and its API are')
            self.put(name, getattr(self.app, ours), self.sources[ours])

    def check(self) -> Iterator[tuple[str, str]]:
        """A model or a server, one of them."""
        elsewhere = self.app.base_url
        for flags, text in super().check():
            if not (elsewhere and 'model' in flags.split()):
                yield flags, text
        if elsewhere and self.model.model:
            yield 'base_url model', '--base_url and --model: give one of them'
        if elsewhere and not elsewhere.startswith(('http://', 'https://')):
            yield 'base_url', f'--base_url {elsewhere}: expected an address such as http://127.0.0.1:8000/v1'
        if elsewhere and self.serve.host not in serving.LOOPBACK:
            yield 'base_url server_name', '--base_url: its page is served to this machine only; leave --server_name out'

    def problems(self) -> list[tuple[str, str]]:
        """Of where and how it is served."""
        return serving.problems(self.serve, 'server_name', 'server_port')


@dataclass(kw_only=True)
class ExportConfig(ModelConfig):
    """swift export"""

    verb: ClassVar[str] = 'export'
    defaults: ClassVar[dict[str, Any]] = {'load_args': True}

    export: ExportArgs = field(default_factory=ExportArgs)

    def derive(self) -> None:
        """The result stands beside the checkpoint."""
        super().derive()
        if self.model.adapters:
            _, path = split_adapter(self.model.adapters[0])
            self.fill('output_dir', f'{path.rstrip("/")}-merged')

    def check(self) -> Iterator[tuple[str, str]]:
        """There must be something to do."""
        if self.export.merge_lora and not self.model.adapters:
            yield 'adapters model', '--adapters is missing: give the checkpoint whose adapter is merged'
        yield from super().check()
        if not self.export.merge_lora:
            yield '', 'nothing to do: give --merge_lora true'


@dataclass(kw_only=True)
class MergeLoraConfig(ExportConfig):
    """swift merge-lora"""

    verb: ClassVar[str] = 'merge-lora'
    like: ClassVar[str] = 'export'
    defaults: ClassVar[dict[str, Any]] = {'load_args': True, 'merge_lora': True}


@dataclass(kw_only=True)
class ShowConfig(Config):
    """swift show"""

    verb: ClassVar[str] = 'show'

    show: ShowArgs = field(default_factory=ShowArgs)


@dataclass(kw_only=True)
class DoctorConfig(Config):
    """swift doctor"""

    verb: ClassVar[str] = 'doctor'

    doctor: DoctorArgs = field(default_factory=DoctorArgs)


@dataclass(kw_only=True)
class AuditConfig(Config):
    """swift audit"""

    verb: ClassVar[str] = 'audit'

    audit: AuditArgs = field(default_factory=AuditArgs)


@dataclass(kw_only=True)
class BenchConfig(Config):
    """swift bench"""

    verb: ClassVar[str] = 'bench'

    bench: BenchArgs = field(default_factory=BenchArgs)


CONFIGS: dict[str, type[Config]] = {
    config.verb: config
    for config in (
        SftConfig, PtConfig, RlhfConfig, InferConfig, DeployConfig, AppConfig, ExportConfig, MergeLoraConfig,
        InspectConfig, PlanConfig, VerifyConfig,
        ShowConfig, DoctorConfig, AuditConfig, BenchConfig,
    )
}  # fmt: skip

ALIGNED: dict[str, type[Config]] = {
    config.verb: config for config in (AlignedInspectConfig, AlignedPlanConfig, AlignedVerifyConfig)
}
"""Of verbs that look at a run, where --rlhf_type says that it is one of swift rlhf."""


def kinds(verb: str) -> tuple[type[Config], ...]:
    """The configurations that a verb may have."""
    return (CONFIGS[verb], *([ALIGNED[verb]] if verb in ALIGNED else []))


def kind_for(verb: str, given: Collection[str]) -> type[Config]:
    """The configuration of a verb for which somebody gives flags of these names."""
    return ALIGNED[verb] if verb in ALIGNED and 'rlhf_type' in given else CONFIGS[verb]


def elsewhere(verb: str, name: str) -> str:
    """Says which other verbs take a flag, or with which flag this one does; empty when none does."""
    if verb in ALIGNED and name in flags_of(ALIGNED[verb]).keys() - flags_of(CONFIGS[verb]).keys():
        return '; it belongs to swift rlhf: give --rlhf_type too'
    verbs = {other for other in CONFIGS for config in kinds(other) if name in flags_of(config)}
    for line in read_table(ESTABLISHED):
        if line['name'] == name:
            verbs.update(line['verbs'].split(','))
    verbs.discard(verb)
    return f'; it belongs to {", ".join(sorted(verbs))}' if verbs else ''


VOCABULARY = Vocabulary(ALIASES, VALUES, PATHS, SECTIONS, VARIABLES, ESTABLISHED, elsewhere)


def resolve(verb: str, args: Sequence[str] | Config | Mapping[str, Any] | Any | None = None) -> Any:
    """The verb's configuration, its environment set and its plug-ins imported. Says once what the user should know.

    Args:
        args: an argument list; the verb's configuration; a flat ``SftArguments`` and the like; a mapping from flags to
            values; None reads sys.argv.

    Raises:
        ConfigError: with every problem.
    """
    if isinstance(args, Config) and args.ready:
        return args
    config = _read(verb, args, [])
    if isinstance(config, ModelConfig) and config.model.load_args and (remote := config.remote_adapters()):
        config = _read(verb, args, [str(_fetch(name, config.model)) for name in remote])
    _enter(config)
    return config


def deviations(config: Config) -> list[str]:
    """Defaults in use that differ from those of ms-swift, one phrase each."""
    return [
        f'{row["flag"]} {row["ours"]}'
        for row in read_table(DEVIATIONS)
        if config.verb in row['verbs'].split(',')
        and config.sources.get(row['flag'], 'default') in ('default', 'derived')
    ]


def _read(verb: str, args: Any, adapters: list[str]) -> Config:
    """The configuration; ``adapters`` are the local folders of those that had to be downloaded."""
    if args is None or isinstance(args, (list, tuple)):
        words = list(sys.argv[1:] if args is None else args)
        kind = kind_for(verb, asked(words, VOCABULARY, os.environ))
        return parse(kind, [*words, *(['--adapters', *adapters] if adapters else [])], VOCABULARY, os.environ)
    if isinstance(args, Config):
        return settle(args, VOCABULARY)
    if isinstance(args, Mapping) or dataclasses.is_dataclass(args):
        values = dict(args) if isinstance(args, Mapping) else changed(args)
        return from_values(kind_for(verb, values), values | ({'adapters': adapters} if adapters else {}), VOCABULARY)
    raise ConfigError(f'swift {verb}: expected a list of arguments or a dataclass, got {type(args).__name__}')


def _fetch(name: str, model: ModelArgs) -> Path:
    """The local folder of an adapter on a hub."""
    from swift import hub

    return hub.fetch(name, use_hf=model.use_hf, token=model.hub_token)


def changed(args: Any) -> dict[str, Any]:
    """The fields of a flat dataclass that differ from its defaults: those are what the caller gave."""
    plain = type(args)()
    values = {spec.name: getattr(args, spec.name) for spec in dataclasses.fields(args)}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}


def _enter(config: Config) -> None:
    """Act upon what stands beside the flags: environment, notes, plug-ins."""
    os.environ.update(config.environ)
    for note in config.notes:
        get_logger().info(note)
    if differing := deviations(config):
        once(f'defaults that differ from ms-swift (swift show deviations): {", ".join(differing)}')
    for path in config.plugins.external_plugins if isinstance(config, ModelConfig) else ():
        _import_plugin(path)
    config.ready = True


def _import_plugin(path: str) -> None:
    name = f'swift_plugin_{Path(path).stem}'
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f'--external_plugins {path}: expected a Python file')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f'--external_plugins {path}: {type(error).__name__}: {error}') from error

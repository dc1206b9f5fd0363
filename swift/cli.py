"""``swift VERB [run.yaml] --flags``: find the verb, read the configuration, run it.

Nothing heavy is imported before the command line is known to be right.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from swift.core.errors import ConfigError, SwiftError, did_you_mean


@dataclass(frozen=True, slots=True)
class Verb:
    """A line of ``swift --help``. ``built`` verbs have a module in ``swift.commands``."""

    name: str
    en: str
    zh: str
    built: bool = False

    @property
    def module(self) -> str:
        """Where the verb's ``main`` is."""
        return f'swift.commands.{self.name.replace("-", "_")}'


VERBS = (
    Verb('sft', 'Fine-tune a model on conversations', '用对话数据微调模型', built=True),
    Verb('pt', 'Train on plain text (continued pre-training)', '用纯文本继续预训练', built=True),
    Verb('rlhf', "Align with people's preferences: DPO, KTO, GRPO ...", '偏好对齐：DPO、KTO、GRPO 等', built=True),
    Verb('infer', 'Chat, or answer a whole dataset', '聊天，或批量回答数据集', built=True),
    Verb('deploy', 'Serve behind the OpenAI API', '以 OpenAI 接口部署服务', built=True),
    Verb('rollout', 'Serve answers to a reinforcement learning run', '为强化学习提供采样服务'),
    Verb('sample', 'Draw many answers and keep the best', '多次采样并保留最好的回答'),
    Verb('eval', 'Measure a model on tasks', '评测模型'),
    Verb('export', 'Merge, quantise or convert a model', '合并、量化或转换模型', built=True),
    Verb('merge-lora', 'Merge an adapter into its model', '把适配器合并进模型', built=True),
    Verb('app', 'A chat page', '聊天网页', built=True),
    Verb('web-ui', 'Everything in the browser', '在浏览器中完成一切'),
    Verb('megatron sft', 'Fine-tune with Megatron-core', '用 Megatron-core 微调'),
    Verb('megatron pt', 'Pre-train with Megatron-core', '用 Megatron-core 预训练'),
    Verb('megatron rlhf', 'Align with Megatron-core', '用 Megatron-core 做偏好对齐'),
    Verb('megatron export', 'Convert to and from Megatron-core', '与 Megatron-core 互相转换'),
    Verb('plan', 'Will it fit, how long will it take, what to change', '显存够不够、要多久、该改什么', built=True),
    Verb('doctor', 'What is wrong with this machine', '检查这台机器有什么问题', built=True),
    Verb('inspect', 'Every token of a row with its role and loss weight', '逐个查看词元的角色与损失权重', built=True),
    Verb('verify', 'Check losses and fast paths against references', '用参考实现核对损失与加速路径', built=True),
    Verb('run', 'One YAML from data to API', '一个 YAML 从数据到接口'),
    Verb(
        'show', 'Flags, models, datasets, templates, a configuration', '列出参数、模型、数据集、模板或配置', built=True
    ),
    Verb('audit', 'Whether a log of requests is what was written', '核对请求审计日志是否被改动', built=True),
    Verb('bench', 'Speed and memory, side by side with others', '速度与显存对比测试', built=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. Errors of the user's making are one message, without traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SwiftError as error:
        if os.environ.get('SWIFT_DEBUG') == '1':
            raise
        sys.stderr.write(_message(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get('SWIFT_DEBUG') == '1':
            raise
        sys.stderr.write(f'swift: {type(error).__name__}: {error}\nSWIFT_DEBUG=1 shows where.\n')
        return 1


def megatron() -> int:
    """The console script ``megatron``: ``megatron sft`` is ``swift megatron sft``."""
    return main(['megatron', *sys.argv[1:]])


def _run(words: list[str]) -> int:
    lang = 'zh' if os.environ.get('SWIFT_LANG', '').lower().startswith('zh') else 'en'
    if not words or words[0] in ('-h', '--help', 'help'):
        print('\n'.join(_overview(lang)))
        return 0
    if words[0] in ('-V', '--version', 'version'):
        from swift import __version__

        print(f'swift {__version__}')
        return 0
    verb, rest = _find(words)
    if not verb.built:
        raise ConfigError(f'swift {verb.name}: not built yet. Built: {", ".join(v.name for v in VERBS if v.built)}')
    if '-h' in rest or '--help' in rest:
        from swift.commands.show import usage_of

        print('\n'.join(usage_of(verb.name, verb.zh if lang == 'zh' else verb.en, lang)))
        return 0
    if verb.name in ('show', 'bench', 'audit'):  # they take words, not files, before their flags
        return importlib.import_module(verb.module).main(rest)
    from swift.commands.configs import resolve
    from swift.core import startup

    startup.calm()
    config = resolve(verb.name, rest)
    result = importlib.import_module(verb.module).main(config)
    return result if isinstance(result, int) else 0


def _find(words: list[str]) -> tuple[Verb, list[str]]:
    """The verb at the beginning of a command line, and the words after it."""
    table = {verb.name: verb for verb in VERBS}
    name = words[0].replace('_', '-')
    if name == 'megatron':
        name, words = f'megatron {"".join(words[1:2])}'.strip(), words[1:]
    if name not in table:
        raise ConfigError(f'swift {name}: no such verb{did_you_mean(name, table)} swift --help lists them all')
    return table[name], words[1:]


def _overview(lang: str) -> list[str]:
    """What ``swift --help`` prints."""
    zh = lang == 'zh'
    later = '（尚未实现）' if zh else ' (not built yet)'
    lines = [
        '用法：swift 命令 [run.yaml ...] [--参数 值 ...]'
        if zh
        else 'Usage: swift VERB [run.yaml ...] [--flag value ...]',
        '',
    ]
    lines += [f'  {v.name:<16} {v.zh if zh else v.en}{"" if v.built else later}' for v in VERBS]
    end = 'swift 命令 --help 列出该命令的参数；' if zh else 'swift VERB --help lists the flags of a verb; '
    return [*lines, '', end + ('SWIFT_LANG=en 显示英文。' if zh else 'SWIFT_LANG=zh speaks Chinese.')]


def _message(error: SwiftError) -> str:
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    if len(problems) == 1:
        return f'swift: {problems[0]}\n'
    return f'swift: {len(problems)} problems\n' + ''.join(f'  {problem}\n' for problem in problems)


if __name__ == '__main__':
    sys.exit(main())

"""Flags of single verbs that belong to no room."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class PluginArgs:
    """Code of yours that is imported before anything else."""

    external_plugins: list[str] = field(default_factory=list)
    """Python files that register models, datasets, templates, tuners ..."""


@dataclass(kw_only=True)
class InspectArgs:
    """What swift inspect shows."""

    rows: int | None = None
    """Rows shown; None means 5 in a terminal, all with --json or --html."""
    json: bool = False
    """One JSON object a row: input_ids, tokens, weight, role, segment, or error."""
    html: bool | str = False
    """A page with every token in colour: to standard output, or to this file."""


@dataclass(kw_only=True)
class ShowArgs:
    """What swift show prints."""

    markdown: bool = False
    """Print a Markdown table."""
    json: bool = False
    """Print JSON."""


@dataclass(kw_only=True)
class DoctorArgs:
    """What swift doctor looks at, or builds."""

    json: bool = False
    """Print JSON."""
    install: Literal['vllm', 'sglang', 'lmdeploy'] | None = None
    """Build the environment in which --infer_backend finds this library, instead of looking."""


@dataclass(kw_only=True)
class AuditArgs:
    """What swift audit checks."""

    head: str | None = None
    """Hash of the last entry as it was kept elsewhere: shows whether lines were cut off since."""
    json: bool = False
    """Print JSON."""


@dataclass(kw_only=True)
class PlanArgs:
    """What swift plan is asked."""

    memory: str | None = None
    """Memory that the run must fit into: 24GiB, 16GB; None means what is free on this machine."""
    ladder: bool = False
    """Show what each change would bring though the run fits."""
    json: bool = False
    """Print JSON."""


@dataclass(kw_only=True)
class ReferenceArgs:
    """What the policy is compared with, and how pairs are computed."""

    ref_model: str | None = None
    """Reference model; None: the model that training starts from, which for adapters is the one without them."""
    ref_model_type: str | None = None
    """Family of the reference model; None recognises it."""
    ref_model_revision: str | None = None
    """Branch, tag or commit of the reference model."""
    ref_adapters: list[str] = field(default_factory=list)
    """Adapter of the reference: the one of SFT, given to adapters too, when alignment goes on from it."""
    precompute_ref_log_probs: bool = False
    """Compute the log-probs of the reference for all rows before the first step, and keep them on disk."""
    prefix_sharing: bool = True
    """Compute what the answers of a row begin with once; exact, and off by itself where layers cannot."""

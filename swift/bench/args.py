"""Flags of ``swift bench``."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class BenchArgs:
    """What is measured, beside whom, and for how long."""

    quick: bool = False
    """The cells and sides that fit into ten minutes, each once or twice."""
    full: bool = False
    """Every cell and every side, three times each."""
    cells: list[str] = field(default_factory=list)
    """Only these cells; none means all that quick or full take."""
    peers: list[str] = field(default_factory=list)
    """Only these peers: ms-swift, trl, llama-factory, plain, or vllm, llama-cpp; none means all that are prepared."""
    peer_python: list[str] = field(default_factory=list)
    """Pythons that have a peer installed already, each NAME=PATH; the others come from swift bench prepare."""
    model: str | None = None
    """Model to train: an id, a folder or a GGUF file; none means SmolLM2-135M-Instruct."""
    dataset: list[str] = field(default_factory=list)
    """Rows to train on, as swift sft takes them; none means rows that are shipped, some joined to longer ones."""
    max_length: int | None = None
    """Longest row in tokens, longer ones are left out; none means what the cell says."""
    rows_per_step: int | None = None
    """Rows of one optimizer step; none means what the cell says."""
    steps: int | None = None
    """Optimizer steps of a run, the first two of which do not count; none means what the cell says."""
    repeats: int | None = None
    """Runs of each side; none means 2 when quick, as long as time is left, else 3."""
    threads: int | None = None
    """Threads of every process; none means one a core."""
    seed: int = 42
    """Seed of weights and of the choice of rows."""
    learning_rate: float = 1e-4
    """Learning rate of every tool."""
    timeout: int = 1800
    """Seconds after which one run is given up."""
    output_dir: str | None = None
    """Folder of the results; none means output/bench. A measurement that was interrupted goes on there."""
    url: str | None = None
    """Server that swift bench serve puts under load (http://HOST:8000/v1, key in SWIFT_API_KEY); none means our own."""
    device: str | None = None
    """Device of swift bench gpu and kernels; none means cuda for the one, cpu for the other."""
    tiny: bool = False
    """Models and shapes so small that only the code is tested, not the speed."""

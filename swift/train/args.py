"""Flags of a training run: length, optimizer, precision, reports, checkpoints."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class TrainArgs:
    """How long, how fast, in which precision, and what is written where."""

    output_dir: str | None = None
    """Folder of the run; None means output/<model>."""
    add_version: bool = True
    """Write into output_dir/vN-date-time instead of output_dir itself."""
    seed: int = 42
    """Seed of everything random in training."""
    dataloader_drop_last: bool = False
    """Leave out the last micro-batch of an epoch when it is not full."""
    num_train_epochs: float = 3.0
    """Passes over the data."""
    max_steps: int = -1
    """Optimizer steps; more than 0 overrides num_train_epochs."""
    max_epochs: int | None = None
    """Stop a stream after as many passes at most."""
    per_device_train_batch_size: int = 1
    """Rows in a micro-batch."""
    per_device_eval_batch_size: int = 1
    """Rows in an evaluation batch."""
    gradient_accumulation_steps: int | None = None
    """Micro-batches in an optimizer step; None fills up to 16 rows."""
    learning_rate: float | None = None
    """Peak learning rate; None means 1e-4 for adapters, 1e-5 for full training."""
    lr_scheduler_type: Literal[
        'linear', 'cosine', 'cosine_with_restarts', 'polynomial', 'constant', 'constant_with_warmup', 'inverse_sqrt',
        'cosine_with_min_lr', 'warmup_stable_decay', 'wsd',
    ] = 'cosine'  # fmt: skip
    """Course of the learning rate after the warm-up."""
    lr_scheduler_kwargs: dict | str | None = None
    """More numbers of the schedule, as JSON: {"min_lr": 1e-6}."""
    warmup_ratio: float = 0.0
    """Part of the steps in which the learning rate rises, 0 to 1."""
    warmup_steps: float = 0
    """Steps in which the learning rate rises (below 1: a part of all); overrides warmup_ratio."""
    optim: Literal[
        'adamw_torch_fused', 'adamw_torch', 'adamw_8bit', 'adamw_bnb_8bit', 'paged_adamw_8bit', 'adamw_bf16', 'sgd'
    ] = 'adamw_torch_fused'
    """Optimizer."""
    weight_decay: float = 0.1
    """Decay of weights; biases and norms are left out."""
    adam_beta1: float = 0.9
    """Adam: decay of the mean of gradients."""
    adam_beta2: float = 0.95
    """Adam: decay of the mean of squared gradients."""
    adam_epsilon: float = 1e-8
    """Adam: added to the denominator."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    step_in_backward: bool | None = None
    """Move each weight within the backward pass and free its gradient, in steps of one micro-batch; needs
    max_grad_norm 0; None: wherever it can."""
    neftune_noise_alpha: float | None = None
    """NEFTune: strength of the noise on embeddings in training."""
    enable_dft_loss: bool = False
    """Dynamic fine-tuning: weigh the loss of each token by the probability that it has (arXiv 2508.05629)."""
    enable_channel_loss: bool = False
    """Report the loss of each kind of rows, by their column channel, as loss_<channel>."""
    bf16: bool | None = None
    """Compute in bfloat16; None follows torch_dtype."""
    fp16: bool | None = None
    """Compute in float16 with dynamic loss scale; None follows torch_dtype."""
    use_cpu: bool = False
    """Train on the CPU though there is a GPU."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass; None: only when memory needs it."""
    selective_recompute: bool | None = None
    """Compute norms and gated products again in the backward pass instead of keeping them: the same bits, a third
    less activations, 3 % slower; None: only where memory is foreseen to get scarce."""
    gradient_checkpointing_kwargs: dict | str | None = None
    """Options of recomputation, as JSON: {"use_reentrant": false}."""
    kernels: list[str] = field(default_factory=lambda: ['auto'])
    """Fast paths to use: auto for those that cover the model and gain, off for none, or names, also beside auto."""
    kernel_check: Literal['fallback', 'warn', 'refuse', 'off'] = 'fallback'
    """When a fast path differs from its plain twin on the first batch: fall back, warn, stop, or do not look."""
    plan: Literal['warn', 'refuse', 'off'] = 'warn'
    """When the run is foreseen not to fit into memory: warn, refuse if swift plan has measured it, or do not look."""
    rehearse: bool | None = None
    """Run the largest batch before the first step, so that memory runs out at once or not at all; None: on an
    accelerator, and where memory is foreseen to get scarce."""
    eval_strategy: Literal['no', 'steps', 'epoch'] | None = None
    """When to evaluate; None means as save_strategy, and never without evaluation data."""
    eval_steps: float | None = None
    """Steps between evaluations (below 1: a part of all); None means save_steps."""
    eval_on_start: bool = False
    """Evaluate before the first step."""
    eval_delay: float = 0
    """Steps or epochs before the first evaluation."""
    acc_strategy: Literal['token', 'seq'] = 'token'
    """Accuracy counts tokens, or whole answers."""
    save_strategy: Literal['no', 'steps', 'epoch'] = 'steps'
    """When to save a checkpoint. The last step is always saved, unless no."""
    save_steps: float = 500
    """Steps between checkpoints (below 1: a part of all)."""
    save_total_limit: int | None = None
    """Checkpoints kept; best and last always are."""
    max_shard_size: str = '5GB'
    """Largest file of a full checkpoint's weights."""
    save_only_model: bool = False
    """Leave out optimizer and data state: smaller, but training cannot go on from it."""
    load_best_model_at_end: bool = False
    """Let last be the best checkpoint when training ends."""
    metric_for_best_model: str | None = None
    """Number that decides which checkpoint is best; None means loss."""
    greater_is_better: bool | None = None
    """Whether more of that number is better; None means no for losses, yes for others."""
    early_stop_interval: int | None = None
    """Stop after as many evaluations without a gain."""
    resume_from_checkpoint: str | None = None
    """Go on from this checkpoint folder, exactly as if never stopped; last finds the newest of output_dir."""
    resume_only_model: bool = False
    """Take only the weights from that checkpoint; optimizer and schedule start anew."""
    ignore_data_skip: bool = False
    """With resume_only_model: start the data anew too."""
    resume_changed: Literal['refuse', 'allow'] = 'refuse'
    """What to do when model, data, settings or machine are not those that wrote the checkpoint."""
    hang_timeout: float = 1800
    """Seconds without progress after which the run ends with exit code 75 and its stacks on disk; 0 never."""
    logging_steps: int = 5
    """Steps between report lines."""
    logging_first_step: bool = True
    """Report the first step too."""
    logging_dir: str | None = None
    """Folder of TensorBoard files; None means output_dir/runs."""
    report_to: list[Literal['tensorboard', 'wandb', 'swanlab', 'all', 'none']] = field(
        default_factory=lambda: ['tensorboard']
    )
    """Trackers; the journal logging.jsonl is always written."""
    run_name: str | None = None
    """Name of the run for trackers; None means the name of its folder."""
    swanlab_token: str | None = field(default=None, repr=False)
    """API key of SwanLab. Never written to any file."""
    swanlab_project: str = 'ms-swift'
    """SwanLab project."""
    swanlab_workspace: str | None = None
    """SwanLab workspace."""
    swanlab_exp_name: str | None = None
    """SwanLab run name; None means run_name."""
    swanlab_mode: Literal['cloud', 'local', 'offline', 'disabled'] = 'cloud'
    """Where SwanLab keeps the run."""

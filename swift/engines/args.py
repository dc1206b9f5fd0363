"""Flags of answering: how tokens are chosen, and by which engine."""

from dataclasses import dataclass, field
from typing import Any, Literal

LIBRARIES = ('vllm', 'sglang', 'lmdeploy')
NATIVE_ONLY = {  # flags of the model that only the native engine follows -> what the others have instead
    'quant_bits': '--{}_quantization',
    'rope_scaling': "--{}_engine_kwargs with that library's own words for it",
    'new_special_tokens': 'a model folder that has them already',
}


@dataclass(kw_only=True)
class GenerationArgs:
    """How answers are drawn."""

    max_new_tokens: int | None = None
    """Most tokens of an answer; None means up to the end of the context."""
    temperature: float | None = None
    """0 takes the likeliest token; None takes the model's generation_config.json."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; None takes the model's own."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together reach p; None takes the model's own."""
    min_p: float | None = None
    """Drop tokens less likely than min_p times the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: tokens that were there become less likely."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens already generated."""
    frequency_penalty: float = 0.0
    """Subtracted once for every time a token was generated."""
    num_beams: int = 1
    """Above 1: search with so many beams for the likeliest answer, with temperature 0 and without streaming."""
    stop_words: list[str] = field(default_factory=list)
    """More strings that end an answer."""
    structured_outputs_regex: str | None = None
    """A regular expression that every answer matches as a whole; a request of swift deploy may want another form."""
    seed: int = 42
    """Seed of the draws."""
    stream: bool | None = None
    """Show answers as they grow; None means yes in a terminal, no over a dataset."""
    logprobs: bool = False
    """Return the log-probability of every token."""
    top_logprobs: int | None = None
    """Return as many of the likeliest tokens as well."""


@dataclass(kw_only=True)
class EngineArgs:
    """Which engine answers, and where answers go."""

    infer_backend: Literal['native', 'vllm', 'sglang', 'lmdeploy'] = 'native'
    """Engine; transformers and pt are other names of the native one. The others answer in an environment of theirs."""
    backend_python: str | None = None
    """Python of the environment that has vLLM, SGLang or LMDeploy; None: of swift doctor --install, else this one."""
    backend_timeout: float = 1800.0
    """Seconds that its server may take to start."""
    max_batch_size: int = 16
    """Requests answered at once; -1 means all."""
    max_kv_tokens: int | None = None
    """Tokens whose keys and values the native engine keeps in memory; None means a quarter of
    what is free, on CUDA four fifths."""
    prompt: list[str] = field(default_factory=list)
    """Answer these prompts and exit, instead of a chat."""
    images: list[str] = field(default_factory=list)
    """Pictures (paths) that each prompt shows, or the first message of a chat; for models that see."""
    result_path: str | None = None
    """File of answers (.jsonl, appended); None means infer_result/<time>.jsonl beside the checkpoint."""
    write_batch_size: int = 1000
    """Rows between writes to result_path."""
    val_dataset_sample: int | None = None
    """Answer as many rows of the data at most."""
    reranker_use_activation: bool = True
    """Rerankers: scores are passed through a sigmoid, so that they lie between 0 and 1."""
    metric: Literal['acc', 'rouge'] | None = None
    """Compare the answers with the data's own and print the mean."""


@dataclass(kw_only=True)
class VllmArgs:
    """Arguments of vLLM, checked against the version that is installed."""

    vllm_gpu_memory_utilization: float = 0.9
    """Fraction of a GPU's memory that it takes; without a GPU, a quarter of the free memory, 4 GiB at most."""
    vllm_tensor_parallel_size: int = 1
    """GPUs that share each layer."""
    vllm_pipeline_parallel_size: int = 1
    """Groups of GPUs that share the layers out."""
    vllm_data_parallel_size: int = 1
    """Copies of the model."""
    vllm_enable_expert_parallel: bool = False
    """Share out the experts of a mixture instead of cutting each."""
    vllm_max_num_seqs: int | None = 256
    """Answers at once."""
    vllm_max_model_len: int | None = None
    """Longest prompt with its answer; None takes max_model_len, else the model's own."""
    vllm_disable_custom_all_reduce: bool = True
    """Leave sums over GPUs to NCCL."""
    vllm_enforce_eager: bool = False
    """No CUDA graphs: a faster start, slower answers."""
    vllm_limit_mm_per_prompt: dict | str | None = None
    """Most pictures and so on in a prompt, as JSON: {"image": 5}."""
    vllm_max_lora_rank: int = 16
    """Largest rank of adapters that are loaded later; those given at the start make room for themselves."""
    vllm_enable_prefix_caching: bool | None = None
    """Keep what prompts begin with; None leaves it to vLLM."""
    vllm_disable_cascade_attn: bool = False
    """No cascade attention."""
    vllm_mm_processor_cache_gb: float | None = None
    """GB of prepared pictures that are kept."""
    vllm_speculative_config: dict | str | None = None
    """Speculative decoding, as vLLM's JSON."""
    vllm_quantization: str | None = None
    """How weights are quantised: fp8, awq, gptq, bitsandbytes ..."""
    vllm_reasoning_parser: str | None = None
    """Which tokens end a thought, for grammars that begin after it."""
    vllm_engine_kwargs: dict | str | None = None
    """Any other argument of vLLM, as JSON: {"max_num_batched_tokens": 4096}."""


@dataclass(kw_only=True)
class SglangArgs:
    """Arguments of SGLang, checked against the version that is installed."""

    sglang_tp_size: int = 1
    """GPUs that share each layer."""
    sglang_pp_size: int = 1
    """Groups of GPUs that share the layers out."""
    sglang_dp_size: int = 1
    """Copies of the model."""
    sglang_ep_size: int = 1
    """Groups that share out the experts of a mixture."""
    sglang_enable_ep_moe: bool = False
    """Older versions: share out the experts of a mixture."""
    sglang_mem_fraction_static: float | None = None
    """Fraction of a GPU's memory for weights and cache; None leaves it to SGLang."""
    sglang_context_length: int | None = None
    """Longest prompt with its answer; None takes max_model_len, else the model's own."""
    sglang_disable_cuda_graph: bool = False
    """No CUDA graphs."""
    sglang_quantization: str | None = None
    """How weights are quantised: fp8, awq, gptq ..."""
    sglang_kv_cache_dtype: str = 'auto'
    """Data type of the cache: auto, fp8_e5m2, fp8_e4m3."""
    sglang_enable_dp_attention: bool = False
    """Attention by data parallelism, the rest by tensor parallelism."""
    sglang_disable_custom_all_reduce: bool = True
    """Leave sums over GPUs to NCCL."""
    sglang_speculative_algorithm: str | None = None
    """Speculative decoding: EAGLE, EAGLE3, NEXTN, STANDALONE, NGRAM."""
    sglang_speculative_num_steps: int | None = None
    """Tokens that are drafted one after the other."""
    sglang_speculative_eagle_topk: int | None = None
    """Tokens that are drafted side by side in each step."""
    sglang_speculative_num_draft_tokens: int | None = None
    """Drafted tokens that are checked at once."""
    sglang_engine_kwargs: dict | str | None = None
    """Any other argument of SGLang, as JSON."""


@dataclass(kw_only=True)
class LmdeployArgs:
    """Arguments of LMDeploy, checked against the version that is installed."""

    lmdeploy_tp: int = 1
    """GPUs that share each layer."""
    lmdeploy_session_len: int | None = None
    """Longest prompt with its answer; None takes max_model_len, else the model's own."""
    lmdeploy_cache_max_entry_count: float = 0.8
    """Fraction of the free memory of a GPU for the cache."""
    lmdeploy_quant_policy: int = 0
    """Bits of the cache: 4, 8, or 0 for no quantisation."""
    lmdeploy_vision_batch_size: int = 1
    """Pictures that are looked at together."""
    lmdeploy_engine_kwargs: dict | str | None = None
    """Any other argument of LMDeploy's server, as JSON."""


def not_native(model: Any, backend: str) -> list[tuple[str, str]]:
    """(flag, what is wrong) of each flag of ``ModelArgs`` that this backend would answer without."""
    if backend == 'native':
        return []
    found = [
        (
            name,
            f'--{name}: not with --infer_backend {backend}; take {instead.format(backend)}',
        )
        for name, instead in NATIVE_ONLY.items()
        if getattr(model, name)
    ]
    if model.task_type not in (None, 'causal_lm'):
        found.append(('task_type', f'--task_type {model.task_type}: not with --infer_backend {backend}'))
    return found

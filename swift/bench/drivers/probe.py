"""How fast this machine multiplies the matrices of a model, and how fast it copies: the limits of the same run.

Our kernels are compiled here if they are not yet, so that no run pays for what is done once on a machine.
"""

import time

from watch import begin, quiet

quiet()
job, events = begin()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from swift.kernels import device as kernels  # noqa: E402

TOKENS, TRIES = 2048, 7
DEVICE = job['device']
COPIED = 2**28 if DEVICE == 'cpu' else 2**31  # bytes


def best(work):
    """Seconds of the fastest of several tries."""
    times = []
    for _ in range(TRIES + 1):
        start = time.perf_counter()
        work()
        if DEVICE != 'cpu':
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def products(out, into):
    """Seconds of the three products of a linear layer with ``TOKENS`` rows: forward, input's and weight's gradient."""
    make = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device=DEVICE)
    x, weight, grad = make(TOKENS, into), make(out, into), make(TOKENS, out)
    return [best(lambda: x @ weight.T), best(lambda: grad @ weight), best(lambda: grad.T @ x)]


def shapes():
    """(out, in) of every linear layer with how often it comes, the head's apart."""
    given = job.get('config')
    config = AutoConfig.for_model(**given) if given else AutoConfig.from_pretrained(job['model']).get_text_config()
    with torch.device('meta'):
        model = AutoModelForCausalLM.from_config(config)
    head, body = model.get_output_embeddings(), {}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            shape = tuple(module.weight.shape)
            body[shape] = body.get(shape, 0) + 1
    parameters = sum(p.numel() for p in model.parameters())
    heads, width = config.num_attention_heads, config.hidden_size
    width = (getattr(config, 'head_dim', None) or width // heads) * heads
    return body, tuple(head.weight.shape), parameters, config.num_hidden_layers * width


def probe():
    """Body and head: parameters and the best FLOP/s with and without weight gradients."""
    body, head, parameters, attention = shapes()
    edges = sum((out + into) * times for (out, into), times in body.items())
    found = {'parameters': parameters, 'attention': attention, 'adapter': job['rank'] * edges}
    for name, group in (('body', body), ('head', {head: 1})):
        size = sum(out * into * times for (out, into), times in group.items())
        seconds = [0.0, 0.0, 0.0]
        for (out, into), times in group.items():
            seconds = [total + times * one for total, one in zip(seconds, products(out, into), strict=True)]
        flops = 2 * size * TOKENS
        found[name] = {'parameters': size, 'lora': 2 * flops / sum(seconds[:2]), 'full': 3 * flops / sum(seconds)}
    source = torch.empty(COPIED, dtype=torch.uint8, device=DEVICE).fill_(1)
    target = torch.empty_like(source)
    found['bandwidth'] = 2 * COPIED / best(lambda: target.copy_(source))
    return found


kernels.missing('cpu')
events.write(result=probe())

"""Plain transformers in fp32 reads what everybody answered: is each token the likeliest after those before it?"""

from watch import begin

ROWS = 8  # answers that are read together
job, events = begin()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=torch.float32).eval()


@torch.inference_mode()
def likeliest(prompts, answers):
    """Of each answer, how many of its tokens are the likeliest after the prompt and the answer's own beginning."""
    ids = torch.tensor([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])  # [rows, T]
    count = len(answers[0])
    best = model(ids[:, :-1], logits_to_keep=count).logits.argmax(-1)  # [rows, count]
    return (best == ids[:, -count:]).sum(-1).tolist()


found = []
for first in range(0, len(job['answers']), ROWS):
    prompts, answers = zip(*job['answers'][first : first + ROWS], strict=True)
    found += likeliest(prompts, answers)
events.write(result={'likeliest': found})

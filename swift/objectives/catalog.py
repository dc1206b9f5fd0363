r"""Every method once: its formula, where it is from, its code, its reference, and what it is tried with.

``swift verify``, the pages of the documentation and the white paper are made from ``METHODS``. Formulas and lines of
``steps`` are LaTeX; nothing heavy is imported, code and references are named as 'module:attribute'.
"""

from __future__ import annotations

from typing import Any

from swift.objectives.catalog_tasks import DISTILLED, SFT, TASKS
from swift.objectives.entry import Method, Source

SYMBOLS: tuple[tuple[str, str], ...] = (
    (r'x', 'a prompt'),
    (r'y_w,\ y_l', 'its chosen and its rejected answer'),
    (r'|y|', 'tokens of an answer'),
    (r'\log\pi_\theta(y\mid x)', r'$\sum_t \log\pi_\theta(y_t\mid x,y_{<t})$ over the tokens of the answer'),
    (r'u(y)', r'$\pi_\theta(y\mid x)/\pi_{\mathrm{ref}}(y\mid x)$'),
    (r'r(y)', r'$\beta\log u(y)$, the implicit reward'),
    (r'h', r"$f'(u(y_w))-f'(u(y_l))$, which is $\log u(y_w)-\log u(y_l)$ for the reverse KL divergence"),
    (r'\sigma', 'the logistic function'),
    (r'\varepsilon', 'the part of the labels that are wrong, --label_smoothing'),
)
"""Letters that formulas share, and what they stand for."""


# ------------------------------------------------------------------------------------------------------- the DPO family
DPO = Source('Direct Preference Optimization: Your Language Model is Secretly a Reward Model', '2305.18290', 'eq. 7')
F_DPO = Source('Beyond Reverse KL: Generalizing DPO with Diverse Divergence Constraints', '2309.16240', 'table 1')
LD_DPO = Source('Length Desensitization in Direct Preference Optimization', '2409.06411')
COMMON = ('beta', 'ld_alpha', 'reference_free', 'loss_weights', 'rpo_alpha')
GAP = (*COMMON, 'f_divergence_type', 'f_alpha_divergence_coef')
OTHER_DIVERGENCES = (
    {'f_divergence_type': 'forward_kl'},
    {'f_divergence_type': 'js_divergence'},
    {'f_divergence_type': 'alpha_divergence', 'f_alpha_divergence_coef': 0.4},
)
ALWAYS = ({}, {'beta': 0.7}, {'ld_alpha': 0.3}, {'reference_free': True})
RATIOS = r'for each pair $(x, y_w, y_l)$ of the step: $\log u(y)\gets\sum_t\log\pi_\theta-\sum_t\log\pi_{\mathrm{ref}}$'


def _dpo(
    name: str,
    title: str,
    formula: str,
    source: Source,
    *lines: str,
    gap: bool = False,
    smoothing: bool = False,
    **more: Any,
) -> Method:
    """A loss of the family. ``gap``: it sees h only, so that any f-divergence fits."""
    tried = ALWAYS + (OTHER_DIVERGENCES if gap else ()) + (({'label_smoothing': 0.2},) if smoothing else ())
    return Method(
        title=title,
        formula=formula,
        source=(source, *((F_DPO,) if gap else ()), LD_DPO),
        make='swift.objectives.preference:from_args',
        given={'rlhf_type': 'dpo', 'loss_type': [name]},
        code=f'swift.objectives.preference:{name}',
        reference=f'swift.objectives.references:{name}',
        rows='preferences',
        flags=(*(GAP if gap else COMMON), *(('label_smoothing',) if smoothing else ()), *more.pop('flags', ())),
        steps=(RATIOS, *lines, r'return the mean of $\ell$ over the pairs of the step'),
        tried=tried,
        **more,
    )


SORTED = (
    'the pairs are sorted over the whole optimizer step; TRL sorts those of a micro-batch, so that its loss depends on '
    'how the step is cut. TRL 1 calls the form for pairs aot; before it was aot_pair, and aot was what is aot_unpaired'
)
FAMILY: dict[str, Method] = {
    'sigmoid': _dpo(
        'sigmoid', 'DPO',
        r'\ell=-(1-\varepsilon)\log\sigma(\beta h)-\varepsilon\log\sigma(-\beta h)', DPO,
        r"$h\gets f'(u(y_w))-f'(u(y_l))$",
        r'$\ell\gets-(1-\varepsilon)\log\sigma(\beta h)-\varepsilon\log\sigma(-\beta h)$',
        gap=True, smoothing=True,
        differs='with --label_smoothing this is cDPO; TRL 1.16 ignores the flag for this loss',
    ),
    'sigmoid_norm': _dpo(
        'sigmoid_norm', 'Length-normalised DPO',
        r"\ell=-\log\sigma\Bigl(\beta\Bigl(\frac{f'(u(y_w))}{|y_w|}-\frac{f'(u(y_l))}{|y_l|}\Bigr)\Bigr)",
        Source('Tulu 3: Pushing Frontiers in Open Language Model Post-Training', '2411.15124', 'sec. 5.1'),
        r"$h\gets f'(u(y_w))/|y_w|-f'(u(y_l))/|y_l|$", r'$\ell\gets-\log\sigma(\beta h)$',
        gap=True, smoothing=True,
    ),
    'hinge': _dpo(
        'hinge', 'Hinge loss', r'\ell=\max(0,\,1-\beta h)',
        Source('SLiC-HF: Sequence Likelihood Calibration with Human Feedback', '2305.10425', 'sec. 2'),
        r"$h\gets f'(u(y_w))-f'(u(y_l))$", r'$\ell\gets\max(0,1-\beta h)$',
        gap=True,
        differs='SLiC has no reference; the form with one is from RSO, arXiv 2309.06657',
    ),
    'ipo': _dpo(
        'ipo', 'IPO',
        r"\ell=\Bigl(\frac{f'(u(y_w))}{|y_w|}-\frac{f'(u(y_l))}{|y_l|}-\frac1{2\beta}\Bigr)^2",
        Source('A General Theoretical Paradigm to Understand Learning from Human Preferences', '2310.12036', 'eq. 17'),
        r"$h\gets f'(u(y_w))/|y_w|-f'(u(y_l))/|y_l|$", r'$\ell\gets(h-\frac1{2\beta})^2$',
        gap=True,
        differs='the paper does not speak of lengths; its authors told TRL that they average over tokens',
    ),
    'robust': _dpo(
        'robust', 'Robust DPO',
        r'\ell=\frac{-(1-\varepsilon)\log\sigma(\beta h)+\varepsilon\log\sigma(-\beta h)}{1-2\varepsilon}',
        Source('Provably Robust DPO: Aligning Language Models with Noisy Feedback', '2403.00409', 'sec. 3.1'),
        r"$h\gets f'(u(y_w))-f'(u(y_l))$",
        r'$\ell\gets(-(1-\varepsilon)\log\sigma(\beta h)+\varepsilon\log\sigma(-\beta h))/(1-2\varepsilon)$',
        gap=True, smoothing=True,
    ),
    'exo_pair': _dpo(
        'exo_pair', 'EXO for pairs',
        r'\ell=\sigma(\beta h)\log\frac{\sigma(\beta h)}{1-\varepsilon}'
        r'+\sigma(-\beta h)\log\frac{\sigma(-\beta h)}{\varepsilon}',
        Source('Towards Efficient Exact Optimization of Language Model Alignment', '2402.00856', 'eq. 16'),
        r"$q\gets\sigma(\beta(f'(u(y_w))-f'(u(y_l))))$",
        r'$\ell\gets q\log\frac{q}{1-\varepsilon}+(1-q)\log\frac{1-q}{\varepsilon}$',
        gap=True, smoothing=True,
        differs='without --label_smoothing epsilon is 0.001, which the paper takes; TRL 1.16 refuses to go without',
    ),
    'nca_pair': _dpo(
        'nca_pair', 'NCA for pairs',
        r'\ell=-\log\sigma(r(y_w))-\tfrac12\log\sigma(-r(y_w))-\tfrac12\log\sigma(-r(y_l))',
        Source('Noise Contrastive Alignment of Language Models with Explicit Rewards', '2402.05369', 'sec. 4.1'),
        r'$\ell\gets-\log\sigma(r(y_w))-\frac12\log\sigma(-r(y_w))-\frac12\log\sigma(-r(y_l))$',
    ),
    'bco_pair': _dpo(
        'bco_pair', 'BCO for pairs', r'\ell=-\log\sigma(r(y_w))-\log\sigma(-r(y_l))',
        Source('Binary Classifier Optimization for Large Language Model Alignment', '2404.04656', 'sec. 4'),
        r'$\ell\gets-\log\sigma(r(y_w))-\log\sigma(-r(y_l))$',
        differs='the paper subtracts a running mean of rewards from both; TRL 1 has left that out, and so it is here',
    ),
    'sppo_hard': _dpo(
        'sppo_hard', 'SPPO with certain winners',
        r'\ell=\Bigl(\log u(y_w)-\frac1{2\beta}\Bigr)^2+\Bigl(\log u(y_l)+\frac1{2\beta}\Bigr)^2',
        Source('Self-Play Preference Optimization for Language Model Alignment', '2405.00675', 'eq. 4.7'),
        r'$\ell\gets(\log u(y_w)-\frac1{2\beta})^2+(\log u(y_l)+\frac1{2\beta})^2$',
    ),
    'aot': _dpo(
        'aot', 'AOT for pairs',
        r'\ell_i=-\log\sigma(\beta d_i),\quad d=\operatorname{sort}\Bigl(\log\frac{\pi_\theta(y_w\mid x)}'
        r'{\pi_\theta(y_l\mid x)}\Bigr)-\operatorname{sort}\Bigl(\log\frac{\pi_{\mathrm{ref}}(y_w\mid x)}'
        r'{\pi_{\mathrm{ref}}(y_l\mid x)}\Bigr)',
        Source('Distributional Preference Alignment of LLMs via Optimal Transport', '2406.05882', 'sec. 3'),
        "without gradient, of all pairs: sort the policy's margins, and the reference's",
        r'$\ell_i\gets-\log\sigma(\beta d_i)$; pull$_j\gets\partial\sum_i\ell_i/\partial\log\pi_\theta(y_j\mid x)$',
        r'each micro-batch adds $\sum_j$ pull$_j\log\pi_\theta(y_j\mid x)$, which has its part of the gradient',
        smoothing=True, differs=SORTED,
    ),
    'aot_unpaired': _dpo(
        'aot_unpaired', 'AOT',
        r'\ell_i=-\log\sigma(\beta d_i),\quad d=\operatorname{sort}(\log u(y_w))-\operatorname{sort}(\log u(y_l))',
        Source('Distributional Preference Alignment of LLMs via Optimal Transport', '2406.05882', 'sec. 3'),
        r'without gradient, of all pairs: sort $\log u(y_w)$, and sort $\log u(y_l)$',
        r'$\ell_i\gets-\log\sigma(\beta d_i)$; pull$_j\gets\partial\sum_i\ell_i/\partial\log\pi_\theta(y_j\mid x)$',
        r'each micro-batch adds $\sum_j$ pull$_j\log\pi_\theta(y_j\mid x)$, which has its part of the gradient',
        smoothing=True, differs=SORTED,
    ),
    'apo_zero': _dpo(
        'apo_zero', 'APO-zero', r'\ell=1-\sigma(r(y_w))+\sigma(r(y_l))',
        Source('Anchored Preference Optimization and Contrastive Revisions', '2408.06266', 'eq. 7'),
        r'$\ell\gets1-\sigma(r(y_w))+\sigma(r(y_l))$',
    ),
    'apo_down': _dpo(
        'apo_down', 'APO-down', r'\ell=\sigma(r(y_w))+1-\sigma(r(y_w)-r(y_l))',
        Source('Anchored Preference Optimization and Contrastive Revisions', '2408.06266', 'eq. 8'),
        r'$\ell\gets\sigma(r(y_w))+1-\sigma(r(y_w)-r(y_l))$',
    ),
    'discopop': _dpo(
        'discopop', 'DiscoPOP',
        r'\ell=-(1-m)\log\sigma(\beta h)+m\,e^{-\beta h},\quad m=\sigma(\beta h/\tau)',
        Source('Discovering Preference Optimization Algorithms with and for LLMs', '2406.08414', 'eq. 5'),
        r"$z\gets\beta(f'(u(y_w))-f'(u(y_l)))$; $m\gets\sigma(z/\tau)$",
        r'$\ell\gets-(1-m)\log\sigma(z)+\exp(\log m-z)$',
        gap=True, flags=('discopop_tau',), words={r'\tau': 'temperature of the mix, --discopop_tau'},
    ),
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the others
NLL = r'\mathcal L_{\mathrm{NLL}}'
NLL_WORDS = {NLL: r'$-\sum\log\pi_\theta(y_w\mid x)/\sum|y_w|$ over the pairs of the step: the mean over their tokens'}
NLL_LINE = r'$\mathcal L_{\mathrm{NLL}}\gets$ the mean of $-\log\pi_\theta(y_{w,t}\mid x,y_{w,<t})$ over the tokens'
CPO = Source('Contrastive Preference Optimization', '2401.08417', 'eq. 3 and 5')
KTO = Source('KTO: Model Alignment as Prospect Theoretic Optimization', '2402.01306', 'eq. 7')
KTO_FORMULA = (
    r'\ell=\begin{cases}w_D\,\sigma(\beta(z_0-\log u(y)))&y\text{ was wanted}\\'
    r'w_U\,\sigma(\beta(\log u(y)-z_0))&\text{otherwise}\end{cases}'
)
KTO_WORDS = {r'w_D,\ w_U': '--desirable_weight and --undesirable_weight', r"y'_i": 'the answer of the row before row i'}
KTO_TRIED = ({}, {'beta': 0.7, 'desirable_weight': 1.3, 'undesirable_weight': 0.7})


def _contrast(title: str, loss: str, source: Source, reference: str, *lines: str, **more: Any) -> Method:
    return Method(
        title=title,
        formula=rf'\mathcal L=\operatorname{{mean}}\bigl({loss}\bigr)+\alpha\,{NLL}',
        source=(source,),
        make='swift.objectives.no_reference:contrast',
        reference=f'swift.objectives.references:{reference}',
        rows='preferences',
        steps=(*lines, NLL_LINE, rf'return the mean of $\ell$ over the pairs of the step $+\;\alpha{NLL}$'),
        words={r'\alpha': '--cpo_alpha', r'g': r'$\log\pi_\theta(y_w\mid x)-\log\pi_\theta(y_l\mid x)$', **NLL_WORDS},
        **more,
    )


METHODS: dict[str, Method] = {
    **SFT,
    **{'dpo' if name == 'sigmoid' else f'dpo.{name}': method for name, method in FAMILY.items()},
    'dpo.sft': Method(
        title='Next-token loss of chosen answers',
        formula=NLL,
        source=(Source('Iterative Reasoning Preference Optimization', '2404.19733', 'eq. 1'),),
        make='swift.objectives.preference:from_args',
        given={'rlhf_type': 'dpo', 'loss_type': ['sft']},
        code='swift.objectives.pairs:nll',
        reference='swift.objectives.references:next_token',
        rows='preferences',
        flags=('loss_type', 'loss_weights', 'rpo_alpha'),
        steps=(NLL_LINE,),
        words=NLL_WORDS,
        differs='the paper averages over the tokens of each answer first; here, as in TRL, all tokens weigh the same',
    ),
    'kto': Method(
        title='KTO',
        formula=KTO_FORMULA + r",\quad z_0=\max\Bigl(0,\operatorname*{mean}_i\log\frac{\pi_\theta(y'_i\mid x_i)}"
        r"{\pi_{\mathrm{ref}}(y'_i\mid x_i)}\Bigr)",
        source=(KTO,),
        make='swift.objectives.kto:from_args',
        given={'rlhf_type': 'kto'},
        code='swift.objectives.kto:Kto',
        reference='swift.objectives.references:kto',
        rows='verdicts',
        flags=('beta', 'desirable_weight', 'undesirable_weight', 'loss_type'),
        steps=(
            r"without gradient: $z_0\gets\max(0,$ the mean of $\log\pi_\theta(y'_i\mid x_i)-\log\pi_{\mathrm{ref}}"
            r"(y'_i\mid x_i)$ over the step$)$",
            r'for each row: $s\gets1$ if $y$ was wanted, else $-1$; $w\gets w_D$ or $w_U$',
            r'$\ell\gets w\,\sigma(s\beta(z_0-\log u(y)))$',
            r'return the mean of $\ell$ over the rows of the step',
        ),
        tried=KTO_TRIED,
        words=KTO_WORDS,
        differs='z_0 is estimated over the optimizer step; TRL takes the row before within a micro-batch, so that its '
        'loss depends on the size of that, and it cannot have one row',
    ),
    'kto.apo_zero_unpaired': Method(
        title='APO-zero without pairs',
        formula=KTO_FORMULA + r',\quad z_0=0',
        source=(Source('Anchored Preference Optimization and Contrastive Revisions', '2408.06266', 'eq. 7'),),
        make='swift.objectives.kto:from_args',
        given={'rlhf_type': 'kto', 'loss_type': ['apo_zero_unpaired']},
        code='swift.objectives.kto:Kto',
        reference='swift.objectives.references:apo_zero_unpaired',
        rows='verdicts',
        flags=('beta', 'desirable_weight', 'undesirable_weight', 'loss_type'),
        steps=(
            r'for each row: $s\gets1$ if $y$ was wanted, else $-1$; $w\gets w_D$ or $w_U$',
            r'$\ell\gets w\,\sigma(-s\beta\log u(y))$',
            r'return the mean of $\ell$ over the rows of the step',
        ),
        tried=KTO_TRIED,
        words=KTO_WORDS,
    ),
    'cpo': _contrast(
        'CPO', r'-(1-\varepsilon)\log\sigma(\beta g)-\varepsilon\log\sigma(-\beta g)', CPO, 'cpo',
        r'$\ell\gets-(1-\varepsilon)\log\sigma(\beta g)-\varepsilon\log\sigma(-\beta g)$',
        given={'rlhf_type': 'cpo'}, code='swift.objectives.no_reference:sigmoid',
        flags=('beta', 'label_smoothing', 'cpo_alpha'),
        tried=({}, {'beta': 0.4, 'label_smoothing': 0.2}, {'cpo_alpha': 0.0}),
    ),
    'cpo.hinge': _contrast(
        'CPO with a hinge', r'\max(0,\,1-\beta g)',
        Source('SLiC-HF: Sequence Likelihood Calibration with Human Feedback', '2305.10425', 'sec. 2'), 'cpo_hinge',
        r'$\ell\gets\max(0,1-\beta g)$',
        given={'rlhf_type': 'cpo', 'loss_type': ['hinge']}, code='swift.objectives.no_reference:hinge',
        flags=('beta', 'cpo_alpha'), tried=({}, {'beta': 0.4, 'cpo_alpha': 0.5}),
    ),
    'cpo.ipo': _contrast(
        'CPO with the loss of IPO', r'\bigl(\bar g-\tfrac1{2\beta}\bigr)^2',
        Source('A General Theoretical Paradigm to Understand Learning from Human Preferences', '2310.12036', 'eq. 17'),
        'cpo_ipo',
        r'$\bar g\gets\log\pi_\theta(y_w\mid x)/|y_w|-\log\pi_\theta(y_l\mid x)/|y_l|$',
        r'$\ell\gets(\bar g-\frac1{2\beta})^2$',
        given={'rlhf_type': 'cpo', 'loss_type': ['ipo']}, code='swift.objectives.no_reference:ipo',
        flags=('beta', 'cpo_alpha'), tried=({}, {'beta': 0.4}),
    ),
    'simpo': _contrast(
        'SimPO', r'-(1-\varepsilon)\log\sigma(\beta\bar g-\gamma)-\varepsilon\log\sigma(\gamma-\beta\bar g)',
        Source('SimPO: Simple Preference Optimization with a Reference-Free Reward', '2405.14734', 'eq. 6'), 'simpo',
        r'$\bar g\gets\log\pi_\theta(y_w\mid x)/|y_w|-\log\pi_\theta(y_l\mid x)/|y_l|$',
        r'$\ell\gets-(1-\varepsilon)\log\sigma(\beta\bar g-\gamma)-\varepsilon\log\sigma(\gamma-\beta\bar g)$',
        given={'rlhf_type': 'simpo'}, code='swift.objectives.no_reference:simpo',
        flags=('beta', 'simpo_gamma', 'label_smoothing', 'cpo_alpha'),
        tried=({}, {'cpo_alpha': 0.0}, {'beta': 0.7, 'simpo_gamma': 0.4, 'label_smoothing': 0.1}),
        differs='alpha is 1 unless --cpo_alpha 0 is given, as in the established programs; the paper has no such term',
    ),
    'orpo': Method(
        title='ORPO',
        formula=rf'\mathcal L={NLL}-\lambda\operatorname{{mean}}\log\sigma\Bigl(\log\frac{{o(y_w)}}{{o(y_l)}}\Bigr),'
        r'\quad o(y)=\frac{p}{1-p},\ p=\pi_\theta(y\mid x)^{1/|y|}',
        source=(Source('ORPO: Monolithic Preference Optimization without Reference Model', '2403.07691', 'eq. 3-7'),),
        make='swift.objectives.no_reference:orpo',
        given={'rlhf_type': 'orpo'},
        code='swift.objectives.no_reference:Orpo',
        reference='swift.objectives.references:orpo',
        rows='preferences',
        flags=('beta',),
        steps=(
            r'for each answer: $\log p\gets\log\pi_\theta(y\mid x)/|y|$; $\log o\gets\log p-\log(1-e^{\log p})$',
            NLL_LINE,
            rf'return ${NLL}-\lambda$ times the mean of $\log\sigma(\log o(y_w)-\log o(y_l))$ over the pairs',
        ),
        tried=({}, {'beta': 1.5}),
        words={r'\lambda': '--beta', **NLL_WORDS},
        differs='the next-token loss is of the answer; TRL 1.16 takes it over the prompt too',
    ),
    'rm': Method(
        title='Reward model',
        formula=r'\ell=-\log\sigma(s(y_w)-s(y_l)-m)+c\,(s(y_w)+s(y_l))^2',
        source=(
            Source('Training language models to follow instructions with human feedback', '2203.02155', 'eq. 1'),
            Source('Llama 2: Open Foundation and Fine-Tuned Chat Models', '2307.09288', 'eq. 2'),
            Source('Helping or Herding? Reward Model Ensembles', '2312.09244', 'eq. 2'),
        ),
        make='swift.objectives.reward:from_args',
        given={'rlhf_type': 'rm'},
        code='swift.objectives.reward:BradleyTerry',
        reference='swift.objectives.references:bradley_terry',
        reads='head',
        rows='preferences',
        flags=('center_rewards_coefficient',),
        steps=(
            r'for each pair: $s(y)\gets$ what the head makes of the hidden state at the last token of $(x, y)$',
            r'$\ell\gets-\log\sigma(s(y_w)-s(y_l)-m)+c\,(s(y_w)+s(y_l))^2$',
            r'return the mean of $\ell$ over the pairs of the step',
        ),
        tried=({}, {'center_rewards_coefficient': 0.05}),
        words={r's(y)': 'score', r'm': 'margin of the row, 0 without', r'c': '--center_rewards_coefficient'},
    ),
    'prm': Method(
        title='Process reward model',
        formula=r'\ell=-c_k\log\sigma(s_k)-(1-c_k)\log\sigma(-s_k)',
        source=(
            Source('Math-Shepherd: Verify and Reinforce LLMs Step-by-step without Human Annotations', '2312.08935'),
        ),
        make='swift.objectives.reward:steps',
        given={'rlhf_type': 'prm'},
        code='swift.objectives.reward:StepRewards',
        reference='swift.objectives.references:step_rewards',
        reads='head',
        rows='solutions',
        flags=(),
        steps=(
            r'for each step $k$ of each solution: $s_k\gets$ what the head makes of the last token of step $k$',
            r'$\ell\gets-c_k\log\sigma(s_k)-(1-c_k)\log\sigma(-s_k)$',
            r'return the mean of $\ell$ over all steps of all solutions of the optimizer step',
        ),
        words={r's_k': 'score of the solution up to step k', r'c_k': 'whether step k is right: 1, 0, or between'},
    ),
    **DISTILLED,
    **TASKS,
}  # fmt: skip
"""By the name that ``swift verify`` and the documentation have for it."""

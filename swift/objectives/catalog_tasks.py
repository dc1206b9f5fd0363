"""The catalogue's part of fine-tuning, distillation, and the tasks that read whole sequences."""

from __future__ import annotations

from typing import Any

from swift.objectives.entry import DISTILLATION, TASK, Method, Source

# ---------------------------------------------------------------------------------------------------------- fine-tuning
TOKENS = r'for each token $t$ of the step with $w_t\ne0$: $\log p_t\gets\log\pi_\theta(y_t\mid x,y_{<t})$'
TOKEN_WORDS = {
    r'w_t': 'weight of predicting token t: its mask, --loss_scale, and averages over answers',
    r'n': r'tokens of the optimizer step with $w_t\ne0$',
    r'p_t': r'$\pi_\theta(y_t\mid x,y_{<t})$',
}
GPT = Source('Language Models are Unsupervised Multitask Learners', where='sec. 2', printed='OpenAI 2019')


def _sft(title: str, formula: str, source: tuple[Source, ...], reference: str, *lines: str, **more: Any) -> Method:
    return Method(
        title=title,
        formula=formula,
        source=source,
        make='swift.objectives.sft:NextToken',
        group='',
        code='swift.objectives.sft:NextToken',
        reference=f'swift.objectives.references:{reference}',
        rows='texts',
        steps=(TOKENS, *lines),
        words=TOKEN_WORDS | more.pop('words', {}),
        **more,
    )


SFT: dict[str, Method] = {
    'sft': _sft(
        'Next-token prediction', r'\mathcal L=-\frac1n\sum_t w_t\log p_t', (GPT,), 'cross_entropy',
        r'return $-\sum_tw_t\log p_t/n$',
        given={}, flags=('loss_scale',), example=('examples/lora.yaml', ''),
        differs='the divisor counts targets, not weights, as the established programs have it',
    ),
    'sft.dft': _sft(
        'Dynamic fine-tuning', r'\mathcal L=-\frac1n\sum_t w_t\,\operatorname{sg}(p_t)\log p_t',
        (Source('On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification',
                '2508.05629', 'eq. 9'),),
        'dynamic',
        r'return $-\sum_tw_t\operatorname{sg}(p_t)\log p_t/n$',
        given={'dft': True}, flags=('enable_dft_loss',), example=('examples/lora.yaml', '--enable_dft_loss true'),
        words={r'\operatorname{sg}': 'its argument as a constant, through which no gradient flows'},
    ),
    'sft.channel': _sft(
        'Losses by channel',
        r'\mathcal L=-\frac1n\sum_t w_t\log p_t,\quad\mathcal L_c=-\frac1{n_c}\sum_{t\in c}w_t\log p_t', (GPT,),
        'cross_entropy',
        r'for each channel $c$: tell $\mathcal L_c\gets-\sum_{t\in c}w_t\log p_t/n_c$',
        r'return $-\sum_tw_t\log p_t/n$',
        given={'by_channel': True}, told='swift.objectives.references:channels', flags=('enable_channel_loss',),
        example=('examples/lora.yaml', '--enable_channel_loss true'),
        words={r'c': 'what the rows of a channel have in the column channel', r'n_c': 'its tokens in the step'},
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- distillation
GKD = Source(
    'On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes', '2306.13649', 'eq. 1-3'
)
GKD_WORDS = {
    r'q_t,\ p_t': r'next-token distributions of teacher and student at token t, logits divided by --temperature',
    r'w_t': TOKEN_WORDS['w_t'],
    r'n': TOKEN_WORDS['n'],
    r'\alpha': '--sft_alpha; the term is left out where the student wrote the completion',
}
GKD_TRIED = ({}, {'temperature': 1.0}, {'temperature': 0.7, 'sft_alpha': 0.3})


def _gkd(title: str, divergence: str, reference: str, *lines: str, **more: Any) -> Method:
    own = r'-\alpha\log\pi_\theta(y_t\mid x,y_{<t})'
    return Method(
        title=title,
        formula=rf'\mathcal L=\frac1n\sum_t w_t\bigl(D_t{own}\bigr),\quad {divergence}',
        source=(GKD,),
        make='swift.objectives.distill:from_args',
        group=DISTILLATION,
        divergence='swift.objectives.distill:divergence',
        code='swift.kernels.divergence:Divergence',
        reference=f'swift.objectives.references:{reference}',
        rows='texts',
        flags=('beta', 'temperature', 'sft_alpha', 'lmbda', 'seq_kd', *more.pop('flags', ())),
        steps=(
            'with probability --lmbda: the student writes the completions of the step anew',
            r'for each token $t$ of a completion: $q_t\gets$ the teacher, without gradient; $p_t\gets$ the student',
            *lines,
            rf'return $\sum_tw_t(D_t{own})/n$',
        ),
        tried=more.pop('tried', GKD_TRIED),
        words=GKD_WORDS | more.pop('words', {}),
        **more,
    )


DISTILLED: dict[str, Method] = {
    'gkd': _gkd(
        'Generalised knowledge distillation',
        r'D_t=\beta\,\mathrm{KL}(q_t\Vert m_t)+(1-\beta)\,\mathrm{KL}(p_t\Vert m_t),\ m_t=\beta q_t+(1-\beta)p_t',
        'jensen_shannon',
        r'$m_t\gets\beta q_t+(1-\beta)p_t$',
        r'$D_t\gets\beta\,\mathrm{KL}(q_t\Vert m_t)+(1-\beta)\,\mathrm{KL}(p_t\Vert m_t)$',
        given={'rlhf_type': 'gkd'}, tried=(*GKD_TRIED, {'beta': 0.2}),
        words={r'\beta': '--beta, 0.5 unless given'},
    ),
    'gkd.forward': _gkd(
        'Forward KL divergence', r'D_t=\mathrm{KL}(q_t\Vert p_t)', 'forward_kl',
        r'$D_t\gets\mathrm{KL}(q_t\Vert p_t)$',
        given={'rlhf_type': 'gkd', 'beta': 0.0}, example=('examples/gkd.yaml', '--beta 0'),
    ),
    'gkd.reverse': _gkd(
        'Reverse KL divergence', r'D_t=\mathrm{KL}(p_t\Vert q_t)', 'reverse_kl',
        r'$D_t\gets\mathrm{KL}(p_t\Vert q_t)$',
        given={'rlhf_type': 'gkd', 'beta': 1.0}, example=('examples/gkd.yaml', '--beta 1'),
    ),
    'gkd.topk': _gkd(
        "The teacher's likeliest tokens",
        r'D_t=\beta\,\mathrm{KL}(\bar q_t\Vert\bar m_t)+(1-\beta)\,\mathrm{KL}(\bar p_t\Vert\bar m_t),'
        r'\ \bar q_t=\frac{q_t}{\sum_{K_t}q_t},\ \bar p_t=\frac{p_t}{\sum_{K_t}p_t}',
        'likeliest',
        r'$K_t\gets$ the $k$ tokens that $q_t$ has most of; $\bar q_t,\bar p_t\gets$ both over $K_t$, made to sum to 1',
        r'$\bar m_t\gets\beta\bar q_t+(1-\beta)\bar p_t$',
        r'$D_t\gets\beta\,\mathrm{KL}(\bar q_t\Vert\bar m_t)+(1-\beta)\,\mathrm{KL}(\bar p_t\Vert\bar m_t)$',
        given={'rlhf_type': 'gkd', 'gkd_logits_topk': 2}, flags=('gkd_logits_topk',),
        tried=(*GKD_TRIED, {'gkd_logits_topk': 3, 'beta': 0.2}),
        words={r'\beta': '--beta, 0.5 unless given', r'k': '--gkd_logits_topk'},
        example=('examples/gkd.yaml', '--gkd_logits_topk 64'),
        differs='the paper compares all tokens; this is what ms-swift does where a server names the likeliest only',
    ),
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- classes
BERT = Source(
    'BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding', '1810.04805', 'sec. 4.1'
)
SCORES = r'for each row: $s\gets$ the numbers that the head makes of the last token'
MEAN = r'return the mean of $\ell$ over the rows of the step'
MEAN_OF_PAIRS = r'return the mean of $\ell$ over the pairs of the step'


def _classes(title: str, formula: str, problem: str, code: str, *lines: str, **more: Any) -> Method:
    return Method(
        title=title,
        formula=formula,
        source=(BERT,),
        make='swift.objectives.classification:Classify',
        group='',
        given={'problem': problem},
        code=f'swift.objectives.classification:{code}',
        reference=f'swift.objectives.references:{code}',
        reads='head',
        scores=3,
        flags=('num_labels', 'problem_type'),
        steps=(SCORES, *lines, MEAN),
        words={r's': 'scores of the head, one for each class', r'y': 'label of the row', r'C': '--num_labels'},
        **more,
    )


# ----------------------------------------------------------------------------------------------------------- embeddings
HADSELL = Source('Dimensionality Reduction by Learning an Invariant Mapping', where='eq. 4', printed='CVPR 2006')
EMBEDDED = r'for each text: $e\gets$ the pooled hidden states'
PAIRS_LINE = r'for each pair of the step, an anchor with another text of its row: $D\gets1-\cos(e_a,e_b)$'
PAIR_WORDS = {
    r'D': r'$1-\cos(e_a,e_b)$',
    r'y': 'how alike anchor and positive are, 1 unless the row says it; 0 for negatives',
    r'm': '0.5',
}
INFONCE_FLAGS = (
    'infonce_temperature', 'infonce_use_batch', 'infonce_hard_negatives', 'infonce_mask_fake_negative',
    'infonce_fake_neg_margin', 'infonce_include_qq', 'infonce_include_dd',
)  # fmt: skip
INFONCE_LINES = (
    r'without gradient, of the whole step: all $e$, then $\mathcal L$ and the pulls $\partial\mathcal L/\partial e$',
    r'each micro-batch adds $\sum$ pull $\cdot\,e$, which has its part of the gradient',
)


def _embedding(title: str, formula: str, source: tuple[Source, ...], loss: str, *lines: str, **more: Any) -> Method:
    return Method(
        title=title,
        formula=formula,
        source=source,
        make='swift.objectives.embedding:Embed',
        group=TASK,
        given={'loss_type': loss} | more.pop('given', {}),
        code=more.pop('code', f'swift.objectives.embedding:{loss}'),
        reference=f'swift.objectives.references:{more.pop("reference", loss)}',
        rows='alike',
        reads='pooled',
        flags=more.pop('flags', ('loss_type',)),
        steps=(EMBEDDED, *lines),
        example=('examples/embedding.yaml', more.pop('adds', f'--loss_type {loss}')),
        **more,
    )


# -------------------------------------------------------------------------------------------------------------- ranking
DOCUMENTS = r'for each document $d$ of a query $q$: $s\gets$ what the head makes of the last token of $(q,d)$'
ANSWERED = (
    r'for each document $d$ of a query $q$: '
    r'$s\gets\log\pi_\theta(\text{yes}\mid q,d)-\log\pi_\theta(\text{no}\mid q,d)$'
)
RANK_FLAGS = ('max_positive_samples', 'max_negative_samples')
RANK_WORDS = {r's': 'score of a document', r'y': 'whether it is relevant: 1 or 0'}
LIST_WORDS = {
    r's_i': 'scores of the documents of a query', r'p': 'its relevant document',
    r'\tau': '--listwise_reranker_temperature',
}  # fmt: skip
NOGUEIRA = Source('Passage Re-ranking with BERT', '1901.04085', 'sec. 3')
YES_NO = Source(
    'Qwen3 Embedding: Advancing Text Embedding and Reranking Through Foundation Models', '2506.05176', 'eq. 2'
)
LISTNET = Source('Learning to Rank: From Pairwise Approach to Listwise Approach', where='sec. 4.2', printed='ICML 2007')


def _ranking(task: str, *, listwise: bool) -> Method:
    """Pointwise or listwise, by a head or by the words yes and no."""
    answers = task == 'generative_reranker'
    loss, kind = ('listwise_reranker', 'Listwise') if listwise else ('pointwise_reranker', 'Pointwise')
    formula = r'\ell=-y\log\sigma(s)-(1-y)\log\sigma(-s)'
    lines = (
        r'$\ell\gets-y\log\sigma(s)-(1-y)\log\sigma(-s)$',
        r'return the mean of $\ell$ over the documents of the step',
    )
    if listwise:
        formula = r'\ell=-\log\frac{e^{s_p/\tau}}{\sum_ie^{s_i/\tau}}'
        lines = (
            r'for each query: $\ell\gets-\log\bigl(e^{s_p/\tau}/\sum_ie^{s_i/\tau}\bigr)$',
            r'return the mean of $\ell$ over the queries of the step',
        )
    suffix = '_answered' if answers else ''
    return Method(
        title=f'{"Generative reranker" if answers else "Reranker"}, {kind.lower()}',
        formula=formula
        + (r',\quad s=\log\frac{\pi_\theta(\text{yes}\mid q,d)}{\pi_\theta(\text{no}\mid q,d)}' * answers),
        source=((YES_NO,) if answers else ()) + ((LISTNET,) if listwise else (NOGUEIRA,)),
        make='swift.objectives.ranking:from_args',
        group=TASK,
        given={'loss_type': loss},
        code=f'swift.objectives.ranking:{kind}',
        reference=f'swift.objectives.references:{kind.lower()}{suffix}',
        told=f'swift.objectives.references:ranks{suffix}',
        rows='ranked',
        reads='tokens' if answers else 'head',
        flags=(
            *RANK_FLAGS,
            *(('listwise_reranker_temperature', 'listwise_reranker_min_group_size') if listwise else ()),
        ),
        steps=(ANSWERED if answers else DOCUMENTS, *lines),
        words=LIST_WORDS if listwise else RANK_WORDS,
        tried=({}, {'listwise_reranker_temperature': 0.5}) if listwise else ({},),
        example=(
            'examples/reranker.yaml',
            ' '.join(
                (['--task_type generative_reranker'] if answers else []) + ([f'--loss_type {loss}'] if listwise else [])
            ),
        ),
    )


TASKS: dict[str, Method] = {
    'seq_cls': _classes(
        'One class of several', r'\ell=-\log\frac{e^{s_y}}{\sum_{c=1}^Ce^{s_c}}', 'single_label_classification',
        'one_of_several', r'$\ell\gets-\log\bigl(e^{s_y}/\sum_ce^{s_c}\bigr)$',
        rows='classes', example=('examples/seq_cls.yaml', ''),
    ),
    'seq_cls.multi_label': _classes(
        'Several classes at once',
        r'\ell=-\frac1C\sum_{c=1}^C\bigl(y_c\log\sigma(s_c)+(1-y_c)\log\sigma(-s_c)\bigr)',
        'multi_label_classification', 'any_of_several',
        r'$\ell\gets$ the mean over the classes of $-y_c\log\sigma(s_c)-(1-y_c)\log\sigma(-s_c)$',
        rows='several_classes',
        example=('examples/seq_cls.yaml', '--problem_type multi_label_classification'),
    ),
    'seq_cls.regression': _classes(
        'Numbers', r'\ell=\frac1C\sum_{c=1}^C(s_c-y_c)^2', 'regression', 'numbers',
        r'$\ell\gets$ the mean over the numbers of $(s_c-y_c)^2$',
        rows='numbers', example=('examples/seq_cls.yaml', '--problem_type regression --num_labels 1'),
    ),
    'embedding': _embedding(
        'InfoNCE',
        r'\ell=-\log\frac{e^{\cos(q,d^+)/\tau}}{\sum_{d\in\mathcal D}e^{\cos(q,d)/\tau}}',
        (Source('Representation Learning with Contrastive Predictive Coding', '1807.03748', 'eq. 4'),
         Source('Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup', '2101.06983', 'sec. 3.2'),
         YES_NO),
        'infonce',
        r'for each row: $\ell\gets-\log\bigl(e^{\cos(q,d^+)/\tau}/\sum_{d\in\mathcal D}e^{\cos(q,d)/\tau}\bigr)$',
        *INFONCE_LINES, MEAN,
        adds='', flags=INFONCE_FLAGS,
        tried=(
            {}, {'infonce_use_batch': False}, {'infonce_include_qq': True, 'infonce_include_dd': True},
            {'infonce_hard_negatives': 1}, {'infonce_mask_fake_negative': True, 'infonce_temperature': 0.3},
        ),
        words={
            r'q,\ d^+': "anchor and positive of a row",
            r'\mathcal D': 'the positives and negatives of all rows of the optimizer step; what flags add or leave out',
            r'\tau': '--infonce_temperature',
        },
        differs='negatives are those of the whole optimizer step; others take those of a micro-batch',
    ),
    'embedding.cosine_similarity': _embedding(
        'Cosine', r'\ell=(\cos(e_a,e_b)-y)^2',
        (Source('Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks', '1908.10084', 'sec. 3'),),
        'cosine_similarity', PAIRS_LINE, r'$\ell\gets(1-D-y)^2$', MEAN_OF_PAIRS,
        words={symbol: meaning for symbol, meaning in PAIR_WORDS.items() if symbol != 'm'},
    ),
    'embedding.contrastive': _embedding(
        'Contrastive', r'\ell=\tfrac12\bigl(y\,D^2+(1-y)\max(0,\,m-D)^2\bigr)', (HADSELL,), 'contrastive',
        PAIRS_LINE, r'$\ell\gets\frac12(yD^2+(1-y)\max(0,m-D)^2)$', MEAN_OF_PAIRS,
        words=PAIR_WORDS,
    ),
    'embedding.online_contrastive': _embedding(
        'Online contrastive',
        r'\mathcal L=\sum_{y=1,\,D>\min_{y=0}D}D^2+\sum_{y=0,\,D<\max_{y=1}D}\max(0,\,m-D)^2', (HADSELL,),
        'online_contrastive', PAIRS_LINE,
        r'keep alike pairs with $D>\min_{y=0}D$ and others with $D<\max_{y=1}D$, of the whole step',
        *INFONCE_LINES, r'return the sum of $yD^2+(1-y)\max(0,m-D)^2$ over the pairs that are kept',
        words=PAIR_WORDS,
        differs='the hard pairs are sought in the whole optimizer step, where sentence-transformers has a micro-batch',
    ),
    'embedding.triplet': _embedding(
        'Triplet', r'\ell=\max(0,\,D_+-D_-+m)',
        (Source('FaceNet: A Unified Embedding for Face Recognition and Clustering', '1503.03832', 'eq. 1'),), 'triplet',
        r'for each negative of each row: $D_+\gets1-\cos(e_a,e_+)$, $D_-\gets1-\cos(e_a,e_-)$',
        r'$\ell\gets\max(0,D_+-D_-+m)$', r'return the mean of $\ell$ over the negatives of the step',
        words={r'D_+,\ D_-': 'distances of the anchor from its positive and from a negative', r'm': '0.5'},
    ),
    'embedding.matryoshka': _embedding(
        'Matryoshka', r'\mathcal L=\sum_mc_m\,\mathcal L_m',
        (Source('Matryoshka Representation Learning', '2205.13147', 'eq. 1'),), 'infonce',
        r'for each size $m$: $\mathcal L_m\gets$ the loss of the first $m$ numbers of every embedding, normalised anew',
        r'return $\sum_mc_m\mathcal L_m$',
        given={'mrl_dims': '{"2": 0.5, "4": 1.0}'}, code='swift.objectives.matryoshka:mixed', reference='matryoshka',
        adds='--mrl_dims \'{"64": 1.0, "384": 1.0}\'', flags=('mrl_dims', 'loss_type'),
        words={
            r'c_m': 'weight of size m, --mrl_dims',
            r'\mathcal L_m': 'the loss --loss_type of the first m numbers of every embedding, normalised anew',
        },
    ),
    'reranker': _ranking('reranker', listwise=False),
    'reranker.listwise': _ranking('reranker', listwise=True),
    'generative_reranker': _ranking('generative_reranker', listwise=False),
    'generative_reranker.listwise': _ranking('generative_reranker', listwise=True),
}  # fmt: skip

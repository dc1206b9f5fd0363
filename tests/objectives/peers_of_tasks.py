"""Numbers of peers on fixed tensors: what ms-swift 4.6 computed, and how sentence-transformers computes a loss."""

from __future__ import annotations

from typing import Any

EMBEDDINGS = [
    [0.020991187794, 0.014885244961, 0.58174978986, 0.433235429374, 0.355206341104, 0.589101433957],
    [0.344191779067, 0.422392920226, -0.461866565882, -0.45703824364, 0.439535459882, 0.296175857966],
    [0.830190033022, 0.18940615021, 0.24529101157, -0.443451043381, 0.054425573389, -0.123008812943],
    [0.134809729168, 0.498387536068, 0.428977800751, 0.568715546295, -0.424374146744, 0.214204244247],
    [-0.024633440204, -0.598314097889, -0.037469352116, -0.662761089715, 0.429072834016, -0.129049303027],
    [-0.142448929874, 0.227099919975, -0.636849929923, 0.644627082065, -0.280120027167, -0.168952037371],
    [0.078750585623, 0.112253626627, 0.404485676599, -0.39845385334, 0.473832718227, -0.659018882806],
    [0.285016083855, 0.017481935096, -0.692767073711, -0.22659027986, -0.396895535406, -0.479233528166],
    [-0.185242130725, 0.146214122081, -0.146019339093, 0.625047204924, -0.160978176144, 0.711608849398],
    [0.604863694803, -0.045209259125, 0.554440713555, 0.480403820487, 0.294923098681, -0.08321096008],
]
"""[10, 6], float64."""
PAIRS = {'cosine_similarity': 0.988836368, 'contrastive': 0.494265815, 'online_contrastive': 4.942658146}
"""Rows of two, labels 1 0 1 0 1."""
INFONCE = [
    ({}, 9.122156009),
    ({'infonce_temperature': 0.05}, 17.744075185),
    ({'infonce_use_batch': False}, 5.874224303),
    ({'infonce_mask_fake_negative': True}, 1.037186241),
    ({'infonce_include_qq': True}, 9.131955649),
    ({'infonce_include_dd': True}, 9.923611952),
    ({'infonce_include_dd': True, 'infonce_include_qq': True, 'infonce_mask_fake_negative': True}, 8.87676076),
    ({'infonce_hard_negatives': 1}, 9.062656542),
]
"""Flags and loss of rows of 4, 3 and 3."""
SCORES = [
    -0.564381158509,
    1.155959772114,
    -0.687736293068,
    0.351539040505,
    1.505023215346,
    -0.522017031851,
    0.023187237205,
]
"""Of the documents of rows of 3, 3 and 1, the first of each relevant."""
POINTWISE, LISTWISE = 0.891032699, 1.767051339
RANKED = {'mrr': 0.5, 'ndcg': 0.630929754}
"""Over the rows of more than one document."""


def of_sentence_transformers(loss: Any, parts: list[Any], labels: Any = None) -> Any:
    """A loss of embeddings that are there already."""
    loss.model.forward = lambda features: {'sentence_embedding': features}
    return loss(parts, labels)

// What the decoder reads: a model as a table of layers, and one step over rows of tokens of many sequences.
//
// Weights are packed in panels of 32 outputs: words [panel][depth / PAIR][32], a word being one fp32 number or a pair of
// bf16 numbers that a product contracts together. Keys and values lie in pages of 32 tokens as products read them:
// for each page and key head `turned` keys, words [D / PAIR][32], and `pairs` of values, words [32 / PAIR][D].
//
// Shapes: T rows, d width, H query heads, K key heads, D head width, zero-padded.
#pragma once
#include <cstdint>

namespace decoder {

const int PANEL = 32, PAGE = 32;

struct Norm {
    const float *weight;  // null: none
    double eps;
};

struct Linear {
    const uint32_t *weight;  // null: none
    const float *bias;       // [panels * 32] or null
    int64_t panels, depth;   // depth: inputs, a multiple of 32
};

struct Layer {
    Norm before;      // the attention; without weight the rows go in as they are
    Linear qkv;       // each of the three begins a panel
    Norm query, key;  // of each head
    Linear out;
    Norm after;
    Norm before_mlp;
    Linear gate_up;  // a panel has 16 outputs of each
    Linear down;
    Norm after_mlp;
    const float *sinks;
    void *pages;
    double scale, cap, attention_share, mlp_share;
    int64_t window, rotary, act;  // rotary: which table of angles, -1 for none
};

struct Angles {
    const float *cos, *sin;  // [positions][turned], or [T][turned] of the step's rows
    int64_t turned, adjacent, by_row;
};

struct Model {
    const Layer *layers;
    const Angles *angles;
    int64_t count, width, heads, key_heads, head_width, inner;
    Norm last;
    Linear head;
    int64_t vocabulary;
    double embedding_scale, logit_scale, logit_cap;
};

const int GROUPS = 4;  // linear layers of a layer: qkv, out, gate_up, down

struct Adapter {  // y += up(down(x)) of one group in one layer
    Linear down, up;
};

struct Sequence {
    int64_t row, count, start, pages;  // rows, position of the first, where its pages begin in the step's table
};

struct Span {
    int64_t from, to;         // rows, multiples of 16
    const Adapter *adapters;  // [layers][GROUPS]
};

struct Step {
    const void *embedded;     // [T][d]
    const int64_t *owner;     // [T] sequence of each row, -1: none
    const Sequence *sequences;
    const int32_t *pages;
    const int64_t *wanted;  // rows whose logits are asked for
    const Span *spans;
    float *logits;  // [wanted][vocabulary]
    void *hidden;   // where the last layer's rows go instead, or null
    int64_t rows, sequence_count, wanted_count, span_count;
};

}  // namespace decoder

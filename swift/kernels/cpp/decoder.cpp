// Decoder layers of a language model over rows of tokens of many sequences, with keys and values in pages.
//
//   h += share after(out(attention(rotary(norm(qkv(before(h)))))));  h += share after_mlp(down(act(gate) up))
//
// A row's numbers do not depend on the rows beside it: every sum runs in one fixed order, whatever the number of rows,
// how prompts are cut, where pages lie, and how many threads there are. bf16 multiplies on AMX tiles where the machine
// has them, else by vectors; sums, norms, softmax and the residual stream are fp32.
#include "decoder.h"

#include "attention_blocks.h"

namespace decoder {

using attention::all;
using attention::convert;
using attention::exp2;
using attention::highest;
using attention::indices;
using attention::ivec;
using attention::LANES;
using attention::larger;
using attention::load;
using attention::load_wide;
using attention::store;
using attention::sum;
using attention::up;
using attention::vec;
using attention::Wide;

// bf16 pairs without tiles.
struct Pairs {
    typedef bf16 E;
    static const int PAIR = 2, GRAIN = 32, DEGREE = 6;

    static void begin() {}
    static void end() {}
    static void put(bf16 *to, vec v) {
        for (int i = 0; i < LANES; ++i) narrow(v[i], to[i]);
    }

    template <int M>
    static inline void part(float *c, int ldc, const bf16 *a, int lda, const uint32_t *b, int ldb, int k, bool fresh) {
        vec total[M];
        for (int m = 0; m < M; ++m) total[m] = fresh ? vec{} : load(c + m * ldc);
        for (int i = 0; i < k; i += 2) {
            ivec words = *(const ivec *)(b + int64_t(i / 2) * ldb);
            vec low = (vec)(words << 16), high = (vec)(words & (ivec{} + int32_t(0xffff0000)));
            for (int m = 0; m < M; ++m) total[m] += wide(a[m * lda + i]) * low + wide(a[m * lda + i + 1]) * high;
        }
        for (int m = 0; m < M; ++m) store(c + m * ldc, total[m]);
    }

    static void product(float *c, int ldc, const E *a, int lda, const uint32_t *b, int ldb, int m, int n, int k,
                        bool fresh) {
        for (int at = 0; at < n; at += LANES)
            for (int row = 0; row < m; row += 8) part<8>(c + row * ldc + at, ldc, a + row * lda, lda, b + at, ldb, k, fresh);
    }
};

const int ROWS = 64;      // rows of a product, and queries of one head that attend together
const int SPAN = 128;     // keys that are softened together
const int SHARED = 256;   // rows that read a panel one after the other
const float LOG2E = 1.44269504088896341f;

// -------------------------------------------------------------------------------------------------------- workspace
struct Memory {
    char *bytes = nullptr;
    size_t size = 0, used = 0;

    ~Memory() { std::free(bytes); }

    void reserve(size_t wanted) {
        used = 0;
        if (wanted <= size) return;
        std::free(bytes);
        size = (wanted + 4095) / 4096 * 4096;
        bytes = (char *)std::aligned_alloc(4096, size);
    }

    template <class U>
    U *take(size_t count) {
        U *out = (U *)(bytes + used);
        used += (count * sizeof(U) + 63) / 64 * 64;
        return out;
    }
};

template <class Engine>
struct Space {  // of a step, shared by its threads
    typedef typename Engine::E E;
    int D, q_width, kv_width, qkv, inner, low;
    float *hidden, *mixed, *delta;  // [T][d], [T][qkv], [T][d]
    E *x, *queries, *seen, *gated, *lowered;

    Space(Memory &from, const Model &is, const Step &step)
        : D(up(is.head_width, Engine::GRAIN)),
          q_width(up(is.heads * is.head_width, PANEL)),
          kv_width(up(is.key_heads * is.head_width, PANEL)),
          qkv(q_width + 2 * kv_width),
          inner(up(is.inner, PANEL)),
          low(0) {
        for (int64_t s = 0; s < step.span_count; ++s)
            for (int64_t i = 0; i < is.count * GROUPS; ++i)
                low = std::max(low, int(step.spans[s].adapters[i].down.panels) * PANEL);
        size_t T = up(std::max(step.rows, step.wanted_count), 16), d = is.width;
        from.reserve(1024 + T * (4 * (2 * d + qkv) + sizeof(E) * (d + is.heads * (D + is.head_width) + inner + low)));
        hidden = from.take<float>(T * d), mixed = from.take<float>(T * qkv), delta = from.take<float>(T * d);
        x = from.take<E>(T * d), queries = from.take<E>(T * is.heads * D);
        seen = from.take<E>(T * is.heads * is.head_width), gated = from.take<E>(T * inner), lowered = from.take<E>(T * low);
    }
};

// --------------------------------------------------------------------------------------------------------- products
// Every row of x through a linear layer; `after` gets the sums [n][32] of rows from `row` on in a panel.
// Called by all threads of a region; they leave it together.
template <class Engine, class After>
static void multiply(const typename Engine::E *x, int64_t ldx, int64_t from, int64_t to, const Linear &layer,
                     const Step *step, int64_t group, const typename Engine::E *lowered, int64_t low, After after) {
    const int64_t words = layer.depth / Engine::PAIR * PANEL, shares = (to - from + SHARED - 1) / SHARED;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < layer.panels * shares; ++item) {
        alignas(64) float sums[ROWS * PANEL];
        const int64_t panel = item / shares, first = from + item % shares * SHARED;
        const uint32_t *weight = layer.weight + panel * words;
        for (int64_t row = first; row < std::min(to, first + SHARED); row += ROWS) {
            const int n = int(std::min<int64_t>(ROWS, to - row));
            Engine::product(sums, PANEL, x + row * ldx, int(ldx), weight, PANEL, n, PANEL, int(layer.depth), true);
            for (int64_t s = 0; step && s < step->span_count; ++s) {
                const Span &span = step->spans[s];
                const Linear &more = span.adapters[group].up;
                const int64_t begin = std::max(row, span.from), end = std::min(row + n, span.to);
                if (begin < end && more.weight)
                    Engine::product(sums + (begin - row) * PANEL, PANEL, lowered + begin * low, int(low),
                                    more.weight + panel * (more.depth / Engine::PAIR * PANEL), PANEL, int(end - begin),
                                    PANEL, int(more.depth), false);
            }
            if (layer.bias)
                for (int r = 0; r < n; ++r)
                    for (int c = 0; c < PANEL; c += LANES)
                        store(sums + r * PANEL + c, load(sums + r * PANEL + c) + load_wide(layer.bias + panel * PANEL + c));
            after(row, n, panel, sums);
        }
    }
}

// What adapters make of x, before it goes up again: rows of `space.lowered`.
template <class Engine>
static void lower(const typename Engine::E *x, int64_t ldx, const Step &step, int64_t group, Space<Engine> &space) {
    for (int64_t s = 0; s < step.span_count; ++s) {
        const Linear &down = step.spans[s].adapters[group].down;
        if (!down.weight) continue;
        multiply<Engine>(x, ldx, step.spans[s].from, step.spans[s].to, down, nullptr, 0, nullptr, 0,
                         [&](int64_t row, int n, int64_t panel, const float *sums) {
                             for (int r = 0; r < n; ++r)
                                 for (int c = 0; c < PANEL; c += LANES)
                                     Engine::put(space.lowered + (row + r) * space.low + panel * PANEL + c,
                                                 load(sums + r * PANEL + c));
                         });
    }
}

template <class Engine, class After>
static void group(const typename Engine::E *x, int64_t ldx, const Linear &layer, const Step &step, int64_t number,
                  Space<Engine> &space, After after) {
    if (step.span_count) lower<Engine>(x, ldx, step, number, space);
    multiply<Engine>(x, ldx, 0, step.rows, layer, step.span_count ? &step : nullptr, number, space.lowered, space.low,
                     after);
}

// Sums into rows of fp32 numbers.
struct Into {
    float *to;
    int64_t stride, width;

    void operator()(int64_t row, int n, int64_t panel, const float *sums) const {
        const int64_t columns = std::min<int64_t>(PANEL, width - panel * PANEL);
        for (int r = 0; r < n; ++r)
            std::memcpy(to + (row + r) * stride + panel * PANEL, sums + r * PANEL, columns * sizeof(float));
    }
};

// ------------------------------------------------------------------------------------------------------------ norms
static inline float root(const float *x, int64_t width, double eps) {
    vec total{};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec v = load_wide(x + i);
        total += v * v;
    }
    float rest = 0;
    for (; i < width; ++i) rest += x[i] * x[i];
    return 1.0f / __builtin_sqrtf((sum(total) + rest) / float(width) + float(eps));
}

// hidden += share norm(delta), x = before(hidden); either may be missing.
template <class Engine>
static void close(float *hidden, float *delta, const Norm &after, double share, typename Engine::E *x,
                  const Norm *before, int64_t width) {
    if (delta) {
        const float scale = after.weight ? root(delta, width, after.eps) : 1.0f;
        for (int64_t i = 0; i < width; i += LANES) {
            vec v = load(delta + i);
            if (after.weight) v = v * scale * load_wide(after.weight + i);
            store(hidden + i, load(hidden + i) + float(share) * v);
        }
    }
    if (!before) return;
    const float scale = before->weight ? root(hidden, width, before->eps) : 1.0f;
    for (int64_t i = 0; i < width; i += LANES) {
        vec v = load(hidden + i);
        if (before->weight) v = v * scale * load_wide(before->weight + i);
        Engine::put(x + i, v);
    }
}

// -------------------------------------------------------------------------------------------------- keys and values
template <class Engine>
static uint32_t *page_of(const Model &is, const Layer &layer, int D, int64_t page, int64_t head) {
    return (uint32_t *)layer.pages + (page * is.key_heads + head) * (2 * PAGE * D / Engine::PAIR);
}

static void turn(float *x, const Angles &by, int64_t position, int64_t row) {
    const int64_t from = (by.by_row ? row : position) * by.turned;
    const float *cos = by.cos + from, *sin = by.sin + from;
    const int64_t half = by.turned / 2, step = by.adjacent ? 2 : 1, other = by.adjacent ? 1 : half;
    for (int64_t i = 0; i < half; ++i) {
        float *a = x + i * step, *b = a + other;
        const int64_t at = i * step, beside = at + other;
        const float first = *a * cos[at] - *b * sin[at], second = *b * cos[beside] + *a * sin[beside];
        *a = first, *b = second;
    }
}

static inline void narrow_to(float x, float *to) { *to = x; }
static inline void narrow_to(float x, bf16 *to) { narrow(x, *to); }

// Heads of a row: normed, turned; queries to their rows, keys and values to their page.
template <class Engine>
static void place(const Model &is, const Layer &layer, const Step &step, const Space<Engine> &space, int64_t row) {
    typedef typename Engine::E E;
    const int64_t D = is.head_width;
    const Sequence &mine = step.sequences[step.owner[row]];
    const int64_t position = mine.start + row - mine.row, page = step.pages[mine.pages + position / PAGE];
    const int slot = int(position % PAGE);
    float *q = space.mixed + row * space.qkv, *k = q + space.q_width, *v = k + space.kv_width;
    for (int64_t h = 0; h < is.heads + is.key_heads; ++h) {
        const bool asks = h < is.heads;
        float *head = asks ? q + h * D : k + (h - is.heads) * D;
        const Norm &norm = asks ? layer.query : layer.key;
        if (norm.weight) {
            const float scale = root(head, D, norm.eps);
            for (int64_t i = 0; i < D; ++i) head[i] *= scale * norm.weight[i];
        }
        if (layer.rotary >= 0) turn(head, is.angles[layer.rotary], position, row);
        if (asks) {
            E *to = space.queries + (row * is.heads + h) * space.D;
            convert(head, to, int(D));
            if (D < space.D) std::memset((void *)(to + D), 0, (space.D - D) * sizeof(E));
        }
    }
    for (int64_t h = 0; h < is.key_heads; ++h) {
        E *keys = (E *)page_of<Engine>(is, layer, space.D, page, h), *values = keys + PAGE * space.D;
        const int P = Engine::PAIR;
        for (int64_t i = 0; i < D; ++i) narrow_to(k[h * D + i], keys + (i / P * PAGE + slot) * P + i % P);
        for (int64_t i = 0; i < D; ++i) narrow_to(v[h * D + i], values + (slot / P * space.D + i) * P + slot % P);
    }
}

// What an earlier owner left in a page must not meet the zeros of masked weights: it might be no number.
template <class Engine>
static void clear(const Model &is, const Layer &layer, const Step &step, const Space<Engine> &space, int64_t row) {
    const Sequence &mine = step.sequences[step.owner[row]];
    const int64_t position = mine.start + row - mine.row;
    if (position % PAGE) return;
    for (int64_t h = 0; h < is.key_heads; ++h) {
        const int words = PAGE * space.D / Engine::PAIR;
        std::memset(page_of<Engine>(is, layer, space.D, step.pages[mine.pages + position / PAGE], h) + words, 0, words * 4);
    }
}

// -------------------------------------------------------------------------------------------------------- attention
template <class Engine>
struct Queries {  // up to ROWS queries of one key head
    typedef typename Engine::E E;
    alignas(64) float scores[ROWS * SPAN];
    alignas(64) E weights[ROWS * SPAN];
    alignas(64) E rows[ROWS * 256];
    alignas(64) float sums[ROWS * 256];
    alignas(64) vec total[ROWS];
    float top[ROWS];
};

// One row's scores to weights exp2(logit - top); what was summed before is brought to the new top.
template <class Engine>
static void soften(const Layer &layer, Queries<Engine> &own, int r, int64_t from, int64_t to, int columns, int D) {
    const float factor = float(layer.cap ? layer.scale / layer.cap : layer.scale * LOG2E), cap = float(layer.cap) * LOG2E;
    const float none = -__builtin_inff();
    const bool whole = from <= 0 && to >= columns;
    float *scores = own.scores + r * SPAN;
    vec most = all(none);
    for (int c = 0; c < columns; c += LANES) {
        vec logit = load(scores + c) * factor;
        if (cap) logit = cap * attention::tanh(logit);
        if (!whole) {
            ivec at = indices() + c;
            ivec seen = (at >= ivec{} + int(std::max<int64_t>(from, 0))) & (at < ivec{} + int(std::min<int64_t>(to, columns)));
            logit = seen ? logit : all(none);
        }
        store(scores + c, logit);
        most = larger(most, logit);
    }
    const float before = own.top[r], now = std::max(before, highest(most)), zero = now == none ? 0.0f : now;
    vec total{};
    for (int c = 0; c < columns; c += LANES) {
        vec weight = exp2<Engine::DEGREE>(load(scores + c) - zero);
        total += weight;
        Engine::put(own.weights + r * SPAN + c, weight);
    }
    if (now != before) {
        const float fade = exp2<6>(all(before - zero))[0];
        own.top[r] = now;
        own.total[r] *= fade;
        for (int d = 0; d < D; d += LANES) store(own.sums + r * D + d, load(own.sums + r * D + d) * fade);
    }
    own.total[r] += total;
}

// `tokens` rows of a sequence, from its row `first` on, and one key head.
template <class Engine>
static void attend(const Model &is, const Layer &layer, const Step &step, const Space<Engine> &space,
                   const Sequence &mine, int64_t head, int64_t first, int64_t tokens) {
    typedef typename Engine::E E;
    static thread_local Queries<Engine> own;
    const int64_t G = is.heads / is.key_heads, position = mine.start + first, last = position + tokens - 1;
    const int D = space.D, n = int(tokens * G), R = up(n, 16);
    for (int64_t t = 0; t < tokens; ++t)
        std::memcpy((void *)(own.rows + t * G * D), space.queries + ((mine.row + first + t) * is.heads + head * G) * D,
                    G * D * sizeof(E));
    std::memset((void *)(own.rows + n * D), 0, (R - n) * D * sizeof(E));
    std::memset(own.sums, 0, R * D * sizeof(float));
    std::memset((void *)(own.weights + n * SPAN), 0, (R - n) * SPAN * sizeof(E));
    for (int r = 0; r < n; ++r) {
        const float *sinks = layer.sinks;
        own.top[r] = sinks ? sinks[head * G + r % G] * LOG2E : -__builtin_inff();
        own.total[r] = vec{};
        own.total[r][0] = sinks ? 1.0f : 0.0f;
    }
    const int64_t oldest = layer.window ? std::max<int64_t>(0, position - layer.window + 1) : 0;
    for (int64_t key = oldest / SPAN * SPAN; key <= last; key += SPAN) {
        const int columns = int(std::min<int64_t>(SPAN, up(last + 1 - key, PAGE)));
        const int32_t *pages = step.pages + mine.pages + key / PAGE;
        for (int c = 0; c < columns; c += PAGE)
            Engine::product(own.scores + c, SPAN, own.rows, D, page_of<Engine>(is, layer, D, pages[c / PAGE], head),
                            PAGE, R, PAGE, D, true);
        for (int r = 0; r < n; ++r) {
            const int64_t at = position + r / G - key;
            soften<Engine>(layer, own, r, layer.window ? at - layer.window + 1 : 0, at + 1, columns, D);
        }
        for (int c = 0; c < columns; c += PAGE)
            Engine::product(own.sums, D, own.weights + c, SPAN,
                            page_of<Engine>(is, layer, D, pages[c / PAGE], head) + PAGE * D / Engine::PAIR, D, R, D,
                            PAGE, false);
    }
    for (int r = 0; r < n; ++r) {
        const float share = 1.0f / sum(own.total[r]);
        for (int d = 0; d < D; d += LANES) store(own.sums + r * D + d, load(own.sums + r * D + d) * share);
        convert(own.sums + r * D,
                space.seen + ((mine.row + first + r / G) * is.heads + head * G + r % G) * is.head_width,
                int(is.head_width));
    }
}

struct Part {
    int64_t sequence, head, first, tokens;
};

static std::vector<Part> parts(const Model &is, const Step &step) {
    std::vector<Part> out;
    const int64_t together = std::max<int64_t>(1, ROWS / (is.heads / is.key_heads));
    for (int64_t s = 0; s < step.sequence_count; ++s)
        for (int64_t first = 0; first < step.sequences[s].count; first += together)
            for (int64_t h = 0; h < is.key_heads; ++h)
                out.push_back({s, h, first, std::min(together, step.sequences[s].count - first)});
    return out;
}

// ----------------------------------------------------------------------------------------------------- activations
// SiLU, GELU by its tanh form, exact GELU.
static inline vec activate(vec x, int64_t act) {
    if (act == 0) {
        vec t = -LOG2E * x;
        return x / (1.0f + exp2<6>(t > 126.0f ? all(126.0f) : t));
    }
    if (act == 1) return 0.5f * x * (1.0f + attention::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    vec out;
    for (int i = 0; i < LANES; ++i) out[i] = 0.5f * x[i] * (1.0f + __builtin_erff(x[i] * 0.70710678118654752f));
    return out;
}

// ------------------------------------------------------------------------------------------------------------- step
template <class Engine>
static void run_layer(const Model &is, int64_t l, const Step &step, Space<Engine> &space,
                      const std::vector<Part> &work) {
    const Layer &layer = is.layers[l];
    const int64_t d = is.width, T = step.rows;
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < T; ++t)
        if (step.owner[t] >= 0) clear(is, layer, step, space, t);
    group<Engine>(space.x, d, layer.qkv, step, l * GROUPS, space, Into{space.mixed, space.qkv, space.qkv});
#pragma omp for schedule(static)
    for (int64_t t = 0; t < T; ++t)
        if (step.owner[t] >= 0) place(is, layer, step, space, t);
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < work.size(); ++i)
        attend(is, layer, step, space, step.sequences[work[i].sequence], work[i].head, work[i].first, work[i].tokens);
    const int64_t seen = is.heads * is.head_width;
    group<Engine>(space.seen, seen, layer.out, step, l * GROUPS + 1, space, Into{space.delta, d, d});
#pragma omp for schedule(static)
    for (int64_t t = 0; t < T; ++t)
        close<Engine>(space.hidden + t * d, space.delta + t * d, layer.after, layer.attention_share, space.x + t * d,
                      &layer.before_mlp, d);
    group<Engine>(space.x, d, layer.gate_up, step, l * GROUPS + 2, space,
                  [&](int64_t row, int n, int64_t panel, const float *sums) {
                      for (int r = 0; r < n; ++r)
                          Engine::put(space.gated + (row + r) * space.inner + panel * LANES,
                                      activate(load(sums + r * PANEL), layer.act) * load(sums + r * PANEL + LANES));
                  });
    group<Engine>(space.gated, space.inner, layer.down, step, l * GROUPS + 3, space, Into{space.delta, d, d});
    const Norm *next = l + 1 < is.count ? &is.layers[l + 1].before : nullptr;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < T; ++t)
        close<Engine>(space.hidden + t * d, space.delta + t * d, layer.after_mlp, layer.mlp_share, space.x + t * d,
                      next, d);
}

template <class Engine>
static void predict(const Model &is, const Step &step, Space<Engine> &space) {
    const int64_t d = is.width, rows = up(step.wanted_count, 16);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
        if (i < step.wanted_count)
            close<Engine>(space.hidden + step.wanted[i] * d, nullptr, is.last, 0, space.x + i * d, &is.last, d);
        else
            std::memset((void *)(space.x + i * d), 0, d * sizeof(typename Engine::E));
    const float scale = float(is.logit_scale), cap = float(is.logit_cap);
    multiply<Engine>(space.x, d, 0, rows, is.head, nullptr, 0, nullptr, 0,
                     [&](int64_t row, int n, int64_t panel, float *sums) {
                         const int64_t columns = std::min<int64_t>(PANEL, is.vocabulary - panel * PANEL);
                         for (int r = 0; r < n && row + r < step.wanted_count; ++r) {
                             for (int c = 0; c < PANEL; c += LANES) {
                                 vec v = load(sums + r * PANEL + c) * scale;
                                 store(sums + r * PANEL + c, cap ? cap * attention::tanh(v / cap) : v);
                             }
                             std::memcpy(step.logits + (row + r) * is.vocabulary + panel * PANEL, sums + r * PANEL,
                                         columns * sizeof(float));
                         }
                     });
}

template <class Engine>
static void run(const Model &is, const Step &step) {
    typedef typename Engine::E E;
    static thread_local Memory memory;
    Space<Engine> space(memory, is, step);
    const std::vector<Part> work = parts(is, step);
    const int64_t d = is.width;
    const float scale = float(is.embedding_scale);
#pragma omp parallel
    {
        Engine::begin();
#pragma omp for schedule(static)
        for (int64_t t = 0; t < step.rows; ++t) {
            const E *from = (const E *)step.embedded + t * d;
            for (int64_t i = 0; i < d; i += LANES) store(space.hidden + t * d + i, load_wide(from + i) * scale);
            close<Engine>(space.hidden + t * d, nullptr, is.last, 0, space.x + t * d, &is.layers[0].before, d);
        }
        for (int64_t l = 0; l < is.count; ++l) run_layer(is, l, step, space, work);
        if (step.hidden) {
#pragma omp for schedule(static)
            for (int64_t t = 0; t < step.rows; ++t) convert(space.hidden + t * d, (E *)step.hidden + t * d, int(d));
        }
        if (step.wanted_count) predict(is, step, space);
        Engine::end();
    }
}

// ---------------------------------------------------------------------------------------------------------- packing
// Row n of a matrix [N][K] becomes output n % per + offset of panel first + n / per, its inputs from `input` on.
template <class E, int PAIR>
static void pack(const E *from, int64_t stride, int64_t N, int64_t K, E *to, int64_t depth, int64_t first, int64_t per,
                 int64_t offset, int64_t input) {
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < (N + per - 1) / per; ++panel) {
        E *out = to + (first + panel) * depth * PANEL;
        const int64_t count = std::min(per, N - panel * per);
        const E *in = from + panel * per * stride;
        const bool words = input % PAIR == 0 && stride % PAIR == 0 && count % LANES == 0;
        const int64_t quick = words ? K / (LANES * PAIR) * (LANES * PAIR) : 0;  // a transposition of words
        for (int64_t k = 0; k < quick; k += LANES * PAIR)
            for (int64_t n = 0; n < count; n += LANES)
                attention::transpose16((const uint32_t *)(in + n * stride + k), stride / PAIR,
                                       (uint32_t *)(out + (input + k) * PANEL) + offset + n, PANEL);
        for (int64_t k = quick; k < K; ++k) {
            E *word = out + ((input + k) / PAIR * PANEL + offset) * PAIR + (input + k) % PAIR;
            for (int64_t n = 0; n < count; ++n) word[n * PAIR] = in[n * stride + k];
        }
    }
}

}  // namespace decoder

extern "C" {
void decoder_step_f32(void *model, void *step, int64_t) {
    decoder::run<attention::Wide>(*(const decoder::Model *)model, *(const decoder::Step *)step);
}
void decoder_step_bf16(void *model, void *step, int64_t tiles) {
#if HAS_TILES
    if (tiles && attention::Tiles::granted())
        return decoder::run<attention::Tiles>(*(const decoder::Model *)model, *(const decoder::Step *)step);
#endif
    (void)tiles;
    decoder::run<decoder::Pairs>(*(const decoder::Model *)model, *(const decoder::Step *)step);
}
void decoder_pack_f32(void *from, int64_t stride, int64_t N, int64_t K, void *to, int64_t depth, int64_t first,
                      int64_t per, int64_t offset, int64_t input) {
    decoder::pack<float, 1>((const float *)from, stride, N, K, (float *)to, depth, first, per, offset, input);
}
void decoder_pack_bf16(void *from, int64_t stride, int64_t N, int64_t K, void *to, int64_t depth, int64_t first,
                       int64_t per, int64_t offset, int64_t input) {
    decoder::pack<bf16, 2>((const bf16 *)from, stride, N, K, (bf16 *)to, depth, first, per, offset, input);
}
}

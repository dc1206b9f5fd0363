// Causal attention over sequences that lie end to end, some of which continue another one (its prefix), forward and
// backward, after FlashAttention-2 (arXiv 2307.08691): blocks of queries against blocks of keys, online softmax,
// the backward pass recomputes the weights from the log-sum-exp.
//
//   S = scale Q K^T, capped to cap tanh(S / cap);  P = exp(S - lse);  O = P V
//   dV = P^T dO;  dS = P o (dO V^T - rowsum(dO o O)) [o (1 - tanh^2)];  dQ = scale dS K;  dK = scale dS^T Q
//
// A sequence sees its ancestors whole and itself causally: a position's keys are those before it along that chain.
// Sequences that share an ancestor form a tree. Work is cut into items (tree, key head, ranges of blocks) that write
// disjoint results, each in one fixed order: which thread does what, and how many there are, changes no bit.
#include "attention_blocks.h"
#include "attention_plan.h"

namespace attention {

struct Heads {  // where a token's heads lie, in numbers
    int64_t token, head;
};

template <class T>
struct Arrays {
    const T *q, *k, *v, *grad;
    Heads q_at, k_at, v_at, grad_at;
    T *out;  // [tokens][heads][width]
    T *dq, *dk, *dv;
    Heads dq_at, dk_at, dv_at;
    float *lse, *delta;  // [heads][tokens]
    const float *sinks;  // [heads] or null: one more logit in each softmax
};

// -------------------------------------------------------------------------------------------------------- workspace
// Memory of a thread that lives on between calls, unless it is large. Pieces are aligned to cache lines.
struct Workspace {
    static const size_t KEPT = size_t(16) << 20;
    char *memory = nullptr;
    size_t size = 0, used = 0;

    ~Workspace() { std::free(memory); }

    void reserve(size_t bytes) {
        used = 0;
        if (bytes <= size) return;
        std::free(memory);
        size = (bytes + 63) / 64 * 64;
        memory = (char *)std::aligned_alloc(64, size);
    }

    void trim() {
        if (size <= KEPT) return;
        std::free(memory);
        memory = nullptr, size = 0;
    }

    template <class U>
    U *take(size_t count) {
        U *out = (U *)(memory + used);
        used += (count * sizeof(U) + 63) / 64 * 64;
        return out;
    }
};

static Workspace &workspace() {
    static thread_local Workspace mine;
    return mine;
}

// ----------------------------------------------------------------------------------------------------------- scores
const int STRIP = 32;  // rows that are worked on together
const float LOG2E = 1.44269504088896341f, LN2 = 0.693147180559945309f;

struct Scale {  // raw products to logits in units of log 2
    float factor, cap;  // cap 0: logit = factor x; else cap tanh(factor x)

    explicit Scale(const Problem &is)
        : factor(is.cap ? is.scale / is.cap : is.scale * LOG2E), cap(is.cap * LOG2E) {}

    vec logits(vec x) const { return cap ? cap * tanh(x * factor) : x * factor; }

    // Logits, and in `slope` d logit / d x in natural units, over the scale.
    vec logits(vec x, vec &slope) const {
        if (!cap) return x * factor;
        vec t = tanh(x * factor);
        slope = 1.0f - t * t;
        return cap * t;
    }
};

// Which keys of one or more blocks the queries of another see: row r those in [from(r), to(r)).
struct Sight {
    int64_t shift;  // position of the first query less that of the first key
    int64_t window;
    int queries, keys;

    Sight(const Problem &is, const Block &query, const Block &key, int keys)
        : shift(query.position - key.position), window(is.window), queries(query.n), keys(keys) {}

    int from(int r) const { return window ? int(std::max<int64_t>(0, shift + r - window + 1)) : 0; }
    int to(int r) const { return r < queries ? int(std::min<int64_t>(keys, shift + r + 1)) : 0; }

    // Columns, in whole grains, that rows [r, r + STRIP) need; what is beyond is neither written nor read.
    int reach(int r, int grain) const { return up(to(std::min(r + STRIP, queries) - 1), grain); }

    // Whether rows [r, end) see all of these columns.
    bool whole(int r, int end, int columns) const { return end <= queries && to(r) >= columns && from(end - 1) == 0; }

    vec keep(vec x, int r, int column, float otherwise) const {
        ivec at = indices() + column;
        ivec seen = (at >= ivec{} + from(r)) & (at < ivec{} + to(r));
        return seen ? x : all(otherwise);
    }
};

// ---------------------------------------------------------------------------------------------------------- forward
const int STEP = 2;  // key blocks that are softened together: fewer looks at the sums
const int WIDE = STEP * BLOCK;

template <class Engine>
struct ForwardSpace {
    typedef typename Engine::E E;
    int D;
    E *rows, *weights;           // [64][D], [STRIP][WIDE]
    float *scores, *sums, *top;  // [STRIP][WIDE], [64][D], [64]
    vec *total;                  // [64] sums of weights, by lane
    uint32_t *keys, *values;     // packed blocks of the tree
    std::vector<char> packed;
    size_t step;  // words of a packed block

    static size_t bytes(int D, int blocks) {
        size_t step = size_t(BLOCK) * D / Engine::PAIR;
        return 1024 + 64 * D * 8 + STRIP * WIDE * 8 + 64 * 68 + 2 * step * blocks * 4;
    }

    ForwardSpace(Workspace &from, int width, int blocks) : D(width), step(size_t(BLOCK) * D / Engine::PAIR) {
        from.reserve(bytes(D, blocks));
        rows = from.take<E>(64 * D), weights = from.take<E>(STRIP * WIDE);
        scores = from.take<float>(STRIP * WIDE), sums = from.take<float>(64 * D), top = from.take<float>(64);
        total = from.take<vec>(64);
        keys = from.take<uint32_t>(step * blocks), values = from.take<uint32_t>(step * blocks);
        packed.assign(blocks, 0);
    }
};

template <class Engine, class T>
static void pack_for_forward(const Problem &is, const Arrays<T> &x, ForwardSpace<Engine> &space, const Block &block,
                             int b, int head) {
    if (space.packed[b]) return;
    space.packed[b] = 1;
    const T *k = x.k + block.token * x.k_at.token + head * x.k_at.head;
    const T *v = x.v + block.token * x.v_at.token + head * x.v_at.head;
    auto *rows = (typename Engine::E *)space.sums;  // free between blocks of queries
    pack_rows<Engine>(rows, k, x.k_at.token, block.n, int(is.width), is.D);
    pack_turned<Engine>(space.keys + b * space.step, rows, block.n, is.D);
    pack_rows<Engine>(rows, v, x.v_at.token, block.n, int(is.width), is.D);
    pack_pairs<Engine>(space.values + b * space.step, rows, block.n, is.D);
}

// Scores of rows [first, end) to weights exp2(logit - top), with what was summed before brought to the new top.
template <class Engine, bool WHOLE>
static void soften(const Scale &scale, const Sight &sight, int first, int end, int columns,
                   ForwardSpace<Engine> &space) {
    const float none = -__builtin_inff();
    for (int r = first; r < end; ++r) {
        float *scores = space.scores + (r - first) * WIDE;
        vec highest_yet = all(none);
        for (int c = 0; c < columns; c += LANES) {
            vec logit = scale.logits(load(scores + c));
            if (!WHOLE) logit = sight.keep(logit, r, c, none);
            store(scores + c, logit);
            highest_yet = larger(highest_yet, logit);
        }
        float before = space.top[r], now = std::max(before, highest(highest_yet));
        float zero = now == none ? 0.0f : now;  // a row that has seen nothing yet
        vec total{};
        for (int c = 0; c < columns; c += LANES) {
            vec weight = exp2<Engine::DEGREE>(load(scores + c) - zero);
            total += weight;
            Engine::put(space.weights + (r - first) * WIDE + c, weight);
        }
        if (now != before) {
            float fade = exp2<6>(all(before - zero))[0];
            space.top[r] = now;
            space.total[r] *= fade;
            for (int d = 0; d < space.D; d += LANES)
                store(space.sums + r * space.D + d, load(space.sums + r * space.D + d) * fade);
        }
        space.total[r] += total;
    }
}

// Queries of one head against up to STEP neighbouring blocks of keys, from block b on.
template <class Engine>
static void forward_step(const Problem &is, const Scale &scale, const Sight &sight, int b,
                         ForwardSpace<Engine> &space) {
    const int D = is.D, rows = up(sight.queries, Engine::GRAIN);
    for (int r = 0; r < rows; r += STRIP) {
        int end = std::min(r + STRIP, rows), columns = sight.reach(r, Engine::GRAIN);
        for (int c = 0; c < columns; c += BLOCK)
            Engine::product(space.scores + c, WIDE, space.rows + r * D, D, space.keys + (b + c / BLOCK) * space.step,
                            BLOCK, end - r, std::min(BLOCK, columns - c), D, true);
        if (sight.whole(r, end, columns))
            soften<Engine, true>(scale, sight, r, end, columns, space);
        else
            soften<Engine, false>(scale, sight, r, end, columns, space);
        Engine::product(space.sums + r * D, D, space.weights, WIDE, space.values + b * space.step, D, end - r, D,
                        columns, false);
    }
}

template <class Engine, class T>
static void start_queries(const Problem &is, const Arrays<T> &x, ForwardSpace<Engine> &space, const Block &query,
                          int head) {
    const int rows = up(query.n, Engine::GRAIN);
    pack_rows<Engine>(space.rows, x.q + query.token * x.q_at.token + head * x.q_at.head, x.q_at.token, query.n,
                      int(is.width), is.D);
    std::memset(space.sums, 0, rows * is.D * sizeof(float));
    for (int r = 0; r < rows; ++r) {
        space.top[r] = x.sinks ? x.sinks[head] * LOG2E : -__builtin_inff();
        space.total[r] = vec{};
        space.total[r][0] = x.sinks ? 1.0f : 0.0f;
    }
}

template <class Engine, class T>
static void finish_queries(const Problem &is, const Arrays<T> &x, ForwardSpace<Engine> &space, const Block &query,
                           int head) {
    for (int r = 0; r < query.n; ++r) {
        float total = sum(space.total[r]), share = 1.0f / total;
        float *sums = space.sums + r * is.D;
        for (int d = 0; d < is.D; d += LANES) store(sums + d, load(sums + d) * share);
        convert(sums, x.out + ((query.token + r) * is.heads + head) * is.width, int(is.width));
        x.lse[head * is.tokens + query.token + r] = space.top[r] * LN2 + __builtin_logf(total);
    }
}

template <class Engine, class T>
static void forward_item(const Problem &is, const Plan &plan, const Arrays<T> &x, const Item &item) {
    const Tree &tree = plan.trees[item.tree];
    const Scale scale(is);
    const int group = int(is.heads / is.key_heads);
    ForwardSpace<Engine> space(workspace(), is.D, int(tree.blocks.size()));
    for (int b = item.queries.from; b < item.queries.to; ++b) {
        const Block &query = tree.blocks[b];
        for (int ancestor : plan.chains[query.segment]) {
            Range seen = visible(is, plan, tree, query, ancestor, item.keys);
            for (int j = seen.from; j < seen.to; ++j) pack_for_forward(is, x, space, tree.blocks[j], j, item.key_head);
        }
        for (int head = item.key_head * group; head < (item.key_head + 1) * group; ++head) {
            start_queries(is, x, space, query, head);
            for (int ancestor : plan.chains[query.segment]) {
                Range seen = visible(is, plan, tree, query, ancestor, item.keys);
                for (int j = seen.from; j < seen.to; j += STEP) {
                    int last = std::min(j + STEP, seen.to) - 1;
                    Sight sight(is, query, tree.blocks[j], (last - j) * BLOCK + tree.blocks[last].n);
                    forward_step(is, scale, sight, j, space);
                }
            }
            finish_queries(is, x, space, query, head);
        }
    }
}

// --------------------------------------------------------------------------------------------------------- backward
template <class Engine>
struct BackwardSpace {
    typedef typename Engine::E E;
    int D;
    E *q_rows, *q_columns, *grad_rows, *grad_columns;  // [64][D], [D][64]
    uint32_t *pairs, *weights, *slopes_pairs;          // [64 / PAIR][D], [64 / PAIR][64]: P and dS
    E *slopes;                                         // [64][64] dS
    float *scores, *products, *dq, *lse, *delta;       // S, dO V^T [64][64]; [64][D]; [64]
    uint32_t *keys, *key_pairs, *values;               // packed blocks of the tree
    float *dk, *dv;                                    // [D][64] of each block
    std::vector<char> packed;
    size_t step;

    static size_t bytes(int D, int blocks) {
        size_t step = size_t(BLOCK) * D / Engine::PAIR;
        return 4096 + 64 * D * 4 * 6 + 64 * 64 * 4 * 5 + 2 * 64 * 4 + (3 * step + 2 * 64 * size_t(D)) * blocks * 4;
    }

    BackwardSpace(Workspace &from, int width, int blocks) : D(width), step(size_t(BLOCK) * D / Engine::PAIR) {
        from.reserve(bytes(D, blocks));
        q_rows = from.take<E>(64 * D), q_columns = from.take<E>(64 * D);
        grad_rows = from.take<E>(64 * D), grad_columns = from.take<E>(64 * D);
        pairs = from.take<uint32_t>(64 * D / Engine::PAIR), weights = from.take<uint32_t>(64 * 64 / Engine::PAIR);
        slopes_pairs = from.take<uint32_t>(64 * 64 / Engine::PAIR), slopes = from.take<E>(64 * 64);
        scores = from.take<float>(64 * 64), products = from.take<float>(64 * 64), dq = from.take<float>(64 * D);
        lse = from.take<float>(64), delta = from.take<float>(64);
        keys = from.take<uint32_t>(step * blocks), key_pairs = from.take<uint32_t>(step * blocks);
        values = from.take<uint32_t>(step * blocks);
        dk = from.take<float>(size_t(64) * D * blocks), dv = from.take<float>(size_t(64) * D * blocks);
        packed.assign(blocks, 0);
    }
};

template <class Engine, class T>
static void pack_for_backward(const Problem &is, const Arrays<T> &x, BackwardSpace<Engine> &space, const Block &block,
                              int b, int head) {
    if (space.packed[b]) return;
    space.packed[b] = 1;
    const T *k = x.k + block.token * x.k_at.token + head * x.k_at.head;
    const T *v = x.v + block.token * x.v_at.token + head * x.v_at.head;
    auto *rows = (typename Engine::E *)space.dq;  // free between blocks of queries
    pack_rows<Engine>(rows, k, x.k_at.token, block.n, int(is.width), is.D);
    pack_turned<Engine>(space.keys + b * space.step, rows, block.n, is.D);
    pack_pairs<Engine>(space.key_pairs + b * space.step, rows, block.n, is.D);
    pack_rows<Engine>(rows, v, x.v_at.token, block.n, int(is.width), is.D);
    pack_turned<Engine>(space.values + b * space.step, rows, block.n, is.D);
    std::memset(space.dk + size_t(b) * BLOCK * is.D, 0, size_t(BLOCK) * is.D * sizeof(float));
    std::memset(space.dv + size_t(b) * BLOCK * is.D, 0, size_t(BLOCK) * is.D * sizeof(float));
}

// A block of queries of one head: its packings, log-sum-exp in units of log 2, and rowsum(dO o O).
template <class Engine, class T>
static void take_queries(const Problem &is, const Arrays<T> &x, BackwardSpace<Engine> &space, const Block &query,
                         int head, bool for_keys) {
    const int D = is.D, width = int(is.width), rows = up(query.n, Engine::GRAIN);
    const T *q = x.q + query.token * x.q_at.token + head * x.q_at.head;
    const T *grad = x.grad + query.token * x.grad_at.token + head * x.grad_at.head;
    pack_rows<Engine>(space.q_rows, q, x.q_at.token, query.n, width, D);
    pack_rows<Engine>(space.grad_rows, grad, x.grad_at.token, query.n, width, D);
    if (for_keys) {
        pack_pairs<Engine>(space.pairs, space.q_rows, query.n, D);
        pack_columns<Engine>(space.q_columns, space.pairs, query.n, D);
        pack_pairs<Engine>(space.pairs, space.grad_rows, query.n, D);
        pack_columns<Engine>(space.grad_columns, space.pairs, query.n, D);
    }
    for (int r = 0; r < rows; ++r) {
        bool real = r < query.n;
        const T *out = x.out + ((query.token + r) * is.heads + head) * is.width;
        space.delta[r] = real ? inner(grad + r * x.grad_at.token, out, width) : 0.0f;
        space.lse[r] = real ? x.lse[head * is.tokens + query.token + r] * LOG2E : 0.0f;
    }
}

// S and dO V^T of rows [first, end) to P (pairs) and dS (rows and pairs).
template <class Engine, bool WHOLE>
static void slope(const Scale &scale, float natural, const Sight &sight, int first, int end, int columns,
                  BackwardSpace<Engine> &space) {
    for (int r = first; r < end; r += 2)
        for (int c = 0; c < columns; c += LANES) {
            vec weight[2], slope[2];
            for (int i = 0; i < 2; ++i) {
                int at = (r + i) * BLOCK + c;
                vec rate = all(1.0f), logit = scale.logits(load(space.scores + at), rate);
                weight[i] = exp2<Engine::DEGREE>(logit - space.lse[r + i]);
                if (!WHOLE) weight[i] = sight.keep(weight[i], r + i, c, 0.0f);
                slope[i] = weight[i] * natural * (load(space.products + at) - space.delta[r + i]) * rate;
                if (!WHOLE) slope[i] = sight.keep(slope[i], r + i, c, 0.0f);
                Engine::put(space.slopes + at, slope[i]);
            }
            int at = r / Engine::PAIR * BLOCK + c;
            Engine::put_pair(space.weights + at, BLOCK, weight[0], weight[1]);
            Engine::put_pair(space.slopes_pairs + at, BLOCK, slope[0], slope[1]);
        }
}

// dK and dV of a block's columns [c, c + n), which rows from r on see.
template <class Engine>
static void add_to_keys(int D, int r, int rows, int c, int n, int b, BackwardSpace<Engine> &space) {
    size_t to = size_t(b) * BLOCK * D + c;
    int from = r / Engine::PAIR * BLOCK + c;
    Engine::product(space.dv + to, BLOCK, space.grad_columns + r, BLOCK, space.weights + from, BLOCK, D, n, rows - r,
                    false);
    Engine::product(space.dk + to, BLOCK, space.q_columns + r, BLOCK, space.slopes_pairs + from, BLOCK, D, n, rows - r,
                    false);
}

// A block of queries of one head against block b of the keys.
template <class Engine>
static void backward_step(const Problem &is, const Scale &scale, const Sight &sight, const Item &item, int b,
                          BackwardSpace<Engine> &space) {
    const int D = is.D, rows = up(sight.queries, Engine::GRAIN), all_columns = up(sight.keys, Engine::GRAIN);
    int done = 0;  // columns whose first row is behind
    for (int r = 0; r < rows; r += STRIP) {
        int end = std::min(r + STRIP, rows), columns = sight.reach(r, Engine::GRAIN), at = r * BLOCK;
        Engine::product(space.scores + at, BLOCK, space.q_rows + r * D, D, space.keys + b * space.step, BLOCK, end - r,
                        columns, D, true);
        Engine::product(space.products + at, BLOCK, space.grad_rows + r * D, D, space.values + b * space.step, BLOCK,
                        end - r, columns, D, true);
        if (sight.whole(r, end, columns))
            slope<Engine, true>(scale, is.scale, sight, r, end, columns, space);
        else
            slope<Engine, false>(scale, is.scale, sight, r, end, columns, space);
        if (item.for_queries)
            Engine::product(space.dq + r * D, D, space.slopes + at, BLOCK, space.key_pairs + b * space.step, D, end - r,
                            D, columns, false);
    }
    for (int r = 0; item.for_keys && done < all_columns && r < rows; r += STRIP) {
        int columns = sight.reach(r, Engine::GRAIN);
        if (columns > done) add_to_keys(D, r, rows, done, columns - done, b, space);
        done = std::max(done, columns);
    }
}

template <class Engine, class T>
static void backward_item(const Problem &is, const Plan &plan, const Arrays<T> &x, const Item &item) {
    const Tree &tree = plan.trees[item.tree];
    const Scale scale(is);
    const int D = is.D, group = int(is.heads / is.key_heads), width = int(is.width);
    BackwardSpace<Engine> space(workspace(), D, int(tree.blocks.size()));
    for (int b = item.queries.from; b < item.queries.to; ++b) {
        const Block &query = tree.blocks[b];
        int pairs = 0;
        for (int ancestor : plan.chains[query.segment]) {
            Range seen = visible(is, plan, tree, query, ancestor, item.keys);
            for (int j = seen.from; j < seen.to; ++j, ++pairs)
                pack_for_backward(is, x, space, tree.blocks[j], j, item.key_head);
        }
        if (!pairs) continue;
        for (int head = item.key_head * group; head < (item.key_head + 1) * group; ++head) {
            take_queries(is, x, space, query, head, item.for_keys);
            std::memset(space.dq, 0, 64 * D * sizeof(float));
            for (int ancestor : plan.chains[query.segment]) {
                Range seen = visible(is, plan, tree, query, ancestor, item.keys);
                for (int j = seen.from; j < seen.to; ++j)
                    backward_step(is, scale, Sight(is, query, tree.blocks[j], tree.blocks[j].n), item, j, space);
            }
            if (!item.for_queries) continue;
            for (int r = 0; r < query.n; ++r) {
                convert(space.dq + r * D, x.dq + (query.token + r) * x.dq_at.token + head * x.dq_at.head, width);
                x.delta[head * is.tokens + query.token + r] = space.delta[r];
            }
        }
    }
    for (int b = item.keys.from; item.for_keys && b < item.keys.to; ++b) {
        const Block &key = tree.blocks[b];
        T *const to[2] = {x.dk + key.token * x.dk_at.token + item.key_head * x.dk_at.head,
                          x.dv + key.token * x.dv_at.token + item.key_head * x.dv_at.head};
        const float *const from[2] = {space.dk, space.dv};
        const int64_t stride[2] = {x.dk_at.token, x.dv_at.token};
        for (int i = 0; i < 2; ++i) {
            transpose(from[i] + size_t(b) * BLOCK * D, BLOCK, space.dq, D, D, up(key.n, 16));
            for (int r = 0; r < key.n; ++r) convert(space.dq + r * D, to[i] + r * stride[i], width);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- runs
template <class Engine, class T>
static void run(Problem is, const Arrays<T> &x, bool backward) {
    is.D = up(is.width, Engine::GRAIN);
    Plan plan = make_plan(is);
    const std::vector<Item> items = make_items(is, plan, backward);
#pragma omp parallel
    {
        Engine::begin();
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < items.size(); ++i) {
            if (backward)
                backward_item<Engine>(is, plan, x, items[i]);
            else
                forward_item<Engine>(is, plan, x, items[i]);
        }
        workspace().trim();
        Engine::end();
    }
}

static void choose(const Problem &is, const Arrays<float> &x, bool backward, bool) { run<Wide>(is, x, backward); }

static void choose(const Problem &is, const Arrays<bf16> &x, bool backward, bool tiles) {
#if HAS_TILES
    if (tiles && Tiles::granted()) return run<Tiles>(is, x, backward);
#endif
    (void)tiles;
    run<Wide>(is, x, backward);
}

// `table` [3][segments]: starts, lengths, parents. `at`: token and head strides of q, k, v (and grad, dq, dk, dv).
static Problem problem(const int64_t *table, int64_t segments, int64_t tokens, int64_t heads, int64_t key_heads,
                       int64_t width, float scale, float cap, int64_t window) {
    const int64_t *lengths = table + segments, *parents = lengths + segments;
    return {table, lengths, parents, segments, tokens, heads, key_heads, width, window, scale, cap, 0};
}

template <class T>
static void forward(const T *q, const T *k, const T *v, T *out, float *lse, const float *sinks, const Heads *at,
                    const Problem &is, bool tiles) {
    Arrays<T> x{};
    x.q = q, x.k = k, x.v = v, x.out = out, x.lse = lse, x.sinks = sinks;
    x.q_at = at[0], x.k_at = at[1], x.v_at = at[2];
    choose(is, x, false, tiles);
}

template <class T>
static void backward(const T *grad, const T *q, const T *k, const T *v, T *out, float *lse, float *delta, T *dq, T *dk,
                     T *dv, const Heads *at, const Problem &is, bool tiles) {
    Arrays<T> x{};
    x.q = q, x.k = k, x.v = v, x.grad = grad, x.out = out, x.lse = lse, x.delta = delta;
    x.dq = dq, x.dk = dk, x.dv = dv;
    x.q_at = at[0], x.k_at = at[1], x.v_at = at[2], x.grad_at = at[3];
    x.dq_at = at[4], x.dk_at = at[5], x.dv_at = at[6];
    choose(is, x, true, tiles);
}

}  // namespace attention

#define ATTENTION(NAME, T)                                                                                            \
    extern "C" void attention_forward_##NAME(void *q, void *k, void *v, void *out, void *lse, void *sinks, void *at,  \
                                             void *table, int64_t segments, int64_t tokens, int64_t heads,            \
                                             int64_t key_heads, int64_t width, float scale, float cap,                \
                                             int64_t window, int64_t tiles) {                                         \
        attention::forward((const T *)q, (const T *)k, (const T *)v, (T *)out, (float *)lse, (const float *)sinks,    \
                           (const attention::Heads *)at,                                                              \
                           attention::problem((const int64_t *)table, segments, tokens, heads, key_heads, width,      \
                                              scale, cap, window),                                                    \
                           tiles);                                                                                    \
    }                                                                                                                 \
    extern "C" void attention_backward_##NAME(void *grad, void *q, void *k, void *v, void *out, void *lse,            \
                                              void *delta, void *dq, void *dk, void *dv, void *at, void *table,       \
                                              int64_t segments, int64_t tokens, int64_t heads, int64_t key_heads,     \
                                              int64_t width, float scale, float cap, int64_t window, int64_t tiles) { \
        attention::backward((const T *)grad, (const T *)q, (const T *)k, (const T *)v, (T *)out, (float *)lse,        \
                            (float *)delta, (T *)dq, (T *)dk, (T *)dv, (const attention::Heads *)at,                  \
                            attention::problem((const int64_t *)table, segments, tokens, heads, key_heads, width,     \
                                               scale, cap, window),                                                   \
                            tiles);                                                                                   \
    }
ATTENTION(bf16, bf16)
ATTENTION(f32, float)

// How attention over a row is cut into work: sequences that continue each other form trees of blocks of tokens, and
// items are ranges of their blocks.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace attention {

const int BLOCK = 64;

struct Problem {
    const int64_t *starts, *lengths, *parents;  // [segments]; parent -1: none, else an earlier segment
    int64_t segments, tokens, heads, key_heads, width, window;  // window 0: no limit
    float scale, cap;                                           // cap 0: none
    int D;                                                      // width, zero-padded for the engine
};

struct Block {
    int segment, n;           // n tokens ...
    int64_t token, position;  // ... from this one of the row, whose position in its chain is that
};

struct Tree {
    std::vector<Block> blocks;  // in the order of the row
    int64_t cost = 0;           // pairs of blocks that see each other
};

struct Range {
    int from, to;
};

struct Item {
    int tree, key_head;
    Range queries, keys;  // blocks of the tree
    bool for_queries, for_keys;  // what is computed: O or dQ of these queries; dK and dV of these keys
    int64_t cost;
};

struct Plan {
    std::vector<Tree> trees;
    std::vector<std::vector<int>> chains;  // of each segment: its ancestors from the root, and itself
    std::vector<Range> own;                // blocks of each segment in its tree
    std::vector<int> tree;                 // of each segment
};

static inline Plan make_plan(const Problem &is) {
    Plan plan;
    std::vector<int64_t> position(is.segments);
    for (int s = 0; s < is.segments; ++s) {
        int64_t parent = is.parents[s];
        plan.chains.push_back(parent < 0 ? std::vector<int>() : plan.chains[parent]);
        plan.chains[s].push_back(s);
        position[s] = parent < 0 ? 0 : position[parent] + is.lengths[parent];
        plan.tree.push_back(parent < 0 ? int(plan.trees.size()) : plan.tree[parent]);
        if (parent < 0) plan.trees.emplace_back();
        auto &blocks = plan.trees[plan.tree[s]].blocks;
        Range own{int(blocks.size()), 0};
        for (int64_t at = 0; at < is.lengths[s]; at += BLOCK)
            blocks.push_back(
                {s, int(std::min<int64_t>(BLOCK, is.lengths[s] - at)), is.starts[s] + at, position[s] + at});
        own.to = int(blocks.size());
        plan.own.push_back(own);
    }
    return plan;
}

// Blocks of an ancestor (or of itself) that a block of queries sees, in the tree's numbers, within `keys`.
static Range visible(const Problem &is, const Plan &plan, const Tree &tree, const Block &query, int ancestor,
                     Range keys) {
    Range own = plan.own[ancestor];
    if (own.from == own.to) return own;
    int64_t first = tree.blocks[own.from].position, last = query.position + query.n - 1;
    int64_t oldest = is.window ? query.position - is.window + 1 : 0;
    int from = own.from + (oldest > first ? int((oldest - first) / BLOCK) : 0);
    int to = std::min<int64_t>(own.to, own.from + (last - first) / BLOCK + 1);
    from = std::max(from, keys.from), to = std::min(to, keys.to);
    return {from, std::max(from, to)};
}

// For each block of a tree: with how many key blocks it works as queries, with how many query blocks as keys.
static void count_pairs(const Problem &is, const Plan &plan, const Tree &tree, std::vector<int64_t> &as_queries,
                        std::vector<int64_t> &as_keys) {
    int n = int(tree.blocks.size());
    as_queries.assign(n, 0), as_keys.assign(n + 1, 0);
    for (int b = 0; b < n; ++b)
        for (int ancestor : plan.chains[tree.blocks[b].segment]) {
            Range seen = visible(is, plan, tree, tree.blocks[b], ancestor, {0, n});
            as_queries[b] += seen.to - seen.from;
            if (seen.from < seen.to) ++as_keys[seen.from], --as_keys[seen.to];
        }
    for (int b = 0; b < n; ++b) as_keys[b + 1] += as_keys[b];
}

// Consecutive blocks cut into ranges that cost at least `target`.
static std::vector<Item> cut(const std::vector<int64_t> &costs, int n, int64_t target) {
    std::vector<Item> out;
    for (int from = 0, to; from < n; from = to) {
        int64_t cost = 0;
        for (to = from; to < n && (to == from || cost < target); ++to) cost += costs[to];
        out.push_back({0, 0, {from, to}, {from, to}, false, false, cost});
    }
    return out;
}

// The work list, costly items first. Forward: ranges of queries. Backward: a tree at once where threads stay busy,
// else keys and queries apart, at 7/5 of the products.
static inline std::vector<Item> make_items(const Problem &is, Plan &plan, bool backward) {
    std::vector<int64_t> as_queries, as_keys;
    int64_t total = 0, threads = omp_get_max_threads();
    for (auto &tree : plan.trees) {
        count_pairs(is, plan, tree, as_queries, as_keys);
        for (int64_t each : as_queries) tree.cost += each;
        total += tree.cost * is.key_heads;
    }
    std::vector<Item> items;
    for (int t = 0; t < int(plan.trees.size()); ++t) {
        Tree &tree = plan.trees[t];
        int n = int(tree.blocks.size());
        if (!n) continue;
        std::vector<Item> pieces;
        if (backward && 10 * tree.cost * threads <= 16 * total) {
            pieces = {{0, 0, {0, n}, {0, n}, true, true, tree.cost * 5}};
        } else {
            count_pairs(is, plan, tree, as_queries, as_keys);
            pieces = cut(as_queries, n, total / (4 * threads) + 1);
            for (auto &each : pieces) each.keys = {0, n}, each.for_queries = true, each.cost *= 3;
            if (backward)
                for (auto each : cut(as_keys, n, total / (4 * threads) + 1))
                    pieces.push_back({0, 0, {0, n}, each.keys, false, true, each.cost * 4});
        }
        for (int head = 0; head < is.key_heads; ++head)
            for (auto each : pieces) each.tree = t, each.key_head = head, items.push_back(each);
    }
    std::stable_sort(items.begin(), items.end(), [](const Item &a, const Item &b) { return a.cost > b.cost; });
    return items;
}

}  // namespace attention

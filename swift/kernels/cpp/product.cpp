// Sums of matrix products in bf16 on AMX tiles: C = bias + sum_i A_i B_i, summed in fp32 and rounded once.
//
// Right sides are packed first (a hundredth of the work of a long left side), or come packed. A packed right side [K][N]
// is made of panels of 32 columns, a panel of blocks of 32 rows, a block of two tiles [16 pairs of rows][16 columns];
// what lies beyond K and N is zero. A number of C is summed over k in blocks of 32, whatever the rows beside it: it does
// not depend on M, nor on threads.
#include <omp.h>

#include <algorithm>
#include <vector>

#include "attention_blocks.h"

namespace {

#if HAS_TILES
using attention::Tiles;
using attention::load_wide;

const int64_t SIDE = 32, TILE = 256, BLOCK = 2 * TILE;  // words
const int64_t AHEAD = 3;                                // blocks that are fetched before they are packed
const int64_t CACHED = 512 * 1024;                      // bytes of a right side that one pass over the rows reads

enum Kind { ROWS = 0, COLUMNS = 1, PACKED = 2 };

// As Python lays it out: the left side, and a right side [K][N] stored by rows, by columns, or packed.
struct Term {
    const bf16 *left;
    int64_t stride, K;
    const void *right;
    int64_t right_stride, kind;

    int64_t blocks() const { return (K + SIDE - 1) / SIDE; }
};

inline bf16 number(const Term &t, int64_t k, int64_t n, int64_t N) {
    if (k >= t.K || n >= N) return bf16{0};
    const bf16 *right = (const bf16 *)t.right;
    return t.kind == COLUMNS ? right[n * t.right_stride + k] : right[k * t.right_stride + n];
}

void pack_tile(const Term &t, int64_t k, int64_t n, int64_t N, uint32_t *to) {
    bool whole = k + SIDE <= t.K && n + 16 <= N;
    if (whole && t.kind == COLUMNS && t.right_stride % 2 == 0) {
        const bf16 *from = (const bf16 *)t.right + n * t.right_stride + k;
        attention::transpose16((const uint32_t *)from, t.right_stride / 2, to, 16);
    } else if (whole && t.kind == ROWS) {
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        const bf16 *from = (const bf16 *)t.right + k * t.right_stride + n;
        for (int r = 0; r < 16; ++r, from += 2 * t.right_stride) {
            __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)from));
            __m256i second = _mm256_loadu_si256((const __m256i *)(from + t.right_stride));
            _mm512_store_si512(to + r * 16, _mm512_permutexvar_epi16(order, _mm512_inserti64x4(first, second, 1)));
        }
    } else {
        bf16 *numbers = (bf16 *)to;
        for (int r = 0; r < 16; ++r)
            for (int c = 0; c < 16; ++c)
                for (int half = 0; half < 2; ++half)
                    numbers[(r * 16 + c) * 2 + half] = number(t, k + 2 * r + half, n + c, N);
    }
}

// What a block reads lies in as many places as it has rows or columns: too many for the processor to foresee.
void fetch(const Term &t, int64_t k, int64_t n, int64_t N) {
    const bf16 *right = (const bf16 *)t.right;
    if (t.kind == COLUMNS)
        for (int64_t i = n; i < std::min(N, n + SIDE); ++i) _mm_prefetch(right + i * t.right_stride + k, _MM_HINT_T0);
    else
        for (int64_t i = k; i < std::min(t.K, k + SIDE); ++i) _mm_prefetch(right + i * t.right_stride + n, _MM_HINT_T0);
}

void pack_panel(const Term &t, int64_t p, int64_t N, uint32_t *to) {
    for (int64_t b = 0; b < t.blocks(); ++b) {
        if (b + AHEAD < t.blocks()) fetch(t, (b + AHEAD) * SIDE, p * SIDE, N);
        for (int half = 0; half < 2; ++half)
            pack_tile(t, b * SIDE, p * SIDE + half * 16, N, to + b * BLOCK + half * TILE);
    }
}

// Room for packed panels, kept from call to call by each thread.
struct Room {
    uint32_t *words = nullptr;
    int64_t size = 0;
    ~Room() { std::free(words); }
    uint32_t *of(int64_t wanted) {
        if (wanted > size) {
            std::free(words);
            words = (uint32_t *)std::aligned_alloc(64, size_t(wanted) * 4);
            size = wanted;
        }
        return words;
    }
};
static thread_local Room room;

// The 32 rows of a left side that tiles load: where they lie, or padded with zeros in `own`.
const bf16 *rows_of(const Term &t, int64_t m, int64_t rows, std::vector<bf16> &own, int64_t &stride) {
    stride = t.stride;
    const bf16 *from = t.left + m * t.stride;
    if (rows == SIDE && t.K % SIDE == 0) return from;
    stride = t.blocks() * SIDE;
    own.assign(size_t(stride * SIDE), bf16{0});
    for (int64_t r = 0; r < rows; ++r) std::memcpy(own.data() + r * stride, from + r * t.stride, size_t(t.K) * 2);
    return own.data();
}

template <bool TALL>
inline void add(const bf16 *left, int64_t stride, const uint32_t *right, int64_t blocks) {
    for (int64_t i = 0; i < blocks; ++i, left += SIDE, right += BLOCK) {
        _tile_loadd(4, left, stride * 2);
        _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (TALL) {
            _tile_loadd(5, left + 16 * stride, stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

// Up to 32 x 32 sums, rounded and written.
template <bool TALL>
void write(bf16 *to, int64_t stride, int64_t rows, int64_t columns, const bf16 *bias, float *sums) {
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + 16, 128);
    if (TALL) {
        _tile_stored(2, sums + 512, 128);
        _tile_stored(3, sums + 528, 128);
    }
    asm volatile("" ::: "memory");  // tile stores do not tell compilers that they write memory
    for (int64_t half = 0; half < 2 && half * 16 < columns; ++half) {
        int64_t left = columns - half * 16;
        __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1 << left) - 1);
        __m512 offset = _mm512_setzero_ps();
        if (bias) {
            __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, bias + half * 16));
            offset = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
        }
        for (int64_t r = 0; r < rows; ++r) {
            __m512 x = _mm512_add_ps(_mm512_load_ps(sums + r * 32 + half * 16), offset);
            _mm256_mask_storeu_epi16(to + r * stride + half * 16, mask, (__m256i)_mm512_cvtneps_pbh(x));
        }
    }
}

struct Problem {
    const Term *terms;
    int64_t count, M, N;
    const bf16 *bias;
    bf16 *out;
};

// What one thread computes, in stripes of rows and panels of columns.
struct Part {
    int64_t top, bottom, first, last;
};

// Panels first to last - 1 of all right sides, one panel after the other: each has `deep` blocks.
const uint32_t *packed(const Problem &is, int64_t deep, int64_t first, int64_t last) {
    if (is.count == 1 && is.terms[0].kind == PACKED) return (const uint32_t *)is.terms[0].right + first * deep * BLOCK;
    uint32_t *const words = room.of((last - first) * deep * BLOCK);
    uint32_t *to = words;
    for (int64_t p = first; p < last; ++p)
        for (int64_t t = 0; t < is.count; to += is.terms[t++].blocks() * BLOCK) pack_panel(is.terms[t], p, is.N, to);
    return words;
}

// A share of the rows after m + 31, while the tiles multiply: `part` of `parts`.
inline void fetch_rows(const Term &t, int64_t m, int64_t M, int64_t part, int64_t parts) {
    const int64_t lines = t.blocks() * SIDE, first = lines * part / parts, last = lines * (part + 1) / parts;
    for (int64_t i = first; i < last; ++i) {  // line i: block i / SIDE of row i % SIDE
        int64_t row = std::min(M - 1, m + SIDE + i % SIDE);
        _mm_prefetch(t.left + row * t.stride + i / SIDE * SIDE, _MM_HINT_T1);
    }
}

// Rows m to m + 31 against panels first to last - 1.
template <bool TALL>
void stripe(const Problem &is, int64_t m, int64_t first, int64_t last, const uint32_t *right,
            std::vector<std::vector<bf16>> &own, float *sums) {
    int64_t rows = std::min(SIDE, is.M - m);
    std::vector<const bf16 *> left(is.count);
    std::vector<int64_t> stride(is.count);
    for (int64_t t = 0; t < is.count; ++t) left[t] = rows_of(is.terms[t], m, rows, own[t], stride[t]);
    asm volatile("" ::: "memory");
    for (int64_t p = first; p < last; ++p) {
        _tile_zero(0);
        _tile_zero(1);
        if (TALL) {
            _tile_zero(2);
            _tile_zero(3);
        }
        if (m + SIDE < is.M) fetch_rows(is.terms[0], m, is.M, p - first, last - first);
        for (int64_t t = 0; t < is.count; right += is.terms[t++].blocks() * BLOCK)
            add<TALL>(left[t], stride[t], right, is.terms[t].blocks());
        const bf16 *bias = is.bias ? is.bias + p * SIDE : nullptr;
        write<TALL>(is.out + m * is.N + p * SIDE, is.N, rows, std::min(SIDE, is.N - p * SIDE), bias, sums);
    }
}

void compute(const Problem &is, const Part &part) {
    alignas(64) float sums[1024];
    std::vector<std::vector<bf16>> own(is.count);
    int64_t deep = 0;
    for (int64_t t = 0; t < is.count; ++t) deep += is.terms[t].blocks();
    const int64_t broad = std::max<int64_t>(1, CACHED / (deep * BLOCK * 4));
    for (int64_t first = part.first; first < part.last; first += broad) {
        const int64_t last = std::min(part.last, first + broad);
        const uint32_t *right = packed(is, deep, first, last);
        for (int64_t m = part.top * SIDE; m < std::min(is.M, part.bottom * SIDE); m += SIDE)
            if (is.M - m > SIDE / 2)
                stripe<true>(is, m, first, last, right, own, sums);
            else
                stripe<false>(is, m, first, last, right, own, sums);
    }
}

// Among the grids of threads the one whose largest part is smallest; the more columns, the less is packed twice.
int64_t columns_of_threads(int64_t stripes, int64_t panels, int64_t threads) {
    int64_t best = 1, least = stripes * panels + 1;
    for (int64_t across = threads; across >= 1; --across) {
        if (threads % across) continue;
        int64_t down = threads / across;
        int64_t size = ((stripes + down - 1) / down) * ((panels + across - 1) / across);
        if (size < least) best = across, least = size;
    }
    return best;
}

void run(const Problem &is) {
    const int64_t panels = (is.N + SIDE - 1) / SIDE, stripes = (is.M + SIDE - 1) / SIDE;
#pragma omp parallel
    {
        const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t across = columns_of_threads(stripes, panels, threads), down = threads / across;
        const int64_t row = me / across, column = me % across;
        Tiles::begin();
        compute(is, Part{stripes * row / down, stripes * (row + 1) / down, panels * column / across,
                         panels * (column + 1) / across});
        Tiles::end();
    }
}
#endif

}  // namespace

// Whether this machine has the tiles.
extern "C" void product_runs(int64_t *answer) {
#if HAS_TILES
    *answer = Tiles::granted();
#else
    *answer = 0;
#endif
}

// terms: `count` times what `Term` holds.
extern "C" void product_bf16(const int64_t *terms, int64_t count, const bf16 *bias, bf16 *out, int64_t M, int64_t N) {
#if HAS_TILES
    run(Problem{(const Term *)terms, count, M, N, bias, out});
#else
    (void)terms, (void)count, (void)bias, (void)out, (void)M, (void)N;
#endif
}

extern "C" void product_pack(const bf16 *right, int64_t K, int64_t N, int64_t stride, int64_t kind, uint32_t *packed) {
#if HAS_TILES
    const Term term{nullptr, 0, K, right, stride, kind};
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < (N + SIDE - 1) / SIDE; ++p) pack_panel(term, p, N, packed + p * term.blocks() * BLOCK);
#else
    (void)right, (void)K, (void)N, (void)stride, (void)kind, (void)packed;
#endif
}

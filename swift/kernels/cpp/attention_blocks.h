// Blocks of up to 64 tokens as the attention kernel multiplies them: vectors, matrix products, and the packings that
// the products read. Two engines compute: `Wide` in fp32 vectors, `Tiles` in bf16 on AMX tiles with fp32 sums.
//
// All packings are made of 32-bit words: one fp32 number, or a pair of bf16 numbers that a product contracts together.
// With D the head width rounded up to GRAIN, R a block's tokens rounded up to GRAIN, and everything beyond zero:
//   rows     E [R][D]           left side of a product over d
//   turned   words [D / PAIR][64], [d][token]   right side of a product over d
//   pairs    words [R / PAIR][D], [token][d]    right side of a product over tokens
//   columns  E [D][64]          left side of a product over tokens
#pragma once
#include <cstdlib>

#include "attention_plan.h"
#include "numbers.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && \
    defined(__linux__)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif
#if defined(__AVX512F__)
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wuninitialized"  // of gcc's own headers, gcc.gnu.org/bugzilla 105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace attention {

const int LANES = 16;

typedef float vec __attribute__((vector_size(64), aligned(64)));
typedef int32_t ivec __attribute__((vector_size(64), aligned(64)));

static inline int up(int64_t n, int grain) { return int((n + grain - 1) / grain * grain); }
static inline vec load(const float *x) { return *(const vec *)x; }
static inline void store(float *x, vec v) { *(vec *)x = v; }
static inline vec all(float x) { return vec{} + x; }

// LANES numbers from anywhere, as fp32.
static inline vec load_wide(const float *x) {
    vec out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

static inline vec load_wide(const bf16 *x) {
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
#else
    vec out;
    for (int i = 0; i < LANES; ++i) out[i] = wide(x[i]);
    return out;
#endif
}

static inline ivec indices() { return ivec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

static inline float highest(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float out = v[0];
    for (int i = 1; i < LANES; ++i) out = v[i] > out ? v[i] : out;
    return out;
#endif
}

static inline float sum(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float out = 0;
    for (int i = 0; i < LANES; ++i) out += v[i];
    return out;
#endif
}

static inline vec larger(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}

// 2^t for t <= 127: 2^n 2^f, n the nearest integer, 2^f by its Taylor polynomial of that degree (relative error 2e-7 of
// degree 6, 5e-5 of degree 4); 0 of what is too small, NaN of NaN.
template <int DEGREE>
static inline vec exp2(vec t) {
#if defined(__AVX512F__)
    vec n = (vec)_mm512_roundscale_ps((__m512)t, 0), f = t - n;
#else
    vec low = t < -126.0f ? all(-126.0f) : t;
    ivec whole = __builtin_convertvector(low + (low < 0.0f ? all(-0.5f) : all(0.5f)), ivec);
    vec n = __builtin_convertvector(whole, vec), f = low - n;
#endif
    const float taylor[7] = {1.0f,          0.69314718f,   0.24022651f,   0.055504109f,
                             0.0096181291f, 0.0013333558f, 0.00015403530f};
    vec p = all(taylor[DEGREE]);
    for (int i = DEGREE - 1; i >= 0; --i) p = p * f + taylor[i];
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);  // 0 where n is -inf, though p is NaN there
#else
    vec y = p * (vec)((whole + 127) << 23);
    return t < -126.0f ? vec{} : y;
#endif
}

// tanh: its Taylor polynomial near 0, where 1 - 2 / (exp(2 x) + 1) would cancel.
static inline vec tanh(vec x) {
    vec positive = x < 0.0f ? -x : x;
    vec bounded = positive > 20.0f ? all(20.0f) : positive;
    vec far = 1.0f - 2.0f / (exp2<6>(bounded * 2.88539008177792681f) + 1.0f);
    vec s = x * x;
    vec near = s * (-1382.0f / 155925.0f) + 62.0f / 2835.0f;
    near = near * s - 17.0f / 315.0f;
    near = near * s + 2.0f / 15.0f;
    near = near * s - 1.0f / 3.0f;
    near = near * s * x + x;
    return positive < 0.35f ? near : (x < 0.0f ? -far : far);
}

// ------------------------------------------------------------------------------------------------------ transposing
// to[c][r] = from[r][c] for 16 x 16 words; strides in words.
static inline void transpose16(const uint32_t *from, int64_t from_stride, uint32_t *to, int64_t to_stride) {
#if defined(__AVX512F__)
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * from_stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {  // a[4 g + i] has columns i, 4 + i, 8 + i, 12 + i of rows 4 g .. 4 g + 3
        __m512i low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), high = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        __m512i low2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        __m512i high2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(low, low2, 0x88));
        _mm512_storeu_si512(to + (8 + i) * to_stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
        _mm512_storeu_si512(to + (4 + i) * to_stride, _mm512_shuffle_i32x4(high, high2, 0x88));
        _mm512_storeu_si512(to + (12 + i) * to_stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
#else
    for (int r = 0; r < 16; ++r)
        for (int c = 0; c < 16; ++c) to[c * to_stride + r] = from[r * from_stride + c];
#endif
}

// to[c][r] = from[r][c]; rows and columns are multiples of 16.
static inline void transpose(const void *from, int64_t from_stride, void *to, int64_t to_stride, int rows,
                             int columns) {
    for (int r = 0; r < rows; r += 16)
        for (int c = 0; c < columns; c += 16)
            transpose16((const uint32_t *)from + r * from_stride + c, from_stride,
                        (uint32_t *)to + c * to_stride + r, to_stride);
}

// ---------------------------------------------------------------------------------------------------------- engines
struct Wide {
    typedef float E;
    static const int PAIR = 1, GRAIN = 16, DEGREE = 6;

    static void begin() {}
    static void end() {}
    static void put(float *to, vec v) { store(to, v); }

    // One row of numbers beside the next, as `pairs` wants them.
    static void put_pair(uint32_t *to, int64_t stride, vec first, vec second) {
        store((float *)to, first);
        store((float *)to + stride, second);
    }

    template <int M, int N>
    static inline void part(float *c, int ldc, const float *a, int lda, const float *b, int ldb, int k, bool fresh) {
        vec total[M][N];
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) total[m][n] = fresh ? vec{} : load(c + m * ldc + n * LANES);
        for (int i = 0; i < k; ++i) {
            vec right[N];
            for (int n = 0; n < N; ++n) right[n] = load(b + int64_t(i) * ldb + n * LANES);
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n) total[m][n] += a[m * lda + i] * right[n];
        }
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) store(c + m * ldc + n * LANES, total[m][n]);
    }

    // c[m][n] (+)= a[m][k] b[k][n]; m, n, k multiples of 16; `fresh` starts from zero.
    static void product(float *c, int ldc, const E *a, int lda, const uint32_t *b, int ldb, int m, int n, int k,
                        bool fresh) {
#if defined(__AVX512F__)
        const int M = 8, N = 2;
#else
        const int M = 4, N = 1;
#endif
        const float *right = (const float *)b;
        int at = 0;
        for (; at + N * LANES <= n; at += N * LANES)
            for (int row = 0; row < m; row += M)
                part<M, N>(c + row * ldc + at, ldc, a + row * lda, lda, right + at, ldb, k, fresh);
        for (; at < n; at += LANES)
            for (int row = 0; row < m; row += M)
                part<M, 1>(c + row * ldc + at, ldc, a + row * lda, lda, right + at, ldb, k, fresh);
    }
};

#if HAS_TILES
struct Tiles {
    typedef bf16 E;
    static const int PAIR = 2, GRAIN = 32, DEGREE = 4;

    struct Configuration {
        uint8_t palette = 0, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };

    // The system grants tiles to a process that asks.
    static bool granted() {
        static const bool answer = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
        return answer;
    }

    // Torch's own kernels configure the tiles of the same threads: what was there is put back.
    static Configuration &before() {
        static thread_local Configuration saved;
        return saved;
    }

    static void begin() {
        alignas(64) Configuration ours;
        ours.palette = 1;
        for (int tile = 0; tile < 8; ++tile) ours.row_bytes[tile] = 64, ours.rows[tile] = 16;
        _tile_storeconfig(&before());
        asm volatile("" ::"r"(&ours), "r"(&before()) : "memory");
        _tile_loadconfig(&ours);
    }

    static void end() {
        asm volatile("" ::"r"(&before()) : "memory");
        if (before().palette)
            _tile_loadconfig(&before());
        else
            _tile_release();
    }

    static void put(bf16 *to, vec v) { _mm256_store_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }

    static void put_pair(uint32_t *to, int64_t, vec first, vec second) {
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
        _mm512_store_si512(to, _mm512_permutexvar_epi16(order, both));
    }

    // Up to 2 x 2 tiles of sums: numbers 0 to 3; 4 and 5 hold the left side, 6 and 7 the right.
    template <int M, int N>
    static inline void part(float *c, int ldc, const bf16 *a, int lda, const uint32_t *b, int ldb, int k, bool fresh) {
        if (fresh) {
            _tile_zero(0);
            if (N > 1) _tile_zero(1);
            if (M > 1) _tile_zero(2);
            if (M > 1 && N > 1) _tile_zero(3);
        } else {
            _tile_loadd(0, c, ldc * 4);
            if (N > 1) _tile_loadd(1, c + 16, ldc * 4);
            if (M > 1) _tile_loadd(2, c + 16 * ldc, ldc * 4);
            if (M > 1 && N > 1) _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
        }
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a + i, lda * 2);
            _tile_loadd(6, b + int64_t(i / 2) * ldb, ldb * 4);
            _tile_dpbf16ps(0, 4, 6);
            if (N > 1) {
                _tile_loadd(7, b + int64_t(i / 2) * ldb + 16, ldb * 4);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (M > 1) {
                _tile_loadd(5, a + 16 * lda + i, lda * 2);
                _tile_dpbf16ps(2, 5, 6);
            }
            if (M > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c, ldc * 4);
        if (N > 1) _tile_stored(1, c + 16, ldc * 4);
        if (M > 1) _tile_stored(2, c + 16 * ldc, ldc * 4);
        if (M > 1 && N > 1) _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
    }

    // c[m][n] (+)= a[m][k] b[k][n]; m, n multiples of 16, k of 32; b in pairs along k.
    static void product(float *c, int ldc, const E *a, int lda, const uint32_t *b, int ldb, int m, int n, int k,
                        bool fresh) {
        asm volatile("" ::: "memory");  // tile loads do not tell compilers that they read memory
        for (int row = 0; row < m; row += 32)
            for (int at = 0; at < n; at += 32) {
                float *to = c + row * ldc + at;
                const bf16 *left = a + row * lda;
                bool tall = row + 16 < m, broad = at + 16 < n;
                if (tall && broad)
                    part<2, 2>(to, ldc, left, lda, b + at, ldb, k, fresh);
                else if (tall)
                    part<2, 1>(to, ldc, left, lda, b + at, ldb, k, fresh);
                else if (broad)
                    part<1, 2>(to, ldc, left, lda, b + at, ldb, k, fresh);
                else
                    part<1, 1>(to, ldc, left, lda, b + at, ldb, k, fresh);
            }
        asm volatile("" ::: "memory");
    }
};
#endif

// --------------------------------------------------------------------------------------------------------- packings
template <class T>
static inline void convert(const T *from, T *to, int n) {
    const int LINE = 64 / sizeof(T);
    int i = 0;
    for (; i + LINE <= n; i += LINE) std::memcpy((void *)(to + i), from + i, 64);
    if (i < n) std::memcpy((void *)(to + i), from + i, (n - i) * sizeof(T));
}
static inline void convert(const bf16 *from, float *to, int n) {
    for (int i = 0; i < n; ++i) to[i] = wide(from[i]);
}

template <class T>
static inline float inner(const T *a, const T *b, int n) {
    vec total{};
    int i = 0;
    for (; i + LANES <= n; i += LANES) total += load_wide(a + i) * load_wide(b + i);
    float rest = 0;
    for (; i < n; ++i) rest += wide(a[i]) * wide(b[i]);
    return sum(total) + rest;
}
static inline void convert(const float *from, bf16 *to, int n) {
#if HAS_TILES
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
    for (; i < n; ++i) narrow(from[i], to[i]);
#else
    for (int i = 0; i < n; ++i) narrow(from[i], to[i]);
#endif
}

// n tokens of `width` numbers, `stride` apart, into rows of D zero-padded ones.
template <class Engine, class T>
static void pack_rows(typename Engine::E *to, const T *from, int64_t stride, int n, int width, int D) {
    for (int r = 0; r < n; ++r) {
        convert(from + r * stride, to + r * D, width);
        if (width < D) std::memset((void *)(to + r * D + width), 0, (D - width) * sizeof(*to));
    }
    int R = up(n, Engine::GRAIN);
    if (n < R) std::memset((void *)(to + n * D), 0, (R - n) * D * sizeof(*to));
}

template <class Engine>
static void pack_turned(uint32_t *to, const typename Engine::E *rows, int n, int D) {
    transpose(rows, D / Engine::PAIR, to, BLOCK, up(n, Engine::GRAIN), D / Engine::PAIR);
}

template <class Engine>
static void pack_pairs(uint32_t *to, const typename Engine::E *rows, int n, int D) {
    int R = up(n, Engine::GRAIN);
    if (Engine::PAIR == 1) {
        std::memcpy(to, rows, R * D * 4);
        return;
    }
    const uint16_t *bits = (const uint16_t *)rows;
    for (int r = 0; r < R; r += 2)
        for (int d = 0; d < D; ++d)
            to[r / 2 * D + d] = uint32_t(bits[r * D + d]) | uint32_t(bits[(r + 1) * D + d]) << 16;
}

template <class Engine>
static void pack_columns(typename Engine::E *to, const uint32_t *pairs, int n, int D) {
    transpose(pairs, D, to, BLOCK / Engine::PAIR, up(n, Engine::GRAIN) / Engine::PAIR, D);
}

}  // namespace attention

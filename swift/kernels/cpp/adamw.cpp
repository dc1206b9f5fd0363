// AdamW on one tensor in one pass: gradient scaling, moments, decay, step, and the rounded copy that the model holds.
//
// What is kept as bf16 (weights without fp32 masters, moments) is rounded stochastically: 16 random bits are added below
// the kept ones. The bits are a hash of (key, place), so that the same step gives the same numbers, resumed or not.
#include "numbers.h"

#include <type_traits>

struct Rule {
    float rate, beta1, beta2, eps, keep, scale, correction2;  // rate / (1 - b1^t), 1 - rate decay, sqrt(1 - b2^t)
    uint32_t key, salt;
};

static inline uint32_t hash(uint32_t x, uint32_t salt) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15 ^ salt;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static inline void store(float x, float &out, uint32_t) { out = x; }

static inline void store(float x, bf16 &out, uint32_t random) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    out.bits = uint16_t(x != x ? 0x7fc0u : (bits + (random & 0xffffu)) >> 16);
}

template <typename P, typename G, typename M>
static void adamw(P *weight, bf16 *copy, const G *grad, M *first, M *second, int64_t size, Rule rule) {
    const int64_t block = 1 << 12;  // stays in the nearest cache until the copy is written
    constexpr bool random = std::is_same<P, bf16>::value || std::is_same<M, bf16>::value;
#pragma omp parallel for schedule(static) if (size > 8 * block)
    for (int64_t at = 0; at < size; at += block) {
        int64_t count = size - at < block ? size - at : block;
        uint32_t salt = rule.salt ^ uint32_t(at >> 32);
        P *w = weight + at;
        const G *g = grad + at;
        M *m = first + at, *v = second + at;
        bf16 *c = copy ? copy + at : nullptr;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            float each = wide(g[i]) * rule.scale, mean = wide(m[i]), square = wide(v[i]);
            mean += (1.0f - rule.beta1) * (each - mean);
            square = rule.beta2 * square + (1.0f - rule.beta2) * each * each;
            float moved = wide(w[i]) * rule.keep - rule.rate * mean / (__builtin_sqrtf(square) / rule.correction2 + rule.eps);
            uint32_t bits = random ? hash(uint32_t(at) + uint32_t(i) + rule.key, salt) : 0;
            store(moved, w[i], bits);
            store(mean, m[i], bits >> 16);
            store(square, v[i], random ? hash(bits, salt) : 0);
        }
        if (!c) continue;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) narrow(wide(w[i]), c[i]);
    }
}

#define ADAMW(NAME, P, G, M)                                                                                          \
    void NAME(void *w, void *copy, void *g, void *m, void *v, int64_t size, int64_t key, int64_t salt, float rate,    \
              float beta1, float beta2, float eps, float keep, float scale, float correction2) {                      \
        adamw<P, G, M>((P *)w, (bf16 *)copy, (const G *)g, (M *)m, (M *)v, size,                                      \
                       {rate, beta1, beta2, eps, keep, scale, correction2, uint32_t(key), uint32_t(salt)});           \
    }

extern "C" {
ADAMW(adamw_f32_f32_f32, float, float, float)
ADAMW(adamw_f32_bf16_f32, float, bf16, float)
ADAMW(adamw_f32_f32_bf16, float, float, bf16)
ADAMW(adamw_f32_bf16_bf16, float, bf16, bf16)
ADAMW(adamw_bf16_f32_f32, bf16, float, float)
ADAMW(adamw_bf16_bf16_f32, bf16, bf16, float)
ADAMW(adamw_bf16_f32_bf16, bf16, float, bf16)
ADAMW(adamw_bf16_bf16_bf16, bf16, bf16, bf16)
}

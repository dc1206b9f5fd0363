// Numbers that the kernels share: bf16 with round-to-nearest-even, and an exp that compilers turn into vectors.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")  // the default of 256 loses a third here
#endif

struct bf16 {
    uint16_t bits;
};

static inline float wide(float x) { return x; }

static inline float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

static inline void narrow(float x, float &out) { out = x; }

static inline void narrow(float x, bf16 &out) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out.bits = uint16_t(x != x ? 0x7fc0u : rounded);  // NaN stays NaN
}

// exp(x) for x <= 88: 2^n 2^f, |f| <= 1/2, 2^f by its Taylor polynomial of degree 6; relative error below 2e-7.
// exp(-inf) is 0, exp(NaN) NaN.
static inline float fast_exp(float x) {
    float t = x * 1.44269504088896341f;
    t = t < -126.0f ? -126.0f : t;
    t = t > 127.0f ? 127.0f : t;
    float n = __builtin_rintf(t);
    float f = (t - n) * 0.693147180559945309f;
    float p = 1.0f / 720.0f;
    p = p * f + 1.0f / 120.0f;
    p = p * f + 1.0f / 24.0f;
    p = p * f + 1.0f / 6.0f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    float y = p * scale;
    return x < -87.3f ? 0.0f : (x != x ? x : y);
}

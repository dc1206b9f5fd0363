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

// exp(x) for x <= 88: 2^n 2^f, |f| <= 1/2, 2^f by its minimax polynomial of degree 5; relative error below
// 2e-7 + 3e-8 |x|. What is below 2^-126 is 0, exp(NaN) is NaN: then the scale is 1.
static inline float fast_exp(float x) {
    const float log2e = 1.44269504088896341f;
    x = x < -88.1f ? -88.1f : x;  // where n is -127 and the scale 0
    float n = __builtin_rintf(x * log2e), f = x * log2e - n;
    float p = 0.00132764718f;
    p = p * f + 0.00967554133f;
    p = p * f + 0.0555071327f;
    p = p * f + 0.240221197f;
    p = p * f + 0.693146967f;
    p = p * f + 1.00000007f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

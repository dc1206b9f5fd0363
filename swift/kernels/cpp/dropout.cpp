// Dropout whose mask is a hash of (seed, position): it is computed again in the backward pass instead of being kept.
#include "numbers.h"

static inline uint32_t mixed(uint32_t x) {  // murmur3's finaliser
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    x ^= x >> 16;
    return x;
}

// out = in / (1 - p) where kept, else 0; with add, out += the same.
template <typename T>
static void dropout(const T *in, T *out, int64_t count, int64_t seed, int64_t threshold, float scale, int64_t add) {
    uint32_t key = mixed(uint32_t(seed) ^ mixed(uint32_t(seed >> 32)));
    uint32_t least = uint32_t(threshold);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < count; ++i) {
        uint32_t hash = mixed(uint32_t(i) * 0x9e3779b1u ^ key);
        float kept = hash >= least ? wide(in[i]) * scale : 0.0f;
        narrow(add ? wide(out[i]) + kept : kept, out[i]);
    }
}

extern "C" {
void dropout_bf16(bf16 *in, bf16 *out, int64_t count, int64_t seed, int64_t threshold, float scale, int64_t add) {
    dropout(in, out, count, seed, threshold, scale, add);
}
void dropout_f32(float *in, float *out, int64_t count, int64_t seed, int64_t threshold, float scale, int64_t add) {
    dropout(in, out, count, seed, threshold, scale, add);
}
}

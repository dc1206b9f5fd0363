// Rotary positions: y = x cos + turn(x) sin on the first `turned` numbers of each head; the others are copied.
//
// Pairs are (i, i + turned / 2), or (2 i, 2 i + 1). With (a, b) a pair and c, s the numbers at its two places:
// forward (a c1 - b s1, b c2 + a s2), backward, for the gradients (a, b), (a c1 + b s2, b c2 - a s1).
// x is [batch, heads, tokens, width] of any strides but the last, which is 1; y is [batch, tokens, heads, width].
#include "numbers.h"

struct Shape {
    int64_t batch, heads, tokens, width, turned;
    int64_t batch_stride, head_stride, token_stride;  // of x
    int64_t angle_stride;                             // from one sequence's angles to the next's: 0 where they are shared
};

template <typename T, typename A, bool back>
static inline void turn(T a, T b, A cos_a, A cos_b, A sin_a, A sin_b, T &to_a, T &to_b) {
    float x = wide(a), y = wide(b);
    narrow(x * wide(cos_a) + y * (back ? wide(sin_b) : -wide(sin_a)), to_a);
    narrow(y * wide(cos_b) + x * (back ? -wide(sin_a) : wide(sin_b)), to_b);
}

template <typename T, typename A, bool adjacent, bool back>
static void rotary(const T *x, const A *cos, const A *sin, T *y, Shape n) {
#pragma omp parallel for collapse(2) schedule(static) if (n.batch * n.heads * n.tokens * n.width > 1 << 15)
    for (int64_t b = 0; b < n.batch; ++b)
        for (int64_t t = 0; t < n.tokens; ++t) {
            const A *c = cos + b * n.angle_stride + t * n.turned, *s = sin + b * n.angle_stride + t * n.turned;
            int64_t half = n.turned / 2;
            for (int64_t h = 0; h < n.heads; ++h) {
                const T *from = x + b * n.batch_stride + h * n.head_stride + t * n.token_stride;
                T *to = y + ((b * n.tokens + t) * n.heads + h) * n.width;
                if (adjacent) {
#pragma omp simd
                    for (int64_t i = 0; i < 2 * half; i += 2)
                        turn<T, A, back>(from[i], from[i + 1], c[i], c[i + 1], s[i], s[i + 1], to[i], to[i + 1]);
                } else {
#pragma omp simd
                    for (int64_t i = 0; i < half; ++i)
                        turn<T, A, back>(from[i], from[half + i], c[i], c[half + i], s[i], s[half + i], to[i], to[half + i]);
                }
                for (int64_t i = n.turned; i < n.width; ++i) to[i] = from[i];
            }
        }
}

template <typename T, typename A>
static void any(const void *x, const void *cos, const void *sin, void *y, int64_t adjacent, int64_t back, Shape n) {
    auto run = adjacent ? (back ? rotary<T, A, true, true> : rotary<T, A, true, false>)
                        : (back ? rotary<T, A, false, true> : rotary<T, A, false, false>);
    run((const T *)x, (const A *)cos, (const A *)sin, (T *)y, n);
}

#define ROTARY(NAME, T, A)                                                                                           \
    void NAME(void *x, void *cos, void *sin, void *y, int64_t adjacent, int64_t back, int64_t batch, int64_t heads,  \
              int64_t tokens, int64_t width, int64_t turned, int64_t batch_stride, int64_t head_stride,              \
              int64_t token_stride, int64_t angle_stride) {                                                          \
        any<T, A>(x, cos, sin, y, adjacent, back,                                                                    \
                  {batch, heads, tokens, width, turned, batch_stride, head_stride, token_stride, angle_stride});     \
    }

extern "C" {
ROTARY(rotary_bf16_bf16, bf16, bf16)
ROTARY(rotary_bf16_f32, bf16, float)
ROTARY(rotary_f32_f32, float, float)
}

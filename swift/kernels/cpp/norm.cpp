// RMSNorm: y = x rstd (offset + w), rstd = (mean(x^2) + eps)^-1/2, row by row, and its gradients.
//
// With a `delta`, x + delta is written to `total`, rounded to the data's type, and that is what is normalised; on the way
// back `direct`, the gradient that reaches the sum by itself, is added to the rounded gradient of the norm: the bits of an
// addition and a norm one after the other, while a row is in the nearest cache.
//
// `early` rounds x rstd to the data's type before the weight is multiplied (Llama), otherwise only y is rounded (Gemma).
// The weight's gradient is summed over blocks of rows, then over the blocks in their order: the same bits whatever the
// number of threads.
#include "numbers.h"

static const int64_t SMALL = 1 << 15;  // numbers below which threads cost more than they gain

template <typename T>
static inline float rounded(float x) {
    T out;
    narrow(x, out);
    return wide(out);
}

template <typename T>
static inline void add(const T *a, const T *b, T *sum, int64_t width) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) narrow(wide(a[i]) + wide(b[i]), sum[i]);
}

template <typename T, bool early>
static void rms_norm(const T *x, const T *delta, const T *weight, T *total, T *y, float *rstd, int64_t rows,
                     int64_t width, float eps, float offset) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; ++r) {
        const T *from = x + r * width;
        T *to = y + r * width;
        if (delta) {
            add(from, delta + r * width, total + r * width, width);
            from = total + r * width;
        }
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; ++i) sum += wide(from[i]) * wide(from[i]);
        float scale = 1.0f / __builtin_sqrtf(sum / float(width) + eps);
        rstd[r] = scale;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
            float n = wide(from[i]) * scale;
            narrow((early ? rounded<T>(n) : n) * (offset + wide(weight[i])), to[i]);
        }
    }
}

// With n = x rstd, g = grad (offset + w):  dx = rstd (g - n mean(g n)),  dw = sum over rows of grad n.
// direct is null where dx is all; grad_weight is null where the weight needs no gradient, else partial is a workspace
// [ceil(rows / block), width].
template <typename T, bool early>
static void rms_norm_backward(const T *grad, const T *direct, const T *x, const T *weight, const float *rstd, T *grad_x,
                              T *grad_weight, float *partial, int64_t rows, int64_t width, int64_t block,
                              float offset) {
    int64_t blocks = (rows + block - 1) / block;
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t b = 0; b < blocks; ++b) {
        float *sums = grad_weight ? partial + b * width : nullptr;
        if (sums) std::memset(sums, 0, width * sizeof(float));
        int64_t end = (b + 1) * block < rows ? (b + 1) * block : rows;
        for (int64_t r = b * block; r < end; ++r) {
            const T *g = grad + r * width, *from = x + r * width;
            T *to = grad_x + r * width;
            float scale = rstd[r], product = 0;
#pragma omp simd reduction(+ : product)
            for (int64_t i = 0; i < width; ++i) product += wide(g[i]) * (offset + wide(weight[i])) * wide(from[i]);
            float mean = product * scale / float(width);
#pragma omp simd
            for (int64_t i = 0; i < width; ++i)
                narrow(scale * (wide(g[i]) * (offset + wide(weight[i])) - wide(from[i]) * scale * mean), to[i]);
            if (direct) add(to, direct + r * width, to, width);
            if (!sums) continue;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) {
                float n = wide(from[i]) * scale;
                sums[i] += wide(g[i]) * (early ? rounded<T>(n) : n);
            }
        }
    }
    if (!grad_weight) return;
#pragma omp parallel for schedule(static) if (blocks * width > SMALL)
    for (int64_t i = 0; i < width; ++i) {
        float sum = 0;
        for (int64_t b = 0; b < blocks; ++b) sum += partial[b * width + i];
        narrow(sum, grad_weight[i]);
    }
}

template <typename T>
static void forward(void *x, void *delta, void *w, void *total, void *y, void *rstd, int64_t rows, int64_t width,
                    int64_t early, float eps, float offset) {
    auto run = early ? rms_norm<T, true> : rms_norm<T, false>;
    run((const T *)x, (const T *)delta, (const T *)w, (T *)total, (T *)y, (float *)rstd, rows, width, eps, offset);
}

template <typename T>
static void backward(void *grad, void *direct, void *x, void *w, void *rstd, void *grad_x, void *grad_w, void *partial,
                     int64_t rows, int64_t width, int64_t block, int64_t early, float offset) {
    auto run = early ? rms_norm_backward<T, true> : rms_norm_backward<T, false>;
    run((const T *)grad, (const T *)direct, (const T *)x, (const T *)w, (const float *)rstd, (T *)grad_x, (T *)grad_w,
        (float *)partial, rows, width, block, offset);
}

#define RMS_NORM(SUFFIX, T)                                                                                           \
    void rms_norm_##SUFFIX(void *x, void *delta, void *w, void *total, void *y, void *rstd, int64_t rows,             \
                           int64_t width, int64_t early, float eps, float offset) {                                   \
        forward<T>(x, delta, w, total, y, rstd, rows, width, early, eps, offset);                                     \
    }                                                                                                                 \
    void rms_norm_backward_##SUFFIX(void *g, void *direct, void *x, void *w, void *rstd, void *gx, void *gw,          \
                                    void *partial, int64_t rows, int64_t width, int64_t block, int64_t early,         \
                                    float offset) {                                                                   \
        backward<T>(g, direct, x, w, rstd, gx, gw, partial, rows, width, block, early, offset);                       \
    }

extern "C" {
RMS_NORM(bf16, bf16)
RMS_NORM(f32, float)
}

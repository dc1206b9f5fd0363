// Log-probabilities of one target per row of logits, and the gradient of the logits in their own place.
#include "numbers.h"

static const int64_t BLOCK = 2048;

template <typename T>
static void logprob_rows(T *logits, const int64_t *targets, float *logps, float *lse, float *entropy, uint8_t *correct,
                         int64_t rows, int64_t vocab) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const T *z = logits + r * vocab;
        float top = -__builtin_inff();
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < vocab; ++v) {
            float each = wide(z[v]);
            top = each > top ? each : top;
        }
        double total = 0, mean = 0;  // of blocks that floats sum without loss
        for (int64_t at = 0; at < vocab; at += BLOCK) {
            int64_t end = at + BLOCK < vocab ? at + BLOCK : vocab;
            float sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
            for (int64_t v = at; v < end; ++v) {
                float x = wide(z[v]) - top, e = fast_exp(x);
                sum += e;
                product += e * (x < -1e4f ? -1e4f : x);  // exp(-inf) (-inf) is 0 here
            }
            total += sum;
            mean += product;
        }
        float log_total = float(__builtin_log(total)), target = wide(z[targets[r]]);
        lse[r] = log_total + top;
        logps[r] = target - top - log_total;
        if (entropy) entropy[r] = float(log_total - mean / total);
        correct[r] = target == top;
    }
}

template <typename T>
static void logprob_rows_backward(T *logits, const int64_t *targets, const float *lse, const float *grad, int64_t rows,
                                  int64_t vocab) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        T *z = logits + r * vocab;
        float at = lse[r], scale = -grad[r];
        float target = fast_exp(wide(z[targets[r]]) - at);
#pragma omp simd
        for (int64_t v = 0; v < vocab; ++v) narrow(scale * fast_exp(wide(z[v]) - at), z[v]);
        narrow(scale * (target - 1.0f), z[targets[r]]);
    }
}

extern "C" {
void logprob_rows_bf16(void *z, void *t, void *logps, void *lse, void *entropy, void *correct, int64_t rows, int64_t v) {
    logprob_rows((bf16 *)z, (const int64_t *)t, (float *)logps, (float *)lse, (float *)entropy, (uint8_t *)correct, rows, v);
}
void logprob_rows_f32(void *z, void *t, void *logps, void *lse, void *entropy, void *correct, int64_t rows, int64_t v) {
    logprob_rows((float *)z, (const int64_t *)t, (float *)logps, (float *)lse, (float *)entropy, (uint8_t *)correct, rows, v);
}
void logprob_rows_backward_bf16(void *z, void *t, void *lse, void *grad, int64_t rows, int64_t v) {
    logprob_rows_backward((bf16 *)z, (const int64_t *)t, (const float *)lse, (const float *)grad, rows, v);
}
void logprob_rows_backward_f32(void *z, void *t, void *lse, void *grad, int64_t rows, int64_t v) {
    logprob_rows_backward((float *)z, (const int64_t *)t, (const float *)lse, (const float *)grad, rows, v);
}
}

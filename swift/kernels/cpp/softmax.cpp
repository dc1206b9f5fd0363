// Log-probabilities of one target per row of logits, and their gradient in the place of the logits.
#include "numbers.h"

static const int64_t BLOCK = 2048;  // floats that are summed before doubles take over

template <typename T>
static void logprob_rows(T *logits, const int64_t *targets, float *logps, float *lse, float *entropy, bool *correct,
                         int64_t rows, int64_t vocab, int64_t gradient) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        T *z = logits + r * vocab;
        float top = -__builtin_inff();
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < vocab; ++v) {
            float each = wide(z[v]);
            top = each > top ? each : top;
        }
        double total = 0, mean = 0;
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
        entropy[r] = float(log_total - mean / total);
        correct[r] = target == top;
        for (int64_t v = 0; correct[r] && v < targets[r]; ++v) correct[r] = wide(z[v]) < top;  // the first of equals
        if (!gradient) continue;
        float at = lse[r];
#pragma omp simd
        for (int64_t v = 0; v < vocab; ++v) narrow(-fast_exp(wide(z[v]) - at), z[v]);
        narrow(1.0f - fast_exp(target - at), z[targets[r]]);
    }
}

extern "C" {
void logprob_rows_bf16(bf16 *z, int64_t *t, float *logps, float *lse, float *entropy, bool *correct, int64_t rows,
                       int64_t vocab, int64_t gradient) {
    logprob_rows(z, t, logps, lse, entropy, correct, rows, vocab, gradient);
}
void logprob_rows_f32(float *z, int64_t *t, float *logps, float *lse, float *entropy, bool *correct, int64_t rows,
                      int64_t vocab, int64_t gradient) {
    logprob_rows(z, t, logps, lse, entropy, correct, rows, vocab, gradient);
}
}

// Divergence of two next-token distributions per row of logits, and its gradient in the place of the student's logits.
#include <vector>

#include "numbers.h"

static const int64_t BLOCK = 2048;  // floats that are summed before doubles take over

// log(x) for normal x > 0: exponent and the minimax polynomial of log(1 + f) on [sqrt(1/2) - 1, sqrt(2) - 1]; relative
// error below 3e-7. What is smaller than 2^-126 is taken for it.
static inline float fast_log(float x) {
    x = x < 1.17549435e-38f ? 1.17549435e-38f : x;
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    int32_t e = (bits - 0x3f3504f3) >> 23;  // so that the mantissa lies between sqrt(1/2) and sqrt(2)
    bits -= e << 23;
    float m;
    std::memcpy(&m, &bits, 4);
    float f = m - 1.0f, square = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    float n = float(e);
    return f + (p * f * square - 0.5f * square) + n * 0.693147182f;
}

// Probabilities of a row of logits over a temperature: exp(z / tau - top), not divided by their sum, and the sum's log.
template <typename T>
static float distribution(const T *z, float *out, float inverse, int64_t vocab, float &top) {
    float most = -__builtin_inff();
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < vocab; ++v) {
        float each = wide(z[v]);
        most = each > most ? each : most;
    }
    top = most * inverse;
    double total = 0;
    for (int64_t at = 0; at < vocab; at += BLOCK) {
        int64_t end = at + BLOCK < vocab ? at + BLOCK : vocab;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t v = at; v < end; ++v) {
            float e = fast_exp(wide(z[v]) * inverse - top);
            out[v] = e;
            sum += e;
        }
        total += sum;
    }
    return float(__builtin_log(total));
}

// With p the student's and q the teacher's probabilities, m = b q + (1 - b) p: b KL(q || m) + (1 - b) KL(p || m), or
// KL(q || p) for b = 0 and KL(p || q) for b = 1. Gradients: see divergence.py.
template <typename T>
static void divergence_rows(T *student, const T *teacher, float *found, int64_t rows, int64_t vocab, float beta,
                            float inverse, int64_t gradient) {
#pragma omp parallel
    {
        std::vector<float> ours(vocab), theirs(vocab);
        float *p = ours.data(), *q = theirs.data();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; ++r) {
            T *z = student + r * vocab;
            const T *t = teacher + r * vocab;
            float p_top, q_top;
            float p_log = distribution(z, p, inverse, vocab, p_top), q_log = distribution(t, q, inverse, vocab, q_top);
            float p_scale = fast_exp(-p_log), q_scale = fast_exp(-q_log), p_lse = p_top + p_log, q_lse = q_top + q_log;
            double of_p = 0, of_q = 0;  // sums of p log p/m and q log q/m; m is the other one at the ends
            for (int64_t at = 0; at < vocab; at += BLOCK) {
                int64_t end = at + BLOCK < vocab ? at + BLOCK : vocab;
                float sum_p = 0, sum_q = 0;
                if (beta == 0 || beta == 1) {
                    float sign = beta == 0 ? -1.0f : 1.0f;
#pragma omp simd reduction(+ : sum_p)
                    for (int64_t v = at; v < end; ++v) {
                        float a = p[v] * p_scale, b = q[v] * q_scale;
                        float apart = (wide(z[v]) - wide(t[v])) * inverse - p_lse + q_lse;  // log p/q
                        float weight = beta == 0 ? b : a;
                        float each = weight == 0 ? 0.0f : weight * sign * apart;
                        sum_p += each;
                        p[v] = a;
                        q[v] = beta == 0 ? b : each;
                    }
                } else {
#pragma omp simd reduction(+ : sum_p, sum_q)
                    for (int64_t v = at; v < end; ++v) {
                        float a = p[v] * p_scale, b = q[v] * q_scale;
                        float log_m = fast_log(beta * b + (1.0f - beta) * a);
                        float each = a == 0 ? 0.0f : a * (wide(z[v]) * inverse - p_lse - log_m);
                        sum_q += b == 0 ? 0.0f : b * (wide(t[v]) * inverse - q_lse - log_m);
                        sum_p += each;
                        p[v] = a;
                        q[v] = each;
                    }
                }
                of_p += sum_p;
                of_q += sum_q;
            }
            bool ends = beta == 0 || beta == 1;
            found[r] = float(ends ? of_p : beta * of_q + (1 - beta) * of_p);
            if (!gradient) continue;
            float mean = float(of_p), scale = ends ? inverse : (1 - beta) * inverse;
            if (beta == 0) {
#pragma omp simd
                for (int64_t v = 0; v < vocab; ++v) narrow((p[v] - q[v]) * scale, z[v]);
            } else {
#pragma omp simd
                for (int64_t v = 0; v < vocab; ++v) narrow((q[v] - p[v] * mean) * scale, z[v]);
            }
        }
    }
}

extern "C" {
void divergence_rows_bf16(bf16 *z, bf16 *t, float *found, int64_t rows, int64_t vocab, float beta, float inverse,
                          int64_t gradient) {
    divergence_rows(z, t, found, rows, vocab, beta, inverse, gradient);
}
void divergence_rows_f32(float *z, float *t, float *found, int64_t rows, int64_t vocab, float beta, float inverse,
                         int64_t gradient) {
    divergence_rows(z, t, found, rows, vocab, beta, inverse, gradient);
}
}

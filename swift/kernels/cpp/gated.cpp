// Gated activations y = act(gate) up, row by row, with fp32 arithmetic and one rounding; and their gradients.
//
// Rows of gate and up may lie apart (`stride` numbers from one to the next), so halves of a packed projection are read
// and their gradients written where they lie.
#include "numbers.h"

struct Slope {
    float value, slope;  // act(x), act'(x)
};

// 1 / d for 1 <= d <= 2: a parabola and two steps of Newton, several times faster than a vector of divisions.
static inline float inverse(float d) {
    float y = (0.323232109f * d - 1.4545448f) * d + 2.12121165f;
    y += y * (1.0f - d * y);
    return y + y * (1.0f - d * y);
}

// x sigmoid(k), where k has the derivative dk: the SiLU for k = x, GELU's tanh form for k = 2 sqrt(2/pi) (x + a x^3).
static inline Slope swish(float x, float k, float dk) {
    float e = fast_exp(-__builtin_fabsf(k)), d = inverse(1.0f + e), other = e * d;  // sigmoid(|k|), sigmoid(-|k|)
    float s = k < 0 ? other : d;
    return {x * s, s + x * (other * d) * dk};
}

struct Silu {
    static Slope at(float x) { return swish(x, x, 1.0f); }
};

struct GeluTanh {
    static Slope at(float x) {
        const float c = 1.595769121605731f, a = 0.044715f;
        float near = x < -20.0f ? -20.0f : x > 20.0f ? 20.0f : x;  // the sigmoid is 0 or 1 beyond
        Slope act = swish(near, c * near * (1.0f + a * near * near), c * (1.0f + 3.0f * a * near * near));
        return {near == x ? act.value : x * act.slope, act.slope};
    }
};

// x Phi(x). erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + z/2), z >= 0; P is the minimax polynomial of degree 9 of the
// relative error (2e-7), so that the far left tail is as exact as the middle.
struct Gelu {
    static Slope at(float x) {
        float z = __builtin_fabsf(x) * 0.707106781186547524f, t = 1.0f / (1.0f + 0.5f * z);
        float p = -0.0255228069f;
        p = p * t + 0.0644611045f;
        p = p * t + 0.0307541811f;
        p = p * t - 0.198550003f;
        p = p * t + 0.0794699591f;
        p = p * t + 0.05826128f;
        p = p * t + 0.180414963f;
        p = p * t + 0.246512197f;
        p = p * t + 0.28210422f;
        p = p * t + 0.282094747f;
        float bell = fast_exp(-z * z), tail = 0.5f * bell * t * p;
        float phi = x < 0 ? tail : 1.0f - tail;
        return {x * phi, phi + x * bell * 0.398942280401432678f};
    }
};

template <typename T, typename Act>
static void gated(const T *gate, const T *up, T *y, int64_t rows, int64_t width, int64_t gate_stride,
                  int64_t up_stride) {
#pragma omp parallel for schedule(static) if (rows * width > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        const T *g = gate + r * gate_stride, *u = up + r * up_stride;
        T *to = y + r * width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) narrow(Act::at(wide(g[i])).value * wide(u[i]), to[i]);
    }
}

template <typename T, typename Act>
static void gated_backward(const T *grad, const T *gate, const T *up, T *grad_gate, T *grad_up, int64_t rows,
                           int64_t width, int64_t gate_stride, int64_t up_stride, int64_t out_stride) {
#pragma omp parallel for schedule(static) if (rows * width > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        const T *d = grad + r * width, *g = gate + r * gate_stride, *u = up + r * up_stride;
        T *to_gate = grad_gate + r * out_stride, *to_up = grad_up + r * out_stride;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
            Slope act = Act::at(wide(g[i]));
            float each = wide(d[i]), other = wide(u[i]);
            narrow(each * other * act.slope, to_gate[i]);
            narrow(each * act.value, to_up[i]);
        }
    }
}

template <typename T>
static void forward(int64_t act, void *gate, void *up, void *y, int64_t rows, int64_t width, int64_t gate_stride,
                    int64_t up_stride) {
    auto run = act == 0 ? gated<T, Silu> : act == 1 ? gated<T, GeluTanh> : gated<T, Gelu>;
    run((const T *)gate, (const T *)up, (T *)y, rows, width, gate_stride, up_stride);
}

template <typename T>
static void backward(int64_t act, void *grad, void *gate, void *up, void *grad_gate, void *grad_up, int64_t rows,
                     int64_t width, int64_t gate_stride, int64_t up_stride, int64_t out_stride) {
    auto run = act == 0 ? gated_backward<T, Silu> : act == 1 ? gated_backward<T, GeluTanh> : gated_backward<T, Gelu>;
    run((const T *)grad, (const T *)gate, (const T *)up, (T *)grad_gate, (T *)grad_up, rows, width, gate_stride,
        up_stride, out_stride);
}

extern "C" {
void gated_bf16(int64_t act, void *gate, void *up, void *y, int64_t rows, int64_t width, int64_t gs, int64_t us) {
    forward<bf16>(act, gate, up, y, rows, width, gs, us);
}
void gated_f32(int64_t act, void *gate, void *up, void *y, int64_t rows, int64_t width, int64_t gs, int64_t us) {
    forward<float>(act, gate, up, y, rows, width, gs, us);
}
void gated_backward_bf16(int64_t act, void *grad, void *gate, void *up, void *ggate, void *gup, int64_t rows,
                         int64_t width, int64_t gs, int64_t us, int64_t os) {
    backward<bf16>(act, grad, gate, up, ggate, gup, rows, width, gs, us, os);
}
void gated_backward_f32(int64_t act, void *grad, void *gate, void *up, void *ggate, void *gup, int64_t rows,
                        int64_t width, int64_t gs, int64_t us, int64_t os) {
    backward<float>(act, grad, gate, up, ggate, gup, rows, width, gs, us, os);
}
}

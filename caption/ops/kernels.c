// The operations of reference.py at which PyTorch is slow on a CPU. cpu_library.py compiles this file and defines
// LANES, the numbers in a register; cpu.py calls the functions. Additive scores and weighted sums read the large tensors, keys
// [B, L, A] and values [B, L, D], once for all Q rows of an image; there A and D must be multiples of LANES.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define BLOCK 1024  // numbers of a row processed at a time, so that they stay in the innermost cache

static inline int64_t block_size(int64_t left) { return left < BLOCK ? left : BLOCK; }

// Return how many of an image's n vectors one task takes: all or, where there are few images for the threads, fewer.
static int64_t task_size(int64_t B, int64_t n) {
    int64_t wide = n;
    while (wide > 4 && B * (n / wide) < 4 * omp_get_max_threads()) wide = (wide + 1) / 2;
    return wide;
}

static float sum(vec values) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += values[i];
    return total;
}

// Additive scores, eq. 4. With U = e^(2q) [B, Q, A], K = e^(2k) [B, L, A], v [A] and r = 1 / (1 + K U):
// sum_a v_a tanh(k_a + q_a) = sum_a v_a (1 - 2 r_a), shape [B, Q, L].
void additive_scores(const float *exp_query, const float *exp_keys, const float *vector, float *scores, int64_t B,
                     int64_t Q, int64_t L, int64_t A) {
    const vec *v = (const vec *)vector;
    float v_sum = 0;
    for (int64_t a = 0; a < A; a++) v_sum += vector[a];
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            const vec *k = (const vec *)(exp_keys + (b * L + l) * A);
            for (int64_t q = 0; q < Q; q++) {
                const vec *u = (const vec *)(exp_query + (b * Q + q) * A);
                vec v_r = {0};
                for (int64_t a = 0; a < A / LANES; a++) v_r += v[a] / (1 + k[a] * u[a]);
                scores[(b * Q + q) * L + l] = v_sum - 2 * sum(v_r);
            }
        }
}

// From the gradient g of the scores [B, Q, L] the gradients of q [B, Q, A], of k [B, L, A], which is added to what is
// there, and of v for each image [B, A]: d e / dq = d e / dk = 4 v r (1 - r), d e / dv = 1 - 2 r.
void additive_scores_backward(const float *exp_query, const float *exp_keys, const float *vector, const float *gradient,
                              float *grad_query, float *grad_keys, float *grad_vector, int64_t B, int64_t Q, int64_t L,
                              int64_t A) {
    const vec *v = (const vec *)vector;
    int64_t n = A / LANES, wide = task_size(B, n), parts = (n + wide - 1) / wide;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = part * wide, last = first + wide < n ? first + wide : n;
            const float *g = gradient + b * Q * L;
            const vec *u = (const vec *)(exp_query + b * Q * A), *k = (const vec *)(exp_keys + b * L * A);
            vec *grad_q = (vec *)(grad_query + b * Q * A), *grad_k = (vec *)(grad_keys + b * L * A);
            vec *grad_v = (vec *)(grad_vector + b * A);
            float g_sum = 0;
            for (int64_t i = 0; i < Q * L; i++) g_sum += g[i];
            for (int64_t a = first; a < last; a++) {
                grad_v[a] = (vec){0} + g_sum;
                for (int64_t q = 0; q < Q; q++) grad_q[q * n + a] = (vec){0};
            }
            for (int64_t l = 0; l < L; l++)
                for (int64_t a = first; a < last; a++) {
                    vec slopes = {0}, g_r = {0};
                    for (int64_t q = 0; q < Q; q++) {
                        vec r = 1 / (1 + k[l * n + a] * u[q * n + a]);
                        vec share = g[q * L + l] * r, slope = share - share * r;
                        g_r += share;
                        slopes += slope;
                        grad_q[q * n + a] += slope;
                    }
                    grad_v[a] -= 2 * g_r;
                    grad_k[l * n + a] += 4 * v[a] * slopes;
                }
            for (int64_t q = 0; q < Q; q++)
                for (int64_t a = first; a < last; a++) grad_q[q * n + a] *= 4 * v[a];
        }
}

// Contexts sum_l alpha_l a_l [B, Q, D], eq. 13, of weights alpha [B, Q, L] and values a [B, L, D]. Four regions at a
// time, so that the sum is read and written less often.
void weighted_sum(const float *weights, const float *values, float *contexts, int64_t B, int64_t Q, int64_t L,
                  int64_t D) {
    int64_t n = D / LANES, wide = task_size(B, n), parts = (n + wide - 1) / wide;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = part * wide, last = first + wide < n ? first + wide : n, l = 0;
            const vec *x = (const vec *)(values + b * L * D);
            vec *z = (vec *)(contexts + b * Q * D);
            for (int64_t q = 0; q < Q; q++)
                for (int64_t d = first; d < last; d++) z[q * n + d] = (vec){0};
            for (; l + 4 <= L; l += 4)
                for (int64_t q = 0; q < Q; q++) {
                    const float *w = weights + (b * Q + q) * L + l;
                    for (int64_t d = first; d < last; d++)
                        z[q * n + d] += w[0] * x[l * n + d] + w[1] * x[(l + 1) * n + d] + w[2] * x[(l + 2) * n + d] +
                                        w[3] * x[(l + 3) * n + d];
                }
            for (; l < L; l++)
                for (int64_t q = 0; q < Q; q++)
                    for (int64_t d = first; d < last; d++)
                        z[q * n + d] += weights[(b * Q + q) * L + l] * x[l * n + d];
        }
}

// e^x = 2^n e^r with |r| <= log(2) / 2. Return 2^n, and in `rest` e^r - 1 by Taylor's series.
static inline float split_exp(float x, float *rest) {
    x = x < -87 ? -87 : x > 87 ? 87 : x;
    float n = __builtin_rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    *rest = r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720)))));
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return power.value;
}

static inline float fast_exp(float x) {
    float rest, power = split_exp(x, &rest);
    return power + power * rest;
}

static inline float sigmoid(float x) { return 1 / (1 + fast_exp(-x)); }

// tanh x by e^2x - 1, which is exact for small x, too.
static inline float fast_tanh(float x) {
    float rest, power = split_exp(2 * x, &rest), less = power * rest + (power - 1);
    return less / (less + 2);
}

// Return `count` numbers from `first` on as floats: in place or, of bfloat16 (a float's upper half), copied.
static const float *load(const void *numbers, int64_t half, int64_t first, int64_t count, float *copy) {
    if (!half) return (const float *)numbers + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        union { uint32_t bits; float value; } wide = {(uint32_t)((const uint16_t *)numbers)[first + i] << 16};
        copy[i] = wide.value;
    }
    return copy;
}

// Store floats as floats or as bfloat16, rounded to the nearest, ties to even.
static void store(const float *values, void *numbers, int64_t half, int64_t first, int64_t count) {
    if (!half) {
        memcpy((float *)numbers + first, values, count * sizeof(float));
        return;
    }
    uint16_t *halves = (uint16_t *)numbers + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        union { float value; uint32_t bits; } wide = {values[i]};
        halves[i] = values[i] != values[i] ? 0x7fc0 : (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    }
}

// Write the sum of three arrays, floats or bfloat16, as floats.
static void add_three(const void *a, const void *b, const void *c, int64_t half, int64_t first, int64_t count,
                      float *sum) {
    float copies[3][BLOCK];
    const float *x = load(a, half, first, count, copies[0]), *y = load(b, half, first, count, copies[1]);
    const float *z = load(c, half, first, count, copies[2]);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) sum[i] = x[i] + y[i] + z[i];
}

// One LSTM step, eq. 1-3. The gates' three addends [N, 4H] (floats or bfloat16; input, forget, output gate, modulator)
// and the cell [N, H] give the gates after their nonlinearities, the hidden state (in the addends' type) and the next
// cell.
void lstm_cell(const void *from_word, const void *from_hidden, const void *from_context, const float *cell,
               float *gates, void *hidden, float *next, int64_t half, int64_t N, int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t first = 0; first < H; first += BLOCK) {
            int64_t count = block_size(H - first);
            const float *c = cell + n * H + first;
            float *i = gates + n * 4 * H + first, *f = i + H, *o = f + H, *g = o + H, *d = next + n * H + first;
            float h[BLOCK];
            for (int k = 0; k < 4; k++)
                add_three(from_word, from_hidden, from_context, half, (n * 4 + k) * H + first, count, i + k * H);
#pragma omp simd
            for (int64_t k = 0; k < count; k++) {
                i[k] = sigmoid(i[k]), f[k] = sigmoid(f[k]), o[k] = sigmoid(o[k]), g[k] = fast_tanh(g[k]);
                d[k] = f[k] * c[k] + i[k] * g[k];
                h[k] = o[k] * fast_tanh(d[k]);
            }
            store(h, hidden, half, n * H + first, count);
        }
}

// From the gradients of the hidden state and the next cell [N, H] those of the gates' addends [N, 4H], equal for all
// three, and of the cell.
void lstm_cell_backward(const float *gates, const float *cell, const float *next, const void *grad_hidden,
                        const float *grad_next, void *grad_gates, float *grad_cell, int64_t half, int64_t N,
                        int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t first = 0; first < H; first += BLOCK) {
            int64_t count = block_size(H - first), at = n * H + first;
            const float *i = gates + n * 4 * H + first, *f = i + H, *o = f + H, *g = o + H;
            const float *c = cell + at, *d = next + at, *grad_d = grad_next + at;
            float copy[BLOCK], grad_gate[4][BLOCK], *grad_c = grad_cell + at;
            const float *grad_h = load(grad_hidden, half, at, count, copy);
#pragma omp simd
            for (int64_t k = 0; k < count; k++) {
                float t = fast_tanh(d[k]);
                float slope = grad_d[k] + grad_h[k] * o[k] * (1 - t * t);  // of the next cell, by both paths
                grad_gate[0][k] = slope * g[k] * i[k] * (1 - i[k]);
                grad_gate[1][k] = slope * c[k] * f[k] * (1 - f[k]);
                grad_gate[2][k] = grad_h[k] * t * o[k] * (1 - o[k]);
                grad_gate[3][k] = slope * i[k] * (1 - g[k] * g[k]);
                grad_c[k] = slope * f[k];
            }
            for (int k = 0; k < 4; k++) store(grad_gate[k], grad_gates, half, (n * 4 + k) * H + first, count);
        }
}

// The largest logit of each row and sum_v e^(x_v - largest), both [N], of logits x [N, V], floats or bfloat16.
void token_nll(const void *logits, float *largest, float *sums, int64_t half, int64_t N, int64_t V) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copy[BLOCK], maximum = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v += BLOCK) {
            int64_t count = block_size(V - v);
            const float *x = load(logits, half, n * V + v, count, copy);
#pragma omp simd reduction(max : maximum)
            for (int64_t i = 0; i < count; i++) maximum = x[i] > maximum ? x[i] : maximum;
        }
        for (int64_t v = 0; v < V; v += BLOCK) {
            int64_t count = block_size(V - v);
            const float *x = load(logits, half, n * V + v, count, copy);
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < count; i++) sum += fast_exp(x[i] - maximum);
        }
        largest[n] = maximum, sums[n] = sum;
    }
}

// From the gradient g [N] of -log p_y that of the logits, g (p_v - [v = y]), with log p_v = x_v - largest - log_sum.
void token_nll_backward(const void *logits, const int64_t *targets, const float *largest, const float *log_sums,
                        const float *gradient, void *grad_logits, int64_t half, int64_t N, int64_t V) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copy[BLOCK], grad[BLOCK];
        for (int64_t v = 0; v < V; v += BLOCK) {
            int64_t count = block_size(V - v);
            const float *x = load(logits, half, n * V + v, count, copy);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) grad[i] = gradient[n] * fast_exp(x[i] - largest[n] - log_sums[n]);
            if (v <= targets[n] && targets[n] < v + BLOCK) grad[targets[n] - v] -= gradient[n];
            store(grad, grad_logits, half, n * V + v, count);
        }
    }
}

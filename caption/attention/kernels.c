// The additive score of additive.py and the context of contexts.py on a CPU, with their gradients; native.py compiles
// them. What is large, keys [B, L, A] and values [B, L, D], is read once for all Q rows of an image. A and D are
// multiples of LANES, which native.py gives.

#include <omp.h>
#include <stdint.h>

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// How many of an image's n vectors a task takes: all or, where images are few for the threads, a part.
static int64_t portion(int64_t B, int64_t n) {
    int64_t wide = n;
    while (wide > 4 && B * (n / wide) < 4 * omp_get_max_threads()) wide = (wide + 1) / 2;
    return wide;
}

static float sum(vec values) {
    float whole = 0;
    for (int i = 0; i < LANES; i++) whole += values[i];
    return whole;
}

// asked U = e^(2q) [B, Q, A], keys K = e^(2k) [B, L, A], vector v [A], r = 1 / (1 + K U) -> scores [B, Q, L]: sum_a v_a tanh(k_a + q_a) = sum_a v_a (1 - 2 r_a).
void scores(const float *asked, const float *keys, const float *vector, float *scores, int64_t B, int64_t Q, int64_t L,
            int64_t A) {
    const vec *v = (const vec *)vector;
    float whole = 0;
    for (int64_t a = 0; a < A; a++) whole += vector[a];
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            const vec *k = (const vec *)(keys + (b * L + l) * A);
            for (int64_t q = 0; q < Q; q++) {
                const vec *u = (const vec *)(asked + (b * Q + q) * A);
                vec shares = {0};
                for (int64_t a = 0; a < A / LANES; a++) shares += v[a] / (1 + k[a] * u[a]);
                scores[(b * Q + q) * L + l] = whole - 2 * sum(shares);
            }
        }
}

// From the gradient g of the scores [B, Q, L]: of asked [B, Q, A], of keys [B, L, A], and sum_ql g r [B, A].
void gradients(const float *asked, const float *keys, const float *vector, const float *gradient, float *of_asked,
               float *of_keys, float *seen, int64_t B, int64_t Q, int64_t L, int64_t A) {
    const vec *v = (const vec *)vector;
    int64_t n = A / LANES, wide = portion(B, n), parts = (n + wide - 1) / wide;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = part * wide, last = first + wide < n ? first + wide : n;
            const vec *u = (const vec *)(asked + b * Q * A), *k = (const vec *)(keys + b * L * A);
            vec *of_u = (vec *)(of_asked + b * Q * A), *of_k = (vec *)(of_keys + b * L * A);
            vec *sees = (vec *)(seen + b * A);
            for (int64_t a = first; a < last; a++) {
                sees[a] = (vec){0};
                for (int64_t q = 0; q < Q; q++) of_u[q * n + a] = (vec){0};
            }
            for (int64_t l = 0; l < L; l++)
                for (int64_t a = first; a < last; a++) {
                    vec slopes = {0}, shares = {0};
                    for (int64_t q = 0; q < Q; q++) {
                        vec r = 1 / (1 + k[l * n + a] * u[q * n + a]);
                        vec share = gradient[(b * Q + q) * L + l] * r, slope = share - share * r;
                        shares += share;
                        slopes += slope;
                        of_u[q * n + a] += slope;
                    }
                    sees[a] += shares;
                    of_k[l * n + a] = 2 * v[a] * slopes / k[l * n + a];
                }
            for (int64_t q = 0; q < Q; q++)
                for (int64_t a = first; a < last; a++) of_u[q * n + a] *= 2 * v[a] / u[q * n + a];
        }
}

// Weights alpha [B, Q, L], values [B, L, D] -> contexts [B, Q, D]: sum_l alpha_l a_l. Four regions at a time: what is
// summed is read and written less often.
void contexts(const float *weights, const float *values, float *contexts, int64_t B, int64_t Q, int64_t L, int64_t D) {
    int64_t n = D / LANES, wide = portion(B, n), parts = (n + wide - 1) / wide;
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

// From the gradient g of the contexts [B, Q, D] that of the weights [B, Q, L]: sum_d g_d a_ld.
void of_weights(const float *gradient, const float *values, float *of_weights, int64_t B, int64_t Q, int64_t L,
                int64_t D) {
    int64_t n = D / LANES;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            const vec *x = (const vec *)(values + (b * L + l) * D);
            for (int64_t q = 0; q < Q; q++) {
                const vec *g = (const vec *)(gradient + (b * Q + q) * D);
                vec even = {0}, odd = {0};
                for (int64_t d = 0; d + 1 < n; d += 2) even += g[d] * x[d], odd += g[d + 1] * x[d + 1];
                if (n % 2) even += g[n - 1] * x[n - 1];
                of_weights[(b * Q + q) * L + l] = sum(even + odd);
            }
        }
}

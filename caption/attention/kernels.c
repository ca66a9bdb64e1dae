// The additive score of additive.py and its gradient on a CPU, in one pass over the keys, which native.py compiles.
// asked U = e^(2q) [B, Q, A], keys K = e^(2k) [B, L, A], vector v [A]; A is a multiple of LANES; r = 1 / (1 + K U).

#include <omp.h>
#include <stdint.h>

#define LANES 16
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Scores [B, Q, L]: sum_a v_a tanh(k_a + q_a) = sum_a v_a (1 - 2 r_a).
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
                float share = 0;
                for (int i = 0; i < LANES; i++) share += shares[i];
                scores[(b * Q + q) * L + l] = whole - 2 * share;
            }
        }
}

// From the gradient g of the scores [B, Q, L]: of asked [B, Q, A], of keys [B, L, A], and sum_ql g r [B, A]. A thread
// takes an image or, where there are few, a part of its A.
void gradients(const float *asked, const float *keys, const float *vector, const float *gradient, float *of_asked,
               float *of_keys, float *seen, int64_t B, int64_t Q, int64_t L, int64_t A) {
    const vec *v = (const vec *)vector;
    int64_t n = A / LANES, wide = n;
    while (wide > 4 && B * (n / wide) < 4 * omp_get_max_threads()) wide = (wide + 1) / 2;
    int64_t parts = (n + wide - 1) / wide;
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

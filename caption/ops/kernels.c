// What PyTorch is slow at on a CPU; native.py compiles it, and gives LANES, a power of two. The additive score of
// additive.py and the context of contexts.py read what is large, keys [B, L, A] and values [B, L, D], once for all Q rows
// of an image; A and D are multiples of LANES. Then the transpose of a matrix, e^(2x), the LSTM's cell, the gate, and
// the cross-entropy.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define SOME 1024  // numbers of a row that are worked on at a time, so that they stay in the innermost cache

static inline int64_t at_most(int64_t left) { return left < SOME ? left : SOME; }

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

// asked U = e^(2q) [B, Q, A], keys K = e^(2k) [B, L, A], vector v [A], r = 1 / (1 + K U) -> scores [B, Q, L]:
// sum_a v_a tanh(k_a + q_a) = sum_a v_a (1 - 2 r_a).
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

// From the gradient g of the scores [B, Q, L]: of asked [B, Q, A]; of keys [B, L, A], added to what is there; of the
// vector, by each image [B, A].
void gradients(const float *asked, const float *keys, const float *vector, const float *gradient, float *of_asked,
               float *of_keys, float *of_vector, int64_t B, int64_t Q, int64_t L, int64_t A) {
    const vec *v = (const vec *)vector;
    int64_t n = A / LANES, wide = portion(B, n), parts = (n + wide - 1) / wide;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = part * wide, last = first + wide < n ? first + wide : n;
            const float *g = gradient + b * Q * L;
            const vec *u = (const vec *)(asked + b * Q * A), *k = (const vec *)(keys + b * L * A);
            vec *of_u = (vec *)(of_asked + b * Q * A), *of_k = (vec *)(of_keys + b * L * A);
            vec *of_v = (vec *)(of_vector + b * A);
            float whole = 0;
            for (int64_t i = 0; i < Q * L; i++) whole += g[i];
            for (int64_t a = first; a < last; a++) {
                of_v[a] = (vec){0} + whole;
                for (int64_t q = 0; q < Q; q++) of_u[q * n + a] = (vec){0};
            }
            for (int64_t l = 0; l < L; l++)
                for (int64_t a = first; a < last; a++) {
                    vec slopes = {0}, shares = {0};
                    for (int64_t q = 0; q < Q; q++) {
                        vec r = 1 / (1 + k[l * n + a] * u[q * n + a]);
                        vec share = g[q * L + l] * r, slope = share - share * r;
                        shares += share;
                        slopes += slope;
                        of_u[q * n + a] += slope;
                    }
                    of_v[a] -= 2 * shares;
                    of_k[l * n + a] += 2 * v[a] * slopes / k[l * n + a];
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

typedef int32_t places __attribute__((vector_size(4 * LANES)));

// The numbers of a and then b that are at these places.
static inline vec pick(vec a, vec b, places from) {
#ifdef __clang__  // has no shuffle of this kind, but finds it
    vec picked;
    for (int i = 0; i < LANES; i++) picked[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return picked;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

// A square of LANES rows of x, n numbers apart -> its transpose in y, m numbers apart. (r, c) goes to (c, r) by
// exchanging the bits of r and c one after the other: for bit s, rows r and r + s exchange half of their numbers.
static inline void square(const float *x, int64_t n, float *y, int64_t m) {
    vec rows[LANES];
    for (int r = 0; r < LANES; r++) rows[r] = *(const vec *)(x + r * n);
#pragma GCC unroll 16
    for (int s = 1; s < LANES; s *= 2) {
        places first, second;
        for (int c = 0; c < LANES; c++) first[c] = c & s ? LANES + c - s : c, second[c] = c & s ? LANES + c : c + s;
        for (int r = 0; r < LANES; r++)
            if (!(r & s)) {
                vec a = rows[r], b = rows[r + s];
                rows[r] = pick(a, b, first), rows[r + s] = pick(a, b, second);
            }
    }
    for (int c = 0; c < LANES; c++) *(vec *)(y + c * m) = rows[c];
}

// x [m, n] -> y [n, m].
void transposed(const float *x, float *y, int64_t m, int64_t n) {
#pragma omp parallel for
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = 0; j < n; j += LANES)
            if (i + LANES <= m && j + LANES <= n)
                square(x + i * n + j, n, y + j * m + i, m);
            else
                for (int64_t r = i; r < m && r < i + LANES; r++)
                    for (int64_t c = j; c < n && c < j + LANES; c++) y[c * m + r] = x[r * n + c];
}

// e^x = 2^n e^r with |r| <= log(2) / 2 -> 2^n, and e^r - 1 by Taylor's series.
static inline float split(float x, float *rest) {
    x = x < -87 ? -87 : x > 87 ? 87 : x;
    float n = __builtin_rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    *rest = r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720)))));
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return power.value;
}

static inline float exponential(float x) {
    float rest, power = split(x, &rest);
    return power + power * rest;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

// tanh x by e^2x - 1, to the last digits of small x, too.
static inline float tangent(float x) {
    float rest, power = split(2 * x, &rest), less = power * rest + (power - 1);
    return less / (less + 2);
}

// Some of the numbers as floats: themselves or, of bfloat16, whose bits are the upper half of a float's, a copy.
static const float *widened(const void *numbers, int64_t half, int64_t first, int64_t count, float *copy) {
    if (!half) return (const float *)numbers + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        union { uint32_t bits; float value; } wide = {(uint32_t)((const uint16_t *)numbers)[first + i] << 16};
        copy[i] = wide.value;
    }
    return copy;
}

// Values to some of the numbers, floats or bfloat16: rounded to the nearest, of two to the even.
static void put(const float *values, void *numbers, int64_t half, int64_t first, int64_t count) {
    if (!half) {
        memcpy((float *)numbers + first, values, count * sizeof(float));
        return;
    }
    uint16_t *there = (uint16_t *)numbers + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        union { float value; uint32_t bits; } wide = {values[i]};
        there[i] = values[i] != values[i] ? 0x7fc0 : (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    }
}

// Values x [n], floats or bfloat16 -> e^(2x), of x no further from 0 than the limit.
void exponentials(const void *values, float *found, int64_t half, int64_t limit, int64_t n) {
#pragma omp parallel for
    for (int64_t first = 0; first < n; first += SOME) {
        int64_t count = at_most(n - first);
        float copy[SOME];
        const float *x = widened(values, half, first, count, copy);
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            found[first + i] = exponential(2 * (x[i] < -limit ? -limit : x[i] > limit ? limit : x[i]));
    }
}

// From the gradient of e^(2x) that of x, nothing from the limit on.
void of_exponentials(const float *found, const float *gradient, void *of_values, int64_t half, int64_t limit,
                     int64_t n) {
    float least = exponential(-2 * limit), most = exponential(2 * limit);
#pragma omp parallel for
    for (int64_t first = 0; first < n; first += SOME) {
        int64_t count = at_most(n - first);
        const float *e = found + first, *g = gradient + first;
        float of[SOME];
#pragma omp simd
        for (int64_t i = 0; i < count; i++) of[i] = e[i] <= least || e[i] >= most ? 0 : 2 * g[i] * e[i];
        put(of, of_values, half, first, count);
    }
}

// The sum of three, at some of their places, as floats.
static void summed(const void *a, const void *b, const void *c, int64_t half, int64_t first, int64_t count, float *sum) {
    float copies[3][SOME];
    const float *x = widened(a, half, first, count, copies[0]), *y = widened(b, half, first, count, copies[1]);
    const float *z = widened(c, half, first, count, copies[2]);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) sum[i] = x[i] + y[i] + z[i];
}

// The three shares of the gates [N, 4H], floats or bfloat16: input, forget, output and modulator; cell [N, H] -> gates
// after their nonlinearities, hidden state (as the shares) and next cell, eq. 1-3.
void lstm(const void *word, const void *state, const void *seen, const float *cell, float *opened, void *hidden,
          float *next, int64_t half, int64_t N, int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t first = 0; first < H; first += SOME) {
            int64_t count = at_most(H - first);
            const float *c = cell + n * H + first;
            float *i = opened + n * 4 * H + first, *f = i + H, *o = f + H, *g = o + H, *d = next + n * H + first;
            float h[SOME];
            for (int k = 0; k < 4; k++) summed(word, state, seen, half, (n * 4 + k) * H + first, count, i + k * H);
#pragma omp simd
            for (int64_t k = 0; k < count; k++) {
                i[k] = sigmoid(i[k]), f[k] = sigmoid(f[k]), o[k] = sigmoid(o[k]), g[k] = tangent(g[k]);
                d[k] = f[k] * c[k] + i[k] * g[k];
                h[k] = o[k] * tangent(d[k]);
            }
            put(h, hidden, half, n * H + first, count);
        }
}

// From the gradients of the hidden state and the next cell [N, H] those of the gates [N, 4H], which is that of each
// share, and of the cell.
void lstm_gradients(const float *opened, const float *cell, const float *next, const void *of_hidden,
                    const float *of_next, void *of_gates, float *of_cell, int64_t half, int64_t N, int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t first = 0; first < H; first += SOME) {
            int64_t count = at_most(H - first), at = n * H + first;
            const float *i = opened + n * 4 * H + first, *f = i + H, *o = f + H, *g = o + H;
            const float *c = cell + at, *d = next + at, *of_d = of_next + at;
            float copy[SOME], found[4][SOME], *of_c = of_cell + at;
            const float *of_h = widened(of_hidden, half, at, count, copy);
#pragma omp simd
            for (int64_t k = 0; k < count; k++) {
                float t = tangent(d[k]), slope = of_d[k] + of_h[k] * o[k] * (1 - t * t);  // of the next cell, in all
                found[0][k] = slope * g[k] * i[k] * (1 - i[k]);
                found[1][k] = slope * c[k] * f[k] * (1 - f[k]);
                found[2][k] = of_h[k] * t * o[k] * (1 - o[k]);
                found[3][k] = slope * i[k] * (1 - g[k] * g[k]);
                of_c[k] = slope * f[k];
            }
            for (int k = 0; k < 4; k++) put(found[k], of_gates, half, (n * 4 + k) * H + first, count);
        }
}

// Context z [N, C] and hidden state h [N, H], floats or bfloat16, weight w [H], bias b [1] -> beta z, and
// beta = sigmoid(w . h + b) [N].
void gated(const void *context, const void *hidden, const float *weight, const float *bias, void *found, float *gate,
           int64_t half, int64_t N, int64_t C, int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copy[SOME], sum = *bias;
        for (int64_t first = 0; first < H; first += SOME) {
            int64_t count = at_most(H - first);
            const float *h = widened(hidden, half, n * H + first, count, copy), *w = weight + first;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < count; i++) sum += w[i] * h[i];
        }
        float beta = gate[n] = sigmoid(sum);
        for (int64_t first = 0; first < C; first += SOME) {
            int64_t count = at_most(C - first);
            const float *z = widened(context, half, n * C + first, count, copy);
            float some[SOME];
#pragma omp simd
            for (int64_t i = 0; i < count; i++) some[i] = beta * z[i];
            put(some, found, half, n * C + first, count);
        }
    }
}

// From the gradients of beta z and of beta those of the context, the hidden state, the weight and, by each row [N], the
// bias.
void gated_gradients(const void *context, const void *hidden, const float *weight, const float *gate,
                     const void *of_found, const float *of_gate, void *of_context, void *of_hidden, float *of_weight,
                     float *of_bias, int64_t half, int64_t N, int64_t C, int64_t H) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copies[2][SOME], some[SOME], sum = of_gate[n];
        for (int64_t first = 0; first < C; first += SOME) {
            int64_t count = at_most(C - first);
            const float *z = widened(context, half, n * C + first, count, copies[0]);
            const float *of = widened(of_found, half, n * C + first, count, copies[1]);
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < count; i++) sum += z[i] * of[i];
#pragma omp simd
            for (int64_t i = 0; i < count; i++) some[i] = gate[n] * of[i];
            put(some, of_context, half, n * C + first, count);
        }
        of_bias[n] = sum * gate[n] * (1 - gate[n]);
        for (int64_t first = 0; first < H; first += SOME) {
            int64_t count = at_most(H - first);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) some[i] = of_bias[n] * weight[first + i];
            put(some, of_hidden, half, n * H + first, count);
        }
    }
    for (int64_t first = 0; first < H; first += SOME) {
        int64_t count = at_most(H - first);
        float copy[SOME], *of = of_weight + first;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) of[i] = 0;
        for (int64_t n = 0; n < N; n++) {
            const float *h = widened(hidden, half, n * H + first, count, copy);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) of[i] += of_bias[n] * h[i];
        }
    }
}

// Logits x [N, V], floats or bfloat16 -> their maximum and sum_v e^(x_v - maximum) [N].
void partition(const void *logits, float *most, float *sums, int64_t half, int64_t N, int64_t V) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copy[SOME], maximum = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v += SOME) {
            int64_t count = at_most(V - v);
            const float *x = widened(logits, half, n * V + v, count, copy);
#pragma omp simd reduction(max : maximum)
            for (int64_t i = 0; i < count; i++) maximum = x[i] > maximum ? x[i] : maximum;
        }
        for (int64_t v = 0; v < V; v += SOME) {
            int64_t count = at_most(V - v);
            const float *x = widened(logits, half, n * V + v, count, copy);
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < count; i++) sum += exponential(x[i] - maximum);
        }
        most[n] = maximum, sums[n] = sum;
    }
}

// The gradient of -slope log p_y, slope (p_v - [v = y]): y and slopes [N], log p_v = x_v - most - beyond [N].
void of_logits(const void *logits, const int64_t *targets, const float *most, const float *beyond, const float *slopes,
               void *of_logits, int64_t half, int64_t N, int64_t V) {
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        float copy[SOME], found[SOME];
        for (int64_t v = 0; v < V; v += SOME) {
            int64_t count = at_most(V - v);
            const float *x = widened(logits, half, n * V + v, count, copy);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) found[i] = slopes[n] * exponential(x[i] - most[n] - beyond[n]);
            if (v <= targets[n] && targets[n] < v + SOME) found[targets[n] - v] -= slopes[n];
            put(found, of_logits, half, n * V + v, count);
        }
    }
}

/* activation(alpha * (a @ b) + bias), double inside, rounded once. int8: 32-bit sums that wrap. */
#include <math.h>

#include "arena.h"

static double activate(const char *name, double t) {
    if (!*name) return t;
    if (!strcmp(name, "relu")) return t > 0 || isnan(t) ? t : 0;
    if (isinf(t) && t < 0) return 0;
    /* The forms below do not cancel where t is very negative. */
    if (!strcmp(name, "gelu")) return t * (erfc(-t * 0.70710678118654752) / 2);
    if (!strcmp(name, "silu")) return t / (1 + exp(-t));
    return t / (1 + exp(-2 * (0.79788456080286536 * (t + 0.044715 * t * t * t)))); /* gelu_tanh: sqrt(2/pi) */
}

static void one(const Plan *p, char *const *at, int64_t batch, int64_t i, int64_t j) {
    const Operand *out = &p->operands[0], *a = &p->operands[1], *b = &p->operands[2], *bias = &p->operands[3];
    const int axes = out->axes - 2;
    const int64_t k = a->shape[axes + 1], step_a = a->strides[axes + 1], step_b = b->strides[axes];
    const char *x = at[1] + place(a, 0, axes, batch) + i * a->strides[axes];
    const char *y = at[2] + place(b, 0, axes, batch) + j * b->strides[axes + 1];
    char *const to = at[0] + place(out, 0, axes, batch) + i * out->strides[axes] + j * out->strides[axes + 1];
    double plus = 0;
    if (p->count == 4)
        plus = load(bias->kind, at[3] + place(bias, 0, axes, batch) + i * bias->strides[axes] +
                                    j * bias->strides[axes + 1]);
    if (a->kind == INT8) {
        uint32_t total = (uint32_t)(int32_t)plus;
        for (int64_t n = 0; n < k; ++n)
            total += (uint32_t)((int32_t)(int8_t)x[n * step_a] * (int32_t)(int8_t)y[n * step_b]);
        memcpy(to, &total, sizeof total);
        return;
    }
    double total = 0;
    for (int64_t n = 0; n < k; ++n) total += load(a->kind, x + n * step_a) * load(b->kind, y + n * step_b);
    total *= p->alpha;
    if (p->count == 4) total += plus;
    store(out->kind, to, activate(p->activation, total));
}

void run_matmul(const Plan *p, char *const *at, char *workspace) {
    const Operand *out = &p->operands[0];
    const int axes = out->axes - 2;
    const int64_t batches = count(out, 0, axes), m = out->shape[axes], n = out->shape[axes + 1];
    (void)workspace;
    for (int64_t batch = 0; batch < batches; ++batch)
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) one(p, at, batch, i, j);
}

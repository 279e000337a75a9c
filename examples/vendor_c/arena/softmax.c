/* softmax and log_softmax of z = scale * x + mask over the last axis. */
#include <math.h>

#include "arena.h"

/* z of a row into `z`; its maximum, which is NaN if one element is. */
static double fill(const Plan *p, char *const *at, int64_t row, int64_t n, double *z) {
    const Operand *x = &p->operands[1], *mask = p->count == 3 ? &p->operands[2] : NULL;
    const int last = x->axes - 1;
    const char *from = at[1] + place(x, 0, last, row), *keep = mask ? at[2] + place(mask, 0, last, row) : NULL;
    double top = -INFINITY;
    for (int64_t i = 0; i < n; ++i) {
        z[i] = load(x->kind, from + i * x->strides[last]) * p->scale;
        if (mask && mask->kind == BOOL) {
            if (!keep[i * mask->strides[last]]) z[i] = -INFINITY; /* replaces whatever stands there */
        } else if (mask) {
            z[i] += load(mask->kind, keep + i * mask->strides[last]);
        }
        if (!(z[i] <= top)) top = isnan(top) ? top : z[i];
    }
    return top;
}

void run_softmax(const Plan *p, char *const *at, char *workspace) {
    const Operand *out = &p->operands[0];
    const int last = out->axes - 1;
    const int64_t rows = count(out, 0, last), n = out->shape[last];
    double *z = (double *)(void *)workspace, *weights = z + n;
    for (int64_t row = 0; row < rows; ++row) {
        const double top = fill(p, at, row, n, z);
        const int nothing = p->count == 3 && isinf(top) && top < 0; /* a mask that leaves nothing: zeros, no NaN */
        for (int64_t i = 0; i < n; ++i) weights[i] = exp(z[i] -= nothing ? 0 : top);
        const double total = sum(weights, n, 0, 1), log_total = p->logarithm ? log(total) : 0;
        char *to = at[0] + place(out, 0, last, row);
        for (int64_t i = 0; i < n; ++i) {
            double y = p->logarithm ? z[i] - log_total : weights[i] / total;
            if (nothing) y = p->logarithm ? -INFINITY : 0;
            store(out->kind, to + i * out->strides[last], y);
        }
    }
}

/* layernorm and rmsnorm over the last row_axes axes, with weight, bias, residual and statistics. */
#include <math.h>

#include "arena.h"

double sum(const double *x, int64_t n, double shift, int power) {
    if (n > 32) return sum(x, n / 2, shift, power) + sum(x + n / 2, n - n / 2, shift, power);
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += power == 2 ? (x[i] - shift) * (x[i] - shift) : x[i] - shift;
    return total;
}

/* The row that is normalised: x, or x + residual rounded to x's dtype, which is the result `sum` as well. */
static void fill(const Plan *p, char *const *at, int64_t row, int64_t n, double *values) {
    const int other = find(p, "residual"), kept = find(p, "sum"), main = find(p, "x");
    const Operand *x = &p->operands[main];
    const int split = x->axes - p->row_axes;
    for (int64_t i = 0; i < n; ++i) {
        values[i] = load(x->kind, at[main] + place(x, 0, split, row) + place(x, split, x->axes, i));
        if (other < 0) continue;
        const Operand *r = &p->operands[other], *s = &p->operands[kept];
        values[i] += load(r->kind, at[other] + place(r, 0, split, row) + place(r, split, r->axes, i));
        values[i] = rounded(x->kind, values[i]);
        store(s->kind, at[kept] + place(s, 0, split, row) + place(s, split, s->axes, i), values[i]);
    }
}

static double parameter(const Plan *p, char *const *at, int index, int64_t i, double otherwise) {
    if (index < 0) return otherwise;
    const Operand *w = &p->operands[index];
    return load(w->kind, at[index] + place(w, 0, w->axes, i));
}

static void finish(const Plan *p, char *const *at, int64_t row, int64_t n, const double *x, double mean, double rstd) {
    const Operand *out = &p->operands[0];
    const int split = out->axes - p->row_axes, weight = find(p, "weight"), bias = find(p, "bias");
    const int means = find(p, "mean"), rstds = find(p, "rstd");
    for (int64_t i = 0; i < n; ++i) {
        const double y = (x[i] - mean) * rstd * parameter(p, at, weight, i, 1);
        store(out->kind, at[0] + place(out, 0, split, row) + place(out, split, out->axes, i),
              bias < 0 ? y : y + parameter(p, at, bias, i, 0));
    }
    if (means >= 0) store(p->operands[means].kind, at[means] + place(&p->operands[means], 0, split, row), mean);
    if (rstds >= 0) store(p->operands[rstds].kind, at[rstds] + place(&p->operands[rstds], 0, split, row), rstd);
}

static void rows_of(const Plan *p, int64_t *rows, int64_t *n) {
    const Operand *x = &p->operands[find(p, "x")];
    *rows = count(x, 0, x->axes - p->row_axes);
    *n = count(x, x->axes - p->row_axes, x->axes);
}

void run_layernorm(const Plan *p, char *const *at, char *workspace) {
    double *x = (double *)(void *)workspace;
    int64_t rows, n;
    rows_of(p, &rows, &n);
    for (int64_t row = 0; row < rows; ++row) {
        fill(p, at, row, n, x);
        /* About the first element: a constant row has exactly this mean. Then about that mean. */
        double mean = n ? x[0] : 0;
        mean += sum(x, n, mean, 1) / (double)n;
        mean += sum(x, n, mean, 1) / (double)n;
        finish(p, at, row, n, x, mean, 1 / sqrt(sum(x, n, mean, 2) / (double)n + p->eps));
    }
}

void run_rmsnorm(const Plan *p, char *const *at, char *workspace) {
    double *x = (double *)(void *)workspace;
    int64_t rows, n;
    rows_of(p, &rows, &n);
    for (int64_t row = 0; row < rows; ++row) {
        fill(p, at, row, n, x);
        finish(p, at, row, n, x, 0, 1 / sqrt(sum(x, n, 0, 2) / (double)n + p->eps));
    }
}

#include "kernels.h"

#include <math.h>
#include <string.h>

#include "runtime.h"

/* ---- elements */

static float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_half(uint16_t half) {
    const float size = (half & 0x7c00) == 0x7c00 ? bits_float(0x7f800000u | (uint32_t)(half & 0x3ff) << 13)
                       : half & 0x7c00 ? bits_float(((uint32_t)(half & 0x7fff) << 13) + (112u << 23))
                                       : (float)(half & 0x3ff) * 0x1p-24f;
    return half & 0x8000 ? -size : size;
}

static uint16_t to_half(float value) {
    const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    if (size < 0x38800000) return (uint16_t)(sign | (uint32_t)rintf(bits_float(size) * 0x1p24f));
    const uint32_t even = size + 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | (even - (112u << 23)) >> 13);
}

static uint16_t to_bfloat(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float round_to(int dtype, float value) {
    if (dtype == FLOAT16) return from_half(to_half(value));
    return dtype == BFLOAT16 ? bits_float((uint32_t)to_bfloat(value) << 16) : value;
}

static int64_t place(const PackArguments *p, int64_t number) {
    int64_t offset = 0;
    for (int axis = p->axes; axis-- > 0; number /= p->shape[axis]) offset += number % p->shape[axis] * p->strides[axis];
    return offset;
}

void kernel_pack(uint32_t block, uint32_t blocks, const void *arguments) {
    const PackArguments *p = arguments;
    const char *from = rt_on_chip(p->tensor);
    float *floats = rt_on_chip(p->packed);
    int32_t *integers = rt_on_chip(p->packed);
    for (int64_t i = block; i < p->count; i += blocks) {
        const int64_t at = place(p, i);
        uint16_t half;
        switch (p->dtype) {
            case FLOAT32: memcpy(&floats[i], from + 4 * at, 4); break;
            case INT32: memcpy(&integers[i], from + 4 * at, 4); break;
            case FLOAT16: memcpy(&half, from + 2 * at, 2), floats[i] = from_half(half); break;
            case BFLOAT16: memcpy(&half, from + 2 * at, 2), floats[i] = bits_float((uint32_t)half << 16); break;
            default: integers[i] = *(const int8_t *)(from + at); break;
        }
    }
}

void kernel_unpack(uint32_t block, uint32_t blocks, const void *arguments) {
    const PackArguments *p = arguments;
    char *to = rt_on_chip(p->tensor);
    const float *floats = rt_on_chip(p->packed);
    for (int64_t i = block; i < p->count; i += blocks) {
        const int64_t at = place(p, i);
        const uint16_t half = p->dtype == FLOAT16 ? to_half(floats[i]) : to_bfloat(floats[i]);
        if (p->dtype == FLOAT16 || p->dtype == BFLOAT16) memcpy(to + 2 * at, &half, 2);
        else memcpy(to + 4 * at, &floats[i], 4);
    }
}

/* ---- matmul: float accumulation, one product after the other */

static float activate(int activation, float t) {
    if (activation == NONE) return t;
    if (activation == RELU) return t > 0 || isnan(t) ? t : 0;
    if (isinf(t) && t < 0) return 0;
    if (activation == GELU) return t * (0.5f * erfcf(-t * 0.70710678f));
    if (activation == SILU) return t / (1 + expf(-t));
    return t / (1 + expf(-2 * (0.79788456f * (t + 0.044715f * t * t * t))));
}

static float dot(const float *a, const float *b, int64_t n, int64_t k) {
    float total = 0;
    for (int64_t i = 0; i < k; ++i) total += a[i] * b[i * n];
    return total;
}

static uint32_t dot_integers(const int32_t *a, const int32_t *b, int64_t n, int64_t k) {
    uint32_t total = 0;
    for (int64_t i = 0; i < k; ++i) total += (uint32_t)(a[i] * b[i * n]);
    return total;
}

void kernel_matmul(uint32_t block, uint32_t blocks, const void *arguments) {
    const MatmulArguments *p = arguments;
    for (int64_t row = block; row < p->batches * p->m; row += blocks)
        for (int64_t j = 0; j < p->n; ++j) {
            const int64_t at = row * p->n + j, from_a = row * p->k, from_b = row / p->m * p->k * p->n + j;
            if (p->integers) {
                const int32_t *a = rt_on_chip(p->a), *b = rt_on_chip(p->b);
                uint32_t total = dot_integers(a + from_a, b + from_b, p->n, p->k);
                if (p->bias) total += (uint32_t)((int32_t *)rt_on_chip(p->bias))[at];
                ((uint32_t *)rt_on_chip(p->out))[at] = total;
                continue;
            }
            const float *a = rt_on_chip(p->a), *b = rt_on_chip(p->b);
            float total = p->alpha * dot(a + from_a, b + from_b, p->n, p->k);
            if (p->bias) total += ((float *)rt_on_chip(p->bias))[at];
            ((float *)rt_on_chip(p->out))[at] = activate(p->activation, total);
        }
}

/* ---- rows: sums in halves, so that no chain of additions is long */

static float sum(const float *x, int64_t n, float shift, int squares) {
    if (n > 16) return sum(x, n / 2, shift, squares) + sum(x + n / 2, n - n / 2, shift, squares);
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += squares ? (x[i] - shift) * (x[i] - shift) : x[i] - shift;
    return total;
}

/* z into out's row; the largest, or NaN. */
static float fill(const SoftmaxArguments *p, int64_t row, float *z) {
    const float *x = (float *)rt_on_chip(p->x) + row * p->n, *add = NULL;
    const int32_t *keep = NULL;
    float top = -INFINITY;
    if (p->mask && p->boolean) keep = (int32_t *)rt_on_chip(p->mask) + row * p->n;
    else if (p->mask) add = (float *)rt_on_chip(p->mask) + row * p->n;
    for (int64_t i = 0; i < p->n; ++i) {
        z[i] = p->scale * x[i] + (add ? add[i] : 0);
        if (keep && !keep[i]) z[i] = -INFINITY;
        if (!(z[i] <= top) && !isnan(top)) top = z[i];
    }
    return top;
}

void kernel_softmax(uint32_t block, uint32_t blocks, const void *arguments) {
    const SoftmaxArguments *p = arguments;
    for (int64_t row = block; row < p->rows; row += blocks) {
        /* The exponentials stand where x was: the packed copy is the kernel's own. */
        float *z = (float *)rt_on_chip(p->out) + row * p->n, *weights = (float *)rt_on_chip(p->x) + row * p->n;
        const float top = fill(p, row, z);
        const int nothing = p->mask && isinf(top) && top < 0;
        for (int64_t i = 0; i < p->n; ++i) weights[i] = expf(z[i] -= nothing ? 0 : top);
        const float total = sum(weights, p->n, 0, 0), log_total = p->logarithm ? logf(total) : 0;
        for (int64_t i = 0; i < p->n; ++i) {
            z[i] = p->logarithm ? z[i] - log_total : weights[i] / total;
            if (nothing) z[i] = p->logarithm ? -INFINITY : 0;
        }
    }
}

void kernel_norm(uint32_t block, uint32_t blocks, const void *arguments) {
    const NormArguments *p = arguments;
    const float *weight = p->weight ? rt_on_chip(p->weight) : NULL, *bias = p->bias ? rt_on_chip(p->bias) : NULL;
    for (int64_t row = block; row < p->rows; row += blocks) {
        float *x = (float *)rt_on_chip(p->x) + row * p->n, *y = (float *)rt_on_chip(p->out) + row * p->n;
        for (int64_t i = 0; p->residual && i < p->n; ++i) {
            x[i] = round_to(p->dtype, x[i] + ((float *)rt_on_chip(p->residual))[row * p->n + i]);
            ((float *)rt_on_chip(p->sum))[row * p->n + i] = x[i];
        }
        float mean = p->centred && p->n ? x[0] : 0;
        for (int pass = 0; pass < 2 && p->centred; ++pass) mean += sum(x, p->n, mean, 0) / (float)p->n;
        const float rstd = 1 / sqrtf(sum(x, p->n, mean, 1) / (float)p->n + p->eps);
        for (int64_t i = 0; i < p->n; ++i) {
            y[i] = (x[i] - mean) * rstd;
            if (weight) y[i] *= weight[i];
            if (bias) y[i] += bias[i];
        }
        if (p->mean) ((float *)rt_on_chip(p->mean))[row] = mean;
        if (p->rstd) ((float *)rt_on_chip(p->rstd))[row] = rstd;
    }
}

/* The kernels, and their arguments as they lie in device memory. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

enum { AXES = 64, FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2, INT8 = 3, INT32 = 4, BOOL = 5 };
enum { NONE = 0, RELU, GELU, GELU_TANH, SILU };

/* Between a tensor of any layout and dtype and a packed one of 32-bit elements (float, or int32 for integers). */
typedef struct {
    uint64_t tensor, packed;
    int32_t dtype, axes;
    int64_t count, shape[AXES], strides[AXES]; /* strides in elements */
} PackArguments;

/* All packed. Addresses of absent operands are 0. */
typedef struct {
    uint64_t out, a, b, bias;
    int64_t batches, m, n, k;
    float alpha;
    int32_t activation, integers;
} MatmulArguments;

typedef struct {
    uint64_t out, x, mask;
    int64_t rows, n;
    float scale;
    int32_t logarithm, boolean;
} SoftmaxArguments;

typedef struct {
    uint64_t out, x, weight, bias, residual, sum, mean, rstd;
    int64_t rows, n;
    float eps;
    int32_t centred, dtype; /* layernorm; dtype of x, to which the residual's sum is rounded */
} NormArguments;

void kernel_pack(uint32_t block, uint32_t blocks, const void *arguments);
void kernel_unpack(uint32_t block, uint32_t blocks, const void *arguments);
void kernel_matmul(uint32_t block, uint32_t blocks, const void *arguments);
void kernel_softmax(uint32_t block, uint32_t blocks, const void *arguments);
void kernel_norm(uint32_t block, uint32_t blocks, const void *arguments);

#endif

// Softmax over the rows of a float matrix: one block of threads a row, three passes over it.
#include <math_constants.h>

template <class F>
__device__ float across_block(float value, float neutral, F combine) {
    __shared__ float partial[32];
    for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
    __syncthreads();  // partial may still be read from the reduction before
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : neutral;
    for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
    return value;
}

extern "C" __global__ void softmax(const float* __restrict__ x, float* __restrict__ y, int columns) {
    x += (long long)blockIdx.x * columns;
    y += (long long)blockIdx.x * columns;
    float highest = -CUDART_INF_F;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) highest = fmaxf(highest, x[i]);
    highest = across_block(highest, -CUDART_INF_F, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += expf(x[i] - highest);
    sum = across_block(sum, 0.0f, [](float a, float b) { return a + b; });
    for (int i = threadIdx.x; i < columns; i += blockDim.x) y[i] = expf(x[i] - highest) / sum;
}

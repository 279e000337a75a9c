// Layer normalisation of half-precision rows, four elements a lane at once: one warp a row, held in registers.
#include <cuda_fp16.h>

constexpr int STEPS = 2;  // rows have 32 lanes x 4 elements x STEPS columns

__device__ float across_warp(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
    return __shfl_sync(~0u, value, 0);
}

extern "C" __global__ void layernorm(
    const __half* x, const float* __restrict__ weight, const float* __restrict__ bias, __half* y, int rows, float epsilon) {
    constexpr int columns = 32 * 4 * STEPS;
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const uint2* from = reinterpret_cast<const uint2*>(x + (long long)row * columns);
    uint2* to = reinterpret_cast<uint2*>(y + (long long)row * columns);
    float value[STEPS][4];
    float sum = 0;
    for (int i = 0; i < STEPS; i++) {
        const uint2 packed = from[i * 32 + threadIdx.x];
        const float2 low = __half22float2(reinterpret_cast<const __half2&>(packed.x));
        const float2 high = __half22float2(reinterpret_cast<const __half2&>(packed.y));
        value[i][0] = low.x, value[i][1] = low.y, value[i][2] = high.x, value[i][3] = high.y;
        for (int j = 0; j < 4; j++) sum += value[i][j];
    }
    const float mean = across_warp(sum) / columns;
    float squares = 0;
    for (int i = 0; i < STEPS; i++)
        for (int j = 0; j < 4; j++) squares += (value[i][j] - mean) * (value[i][j] - mean);
    const float scale = rsqrtf(across_warp(squares) / columns + epsilon);
    for (int i = 0; i < STEPS; i++) {
        const float4 w = reinterpret_cast<const float4*>(weight)[i * 32 + threadIdx.x];
        const float4 b = reinterpret_cast<const float4*>(bias)[i * 32 + threadIdx.x];
        const __half2 low = __floats2half2_rn(
            (value[i][0] - mean) * scale * w.x + b.x, (value[i][1] - mean) * scale * w.y + b.y);
        const __half2 high = __floats2half2_rn(
            (value[i][2] - mean) * scale * w.z + b.z, (value[i][3] - mean) * scale * w.w + b.w);
        to[i * 32 + threadIdx.x] = {reinterpret_cast<const unsigned&>(low), reinterpret_cast<const unsigned&>(high)};
    }
}

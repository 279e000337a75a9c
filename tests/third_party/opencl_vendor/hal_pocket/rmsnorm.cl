// One work-item a row. Sums of 64 squares, then the sum of these; a correction after the root, which OpenCL lets be
// 3 units off.
#pragma OPENCL FP_CONTRACT OFF

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void own_rmsnorm(__global uchar *out_memory, long out_offset, __global uchar *x_memory, long x_offset,
                 __global uchar *weight_memory, long weight_offset, float eps, long n)
{
    long row = get_global_id(0);
    __global float *out = (__global float *)(out_memory + out_offset) + row * n;
    __global float *x = (__global float *)(x_memory + x_offset) + row * n;
    __global float *weight = (__global float *)(weight_memory + weight_offset);
    float sum = 0;
    for (long first = 0; first < n; first += 64) {
        float part = 0;
        for (long i = first; i < n && i < first + 64; i++)
            part += x[i] * x[i];
        sum += part;
    }
    float v = sum / n + eps;
    float near = 1 / sqrt(v);
    float better = fma(near * 0.5f, fma(-v * near, near, 1.0f), near);
    float rstd = isfinite(better) ? better : near;
    for (long i = 0; i < n; i++)
        out[i] = x[i] * rstd * weight[i];
}

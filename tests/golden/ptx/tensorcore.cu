// Half-precision matmul on tensor cores: C[64 x 64 a block] = A[m, k] B[n, k]^T in float, m, n multiples of 64, k of 32.
// sm_80 and later: asynchronous copies into two buffers, ldmatrix, mma m16n8k16. sm_75: plain copies, mma m16n8k8.
#include <cuda_fp16.h>

constexpr int BLOCK = 64, STEP = 32, PITCH = STEP + 8;  // the pitch of 80 bytes keeps ldmatrix free of bank conflicts

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void copy16(__half* to, const __half* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
#else
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
#endif
}

__device__ void load_tiles(__half (*to)[PITCH], const __half* from, int k) {
    for (int i = threadIdx.x; i < BLOCK * STEP / 8; i += blockDim.x)
        copy16(&to[i / (STEP / 8)][i % (STEP / 8) * 8], from + (long long)(i / (STEP / 8)) * k + i % (STEP / 8) * 8);
}

__device__ void load4(unsigned (&r)[4], const __half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

__device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const unsigned b[2] = {b0, b1};
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// 4 warps: warp w computes rows 16w..16w+15 of the block's tile.
extern "C" __global__ void __launch_bounds__(128)
    tensorcore(const __half* a, const __half* b, float* c, int n, int k) {
    __shared__ __align__(16) __half left[2][BLOCK][PITCH], right[2][BLOCK][PITCH];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    a += (long long)blockIdx.y * BLOCK * k;
    b += (long long)blockIdx.x * BLOCK * k;
    float sum[8][4] = {};
    load_tiles(left[0], a, k);
    load_tiles(right[0], b, k);
    for (int at = 0, buffer = 0; at < k; at += STEP, buffer ^= 1) {
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.commit_group; cp.async.wait_group 0;" ::: "memory");
#endif
        __syncthreads();
        if (at + STEP < k) {  // into the buffer that was read before the barrier
            load_tiles(left[buffer ^ 1], a + at + STEP, k);
            load_tiles(right[buffer ^ 1], b + at + STEP, k);
        }
#pragma unroll
        for (int i = 0; i < STEP; i += 16) {
            unsigned x[4], y[4];
            load4(x, &left[buffer][16 * warp + lane % 16][i + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                load4(y, &right[buffer][8 * j + lane % 8 + lane / 16 * 8][i + lane / 8 % 2 * 8]);
                multiply(sum[j], x, y[0], y[1]);
                multiply(sum[j + 1], x, y[2], y[3]);
            }
        }
    }
    for (int j = 0; j < 8; j++)
        for (int half = 0; half < 2; half++) {
            const int row = blockIdx.y * BLOCK + 16 * warp + lane / 4 + 8 * half;
            const int column = blockIdx.x * BLOCK + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2*>(c + (long long)row * n + column) = {sum[j][2 * half], sum[j][2 * half + 1]};
        }
}

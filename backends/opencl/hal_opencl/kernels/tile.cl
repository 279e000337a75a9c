// matmul for GPUs and other devices with many lanes: a work-group computes a tile of TM x TN elements, TK steps of k at
// a time, from copies of both operands' tiles in local memory. Bare OpenCL 1.2: scalars, barriers, whole work-groups.
//
// A work-item (x, y) of LX x LY has the elements of rows y, y + LY, … and columns x, x + LX, …: neighbours in a group
// store neighbouring columns. Tiles are filled along whichever axis is contiguous (A_ALONG_K, B_ALONG_K). What lies
// outside a matrix is zero in local memory and not stored; k past the end is zero in both operands, so that no infinity
// meets a padded zero. Each element is one chain of fma for k ascending. INTEGER: uint, which wraps.

#include "epilogue.cl"

#define LX (TN / WN)
#define LY (TM / WM)
#define ITEMS (LX * LY)
#define PITCH_A (TM + 1)  // the odd pitch spreads a column over the banks of local memory
#define PITCH_B (TN + 1)
#if INTEGER
#define SUM uint
#define LOCAL(value) as_uint(value)
#define MULTIPLY_ADD(x, y, z) ((x) * (y) + (z))
#define RESULT(sum) as_int(sum)
#else
#define SUM ACC
#define LOCAL(value) (value)
#define MULTIPLY_ADD(x, y, z) fma(x, y, z)
#define RESULT(sum) (sum)
#endif

__kernel __attribute__((reqd_work_group_size(LX, LY, 1)))
void tile(MEMORY(a), MEMORY(b), MEMORY(out) BIAS_PARAMETERS, long m_, long n_, long k_, long a_row_, long a_column_,
          long b_step_, long b_column_, long out_row_, long out_column_, ALPHA alpha BATCH_PARAMETERS)
{
    __local SUM a_tile[TK * PITCH_A];
    __local SUM b_tile[TK * PITCH_B];
    BATCH_OFFSETS(get_group_id(2))
    __global A_T *a = POINTER(A_T, a);
    __global B_T *b = POINTER(B_T, b);
    __global OUT_T *out = POINTER(OUT_T, out);
    INDEX m = m_, n = n_, k = k_, a_row = a_row_, a_column = a_column_, b_step = b_step_, b_column = b_column_;
    int x = get_local_id(0), y = get_local_id(1), item = y * LX + x;
    INDEX first_row = (INDEX)get_group_id(1) * TM, first_column = (INDEX)get_group_id(0) * TN;

    SUM sums[WM][WN];
    #pragma unroll
    for (int i = 0; i < WM; i++)
        #pragma unroll
        for (int j = 0; j < WN; j++)
            sums[i][j] = 0;
    for (INDEX block = 0; block < k; block += TK) {
        #pragma unroll
        for (int at = 0; at < TM * TK; at += ITEMS) {
            uint element = at + item;  // unsigned: division is a shift then
            int i = A_ALONG_K ? element / TK : element % TM, step = A_ALONG_K ? element % TK : element / TM;
            SUM value = 0;
            if (first_row + i < m && block + step < k)
                value = LOCAL(A_LOAD(a, a_batch + (first_row + i) * a_row + (block + step) * a_column));
            a_tile[step * PITCH_A + i] = value;
        }
        #pragma unroll
        for (int at = 0; at < TN * TK; at += ITEMS) {
            uint element = at + item;  // unsigned: division is a shift then
            int j = B_ALONG_K ? element / TK : element % TN, step = B_ALONG_K ? element % TK : element / TN;
            SUM value = 0;
            if (first_column + j < n && block + step < k)
                value = LOCAL(B_LOAD(b, b_batch + (block + step) * b_step + (first_column + j) * b_column));
            b_tile[step * PITCH_B + j] = value;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        #pragma unroll
        for (int step = 0; step < TK; step++) {
            SUM a_k[WM], b_k[WN];
            #pragma unroll
            for (int i = 0; i < WM; i++)
                a_k[i] = a_tile[step * PITCH_A + y + i * LY];
            #pragma unroll
            for (int j = 0; j < WN; j++)
                b_k[j] = b_tile[step * PITCH_B + x + j * LX];
            #pragma unroll
            for (int i = 0; i < WM; i++)
                #pragma unroll
                for (int j = 0; j < WN; j++)
                    sums[i][j] = MULTIPLY_ADD(a_k[i], b_k[j], sums[i][j]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

#if HAS_BIAS
    __global BIAS_T *bias = POINTER(BIAS_T, bias);
#endif
    #pragma unroll
    for (int i = 0; i < WM; i++)
        #pragma unroll
        for (int j = 0; j < WN; j++) {
            INDEX row = first_row + y + i * LY, column = first_column + x + j * LX;
            if (row < m && column < n) {
                TOTAL add = 0;
#if HAS_BIAS
                add = BIAS_AT(bias, bias_batch + (long)row * bias_row + (long)column * bias_column);
#endif
                OUT_STORE(out, out_batch + (long)row * out_row_ + (long)column * out_column_,
                          finish(RESULT(sums[i][j]), alpha, add));
            }
        }
}

// matmul for few rows, where both operands have stride 1 along k (weights stored [n][k]): nothing is packed, and b is
// read once. One work-item computes DM x DN dot products at a time, each in the VW lanes of a vector; the lanes are
// added by halves, then what is left of k. The order of additions depends on k alone. INTEGER: all in uint, which wraps.

#include "epilogue.cl"

#if INTEGER
#define SUM uint
#define TOTALS(v) AS(int)(v)
#define MULTIPLY_ADD(x, y, z) (AS(uint)(x) * AS(uint)(y) + (z))
#define SCALAR_MULTIPLY_ADD(x, y, z) (as_uint(x) * as_uint(y) + (z))
#else
#define SUM ACC
#define TOTALS(v) (v)
#define MULTIPLY_ADD(x, y, z) fma(x, y, z)
#define SCALAR_MULTIPLY_ADD(x, y, z) fma(x, y, z)
#endif

#define SUMS (DM * DN > VW ? DM * DN : VW)  // whole vectors, for the epilogue

FUNCTION SUM total(VECTOR(SUM) v)
{
    SUM lane[VW];
    VSTORE(v, 0, lane);
    #pragma unroll
    for (int width = VW / 2; width > 0; width /= 2)
        #pragma unroll
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void dot_products(MEMORY(a), MEMORY(b), MEMORY(out) BIAS_PARAMETERS, long m, long n, long k, long columns_per_item,
                  long a_row, long b_column, long out_row, long out_column, ALPHA alpha BATCH_PARAMETERS)
{
    BATCH_OFFSETS(get_global_id(2))
    __global A_T *a = POINTER(A_T, a);
    __global B_T *b = POINTER(B_T, b);
    __global OUT_T *out = POINTER(OUT_T, out);
#if HAS_BIAS
    __global BIAS_T *bias = POINTER(BIAS_T, bias);
#endif
    long row = get_global_id(1) * DM, first = get_global_id(0) * columns_per_item;
    long end = min(first + columns_per_item, n), vectors = k / VW * VW;
    for (long column = first; column < end; column += DN) {
        VECTOR(SUM) acc[DM][DN];
        long a_at[DM], b_at[DN];
        #pragma unroll
        for (int i = 0; i < DM; i++) {
            a_at[i] = a_batch + min(row + i, m - 1) * a_row;
            #pragma unroll
            for (int j = 0; j < DN; j++)
                acc[i][j] = (VECTOR(SUM))(0);
        }
        #pragma unroll
        for (int j = 0; j < DN; j++)
            b_at[j] = b_batch + min(column + j, n - 1) * b_column;
        for (long step = 0; step < vectors; step += VW) {
            ACCV a_k[DM];
            #pragma unroll
            for (int i = 0; i < DM; i++)
                a_k[i] = A_LOADV(a, a_at[i] + step);
            #pragma unroll
            for (int j = 0; j < DN; j++) {
                ACCV b_k = B_LOADV(b, b_at[j] + step);
                #pragma unroll
                for (int i = 0; i < DM; i++)
                    acc[i][j] = MULTIPLY_ADD(a_k[i], b_k, acc[i][j]);
            }
        }
        SUM sums[SUMS];
        TOTAL add[SUMS];
        #pragma unroll
        for (int i = 0; i < DM; i++)
            #pragma unroll
            for (int j = 0; j < DN; j++)
                sums[i * DN + j] = total(acc[i][j]);
        for (int i = DM * DN; i < SUMS; i++)
            sums[i] = 0;
        for (int i = 0; i < SUMS; i++)
            add[i] = 0;
        long rows = min((long)DM, m - row), columns = min((long)DN, end - column);
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++) {
                long a_i = a_batch + (row + i) * a_row, b_j = b_batch + (column + j) * b_column;
                for (long step = vectors; step < k; step++)
                    sums[i * DN + j] = SCALAR_MULTIPLY_ADD(A_LOAD(a, a_i + step), B_LOAD(b, b_j + step), sums[i * DN + j]);
#if HAS_BIAS
                add[i * DN + j] = BIAS_AT(bias, bias_batch + (row + i) * bias_row + (column + j) * bias_column);
#endif
            }
        TOTAL result[SUMS];
        for (int i = 0; i < SUMS; i += VW)
            VSTORE(finish(TOTALS(VLOAD(i, sums)), alpha, VLOAD(i, add)), i, result);
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++)
                OUT_STORE(out, out_batch + (row + i) * out_row + (column + j) * out_column, result[i * DN + j]);
    }
}

// matmul for CPUs: one work-item computes up to ROWS x COLUMNS elements of the result.
//
// The innermost loops keep MR x NV vectors of sums in registers: at each k, NV vectors of b and MR scalars of a, each
// used NV or MR times. Every element is one chain fma(a_k, b_k, sum) for k ascending, whatever MR, NV, KC and packing
// are: these change no bit of a result.
//
// b comes in panels of COLUMNS columns: PACKED 1, panel by panel as pack.cl left it, [panel][k][COLUMNS], padded with
// zeros; or PACKED 0, in place, its columns at stride 1 and COLUMNS or more of them; there the last panel is shifted
// to the left, so as to end with the matrix, and the columns that the panel before has too are not stored again.
// a is read in place at any strides. Rows past the end are the last row again, and not stored.
// Blocks of KC steps keep what is read of b in cache; sums rest in `sums` from block to block. INTEGER: a and b are
// float32 copies of int8, KC is at most 1024, so that a block's sums are exact, and blocks are added as int.

#include "epilogue.cl"

#define COLUMNS (NV * VW)

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void panel(MEMORY(a), MEMORY(b), MEMORY(out) BIAS_PARAMETERS, long m, long n, long k, long rows_per_item,
           long a_row, long a_column, long b_panel, long b_step, long out_row, long out_column, ALPHA alpha
           BATCH_PARAMETERS)
{
    BATCH_OFFSETS(get_global_id(2))
    __global A_T *a = POINTER(A_T, a);
    __global B_T *b = POINTER(B_T, b);
    __global OUT_T *out = POINTER(OUT_T, out);
    long first_column = get_global_id(0) * COLUMNS;
    long column = PACKED ? first_column : min(first_column, n - COLUMNS);
    long b_start = b_batch + (PACKED ? (long)get_global_id(0) * b_panel : column);
    long first_row = get_global_id(1) * rows_per_item;
    long rows = min(rows_per_item, m - first_row);
    TOTAL sums[ROWS * COLUMNS];

    long block = 0;
    do {
        long steps = min((long)KC, k - block);
        for (long strip = 0; strip < rows; strip += MR) {
            long a_at[MR];
            ACCV acc[MR][NV];
            #pragma unroll
            for (int i = 0; i < MR; i++) {
                a_at[i] = a_batch + (first_row + min(strip + i, rows - 1)) * a_row + block * a_column;
                #pragma unroll
                for (int j = 0; j < NV; j++)
                    acc[i][j] = INTEGER || block == 0 ? (ACCV)(0) : TO_ACCV(VLOAD((strip + i) * COLUMNS + j * VW, sums));
            }
            long b_at = b_start + block * (PACKED ? COLUMNS : b_step);
            for (long step = 0; step < steps; step++) {
                ACCV b_k[NV];
                #pragma unroll
                for (int j = 0; j < NV; j++)
                    b_k[j] = B_LOADV(b, b_at + j * VW);
                #pragma unroll
                for (int i = 0; i < MR; i++) {
                    ACCV a_k = (ACCV)(A_LOAD(a, a_at[i]));
                    #pragma unroll
                    for (int j = 0; j < NV; j++)
                        acc[i][j] = fma(a_k, b_k[j], acc[i][j]);
                    a_at[i] += a_column;
                }
                b_at += PACKED ? COLUMNS : b_step;
            }
            #pragma unroll
            for (int i = 0; i < MR; i++)
                #pragma unroll
                for (int j = 0; j < NV; j++) {
                    long at = (strip + i) * COLUMNS + j * VW;
#if INTEGER
                    TOTALV before = block == 0 ? (TOTALV)(0) : VLOAD(at, sums);
                    VSTORE(PLUS(before, CONVERT(int)(acc[i][j])), at, sums);
#else
                    VSTORE(acc[i][j], at, sums);
#endif
                }
        }
        block += KC;
    } while (block < k);

#if HAS_BIAS
    __global BIAS_T *bias = POINTER(BIAS_T, bias);
#endif
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < COLUMNS; j += VW) {
            long at = column + j;  // of this vector's first column
            if (at >= n || at + VW <= first_column)
                continue;
            long low = max(first_column - at, 0L), high = min(n - at, (long)VW);
            TOTALV add = (TOTALV)(0);
#if HAS_BIAS
            long bias_at = bias_batch + (first_row + i) * bias_row + at * bias_column;
            if (bias_column == 0)
                add = (TOTALV)(BIAS_AT(bias, bias_at));
            else if (bias_column == 1 && high == VW)
                add = BIAS_ATV(bias, bias_at);
            else {
                TOTAL gathered[VW];
                for (int lane = 0; lane < VW; lane++)
                    gathered[lane] = lane < high ? BIAS_AT(bias, bias_at + lane * bias_column) : 0;
                add = VLOAD(0, gathered);
            }
#endif
            TOTALV value = finish(VLOAD(i * COLUMNS + j, sums), alpha, add);
            long out_at = out_batch + (first_row + i) * out_row + at * out_column;
            if (out_column == 1 && low == 0 && high == VW)
                OUT_STOREV(out, out_at, value);
            else {
                TOTAL lanes[VW];
                VSTORE(value, 0, lanes);
                for (long lane = low; lane < high; lane++)
                    OUT_STORE(out, out_at + lane * out_column, lanes[lane]);
            }
        }
}

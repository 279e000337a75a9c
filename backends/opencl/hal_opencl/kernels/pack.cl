// What panel.cl reads, made from operands of any dtype and layout: `pack_b` puts b into panels, `convert_a` puts a into
// rows of ACC. Both read vectors along whichever axis has stride 1.

#ifdef PACK_B
#define COLUMNS (NV * VW)

// Two vectors lane by lane in turn: of their lower halves, of their upper halves.
#if VW == 16
#define LOWER(x, y) (ACCV)(x.s0, y.s0, x.s1, y.s1, x.s2, y.s2, x.s3, y.s3, x.s4, y.s4, x.s5, y.s5, x.s6, y.s6, x.s7, y.s7)
#define UPPER(x, y) (ACCV)(x.s8, y.s8, x.s9, y.s9, x.sa, y.sa, x.sb, y.sb, x.sc, y.sc, x.sd, y.sd, x.se, y.se, x.sf, y.sf)
#elif VW == 8
#define LOWER(x, y) (ACCV)(x.s0, y.s0, x.s1, y.s1, x.s2, y.s2, x.s3, y.s3)
#define UPPER(x, y) (ACCV)(x.s4, y.s4, x.s5, y.s5, x.s6, y.s6, x.s7, y.s7)
#else
#define LOWER(x, y) (ACCV)(x.s0, y.s0, x.s1, y.s1)
#define UPPER(x, y) (ACCV)(x.s2, y.s2, x.s3, y.s3)
#endif
// One of log2(VW) equal rounds that transpose a square: lines i and i + VW/2 become lines 2i and 2i + 1.
#define ROUND(to, from) \
    _Pragma("unroll") for (int i = 0; i < VW / 2; i++) { \
        to[2 * i] = LOWER(from[i], from[i + VW / 2]); \
        to[2 * i + 1] = UPPER(from[i], from[i + VW / 2]); \
    }

// A square of VW columns, each VW neighbours along k, from `at`; stored as VW vectors of neighbouring columns.
FUNCTION void transpose(__global B_T *b, long at, long b_column, __global PACKED_T *packed, long to)
{
    ACCV x[VW], y[VW];
    #pragma unroll
    for (int i = 0; i < VW; i++)
        x[i] = B_LOADV(b, at + i * b_column);
    ROUND(y, x)
    ROUND(x, y)
#if VW >= 8
    ROUND(y, x)
#endif
#if VW == 16
    ROUND(x, y)
#endif
    #pragma unroll
    for (int i = 0; i < VW; i++)
        PACKED_STOREV(packed, to + i * COLUMNS, VW == 8 ? y[i] : x[i]);
}

// [panel][k][COLUMNS], zeros past the last column. One work-item packs KP steps of a panel.
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_b(MEMORY(b), MEMORY(packed), long n, long k, long b_step, long b_column, long matrix BATCH_PARAMETERS)
{
    BATCH_OFFSETS(get_global_id(2))
    __global B_T *b = POINTER(B_T, b);
    __global PACKED_T *packed = POINTER(PACKED_T, packed);
    long first = get_global_id(0) * COLUMNS, start = get_global_id(1) * KP, end = min(start + KP, k);
    long to = get_global_id(2) * matrix + get_global_id(0) * k * COLUMNS;
    for (long j = 0; j < COLUMNS; j += VW) {
        long columns = min(n - first - j, (long)VW), at = b_batch + (first + j) * b_column;
        long step = start;
        if (columns == VW && b_column == 1)
            for (; step < end; step++)
                PACKED_STOREV(packed, to + step * COLUMNS + j, B_LOADV(b, at + step * b_step));
        else if (columns == VW && b_step == 1)
            for (; step + VW <= end; step += VW)
                transpose(b, at + step, b_column, packed, to + step * COLUMNS + j);
        for (; step < end; step++)
            for (long lane = 0; lane < VW; lane++) {
                ACC value = lane < columns ? B_LOAD(b, at + step * b_step + lane * b_column) : 0;
                PACKED_STORE(packed, to + step * COLUMNS + j + lane, value);
            }
    }
}
#else
// [m][k]. One work-item converts MP rows.
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convert_a(MEMORY(a), MEMORY(packed), long m, long k, long a_row, long a_column, long matrix BATCH_PARAMETERS)
{
    BATCH_OFFSETS(get_global_id(1))
    __global A_T *a = POINTER(A_T, a);
    __global PACKED_T *packed = POINTER(PACKED_T, packed);
    long first = get_global_id(0) * MP, end = min(first + MP, m);
    for (long row = first; row < end; row++) {
        long at = a_batch + row * a_row, to = get_global_id(1) * matrix + row * k, step = 0;
        if (a_column == 1)
            for (; step + VW <= k; step += VW)
                PACKED_STOREV(packed, to + step, A_LOADV(a, at + step));
        for (; step < k; step++)
            PACKED_STORE(packed, to + step, A_LOAD(a, at + step * a_column));
    }
}
#endif

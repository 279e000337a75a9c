// What softmax and the norms share: how a row is read, written and summed, and the few functions that need care.
//
// LANES work-items of one work-group share a row: 1 on CPUs, where vectors do the work, a power of two elsewhere. Lane
// l takes the VW neighbours from element l * VW on, then those STEP further on, and so forth. All sweeps over a row go
// in this order, so each element is read and written by one lane only.
//
// Sums: within a lane, a vector of VW sums takes at most BLOCK_STEPS terms, then its elements are added as a tree;
// these block sums are added as a tree (Tree), and the lanes' sums as a tree. So a sum of any length has a chain of at
// most BLOCK_STEPS + log2(n) additions, and its order depends on n, LANES and VW alone.
//
// For each operand X the text before has X_UNIT (1: neighbours in the row are neighbours in memory), X_AT(i) (offset
// of element i from the row's first) and X_BYTES; X_row points to the row.

#define STEP (LANES * VW)
#define BLOCK_STEPS 64  // with the trees well below 128, the longest chain that the bounds allow
#define BLOCK (BLOCK_STEPS * STEP)
#define WORK_GROUP __attribute__((reqd_work_group_size(LANES, 1, 1)))

#define FOR_EACH_ROW(row, rows, per_group)                                                                             \
    for (long row = get_group_id(0) * (per_group), end = min(row + (per_group), (rows)); row < end; ++row)
#define FOR_EACH_BLOCK(first, n) for (INDEX first = (INDEX)get_local_id(0) * VW; first < (n); first += BLOCK)
#define FOR_EACH_STEP(i, first, n) for (INDEX i = (first); i < (n) && i < (first) + BLOCK; i += STEP)

// The pointer X_row to the row's first element; x is the operand's name, x_batch what BATCH_OFFSETS found.
#define BYTES_AT(X, x, element) ((__global X##_T *)(x##_memory + x##_offset + (element) * X##_BYTES))
#define ROW(X, x) __global X##_T *X##_row = BYTES_AT(X, x, x##_batch)
#define SHARED_ROW(X, x) __global X##_T *X##_row = BYTES_AT(X, x, 0)  // one row for the whole batch: weight, bias

// v = elements i … i+VW-1 of the row, 0 from element n on.
#define READ(X, v, i, n)                                                                                               \
    if (X##_UNIT && (i) + VW <= (n)) v = X##_LOADV(X##_row, i);                                                        \
    else {                                                                                                             \
        ACC elements[VW];                                                                                              \
        for (int k = 0; k < VW; ++k) elements[k] = (i) + k < (n) ? X##_LOAD(X##_row, X##_AT((i) + k)) : 0;             \
        v = VLOAD(0, elements);                                                                                        \
    }

// The inverse; nothing is written from element n on.
#define WRITE(X, v, i, n)                                                                                              \
    if (X##_UNIT && (i) + VW <= (n)) X##_STOREV(X##_row, i, v);                                                        \
    else {                                                                                                             \
        ACC elements[VW];                                                                                              \
        VSTORE(v, 0, elements);                                                                                        \
        for (int k = 0; k < VW; ++k)                                                                                   \
            if ((i) + k < (n)) { X##_STORE(X##_row, X##_AT((i) + k), elements[k]); }                                   \
    }

// v with `instead` from the row's end on.
FUNCTION ACCV cut(ACCV v, INDEX i, INDEX n, ACC instead)
{
    if (i + VW <= n) return v;
    ACC elements[VW];
    VSTORE(v, 0, elements);
    for (int k = 0; k < VW; ++k)
        if (i + k >= n) elements[k] = instead;
    return VLOAD(0, elements);
}

// ---- Sums and maxima

// Not fmax, which has to drop NaN: a NaN may stay or go, since the sum over the row brings it back.
#define LARGER(a, b) ((b) > (a) ? (b) : (a))

FUNCTION ACC sum_of_vector(ACCV v)
{
    ACC elements[VW];
    VSTORE(v, 0, elements);
    for (int width = VW / 2; width > 0; width /= 2)
        for (int k = 0; k < width; ++k) elements[k] += elements[k + width];
    return elements[0];
}

FUNCTION ACC max_of_vector(ACCV v)
{
    ACC elements[VW];
    VSTORE(v, 0, elements);
    for (int width = VW / 2; width > 0; width /= 2)
        for (int k = 0; k < width; ++k) elements[k] = LARGER(elements[k], elements[k + width]);
    return elements[0];
}

// The same over the lanes of a row; every lane gets the result, and every lane has to call.
#if LANES == 1
#define LANES_MEMORY
#define SUM_OF_LANES(value) (value)
#define MAX_OF_LANES(value) (value)
#else
#define LANES_MEMORY __local ACC lanes_memory[LANES]
#define SUM_OF_LANES(value) sum_of_lanes(value, lanes_memory)
#define MAX_OF_LANES(value) max_of_lanes(value, lanes_memory)

FUNCTION ACC sum_of_lanes(ACC value, LOCAL_POINTER ACC *memory)
{
    int lane = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);  // the result of the call before was read by all
    memory[lane] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = LANES / 2; width > 0; width /= 2) {
        if (lane < width) memory[lane] += memory[lane + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return memory[0];
}

FUNCTION ACC max_of_lanes(ACC value, LOCAL_POINTER ACC *memory)
{
    int lane = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    memory[lane] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = LANES / 2; width > 0; width /= 2) {
        if (lane < width) memory[lane] = LARGER(memory[lane], memory[lane + width]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return memory[0];
}
#endif

// Sums block after block as a binary tree grows: where bit k of `count` is set, level[k] is the sum of 2^k blocks.
#define LEVELS 32
typedef struct {
    ACC level[LEVELS];
    uint count;
} Tree;

FUNCTION void add_block(Tree *tree, ACC value)
{
    int k = 0;
    for (; tree->count >> k & 1; ++k) value = tree->level[k] + value;
    tree->level[k] = value;
    tree->count += 1;
}

FUNCTION ACC sum_of_blocks(const Tree *tree)
{
    ACC value = 0;
    for (int k = 0; tree->count >> k; ++k)  // below the highest bit every level was written once
        if (tree->count >> k & 1) value = tree->level[k] + value;
    return value;
}

// ---- Division and roots. OpenCL allows 2.5 units in the last place for a float division and 3 for a square root; one
// correction with the exact remainder (fma) leaves less than one, and what is representable is exact.

FUNCTION ACC reciprocal(ACC v)
{
    ACC near = 1 / v;
    ACC refined = fma(fma(-v, near, (ACC)1), near, near);
    return isfinite(refined) ? refined : near;
}

FUNCTION ACC divide(ACC a, ACC b)
{
    ACC near = a / b;
    ACC refined = fma(fma(-near, b, a), reciprocal(b), near);
    return isfinite(refined) ? refined : near;
}

// 1 / sqrt(v): with r near it, r + r/2 (1 - v r^2); the product v r and what its rounding leaves stand for v r exactly.
FUNCTION ACC reciprocal_root(ACC v)
{
    ACC near = 1 / sqrt(v);
    ACC product = v * near;
    ACC rest = fma(v, near, -product);
    ACC remainder = fma(-product, near, (ACC)1) - rest * near;
    ACC refined = fma(near * (ACC)0.5, remainder, near);
    return isfinite(refined) ? refined : near;
}

// softmax and log_softmax (LOG) of z = scale * x + mask over rows, in three sweeps: the largest z, the sum of the
// exponentials of z - max z, the results. KEEP: the exponentials wait in `out`, which then has the accumulator's dtype.
//
// MASK_NONE, MASK_BOOL (False replaces by -inf) or MASK_ADDED. -inf - -inf = NaN is what a row of -inf is without a
// mask; with one, such a row is zeros (log: -inf).

// z = scale * x + mask for elements i … i+VW-1, -inf from the row's end on: its exponential is 0.
#if MASK_BOOL
#define APPLY_MASK(z, i, n)                                                                                            \
    ACCV mask;                                                                                                         \
    READ(MASK, mask, i, n)                                                                                             \
    z = select((ACCV)(-INFINITY), z, mask != (ACCV)(0))
#elif MASK_ADDED
#define APPLY_MASK(z, i, n)                                                                                            \
    ACCV mask;                                                                                                         \
    READ(MASK, mask, i, n)                                                                                             \
    z += mask
#else
#define APPLY_MASK(z, i, n)
#endif
#define READ_Z(z, i, n)                                                                                                \
    ACCV z;                                                                                                            \
    READ(X, z, i, n)                                                                                                   \
    z *= scale;                                                                                                        \
    APPLY_MASK(z, i, n);                                                                                               \
    z = cut(z, i, n, -INFINITY)

__kernel WORK_GROUP void softmax(OPERANDS, ACC scale, long row_length, long rows, long rows_per_group
    ROW_PARAMETERS BATCH_PARAMETERS)
{
    LANES_MEMORY;
    const INDEX n = (INDEX)row_length;
    FOR_EACH_ROW(row, rows, rows_per_group) {
        BATCH_OFFSETS(row)
        ROW(OUT, out);
        ROW(X, x);
#if !MASK_NONE
        ROW(MASK, mask);
#endif

        ACCV largest = (ACCV)(-INFINITY);
        FOR_EACH_BLOCK(first, n) {
            FOR_EACH_STEP(i, first, n) {
                READ_Z(z, i, n);
                largest = select(largest, z, z > largest);
            }
        }
        ACC top = MAX_OF_LANES(max_of_vector(largest));
#if !MASK_NONE
        if (top == -INFINITY) top = 0;
#endif

        Tree tree;
        tree.count = 0;
        FOR_EACH_BLOCK(first, n) {
            ACCV sum = (ACCV)(0);
            FOR_EACH_STEP(i, first, n) {
                READ_Z(z, i, n);
                ACCV power = exponential(z - top);
                sum += power;
#if KEEP
                WRITE(OUT, power, i, n)
#endif
            }
            add_block(&tree, sum_of_vector(sum));
        }
        ACC total = SUM_OF_LANES(sum_of_blocks(&tree));

        // A sum of 0 is that of a row of which a mask leaves nothing: the largest element alone gives 1.
#if LOG
        ACC log_total = total == 0 ? 0 : logarithm(total);
#else
        ACC factor = total == 0 ? 0 : reciprocal(total);
#endif
        FOR_EACH_BLOCK(first, n) {
            FOR_EACH_STEP(i, first, n) {
#if LOG
                READ_Z(z, i, n);
                ACCV y = (z - top) - log_total;
#elif KEEP
                ACCV y;
                READ(OUT, y, i, n)
                y *= factor;
#else
                READ_Z(z, i, n);
                ACCV y = exponential(z - top) * factor;
#endif
                WRITE(OUT, y, i, n)
            }
        }
    }
}

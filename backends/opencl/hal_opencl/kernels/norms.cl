// layernorm (CENTRED) and rmsnorm over rows; with a residual of s = x + residual, rounded to
// x's dtype and kept in `sum`.
//
// Variance is never E[x^2] - E[x]^2 of the data: a plain sum gives a first mean, and one sweep more the sums of
// d = x - first mean and of d^2. With t = (sum d) / n the mean is first + t, the variance (sum d^2) / n - t^2, and t is
// as small as the rounding of the first mean. So nothing cancels, whatever the row begins with, and a constant row has
// exactly its value as mean. (Shifting by x[0] fails where x[0] lies far from the rest.)

// v = elements i … i+VW-1 of what is normalised, 0 from the row's end on.
#if HAS_RESIDUAL
#define READ_SOURCE(v, i, n) READ(SUM, v, i, n)
#else
#define READ_SOURCE(v, i, n) READ(X, v, i, n)
#endif

__kernel WORK_GROUP void normalise(OPERANDS, ACC eps, long row_length, long rows, long rows_per_group ROW_PARAMETERS
    BATCH_PARAMETERS)
{
    LANES_MEMORY;
    const INDEX n = (INDEX)row_length;
    const ACC count = (ACC)row_length;
    FOR_EACH_ROW(row, rows, rows_per_group) {
        BATCH_OFFSETS(row)
        ROW(OUT, out);
        ROW(X, x);
#if HAS_RESIDUAL
        ROW(RESIDUAL, residual);
        ROW(SUM, sum);
#endif
        Tree first_sums;
        first_sums.count = 0;
        FOR_EACH_BLOCK(first, n) {
            ACCV sums = (ACCV)(0);
            FOR_EACH_STEP(i, first, n) {
                ACCV v;
                READ(X, v, i, n)
#if HAS_RESIDUAL
                ACCV added;
                READ(RESIDUAL, added, i, n)
                v += added;
                WRITE(SUM, v, i, n)
                READ(SUM, v, i, n)  // as rounded
#endif
                sums += CENTRED ? v : v * v;
            }
            add_block(&first_sums, sum_of_vector(sums));
        }
        const ACC first_mean = divide(SUM_OF_LANES(sum_of_blocks(&first_sums)), count);

#if CENTRED
        Tree sums_of_d, sums_of_squares;
        sums_of_d.count = sums_of_squares.count = 0;
        FOR_EACH_BLOCK(first, n) {
            ACCV sums = (ACCV)(0), squares = (ACCV)(0);
            FOR_EACH_STEP(i, first, n) {
                ACCV v;
                READ_SOURCE(v, i, n)
                ACCV d = cut(v - first_mean, i, n, 0);
                sums += d;
                squares += d * d;
            }
            add_block(&sums_of_d, sum_of_vector(sums));
            add_block(&sums_of_squares, sum_of_vector(squares));
        }
        const ACC t = divide(SUM_OF_LANES(sum_of_blocks(&sums_of_d)), count);
        const ACC square = divide(SUM_OF_LANES(sum_of_blocks(&sums_of_squares)), count);
        const ACC mean = isfinite(first_mean) ? first_mean + t : first_mean;
        const ACC rest = square - t * t;
        const ACC variance = rest < 0 ? 0 : rest;  // NaN stays
#else
        const ACC mean = 0, variance = first_mean;
#endif
        const ACC rstd = reciprocal_root(variance + eps);

        FOR_EACH_BLOCK(first, n) {
            FOR_EACH_STEP(i, first, n) {
                ACCV y;
                READ_SOURCE(y, i, n)
                y = (y - mean) * rstd;
#if HAS_WEIGHT
                SHARED_ROW(WEIGHT, weight);
                ACCV weight;
                READ(WEIGHT, weight, i, n)
                y *= weight;
#endif
#if HAS_BIAS
                SHARED_ROW(BIAS, bias);
                ACCV bias;
                READ(BIAS, bias, i, n)
                y += bias;
#endif
                WRITE(OUT, y, i, n)
            }
        }
        if (get_local_id(0) == 0) {
#if HAS_MEAN
            *BYTES_AT(MEAN, mean, mean_batch) = mean;
#endif
#if HAS_RSTD
            *BYTES_AT(RSTD, rstd, rstd_batch) = rstd;
#endif
        }
    }
}

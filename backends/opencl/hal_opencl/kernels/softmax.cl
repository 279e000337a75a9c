// softmax and log_softmax (LOG) of z = scale * x + mask over rows, in three sweeps: the largest z, the sum of the
// exponentials of z - max z, the results. KEEP: the exponentials wait in `out`, which then has the accumulator's dtype.
//
// MASK_NONE, MASK_BOOL (False replaces by -inf) or MASK_ADDED. -inf - -inf = NaN is what a row of -inf is without a
// mask; with one, such a row is zeros (log: -inf).

#ifdef ACC_IS_DOUBLE
#define BITS long
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
#define LN2_HIGH 6.93147180369123816490e-01   // fdlibm's e_exp.c: 32 bits, so that n * LN2_HIGH is exact
#define LN2_LOW 1.90821492927058770002e-10
#define LOWEST -708.396418532264106           // ln 2^-1022
#define LOG_TERMS 10
#else
#define BITS int
#define EXPONENT_BIAS 127
#define MANTISSA_BITS 23
#define LN2_HIGH 0.693359375f                 // Cephes' expf.c: 10 bits, so that n * LN2_HIGH is exact
#define LN2_LOW -2.12194440e-4f
#define LOWEST -87.3365447f                   // ln 2^-126
#define LOG_TERMS 5
#endif

// Fused where that is fast; either form is within the bound.
#if defined(ACC_IS_DOUBLE) && defined(FP_FAST_FMA) || !defined(ACC_IS_DOUBLE) && defined(FP_FAST_FMAF)
#define MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

// e^d for d <= 0 within 1 unit in the last place (the built-in function may be 3 off in float); 0 below 2^-126
// (double: 2^-1022). d = n ln 2 + r, |r| <= ln(2)/2, and e^r by its Taylor series: degree 7 leaves 2^-27 of it, degree
// 13 leaves 2^-57.
ACCV exponential(ACCV d)
{
    ACCV lowest = (ACCV)(LOWEST);
    ACCV bounded = select(d, lowest, d < lowest);  // NaN stays
    ACCV n = rint(bounded * (ACC)1.44269504088896340736);
    ACCV r = MULTIPLY_ADD(n, (ACCV)(-LN2_HIGH), bounded);
    r = MULTIPLY_ADD(n, (ACCV)(-LN2_LOW), r);
#ifdef ACC_IS_DOUBLE
    ACCV q = (ACCV)(1.0 / 6227020800.0);
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 479001600.0));
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 39916800.0));
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 3628800.0));
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 362880.0));
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 40320.0));
    q = MULTIPLY_ADD(q, r, (ACCV)(1.0 / 5040.0));
#else
    ACCV q = (ACCV)(1.0f / 5040.0f);
#endif
    q = MULTIPLY_ADD(q, r, (ACCV)((ACC)1 / 720));
    q = MULTIPLY_ADD(q, r, (ACCV)((ACC)1 / 120));
    q = MULTIPLY_ADD(q, r, (ACCV)((ACC)1 / 24));
    q = MULTIPLY_ADD(q, r, (ACCV)((ACC)1 / 6));
    q = MULTIPLY_ADD(q, r, (ACCV)((ACC)1 / 2));
    ACCV power = MULTIPLY_ADD(r * r, q, r) + (ACC)1;
    VECTOR(BITS) exponent = CONVERT(BITS)(n) + (VECTOR(BITS))(EXPONENT_BIAS);
    ACCV scaled = power * AS(ACC)(exponent << (VECTOR(BITS))(MANTISSA_BITS));
    return select(scaled, (ACCV)(0), d < lowest);
}

// ln s for s >= 1: s = 2^k m with m near 1, taken from the bits; ln m = 2 artanh t = 2 (t + t^3/3 + t^5/5 + …) with
// t = (m - 1) / (m + 1).
ACC logarithm(ACC s)
{
    int k = (int)(PASTE(as_, BITS)(s) >> MANTISSA_BITS) - EXPONENT_BIAS;
    ACC m = s * PASTE(as_, ACC)((BITS)(EXPONENT_BIAS - k) << MANTISSA_BITS);  // 1 <= m < 2; NaN stays NaN
    if (m > (ACC)1.41421356237309504880) {
        m *= (ACC)0.5;
        k += 1;
    }
    ACC t = (m - 1) / (m + 1);
    ACC series = 0;
    for (int j = LOG_TERMS; j > 0; --j) series = t * t * (series + (ACC)1 / (2 * j + 1));
    return k * LN2_HIGH + (k * LN2_LOW + (2 * t + 2 * t * series));
}

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

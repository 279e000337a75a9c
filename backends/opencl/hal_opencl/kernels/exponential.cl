// exponential() and logarithm() with errors that are the same on every device: OpenCL's own may be 3 units in the last
// place off in float, and each implementation's is off elsewhere.

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
FUNCTION ACCV exponential(ACCV d)
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
FUNCTION ACC logarithm(ACC s)
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

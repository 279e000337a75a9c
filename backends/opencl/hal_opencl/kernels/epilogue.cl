// The end of a matmul: alpha, bias, activation, and one rounding into the output.
//
// ACTIVATION is 0 none, 1 relu, 2 gelu, 3 gelu_tanh, 4 silu. HAS_BIAS is 0 or 1. INTEGER is 1 for int8 -> int32: then
// sums are int, and wrap (unsigned, where overflow is defined). Everything else is done in ACC.
// gelu = t P(t), silu = t S(t), gelu_tanh = t S(2 inner), with S the logistic function: no cancellation, no overflow.
// The bound allows 4 u |t| for these; the library's erf (16 ulp) and division (2.5 ulp) would not keep it.

#if INTEGER
#define TOTAL int
#define ALPHA float
#else
#define TOTAL ACC
#define ALPHA ACC
#endif
#define TOTALV VECTOR(TOTAL)

#ifdef ACC_IS_DOUBLE
#define MASK VECTOR(long)
#define NUMBER(x) x
#else
#define MASK VECTOR(int)
#define NUMBER(x) x##f
#endif
#define V(x) ((ACCV)(NUMBER(x)))

#if ACTIVATION > 1
#ifdef ACC_IS_DOUBLE
#define LOG2E 1.4426950408889634
#define LN2_HIGH 0.69314718036912382
#define LN2_LOW 1.9082149292705877e-10
#define EXPONENT(n) AS(double)((CONVERT(long)(n) + (VECTOR(long))(1023)) << (VECTOR(long))(52))
#define LARGEST_EXPONENT 708.0
#define LARGEST_TAIL 37.0
#define TERMS 14
#define TAIL_TERMS 23
__constant ACC EXP[TERMS] = {
    1.60590438368216146e-10, 2.087675698786809898e-9, 2.505210838544171878e-8, 2.755731922398589065e-7,
    2.755731922398589065e-6, 0.00002480158730158730159, 0.0001984126984126984127, 0.001388888888888888889,
    0.008333333333333333333, 0.04166666666666666667, 0.1666666666666666667, 0.5, 1.0, 1.0};
// (x + 4) Q(x) e^(x x / 2), Q the upper tail of the normal distribution, as a polynomial in (x - 4) / (x + 4): it is
// nearly flat (M. Shepherd, J. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981). Fitted at
// Chebyshev nodes on [0, 38] in 50 digits; relative error 4e-17.
__constant ACC TAIL[TAIL_TERMS] = {
    -9.29610552411400904e-10, 1.62268565223351499e-10, 1.38733755572451973e-8, 1.42983759702724165e-8,
    -7.64296684455120437e-8, -1.53891919795552534e-7, 2.63844221939081531e-7, 1.01953348514889732e-6,
    -6.25289633815107653e-7, -5.91877330945121604e-6, 7.15087015872470668e-7, 0.0000351441487267285358,
    -1.90789129348843226e-6, -0.000231094812961477023, 0.000133344258490337253, 0.00163081844137903808,
    -0.00347969236269969402, -0.0075401889655676717, 0.0603965748907229828, -0.186521857959694697,
    0.387137400742218413, -0.607896641971891756, 0.755285130415751481};
#else
#define LOG2E 1.44269502f
#define LN2_HIGH 0.693145752f
#define LN2_LOW 1.42860677e-6f
#define EXPONENT(n) AS(float)((CONVERT(int)(n) + (VECTOR(int))(127)) << (VECTOR(int))(23))
#define LARGEST_EXPONENT 87.0f
#define LARGEST_TAIL 13.0f
#define TERMS 8
#define TAIL_TERMS 11
__constant ACC EXP[TERMS] = {
    0.0001984126984f, 0.001388888889f, 0.008333333333f, 0.04166666667f, 0.1666666667f, 0.5f, 1.0f, 1.0f};
// As above, fitted on [0, 13]; relative error 2e-9.
__constant ACC TAIL[TAIL_TERMS] = {
    -5.608146317e-5f, -0.0002439457899f, 0.0001628381163f, 0.001648768562f, -0.003484075702f, -0.007544893283f,
    0.06039662311f, -0.1865214252f, 0.3871374174f, -0.6078966529f, 0.7552851302f};
#endif

// e^x for -LARGEST_EXPONENT <= x <= 0; what lies below is taken as that bound. Error below 1 ulp.
FUNCTION ACCV exponential(ACCV x)
{
    x = fmax(x, (ACCV)(-LARGEST_EXPONENT));
    ACCV n = rint(x * (ACCV)(LOG2E));
    ACCV r = fma(n, (ACCV)(-LN2_LOW), fma(n, (ACCV)(-LN2_HIGH), x));
    ACCV p = (ACCV)(EXP[0]);
    for (int i = 1; i < TERMS; i++)
        p = fma(p, r, (ACCV)(EXP[i]));
    return p * EXPONENT(n);
}

// a / b for 1 <= b <= 2^60, to the last bit or nearly: a reciprocal, a Newton step, a correction of the quotient.
FUNCTION ACCV quotient(ACCV a, ACCV b)
{
    ACCV r = V(1.0) / b;
    r = fma(fma(-b, r, V(1.0)), r, r);
    ACCV q = a * r;
    return fma(fma(-b, q, a), r, q);
}

// 1 / (1 + e^-z): by e^-|z|, so that neither tail loses digits.
FUNCTION ACCV logistic(ACCV z)
{
    ACCV e = exponential(-fabs(z));
    e = select(e, V(0.0), (MASK)(z < (ACCV)(-LARGEST_EXPONENT)));
    return quotient(select(e, V(1.0), (MASK)(z >= V(0.0))), V(1.0) + e);
}

// The normal distribution function.
FUNCTION ACCV distribution(ACCV t)
{
    ACCV x = fmin(fabs(t), (ACCV)(LARGEST_TAIL));
    ACCV y = quotient(x - V(4.0), x + V(4.0));
    ACCV p = (ACCV)(TAIL[0]);
    for (int i = 1; i < TAIL_TERMS; i++)
        p = fma(p, y, (ACCV)(TAIL[i]));
    ACCV tail = quotient(p, x + V(4.0)) * exponential(V(-0.5) * x * x);
    tail = select(tail, V(0.0), (MASK)(x >= (ACCV)(LARGEST_TAIL)));
    return select(tail, V(1.0) - tail, (MASK)(t > V(0.0)));
}

FUNCTION ACCV activate(ACCV t)
{
#if ACTIVATION == 2
    ACCV y = t * distribution(t);
#elif ACTIVATION == 3
    ACCV inner = V(0.7978845608028654) * fma(V(0.044715) * t * t, t, t);
    ACCV y = t * logistic(inner + inner);
#else
    ACCV y = t * logistic(t);
#endif
    return select(y, V(0.0), (MASK)(t == (ACCV)(-INFINITY)));  // the limit; -inf * 0 is NaN
}
#elif ACTIVATION == 1
FUNCTION ACCV activate(ACCV t)
{
    return select(t, V(0.0), (MASK)(t < V(0.0)));  // NaN stays
}
#else
#define activate(t) (t)
#endif

#if INTEGER
#define PLUS(a, b) AS(int)(AS(uint)(a) + AS(uint)(b))
#define finish(c, alpha, b) PLUS(c, b)
#define BIAS_AT(p, i) ((p)[i])
#define BIAS_ATV(p, i) VLOAD(i, p)
#else
#define finish(c, alpha, b) activate((alpha) * (c) + (b))
#define BIAS_AT(p, i) BIAS_LOAD(p, i)
#define BIAS_ATV(p, i) BIAS_LOADV(p, i)
#endif

#if HAS_BIAS
#define BIAS_PARAMETERS , MEMORY(bias), long bias_row, long bias_column
#else
#define BIAS_PARAMETERS
#endif

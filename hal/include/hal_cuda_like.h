/* hal_cuda_like.h: hal's OpenCL C kernels as C++ for CUDA and dialects like it (MUSA, MACA, HIP, CoreX, one's own).

   Put this text before a kernel's text and compile both with the vendor's compiler; hal_opencl.portable does the
   putting. C++11, no header of the system, nothing in it but what the kernels for GPUs use: work-item ids, memory of a
   work-group, barriers, vectors of four, conversions, a few functions.

   Options that the compiler has to get: no fused multiply-add of its own making (nvcc: -fmad=false; clang:
   -ffp-contract=off), no fast mathematics. Denormal numbers are kept where the chip has them.

   A dialect that has other words defines HAL_KERNEL and all the others of section 1 before this text. HAL_FLOAT_OF_HALF
   and HAL_HALF_OF_FLOAT may name a chip's own conversions; those below are integer arithmetic and right everywhere.
*/
#ifndef HAL_CUDA_LIKE_H
#define HAL_CUDA_LIKE_H

/* ---- 1. The dialect */

#ifndef HAL_KERNEL
#define HAL_KERNEL extern "C" __global__
#define HAL_DEVICE __device__ inline
#define HAL_SHARED __shared__
#define HAL_CONSTANT static __constant__
#define HAL_BARRIER() __syncthreads()
#define HAL_LOCAL_ID(axis) ((axis) == 0 ? threadIdx.x : (axis) == 1 ? threadIdx.y : threadIdx.z)
#define HAL_GROUP_ID(axis) ((axis) == 0 ? blockIdx.x : (axis) == 1 ? blockIdx.y : blockIdx.z)
#define HAL_GROUP_SIZE(x, y, z) launch_bounds((x) * (y) * (z)) /* inside of __attribute__((…)) */
#define FP_FAST_FMAF 1
#define FP_FAST_FMA 1
#endif

#define __kernel HAL_KERNEL
#define __global
#define __local HAL_SHARED
#define __constant HAL_CONSTANT
#define FUNCTION HAL_DEVICE
#define LOCAL_POINTER
#define reqd_work_group_size(x, y, z) HAL_GROUP_SIZE(x, y, z)
#define CLK_LOCAL_MEM_FENCE 1
#define barrier(fence) HAL_BARRIER()

HAL_DEVICE unsigned long get_local_id(int axis)
{
    return HAL_LOCAL_ID(axis);
}

HAL_DEVICE unsigned long get_group_id(int axis)
{
    return HAL_GROUP_ID(axis);
}

/* ---- 2. Numbers. OpenCL's char is signed and its long has 64 bits, whatever the host's C++ says of them. */

static_assert(sizeof(long) == 8, "this compiler's long is not that of OpenCL C: 64 bits");
typedef signed char hal_char;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
struct hal_half {
    ushort bits;
};

/* A value's bits as another type of the same size. */
template <typename To, typename From> HAL_DEVICE To hal_bits(From value)
{
    union {
        From from;
        To to;
    } both;
    both.from = value;
    return both.to;
}

/* ---- 3. Vectors of four. Comparisons give integers of the same size: all bits set, or none. */

template <typename T> struct hal_mask {
    typedef int type;
};
template <> struct hal_mask<double> {
    typedef long type;
};
template <> struct hal_mask<long> {
    typedef long type;
};

template <typename T> struct hal_vector4 {
    T x, y, z, w;
    typedef hal_vector4<typename hal_mask<T>::type> mask;

    HAL_DEVICE hal_vector4() {}
    HAL_DEVICE hal_vector4(T all) : x(all), y(all), z(all), w(all) {}
    HAL_DEVICE hal_vector4(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}

#define HAL_OPERATOR(op)                                                                                               \
    friend HAL_DEVICE hal_vector4 operator op(hal_vector4 a, hal_vector4 b)                                            \
    {                                                                                                                  \
        return hal_vector4(a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w);                                            \
    }                                                                                                                  \
    HAL_DEVICE hal_vector4 &operator op##=(hal_vector4 b) { return *this = *this op b; }
    HAL_OPERATOR(+)
    HAL_OPERATOR(-)
    HAL_OPERATOR(*)
    HAL_OPERATOR(/)
    HAL_OPERATOR(&)
    HAL_OPERATOR(|)
    HAL_OPERATOR(<<)
    HAL_OPERATOR(>>)
#undef HAL_OPERATOR
#define HAL_OPERATOR(op)                                                                                               \
    friend HAL_DEVICE mask operator op(hal_vector4 a, hal_vector4 b)                                                   \
    {                                                                                                                  \
        return mask(-(a.x op b.x), -(a.y op b.y), -(a.z op b.z), -(a.w op b.w));                                       \
    }
    HAL_OPERATOR(<)
    HAL_OPERATOR(>)
    HAL_OPERATOR(<=)
    HAL_OPERATOR(>=)
    HAL_OPERATOR(==)
    HAL_OPERATOR(!=)
#undef HAL_OPERATOR
    friend HAL_DEVICE hal_vector4 operator-(hal_vector4 a) { return hal_vector4(-a.x, -a.y, -a.z, -a.w); }
};

template <typename T> HAL_DEVICE hal_vector4<T> vload4(unsigned long offset, const T *p)
{
    p += 4 * offset;
    return hal_vector4<T>(p[0], p[1], p[2], p[3]);
}

template <typename T> HAL_DEVICE void vstore4(hal_vector4<T> v, unsigned long offset, T *p)
{
    p += 4 * offset;
    p[0] = v.x;
    p[1] = v.y;
    p[2] = v.z;
    p[3] = v.w;
}

/* ---- 4. Conversions: by value (convert_), and of the bits (as_). The kernels put these names together from those of
   types, which section 6 replaces: hence hal_ in those of vectors. */

#define HAL_CONVERSIONS(name, type)                                                                                    \
    typedef hal_vector4<type> hal_##name##4;                                                                           \
    template <typename S> HAL_DEVICE type convert_##name(S v) { return (type)v; }                                      \
    template <typename S> HAL_DEVICE hal_##name##4 convert_hal_##name##4(hal_vector4<S> v)                             \
    {                                                                                                                  \
        return hal_##name##4((type)v.x, (type)v.y, (type)v.z, (type)v.w);                                              \
    }                                                                                                                  \
    template <typename S> HAL_DEVICE type as_##name(S v) { return hal_bits<type>(v); }                                 \
    template <typename S> HAL_DEVICE hal_##name##4 as_hal_##name##4(hal_vector4<S> v)                                  \
    {                                                                                                                  \
        return hal_##name##4(hal_bits<type>(v.x), hal_bits<type>(v.y), hal_bits<type>(v.z), hal_bits<type>(v.w));      \
    }
HAL_CONVERSIONS(float, float)
HAL_CONVERSIONS(double, double)
HAL_CONVERSIONS(char, signed char)
HAL_CONVERSIONS(uchar, uchar)
HAL_CONVERSIONS(ushort, ushort)
HAL_CONVERSIONS(int, int)
HAL_CONVERSIONS(uint, uint)
HAL_CONVERSIONS(long, long)
#undef HAL_CONVERSIONS

/* float16 of float, to nearest even. Below 2^-14 the addition of 0.5 rounds: its last bit is that of a subnormal. */
HAL_DEVICE ushort hal_half_of_float(float value)
{
    uint bits = hal_bits<uint>(value), size = bits & 0x7FFFFFFFu, sign = bits >> 16 & 0x8000u;
    if (size > 0x7F800000u)
        return (ushort)(sign | 0x7E00u); /* NaN */
    if (size >= 0x47800000u)
        return (ushort)(sign | 0x7C00u); /* 2^16 and more */
    if (size < 0x38800000u)
        return (ushort)(sign | (hal_bits<uint>(hal_bits<float>(size) + 0.5f) - 0x3F000000u));
    return (ushort)(sign | (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13);
}

HAL_DEVICE float hal_float_of_half(ushort bits)
{
    uint sign = (uint)(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3FFu;
    if (exponent == 31)
        return hal_bits<float>(sign | 0x7F800000u | mantissa << 13);
    if (exponent == 0)
        return hal_bits<float>(sign | hal_bits<uint>((float)mantissa * 5.9604644775390625e-8f)); /* 2^-24 */
    return hal_bits<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

#ifndef HAL_FLOAT_OF_HALF
#define HAL_FLOAT_OF_HALF(bits) hal_float_of_half(bits)
#define HAL_HALF_OF_FLOAT(value) hal_half_of_float(value)
#endif

HAL_DEVICE float vload_half(unsigned long offset, const hal_half *p)
{
    return HAL_FLOAT_OF_HALF(p[offset].bits);
}

HAL_DEVICE hal_vector4<float> vload_half4(unsigned long offset, const hal_half *p)
{
    p += 4 * offset;
    return hal_vector4<float>(vload_half(0, p), vload_half(1, p), vload_half(2, p), vload_half(3, p));
}

HAL_DEVICE void vstore_half_rte(float value, unsigned long offset, hal_half *p)
{
    p[offset].bits = HAL_HALF_OF_FLOAT(value);
}

HAL_DEVICE void vstore_half4_rte(hal_vector4<float> v, unsigned long offset, hal_half *p)
{
    p += 4 * offset;
    vstore_half_rte(v.x, 0, p);
    vstore_half_rte(v.y, 1, p);
    vstore_half_rte(v.z, 2, p);
    vstore_half_rte(v.w, 3, p);
}

/* ---- 5. Functions, of numbers and element by element. C++ has some of these names already; hence the macros below. */

template <typename T, typename C> HAL_DEVICE T hal_select(T no, T yes, C which)
{
    return which ? yes : no;
}
template <typename T, typename C>
HAL_DEVICE hal_vector4<T> hal_select(hal_vector4<T> no, hal_vector4<T> yes, hal_vector4<C> which)
{
    return hal_vector4<T>(which.x < 0 ? yes.x : no.x, which.y < 0 ? yes.y : no.y, which.z < 0 ? yes.z : no.z,
                          which.w < 0 ? yes.w : no.w);
}
template <typename T> HAL_DEVICE T hal_min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> HAL_DEVICE bool hal_isfinite(T v)
{
    return v - v == 0; /* inf - inf is NaN */
}
HAL_DEVICE float hal_fma(float a, float b, float c) { return fmaf(a, b, c); }
HAL_DEVICE double hal_fma(double a, double b, double c) { return fma(a, b, c); }
HAL_DEVICE float hal_rint(float v) { return rintf(v); }
HAL_DEVICE double hal_rint(double v) { return rint(v); }
HAL_DEVICE float hal_sqrt(float v) { return sqrtf(v); }
HAL_DEVICE double hal_sqrt(double v) { return sqrt(v); }
HAL_DEVICE float hal_fabs(float v) { return fabsf(v); }
HAL_DEVICE double hal_fabs(double v) { return fabs(v); }
HAL_DEVICE float hal_fmax(float a, float b) { return fmaxf(a, b); }
HAL_DEVICE double hal_fmax(double a, double b) { return fmax(a, b); }
HAL_DEVICE float hal_fmin(float a, float b) { return fminf(a, b); }
HAL_DEVICE double hal_fmin(double a, double b) { return fmin(a, b); }
template <typename T> HAL_DEVICE hal_vector4<T> hal_fma(hal_vector4<T> a, hal_vector4<T> b, hal_vector4<T> c)
{
    return hal_vector4<T>(hal_fma(a.x, b.x, c.x), hal_fma(a.y, b.y, c.y), hal_fma(a.z, b.z, c.z),
                          hal_fma(a.w, b.w, c.w));
}
template <typename T> HAL_DEVICE hal_vector4<T> hal_rint(hal_vector4<T> v)
{
    return hal_vector4<T>(hal_rint(v.x), hal_rint(v.y), hal_rint(v.z), hal_rint(v.w));
}

#undef isfinite
#undef INFINITY
#undef min
#define INFINITY hal_bits<float>(0x7F800000u)
#define select hal_select
#define min hal_min
#define isfinite hal_isfinite
#define fma hal_fma
#define rint hal_rint
#define sqrt hal_sqrt
#define fabs hal_fabs
#define fmax hal_fmax
#define fmin hal_fmin

/* ---- 6. Names of types that C++ has otherwise, or that CUDA has without arithmetic. The last words: no header that
   knows these names can follow. */

#define half hal_half
#define char hal_char
#define float4 hal_float4
#define double4 hal_double4
#define char4 hal_char4
#define uchar4 hal_uchar4
#define ushort4 hal_ushort4
#define int4 hal_int4
#define uint4 hal_uint4
#define long4 hal_long4

#endif

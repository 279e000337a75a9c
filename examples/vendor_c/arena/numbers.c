/* Elements of every dtype as double, and back with one rounding to nearest even. */
#include <math.h>

#include "arena.h"

Kind kind_of(const hal_tensor *tensor) {
    if (hal_is_dtype(tensor, HAL_FLOAT, 64)) return FLOAT64;
    if (hal_is_dtype(tensor, HAL_FLOAT, 32)) return FLOAT32;
    if (hal_is_dtype(tensor, HAL_FLOAT, 16)) return FLOAT16;
    if (hal_is_dtype(tensor, HAL_BFLOAT, 16)) return BFLOAT16;
    if (hal_is_dtype(tensor, HAL_INT, 8)) return INT8;
    if (hal_is_dtype(tensor, HAL_INT, 32)) return INT32;
    return hal_is_dtype(tensor, HAL_BOOL, 8) ? BOOL : UNKNOWN;
}

int64_t size_of(Kind kind) {
    static const int64_t sizes[] = {8, 4, 2, 2, 1, 4, 1, 0};
    return sizes[kind];
}

static double from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double widen_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return from_bits(sign | ((rest << 13) + (112u << 23)));
    return sign ? -(rest * 0x1p-24) : rest * 0x1p-24;
}

/* To a format of 16 bits: `digits` of the fraction, and the exponent of the smallest normal number. */
static uint16_t narrow(double value, int digits, int lowest) {
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const uint32_t infinity = 0x7fffu >> digits << digits;
    int exponent;
    if (isnan(value)) return (uint16_t)(sign | infinity | 1u << (digits - 1));
    if (isinf(value)) return (uint16_t)(sign | infinity);
    frexp(value, &exponent);
    exponent = value == 0 || exponent - 1 < lowest ? lowest : exponent - 1;
    if (exponent > -lowest + 1) return (uint16_t)(sign | infinity);
    /* In units of the last digit, which a power of two makes without an error; rint rounds to even. */
    const uint32_t units = (uint32_t)rint(ldexp(fabs(value), digits - exponent));
    const uint32_t bits = ((uint32_t)(exponent - lowest) << digits) + units;
    return (uint16_t)(sign | (bits < infinity ? bits : infinity));
}

double load(Kind kind, const char *at) {
    union { double f64; float f32; uint16_t u16; int8_t i8; int32_t i32; } x;
    memcpy(&x, at, (size_t)size_of(kind)); /* views may stand at any address */
    switch (kind) {
        case FLOAT64: return x.f64;
        case FLOAT32: return x.f32;
        case FLOAT16: return widen_half(x.u16);
        case BFLOAT16: return from_bits((uint32_t)x.u16 << 16);
        case INT32: return x.i32;
        default: return x.i8;
    }
}

void store(Kind kind, char *at, double value) {
    union { double f64; float f32; uint16_t u16; } x;
    switch (kind) {
        case FLOAT64: x.f64 = value; break;
        case FLOAT32: x.f32 = (float)value; break;
        case FLOAT16: x.u16 = narrow(value, 10, -14); break;
        default: x.u16 = narrow(value, 7, -126); break;
    }
    memcpy(at, &x, (size_t)size_of(kind));
}

double rounded(Kind kind, double value) {
    char bytes[8];
    store(kind, bytes, value);
    return load(kind, bytes);
}

// What every kernel of this backend begins with: how each dtype lies in memory, and what becomes of it in arithmetic.
//
// The text before this file defines ACC (float, double or int: what arithmetic is done in), VW (elements of a vector)
// and INDEX (int or long); the text after it defines X_T, X_LOAD … for each operand X, in terms of the macros below.
//
//   LOAD_<dtype>(p, i)        element i of p, as ACC                    LOADV_<dtype>(p, i)       elements i … i+VW-1, as ACCV
//   STORE_<dtype>(p, i, v)    rounds to nearest even, once              STOREV_<dtype>(p, i, v)
//
// Any element may be the first of a vector: vload and vstore ask for the alignment of an element only.
// float16 goes through vload_half and vstore_half, which need no extension; a variable of type half would.
// bfloat16 is the upper half of a float32: integer arithmetic. Written for OpenCL C 1.2 without extensions.

#pragma OPENCL FP_CONTRACT OFF

// What dialects of C++ want to be told of a function, and of a pointer to local memory (hal/include/hal_cuda_like.h
// defines both before this text). OpenCL C wants it of the pointer only.
#ifndef FUNCTION
#define FUNCTION
#define LOCAL_POINTER __local
#endif

#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#if VW == 1
#define VECTOR(type) type
#define VLOAD(i, p) (p)[i]
#define VSTORE(v, i, p) (p)[i] = (v)
#else
#define VECTOR(type) PASTE(type, VW)
#define VLOAD(i, p) PASTE(vload, VW)(0, (p) + (i))
#define VSTORE(v, i, p) PASTE(vstore, VW)(v, 0, (p) + (i))
#endif
#define ACCV VECTOR(ACC)
#define AS(type) PASTE(as_, VECTOR(type))
#define CONVERT(type) PASTE(convert_, VECTOR(type))
#define TO_ACC PASTE(convert_, ACC)
#define TO_ACCV PASTE(convert_, ACCV)

// An operand's memory as two kernel arguments: a buffer, and the byte offset of the operand's element [0, …, 0].
#define MEMORY(name) __global uchar *name##_memory, long name##_offset
#define POINTER(type, name) ((__global type *)(name##_memory + name##_offset))

// Pointer arithmetic on half needs the extension on some compilers; on ushort it never does.
#define HALF(p, i) ((__global half *)((__global ushort *)(p) + (i)))
#define UCHARS(p) ((__global uchar *)(p))
#define USHORTS(p) ((__global ushort *)(p))

#define LOAD_float64(p, i) TO_ACC((p)[i])
#define LOAD_float32(p, i) TO_ACC((p)[i])
#define LOAD_float16(p, i) TO_ACC(vload_half(0, HALF(p, i)))
#define LOAD_bfloat16(p, i) TO_ACC(as_float((uint)USHORTS(p)[i] << 16))
#define LOAD_int8(p, i) TO_ACC((p)[i])
#define LOAD_int32(p, i) TO_ACC((p)[i])
#define LOAD_bool(p, i) TO_ACC(UCHARS(p)[i])

#define LOADV_float64(p, i) TO_ACCV(VLOAD(i, p))
#define LOADV_float32(p, i) TO_ACCV(VLOAD(i, p))
#if VW == 1
#define LOADV_float16(p, i) LOAD_float16(p, i)
#else
#define LOADV_float16(p, i) TO_ACCV(PASTE(vload_half, VW)(0, HALF(p, i)))
#endif
#define LOADV_bfloat16(p, i) TO_ACCV(AS(float)(CONVERT(uint)(VLOAD(i, USHORTS(p))) << (VECTOR(uint))(16)))
#define LOADV_int8(p, i) TO_ACCV(VLOAD(i, p))
#define LOADV_int32(p, i) TO_ACCV(VLOAD(i, p))
#define LOADV_bool(p, i) TO_ACCV(VLOAD(i, UCHARS(p)))

#define STORE_float64(p, i, v) (p)[i] = convert_double(v)
#define STORE_float32(p, i, v) (p)[i] = convert_float(v)
#define STORE_float16(p, i, v) vstore_half_rte(v, 0, HALF(p, i))
#define STORE_bfloat16(p, i, v) USHORTS(p)[i] = bfloat16_bits(v)
#define STORE_int8(p, i, v) (p)[i] = convert_char(v)
#define STORE_int32(p, i, v) (p)[i] = convert_int(v)

#define STOREV_float64(p, i, v) VSTORE(CONVERT(double)(v), i, p)
#define STOREV_float32(p, i, v) VSTORE(CONVERT(float)(v), i, p)
#if VW == 1
#define STOREV_float16(p, i, v) STORE_float16(p, i, v)
#else
#define STOREV_float16(p, i, v) PASTE(PASTE(vstore_half, VW), _rte)(v, 0, HALF(p, i))
#endif
#define STOREV_bfloat16(p, i, v) VSTORE(bfloat16_bits_of_vector(v), i, USHORTS(p))
#define STOREV_int8(p, i, v) VSTORE(CONVERT(char)(v), i, p)
#define STOREV_int32(p, i, v) VSTORE(CONVERT(int)(v), i, p)

#ifdef ACC_IS_FLOAT
// Round to nearest even: add just under half a unit of the last bit that stays, and that bit. A NaN, which the sum
// could turn into infinity, keeps its upper bits and becomes quiet.
FUNCTION ushort bfloat16_bits(float value)
{
    uint bits = as_uint(value);
    uint rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (ushort)((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x40u : rounded);
}

#if VW == 1
#define bfloat16_bits_of_vector bfloat16_bits
#else
FUNCTION VECTOR(ushort) bfloat16_bits_of_vector(VECTOR(float) value)
{
    VECTOR(uint) bits = AS(uint)(value);
    VECTOR(uint) rounded = (bits + (VECTOR(uint))(0x7FFFu) + ((bits >> (VECTOR(uint))(16)) & (VECTOR(uint))(1u)))
        >> (VECTOR(uint))(16);
    VECTOR(uint) quiet = (bits >> (VECTOR(uint))(16)) | (VECTOR(uint))(0x40u);
    return CONVERT(ushort)(
        select(rounded, quiet, (bits & (VECTOR(uint))(0x7FFFFFFFu)) > (VECTOR(uint))(0x7F800000u)));
}
#endif
#endif

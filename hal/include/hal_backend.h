/* hal_backend.h: a backend of hal in C. Interface version 1.0.
 *
 * This file is all you need. Write a shared library that exports one function, hal_get_backend, which returns a
 * table of functions. hal loads it at run time; nothing of hal is linked, and no compiler is needed where it runs:
 *
 *     cc -O2 -shared -fPIC -fvisibility=hidden -I "$(hal abi --include)" acme.c -o libacme.so
 *     hal abi ./libacme.so                                        what the library provides, seen from hal
 *     HAL_PLUGIN_PATH=$PWD/libacme.so hal conformance acme:0      is every result right?
 *
 * The backend is called as its file is: libacme.so, acme.so and libhal_acme.so are all `acme`.
 *
 * RULES THAT HOLD EVERYWHERE
 *
 * Versions   The major number of library and host must be equal. The minor numbers may differ in both directions:
 *            structs only grow, at their end, and each says its size in its first member. Whoever reads a struct reads
 *            no further than that size, and takes what lies beyond for zero. hal_tensor and hal_buffer never grow.
 * NULL       A function that is NULL in the table is not provided. Those marked REQUIRED have to be there.
 * Status     0 is good. Below zero: one of hal_status_code. Above zero: your driver's own number, which hal shows.
 *            After any other status than 0 hal looks at none of the call's results and releases none of them.
 * Text       UTF-8, ends with a zero byte. What hal gives you lives until the call returns: copy what you keep.
 * Threads    Any thread may call anything at any time, and two threads may launch one plan at once.
 * Order      A device has a queue of its own, in order: work of one thread happens in the order of its calls.
 *            op_launch, copy and event_record may return before the work is done.
 * Memory     Handles are yours: an address, an index, anything but 0; hal never looks into them. It adds no offsets
 *            to them either: every place is a handle and a byte offset.
 * Numbers    Sizes in structs are bytes where the name says so; shapes and strides count elements.
 *
 * You may copy this file into your project. Licence: Apache-2.0.
 */
#ifndef HAL_BACKEND_H
#define HAL_BACKEND_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HAL_ABI_MAJOR 1
#define HAL_ABI_MINOR 0

#ifdef __cplusplus
extern "C" {
#endif

/* What stands between the two marks is read by a simple C parser as well: no preprocessor lines in there. */
/* hal: begin */

/* Yours to define, or not: hal only passes pointers to them on. */
typedef struct hal_device hal_device;
typedef struct hal_stream hal_stream;
typedef struct hal_event hal_event;
typedef struct hal_plan hal_plan;

/* ---- status */

typedef int32_t hal_status;

enum hal_status_code {
    HAL_OK = 0,
    HAL_UNSUPPORTED = -1,   /* op_prepare: this device cannot compute this call. Say why in error_text. */
    HAL_OUT_OF_MEMORY = -2, /* of the device */
    HAL_INVALID = -3        /* an argument makes no sense: hal's fault or yours, never the user's */
};

/* ---- tensors: memory layout of DLPack's DLTensor, so that (const DLTensor *)&x works */

enum hal_dtype_code { /* DLPack's DLDataTypeCode */
    HAL_INT = 0,      /* 8: int8; 32: int32 */
    HAL_FLOAT = 2,    /* 16, 32 and 64 bits */
    HAL_BFLOAT = 4,   /* 16 bits */
    HAL_BOOL = 6      /* 8 bits, 0 or 1 */
};

typedef struct hal_dtype {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes; /* 1 */
} hal_dtype;

typedef struct hal_tensor {
    void *data;          /* NULL: a plan is made for a layout; the memory comes with op_launch */
    int32_t device_type; /* as in hal_device_info */
    int32_t device_id;
    int32_t ndim;
    hal_dtype dtype;
    int64_t *shape;   /* ndim numbers >= 0; read only */
    int64_t *strides; /* ndim numbers, in elements; 0 and negative ones happen; never NULL; read only */
    uint64_t byte_offset;
} hal_tensor;

/* Memory and the byte in it at which element [0, ..., 0] stands. With negative strides other elements lie before it. */
typedef struct hal_buffer {
    uint64_t handle;
    uint64_t offset;
} hal_buffer;

/* ---- an operator call without its data: docs/operators.md of hal says what each one means */

typedef struct hal_operand {
    size_t struct_size;
    const char *role; /* "a", "b", "bias", "x", "mask", "weight", "residual", "out", "sum", "mean", "rstd" */
    hal_tensor tensor;
    uint64_t align; /* bytes: the address of element [0, ..., 0] is a multiple, given memory aligned to 64 */
} hal_operand;

enum hal_param_kind { HAL_NONE = 0, HAL_TEXT = 1, HAL_INTEGER = 2, HAL_REAL = 3, HAL_TRUTH = 4 };

typedef struct hal_param {
    size_t struct_size;
    const char *name;
    int32_t kind;    /* which of the next three counts; HAL_NONE: the option was left out */
    int64_t integer; /* HAL_INTEGER, and 0 or 1 with HAL_TRUTH */
    double real;     /* HAL_REAL */
    const char *text; /* HAL_TEXT */
} hal_param;

/*  name         outputs                  inputs ([ ]: may be absent)      params
 *  matmul       out                      a b [bias]                       activation: none or text; alpha: real;
 *                                                                         precision: none or text; deterministic: text
 *  softmax      out                      x [mask]                         scale: real
 *  log_softmax  out                      x [mask]                         scale: real
 *  layernorm    out [sum] [mean rstd]    x [weight] [bias] [residual]     eps: real; row_ndim: integer
 *  rmsnorm      out [sum] [rstd]         x [weight] [residual]            eps: real; row_ndim: integer
 *
 * Calls come in one form only: matmul's operands have at least two axes and all the same batch axes (stride 0 where one
 * was repeated), bias and mask the shape of the result; rows are always the last axis (norms: the last row_ndim axes).
 * Answer HAL_UNSUPPORTED to an operator, role or param that you do not know. */
typedef struct hal_op {
    size_t struct_size;
    const char *name;
    const char *text; /* the whole call as a line, for your messages */
    const hal_operand *const *outputs;
    const hal_operand *const *inputs;
    const hal_param *const *params;
    int32_t output_count;
    int32_t input_count;
    int32_t param_count;
} hal_op;

/* ---- what you tell hal: it zeroes these structs and sets struct_size; fill what you know */

enum hal_device_flag {
    HAL_DEVICE_HOST_MEMORY = 1 /* a host address can be used as a handle, in place: hal then copies nothing */
};

typedef struct hal_device_info {
    size_t struct_size;
    char name[128];   /* REQUIRED: no other device of this library has it */
    char vendor[64];
    char dtypes[128]; /* REQUIRED, of: float64 float32 float16 bfloat16 int8, with spaces between */
    uint64_t memory_bytes;
    uint32_t flags;      /* hal_device_flag */
    int32_t dlpack_type; /* DLPack's type of tensors that live here, whose addresses are your handles then; or 0 */
    int32_t dlpack_id;
    char torch_type[16]; /* torch's name of the same: "npu", "musa"; or empty */
} hal_device_info;

enum hal_plan_flag {
    HAL_PLAN_SINGLE_USE = 1 /* can be launched once: hal prepares anew for every call */
};

typedef struct hal_plan_info {
    size_t struct_size;
    uint64_t workspace_bytes; /* hal gives op_launch so much memory, aligned to 64, whose content is undefined */
    uint32_t flags;           /* hal_plan_flag */
    char describe[128];       /* what was decided, for `hal explain` */
} hal_plan_info;

/* ---- the table */

typedef struct hal_backend {
    size_t struct_size; /* sizeof(hal_backend) */
    uint32_t abi_major; /* HAL_ABI_MAJOR */
    uint32_t abi_minor; /* HAL_ABI_MINOR */
    char version[64];   /* of your library, for people */

    /* Why the last call of this thread that returned `status` failed. Write at most `size` bytes, the zero included. */
    void (*error_text)(hal_status status, char *text, size_t size);

    /* Looking for devices opens none. No hardware is a count of 0 and no error. */
    hal_status (*device_count)(int32_t *count);                       /* REQUIRED */
    hal_status (*device_info)(int32_t index, hal_device_info *info);  /* REQUIRED */
    hal_status (*device_open)(int32_t index, hal_device **device);    /* REQUIRED; once a process and device */
    void (*device_close)(hal_device *device);                         /* waits; then everything of it is given back */

    /* bytes >= 1; aligned to 64. hal frees what it allocates, also while queued work uses it: keep it until then. */
    hal_status (*memory_alloc)(hal_device *device, uint64_t bytes, uint64_t *handle); /* REQUIRED */
    hal_status (*memory_free)(hal_device *device, uint64_t handle);                   /* REQUIRED */

    /* On the device's own queue, hence after the work queued there before. copy_in has read `source` when it returns,
       copy_out has filled `target`. Without `copy` (device to device) hal goes through the host. */
    hal_status (*copy_in)(hal_device *device, uint64_t target, uint64_t target_offset, const void *source,
                          uint64_t bytes); /* REQUIRED */
    hal_status (*copy_out)(hal_device *device, void *target, uint64_t source, uint64_t source_offset,
                           uint64_t bytes); /* REQUIRED */
    hal_status (*copy)(hal_device *device, uint64_t target, uint64_t target_offset, uint64_t source,
                       uint64_t source_offset, uint64_t bytes);

    /* Wait for all work of all streams. Errors of queued work that no call has returned yet are returned here. */
    hal_status (*synchronize)(hal_device *device); /* REQUIRED */

    /* Further queues, and points in them. The device's own queue is the stream NULL. All of this may be left out.
       Where dlpack_type or torch_type is set, a hal_stream is the driver's own stream: users hand theirs in.
       event_wait: what is queued on `stream` from now on runs after the event's last record. event_elapsed waits. */
    hal_status (*stream_create)(hal_device *device, hal_stream **stream);
    hal_status (*stream_synchronize)(hal_device *device, hal_stream *stream);
    void (*stream_destroy)(hal_device *device, hal_stream *stream); /* its work is done nevertheless */
    hal_status (*event_create)(hal_device *device, hal_event **event);
    hal_status (*event_record)(hal_device *device, hal_event *event, hal_stream *stream);
    hal_status (*event_wait)(hal_device *device, hal_event *event, hal_stream *stream);
    hal_status (*event_elapsed)(hal_device *device, hal_event *start, hal_event *stop, double *seconds);
    void (*event_destroy)(hal_device *device, hal_event *event);

    /* Two phases. op_prepare decides once how a call is computed, or says HAL_UNSUPPORTED with the reason: a plan that
       exists works. It keeps no pointer into `op`. op_launch enqueues it: `operands` has the outputs, then the inputs,
       in the op's order; `workspace` is NULL if none was asked for. Each plan is released once, after its last launch
       has returned, though its work may still be queued. */
    hal_status (*op_prepare)(hal_device *device, const hal_op *op, hal_plan **plan, hal_plan_info *info); /* REQUIRED */
    hal_status (*op_launch)(hal_plan *plan, const hal_buffer *operands, const hal_buffer *workspace,
                            hal_stream *stream); /* REQUIRED */
    void (*op_release)(hal_plan *plan);
} hal_backend;

/* hal: end */

#if defined(_WIN32)
#define HAL_EXPORT __declspec(dllexport)
#else
#define HAL_EXPORT __attribute__((visibility("default")))
#endif

/* The one symbol: a table that lives as long as the library, or NULL if it cannot serve a host of this version. */
HAL_EXPORT const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor);

/* ---- conveniences: nothing of what follows is part of the interface */

/* Whether a struct, as the other side made it, has this member. */
#define HAL_HAS(type, pointer, member) \
    ((pointer)->struct_size >= offsetof(type, member) + sizeof((pointer)->member))

/* The operand of that role, or NULL. */
static inline const hal_operand *hal_find_operand(const hal_operand *const *list, int32_t count, const char *role) {
    for (int32_t i = 0; i < count; ++i)
        if (!strcmp(list[i]->role, role)) return list[i];
    return NULL;
}

/* The param of that name, or NULL. */
static inline const hal_param *hal_find_param(const hal_op *op, const char *name) {
    for (int32_t i = 0; i < op->param_count; ++i)
        if (!strcmp(op->params[i]->name, name)) return op->params[i];
    return NULL;
}

/* Its value, or `otherwise` where the op has no such param or it was left out. */
static inline double hal_real(const hal_op *op, const char *name, double otherwise) {
    const hal_param *param = hal_find_param(op, name);
    return param && param->kind == HAL_REAL ? param->real : otherwise;
}

static inline int64_t hal_integer(const hal_op *op, const char *name, int64_t otherwise) {
    const hal_param *param = hal_find_param(op, name);
    return param && (param->kind == HAL_INTEGER || param->kind == HAL_TRUTH) ? param->integer : otherwise;
}

/* Empty where it was left out. */
static inline const char *hal_text(const hal_op *op, const char *name) {
    const hal_param *param = hal_find_param(op, name);
    return param && param->kind == HAL_TEXT ? param->text : "";
}

static inline int hal_is_dtype(const hal_tensor *tensor, int code, int bits) {
    return tensor->dtype.code == code && tensor->dtype.bits == bits && tensor->dtype.lanes == 1;
}

#ifdef __cplusplus
}
#endif

#endif

/* The smallest backend of hal in C: the host as a device, and matmul of float32 in whatever layout. */
#include <stdlib.h>

#include "hal_backend.h"

struct hal_plan {
    int64_t m, n, k, a[2], b[2], out[2]; /* sizes, and strides of rows and columns */
};

static float *at(const hal_buffer *buffer) { return (float *)(uintptr_t)(buffer->handle + buffer->offset); }

static hal_status count_devices(int32_t *count) { return *count = 1, HAL_OK; }

static hal_status tell_device(int32_t index, hal_device_info *info) {
    (void)index;
    strcpy(info->name, "minimal");
    strcpy(info->dtypes, "float32");
    return HAL_OK;
}

static hal_status open_device(int32_t index, hal_device **device) { return (void)index, *device = NULL, HAL_OK; }

static hal_status alloc(hal_device *device, uint64_t bytes, uint64_t *handle) {
    void *memory = NULL;
    (void)device;
    if (posix_memalign(&memory, 64, bytes)) return HAL_OUT_OF_MEMORY;
    return *handle = (uintptr_t)memory, HAL_OK;
}

static hal_status release(hal_device *device, uint64_t handle) { return (void)device, free((void *)handle), HAL_OK; }

static hal_status copy_in(hal_device *device, uint64_t to, uint64_t offset, const void *from, uint64_t bytes) {
    return (void)device, memcpy((void *)(to + offset), from, bytes), HAL_OK;
}

static hal_status copy_out(hal_device *device, void *to, uint64_t from, uint64_t offset, uint64_t bytes) {
    return (void)device, memcpy(to, (void *)(from + offset), bytes), HAL_OK;
}

static hal_status wait(hal_device *device) { return (void)device, HAL_OK; } /* nothing is ever queued */

static hal_status prepare(hal_device *device, const hal_op *op, hal_plan **plan, hal_plan_info *info) {
    (void)device, (void)info;
    if (strcmp(op->name, "matmul") || op->input_count != 2 || *hal_text(op, "activation") ||
        hal_real(op, "alpha", 1) != 1)
        return HAL_UNSUPPORTED;
    const hal_tensor *a = &op->inputs[0]->tensor, *b = &op->inputs[1]->tensor, *out = &op->outputs[0]->tensor;
    if (!hal_is_dtype(a, HAL_FLOAT, 32) || out->ndim != 2) return HAL_UNSUPPORTED;
    const hal_plan made = {out->shape[0], out->shape[1], a->shape[1], {a->strides[0], a->strides[1]},
                           {b->strides[0], b->strides[1]}, {out->strides[0], out->strides[1]}};
    if (!(*plan = malloc(sizeof made))) return HAL_OUT_OF_MEMORY;
    return **plan = made, HAL_OK;
}

static hal_status launch(hal_plan *p, const hal_buffer *operands, const hal_buffer *workspace, hal_stream *stream) {
    float *out = at(operands), *a = at(operands + 1), *b = at(operands + 2);
    (void)workspace, (void)stream;
    for (int64_t i = 0; i < p->m; ++i)
        for (int64_t j = 0; j < p->n; ++j) {
            float sum = 0;
            for (int64_t k = 0; k < p->k; ++k)
                sum += a[i * p->a[0] + k * p->a[1]] * b[k * p->b[0] + j * p->b[1]];
            out[i * p->out[0] + j * p->out[1]] = sum;
        }
    return HAL_OK;
}

static void release_plan(hal_plan *plan) { free(plan); }

const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {
    static hal_backend table = {.struct_size = sizeof table, .abi_major = HAL_ABI_MAJOR, .abi_minor = HAL_ABI_MINOR,
        .version = "1", .device_count = count_devices, .device_info = tell_device, .device_open = open_device,
        .memory_alloc = alloc, .memory_free = release, .copy_in = copy_in, .copy_out = copy_out, .synchronize = wait,
        .op_prepare = prepare, .op_launch = launch, .op_release = release_plan};
    return (void)host_minor, host_major == HAL_ABI_MAJOR ? &table : NULL;
}

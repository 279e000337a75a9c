/* hal's operators over the runtime: what a porter writes.
 *
 * The workspace of a call holds, each on a multiple of 512 bytes: the arguments of every launch, and a packed copy of
 * every operand. op_prepare is aclnn's GetWorkspaceSize, the plan its executor. */
#include <stdlib.h>
#include <string.h>

#include "hal_backend.h"
#include "kernels.h"
#include "runtime.h"

enum { OPERANDS = 8, BLOCKS = 20, ALIGN = 512 };

struct hal_plan {
    int count, outputs, used;
    rt_kernel kernel;
    PackArguments operands[OPERANDS]; /* outputs first */
    char roles[OPERANDS][16];
    uint64_t packed[OPERANDS]; /* offsets in the workspace */
    uint64_t arguments, workspace;
    MatmulArguments matmul;
    SoftmaxArguments softmax;
    NormArguments norm;
};

static hal_status status_of(int error) { return error == RT_NO_MEMORY ? HAL_OUT_OF_MEMORY : error; }

static uint64_t reserve(hal_plan *plan, uint64_t bytes) {
    const uint64_t at = plan->workspace;
    plan->workspace += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

/* ---- phase one: check, and say how much workspace is wanted */

static int dtype_of(const hal_tensor *tensor) {
    if (hal_is_dtype(tensor, HAL_FLOAT, 32)) return FLOAT32;
    if (hal_is_dtype(tensor, HAL_FLOAT, 16)) return FLOAT16;
    if (hal_is_dtype(tensor, HAL_BFLOAT, 16)) return BFLOAT16;
    if (hal_is_dtype(tensor, HAL_INT, 8)) return INT8;
    if (hal_is_dtype(tensor, HAL_INT, 32)) return INT32;
    return hal_is_dtype(tensor, HAL_BOOL, 8) ? BOOL : -1;
}

static hal_status take(hal_plan *plan, const hal_operand *given) {
    PackArguments *p = &plan->operands[plan->count];
    p->dtype = dtype_of(&given->tensor);
    p->axes = given->tensor.ndim;
    p->count = 1;
    if (p->dtype < 0 || p->axes > AXES) return HAL_UNSUPPORTED;
    for (int axis = 0; axis < p->axes; ++axis) {
        p->shape[axis] = given->tensor.shape[axis];
        p->strides[axis] = given->tensor.strides[axis];
        p->count *= p->shape[axis];
    }
    strncpy(plan->roles[plan->count], given->role, sizeof plan->roles[0] - 1);
    plan->packed[plan->count++] = reserve(plan, 4 * (uint64_t)p->count + 4);
    return HAL_OK;
}

static int64_t elements(const PackArguments *p, int first, int last) {
    int64_t product = 1;
    for (int axis = first; axis < last; ++axis) product *= p->shape[axis];
    return product;
}

static hal_status take_matmul(hal_plan *plan, const hal_op *op) {
    static const char *const names[] = {"", "relu", "gelu", "gelu_tanh", "silu"};
    const PackArguments *out = &plan->operands[0], *a = &plan->operands[1];
    int activation = 0;
    while (activation < 5 && strcmp(names[activation], hal_text(op, "activation"))) ++activation;
    if (activation == 5) return HAL_UNSUPPORTED;
    plan->kernel = kernel_matmul;
    plan->matmul = (MatmulArguments){.batches = elements(out, 0, out->axes - 2), .m = out->shape[out->axes - 2],
        .n = out->shape[out->axes - 1], .k = a->shape[a->axes - 1], .alpha = (float)hal_real(op, "alpha", 1),
        .activation = activation, .integers = a->dtype == INT8};
    return HAL_OK;
}

static hal_status take_rows(hal_plan *plan, const hal_op *op) {
    const PackArguments *x = &plan->operands[plan->outputs];
    const int split = x->axes - (int)hal_integer(op, "row_ndim", 1);
    const int64_t rows = elements(x, 0, split), n = elements(x, split, x->axes);
    if (!strcmp(op->name, "softmax") || !strcmp(op->name, "log_softmax")) {
        plan->kernel = kernel_softmax;
        plan->softmax = (SoftmaxArguments){.rows = rows, .n = n, .scale = (float)hal_real(op, "scale", 1),
            .logarithm = *op->name == 'l', .boolean = plan->operands[plan->count - 1].dtype == BOOL};
    } else if (!strcmp(op->name, "layernorm") || !strcmp(op->name, "rmsnorm")) {
        plan->kernel = kernel_norm;
        plan->norm = (NormArguments){.rows = rows, .n = n, .eps = (float)hal_real(op, "eps", 0),
            .centred = *op->name == 'l', .dtype = x->dtype};
    }
    return plan->kernel ? HAL_OK : HAL_UNSUPPORTED;
}

static hal_status get_workspace_size(hal_device *device, const hal_op *op, hal_plan **plan, hal_plan_info *info) {
    (void)device;
    if (op->output_count + op->input_count > OPERANDS) return HAL_UNSUPPORTED;
    hal_plan *made = calloc(1, sizeof *made);
    if (!made) return HAL_OUT_OF_MEMORY;
    hal_status status = HAL_OK;
    made->outputs = op->output_count;
    for (int i = 0; i < op->output_count && !status; ++i) status = take(made, op->outputs[i]);
    for (int i = 0; i < op->input_count && !status; ++i) status = take(made, op->inputs[i]);
    if (!status) status = strcmp(op->name, "matmul") ? take_rows(made, op) : take_matmul(made, op);
    if (status) return free(made), status;
    made->arguments = reserve(made, sizeof(PackArguments));
    info->workspace_bytes = made->workspace;
    info->flags = HAL_PLAN_SINGLE_USE;
    strcpy(info->describe, "packed operands, one executor a call");
    *plan = made;
    return HAL_OK;
}

/* ---- phase two */

static int start(const hal_plan *plan, rt_kernel kernel, const void *arguments, size_t bytes, uint64_t workspace) {
    const int error = rt_copy_in(workspace + plan->arguments, arguments, bytes);
    return error ? error : rt_launch(kernel, BLOCKS, workspace + plan->arguments);
}

static int move(hal_plan *plan, int i, rt_kernel kernel, const hal_buffer *operands, uint64_t workspace) {
    PackArguments *p = &plan->operands[i];
    p->tensor = operands[i].handle + operands[i].offset;
    p->packed = workspace + plan->packed[i];
    return start(plan, kernel, p, sizeof *p, workspace);
}

static uint64_t packed(const hal_plan *plan, const char *role, uint64_t workspace) {
    for (int i = 0; i < plan->count; ++i)
        if (!strcmp(plan->roles[i], role)) return workspace + plan->packed[i];
    return 0;
}

static int compute(hal_plan *plan, uint64_t w) {
    if (plan->kernel == kernel_matmul) {
        MatmulArguments *p = &plan->matmul;
        p->out = packed(plan, "out", w), p->a = packed(plan, "a", w), p->b = packed(plan, "b", w);
        p->bias = packed(plan, "bias", w);
        return start(plan, plan->kernel, p, sizeof *p, w);
    }
    if (plan->kernel == kernel_softmax) {
        SoftmaxArguments *p = &plan->softmax;
        p->out = packed(plan, "out", w), p->x = packed(plan, "x", w), p->mask = packed(plan, "mask", w);
        return start(plan, plan->kernel, p, sizeof *p, w);
    }
    NormArguments *p = &plan->norm;
    p->out = packed(plan, "out", w), p->x = packed(plan, "x", w), p->weight = packed(plan, "weight", w);
    p->bias = packed(plan, "bias", w), p->residual = packed(plan, "residual", w), p->sum = packed(plan, "sum", w);
    p->mean = packed(plan, "mean", w), p->rstd = packed(plan, "rstd", w);
    return start(plan, plan->kernel, p, sizeof *p, w);
}

static hal_status execute(hal_plan *plan, const hal_buffer *operands, const hal_buffer *workspace, hal_stream *stream) {
    (void)stream;
    if (!workspace) return NN_PARAM_NULL;
    if (plan->used++) return NN_EXECUTOR_USED;
    const uint64_t at = workspace->handle + workspace->offset;
    int error = 0;
    for (int i = plan->outputs; i < plan->count && !error; ++i) error = move(plan, i, kernel_pack, operands, at);
    if (!error) error = compute(plan, at);
    for (int i = 0; i < plan->outputs && !error; ++i) error = move(plan, i, kernel_unpack, operands, at);
    return error;
}

static void destroy_executor(hal_plan *plan) { free(plan); }

/* ---- devices and memory */

static hal_status count_devices(int32_t *count) { return *count = 1, HAL_OK; }

static hal_status tell_device(int32_t index, hal_device_info *info) {
    (void)index;
    strcpy(info->name, "AI core, played by the host");
    strcpy(info->dtypes, "float32 float16 bfloat16 int8");
    info->memory_bytes = (uint64_t)4 << 30;
    return HAL_OK;
}

static hal_status open_device(int32_t index, hal_device **device) { return (void)index, *device = NULL, HAL_OK; }

static hal_status alloc(hal_device *device, uint64_t bytes, uint64_t *handle) {
    return (void)device, status_of(rt_malloc(handle, bytes));
}

static hal_status give(hal_device *device, uint64_t handle) { return (void)device, rt_free(handle); }

static hal_status copy_in(hal_device *device, uint64_t to, uint64_t offset, const void *from, uint64_t bytes) {
    return (void)device, rt_copy_in(to + offset, from, bytes);
}

static hal_status copy_out(hal_device *device, void *to, uint64_t from, uint64_t offset, uint64_t bytes) {
    return (void)device, rt_copy_out(to, from + offset, bytes);
}

static hal_status copy(hal_device *device, uint64_t to, uint64_t to_at, uint64_t from, uint64_t from_at, uint64_t n) {
    return (void)device, rt_copy(to + to_at, from + from_at, n);
}

static hal_status synchronize(hal_device *device) { return (void)device, HAL_OK; } /* every launch is waited for */

const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {
    static const hal_backend table = {.struct_size = sizeof table, .abi_major = HAL_ABI_MAJOR,
        .abi_minor = HAL_ABI_MINOR, .version = "0.1.0", .device_count = count_devices, .device_info = tell_device,
        .device_open = open_device, .memory_alloc = alloc, .memory_free = give, .copy_in = copy_in,
        .copy_out = copy_out, .copy = copy, .synchronize = synchronize, .op_prepare = get_workspace_size,
        .op_launch = execute, .op_release = destroy_executor};
    return (void)host_minor, host_major == HAL_ABI_MAJOR ? &table : NULL;
}

/* Plans: an op checked and copied, its launches as tasks of a queue. */
#include <stdio.h>
#include <stdlib.h>

#include "arena.h"

int find(const Plan *plan, const char *role) {
    for (int i = 0; i < plan->count; ++i)
        if (!strcmp(plan->operands[i].role, role)) return i;
    return -1;
}

int64_t place(const Operand *operand, int first, int last, int64_t number) {
    int64_t offset = 0;
    for (int axis = last; axis-- > first; number /= operand->shape[axis])
        offset += number % operand->shape[axis] * operand->strides[axis];
    return offset;
}

int64_t count(const Operand *operand, int first, int last) {
    int64_t product = 1;
    for (int axis = first; axis < last; ++axis) product *= operand->shape[axis];
    return product;
}

static hal_status take_operand(const hal_operand *given, Operand *operand) {
    const hal_tensor *tensor = &given->tensor;
    if (tensor->ndim > MAX_AXES) return fail(HAL_UNSUPPORTED, "%s has more than %d axes", given->role, MAX_AXES);
    operand->kind = kind_of(tensor);
    if (operand->kind == UNKNOWN) return fail(HAL_UNSUPPORTED, "%s is of an unknown dtype", given->role);
    snprintf(operand->role, sizeof operand->role, "%s", given->role);
    operand->axes = tensor->ndim;
    const int64_t bytes = size_of(operand->kind);
    int64_t high = bytes;
    for (int axis = 0; axis < tensor->ndim; ++axis) {
        operand->shape[axis] = tensor->shape[axis];
        operand->strides[axis] = tensor->strides[axis] * bytes;
        const int64_t span = (tensor->shape[axis] - 1) * operand->strides[axis];
        if (span < 0) operand->low += span;
        else high += span;
    }
    operand->high = high;
    if (!count(operand, 0, operand->axes)) operand->low = operand->high = 0;
    return HAL_OK;
}

static hal_status take_operator(const hal_op *op, Plan *plan) {
    static const struct { const char *name; Run run; int buffers; } known[] = {
        {"matmul", run_matmul, 0},       {"softmax", run_softmax, 2}, {"log_softmax", run_softmax, 2},
        {"layernorm", run_layernorm, 1}, {"rmsnorm", run_rmsnorm, 1}};
    static const char *const activations[] = {"", "relu", "gelu", "gelu_tanh", "silu"};
    int good = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
        if (!strcmp(op->name, known[i].name)) {
            plan->run = known[i].run;
            /* Rows are worked on as doubles, in the workspace. */
            const Operand *x = &plan->operands[plan->outputs];
            plan->row_axes = (int)hal_integer(op, "row_ndim", 1);
            const int64_t n = count(x, x->axes - plan->row_axes, x->axes);
            plan->workspace_bytes = (uint64_t)(known[i].buffers * n) * sizeof(double);
        }
    if (!plan->run) return fail(HAL_UNSUPPORTED, "there is no %s here", op->name);
    for (size_t i = 0; i < sizeof activations / sizeof *activations; ++i)
        good |= !strcmp(hal_text(op, "activation"), activations[i]);
    if (!good) return fail(HAL_UNSUPPORTED, "there is no activation %s here", hal_text(op, "activation"));
    snprintf(plan->activation, sizeof plan->activation, "%s", hal_text(op, "activation"));
    plan->logarithm = !strcmp(op->name, "log_softmax");
    plan->alpha = hal_real(op, "alpha", 1);
    plan->scale = hal_real(op, "scale", 1);
    plan->eps = hal_real(op, "eps", 0);
    return HAL_OK;
}

hal_status plan_prepare(hal_device *device, const hal_op *op, hal_plan **plan, hal_plan_info *info) {
    const int total = op->output_count + op->input_count;
    if (total > MAX_OPERANDS) return fail(HAL_UNSUPPORTED, "%d operands are too many", total);
    Plan *made = calloc(1, sizeof *made);
    if (!made) return fail(HAL_OUT_OF_MEMORY, "no host memory for a plan");
    made->device = device;
    made->outputs = op->output_count;
    made->count = total;
    made->references = 1;
    hal_status status = HAL_OK;
    for (int i = 0; i < total && !status; ++i)
        status = take_operand(i < made->outputs ? op->outputs[i] : op->inputs[i - made->outputs], &made->operands[i]);
    if (!status) status = take_operator(op, made);
    if (status) {
        free(made);
        return status;
    }
    info->workspace_bytes = made->workspace_bytes;
    snprintf(info->describe, sizeof info->describe, "%s, double inside", op->name);
    *plan = made;
    return HAL_OK;
}

typedef struct {
    Plan *plan;
    char *at[MAX_OPERANDS];
    char *workspace;
} Launch;

static void run(void *data) {
    Launch *launch = data;
    launch->plan->run(launch->plan, launch->at, launch->workspace);
    plan_release(launch->plan);
    free(launch);
}

hal_status plan_launch(hal_plan *plan, const hal_buffer *operands, const hal_buffer *workspace, hal_stream *stream) {
    Memory *memory = &plan->device->memory;
    Launch *launch = calloc(1, sizeof *launch);
    if (!launch) return fail(HAL_OUT_OF_MEMORY, "no host memory for a launch");
    for (int i = 0; i < plan->count; ++i) {
        const Operand *operand = &plan->operands[i];
        launch->at[i] = memory_view(memory, operands[i].handle, operands[i].offset, operand->low, operand->high);
        if (!launch->at[i]) {
            free(launch);
            return fail(HAL_INVALID, "%s does not lie within its memory", operand->role);
        }
    }
    if (plan->workspace_bytes && workspace)
        launch->workspace = memory_view(memory, workspace->handle, workspace->offset, 0, (int64_t)plan->workspace_bytes);
    if (plan->workspace_bytes && !launch->workspace) {
        free(launch);
        return fail(HAL_INVALID, "the workspace has to have %llu bytes", (unsigned long long)plan->workspace_bytes);
    }
    launch->plan = plan;
    __atomic_add_fetch(&plan->references, 1, __ATOMIC_RELAXED);
    return queue_add(stream ? stream : plan->device->queue, run, launch);
}

void plan_release(hal_plan *plan) {
    if (!__atomic_sub_fetch(&plan->references, 1, __ATOMIC_ACQ_REL)) free(plan);
}

/* The device and the table: the file to read first.
 *
 * A chip that is none: its memory is a piece of the host's under other addresses, its queues are threads. All the rest
 * is as it would be with hardware: nothing that hal holds is a pointer that the host could follow, and a launch returns
 * before its work is done. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "arena.h"

/* ---- errors: the words of each thread's last one */

static pthread_key_t words;
static pthread_once_t words_made = PTHREAD_ONCE_INIT;
enum { WORDS = 256 };

static void make_words(void) { pthread_key_create(&words, free); }

static char *my_words(void) {
    pthread_once(&words_made, make_words);
    if (!pthread_getspecific(words)) pthread_setspecific(words, calloc(1, WORDS));
    return pthread_getspecific(words);
}

hal_status fail(hal_status status, const char *format, ...) {
    char *text = my_words();
    va_list arguments;
    va_start(arguments, format);
    if (text) vsnprintf(text, WORDS, format, arguments);
    va_end(arguments);
    return status;
}

void error_text(hal_status status, char *text, size_t size) {
    const char *mine = my_words();
    (void)status;
    snprintf(text, size, "%s", mine ? mine : "");
}

/* ---- devices */

static hal_status device_count(int32_t *number) { return *number = 1, HAL_OK; }

static hal_status device_info(int32_t index, hal_device_info *info) {
    if (index) return fail(HAL_INVALID, "there is one device, number 0");
    snprintf(info->name, sizeof info->name, "Arena");
    snprintf(info->vendor, sizeof info->vendor, "hal's examples");
    snprintf(info->dtypes, sizeof info->dtypes, "float64 float32 float16 bfloat16 int8");
    info->memory_bytes = (uint64_t)1 << 30;
    return HAL_OK;
}

static hal_status device_open(int32_t index, hal_device **device) {
    (void)index;
    hal_device *made = calloc(1, sizeof *made);
    if (!made) return fail(HAL_OUT_OF_MEMORY, "no host memory for a device");
    hal_status status = memory_make(&made->memory);
    if (!status && (status = queue_make(made, &made->queue))) memory_end(&made->memory);
    if (status) return free(made), status;
    pthread_mutex_init(&made->lock, NULL);
    *device = made;
    return HAL_OK;
}

static void device_close(hal_device *device) {
    for (hal_stream *each = device->streams, *next; each; each = next) next = each->next, queue_end(each);
    queue_end(device->queue);
    memory_end(&device->memory);
    pthread_mutex_destroy(&device->lock);
    free(device);
}

static hal_status synchronize(hal_device *device) {
    queue_finish(device->queue);
    pthread_mutex_lock(&device->lock);
    for (hal_stream *each = device->streams; each; each = each->next) queue_finish(each);
    pthread_mutex_unlock(&device->lock);
    return HAL_OK;
}

/* ---- streams */

static hal_status stream_create(hal_device *device, hal_stream **stream) {
    const hal_status status = queue_make(device, stream);
    if (status) return status;
    pthread_mutex_lock(&device->lock);
    (*stream)->next = device->streams;
    device->streams = *stream;
    pthread_mutex_unlock(&device->lock);
    return HAL_OK;
}

static hal_status stream_synchronize(hal_device *device, hal_stream *stream) {
    return queue_finish(stream ? stream : device->queue), HAL_OK;
}

static void stream_destroy(hal_device *device, hal_stream *stream) {
    pthread_mutex_lock(&device->lock);
    hal_stream **link = &device->streams;
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    pthread_mutex_unlock(&device->lock);
    queue_end(stream);
}

/* ---- memory */

typedef struct {
    hal_device *device;
    uint64_t handle;
    char *to, *from;
    size_t bytes;
    char staged[]; /* what copy_in brings */
} Move;

static hal_status memory_alloc(hal_device *device, uint64_t bytes, uint64_t *handle) {
    return memory_take(&device->memory, bytes, handle);
}

static void give(void *data) {
    Move *move = data;
    memory_give(&move->device->memory, move->handle);
    free(move);
}

/* When all that is queued now is done: the device's own queue waits for the other streams, then gives it back. */
static hal_status memory_free(hal_device *device, uint64_t handle) {
    if (!memory_view(&device->memory, handle, 0, 0, 0)) return fail(HAL_INVALID, "this is no memory of the device");
    Move *move = calloc(1, sizeof *move);
    if (!move) return fail(HAL_OUT_OF_MEMORY, "no host memory for a task");
    move->device = device;
    move->handle = handle;
    hal_status status = HAL_OK;
    pthread_mutex_lock(&device->lock);
    for (hal_stream *each = device->streams; each && !status; each = each->next) {
        hal_event *event;
        if ((status = event_create(device, &event))) break;
        if (!(status = event_record(device, event, each))) status = event_wait(device, event, NULL);
        event_destroy(device, event);
    }
    pthread_mutex_unlock(&device->lock);
    return status ? (free(move), status) : queue_add(device->queue, give, move);
}

static void perform(void *data) {
    Move *move = data;
    memmove(move->to, move->from ? move->from : move->staged, move->bytes);
    free(move);
}

static char *view(hal_device *device, uint64_t handle, uint64_t offset, uint64_t bytes) {
    return memory_view(&device->memory, handle, offset, 0, bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes);
}

static hal_status copy_in(hal_device *device, uint64_t to, uint64_t offset, const void *from, uint64_t bytes) {
    char *const target = view(device, to, offset, bytes);
    if (!target) return fail(HAL_INVALID, "the target of copy_in does not lie within its memory");
    Move *move = malloc(sizeof *move + bytes);
    if (!move) return fail(HAL_OUT_OF_MEMORY, "no host memory to stage %llu bytes", (unsigned long long)bytes);
    *move = (Move){.device = device, .to = target, .bytes = bytes};
    memcpy(move->staged, from, bytes);
    return queue_add(device->queue, perform, move);
}

static hal_status copy_out(hal_device *device, void *to, uint64_t from, uint64_t offset, uint64_t bytes) {
    const char *source = view(device, from, offset, bytes);
    if (!source) return fail(HAL_INVALID, "the source of copy_out does not lie within its memory");
    queue_finish(device->queue);
    memcpy(to, source, bytes);
    return HAL_OK;
}

static hal_status copy(hal_device *device, uint64_t to, uint64_t to_offset, uint64_t from, uint64_t from_offset,
                       uint64_t bytes) {
    char *const target = view(device, to, to_offset, bytes), *const source = view(device, from, from_offset, bytes);
    if (!target || !source) return fail(HAL_INVALID, "a side of copy does not lie within its memory");
    Move *move = calloc(1, sizeof *move);
    if (!move) return fail(HAL_OUT_OF_MEMORY, "no host memory for a task");
    *move = (Move){.device = device, .to = target, .from = source, .bytes = bytes};
    return queue_add(device->queue, perform, move);
}

/* ---- the table */

const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {
    static const hal_backend table = {
        .struct_size = sizeof table,
        .abi_major = HAL_ABI_MAJOR,
        .abi_minor = HAL_ABI_MINOR,
        .version = "1.0",
        .error_text = error_text,
        .device_count = device_count,
        .device_info = device_info,
        .device_open = device_open,
        .device_close = device_close,
        .memory_alloc = memory_alloc,
        .memory_free = memory_free,
        .copy_in = copy_in,
        .copy_out = copy_out,
        .copy = copy,
        .synchronize = synchronize,
        .stream_create = stream_create,
        .stream_synchronize = stream_synchronize,
        .stream_destroy = stream_destroy,
        .event_create = event_create,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_elapsed = event_elapsed,
        .event_destroy = event_destroy,
        .op_prepare = plan_prepare,
        .op_launch = plan_launch,
        .op_release = plan_release,
    };
    (void)host_minor;
    return host_major == HAL_ABI_MAJOR ? &table : NULL;
}

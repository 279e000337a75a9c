/* Events: how often one was recorded, and how many of these records a stream has reached. */
#include <stdlib.h>
#include <time.h>

#include "arena.h"

struct hal_event {
    pthread_mutex_t lock;
    pthread_cond_t reached;
    uint64_t recorded, done;
    double seconds;  /* when the last record was reached */
    int references; /* the owner's, and one for each task that still needs it */
};

typedef struct {
    hal_event *event;
    uint64_t number; /* of the record */
} Record;

static void drop(hal_event *event) {
    pthread_mutex_lock(&event->lock);
    const int left = --event->references;
    pthread_mutex_unlock(&event->lock);
    if (left) return;
    pthread_cond_destroy(&event->reached);
    pthread_mutex_destroy(&event->lock);
    free(event);
}

static void reach(void *data) {
    Record *record = data;
    hal_event *event = record->event;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&event->lock);
    if (record->number > event->done) {
        event->done = record->number;
        event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    pthread_cond_broadcast(&event->reached);
    pthread_mutex_unlock(&event->lock);
    drop(event);
    free(record);
}

static void await(void *data) {
    Record *record = data;
    hal_event *event = record->event;
    pthread_mutex_lock(&event->lock);
    while (event->done < record->number) pthread_cond_wait(&event->reached, &event->lock);
    pthread_mutex_unlock(&event->lock);
    drop(event);
    free(record);
}

/* Queue one of the two above for the next record, or for the last one so far. */
static hal_status add(hal_device *device, hal_event *event, hal_stream *stream, Work work, int next) {
    Record *record = malloc(sizeof *record);
    if (!record) return fail(HAL_OUT_OF_MEMORY, "no host memory for an event");
    pthread_mutex_lock(&event->lock);
    event->recorded += (uint64_t)next;
    event->references += 1;
    *record = (Record){event, event->recorded};
    pthread_mutex_unlock(&event->lock);
    return queue_add(stream ? stream : device->queue, work, record);
}

hal_status event_create(hal_device *device, hal_event **event) {
    (void)device;
    hal_event *made = calloc(1, sizeof *made);
    if (!made) return fail(HAL_OUT_OF_MEMORY, "no host memory for an event");
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->reached, NULL);
    made->references = 1;
    *event = made;
    return HAL_OK;
}

void event_destroy(hal_device *device, hal_event *event) {
    (void)device;
    drop(event);
}

hal_status event_record(hal_device *device, hal_event *event, hal_stream *stream) {
    return add(device, event, stream, reach, 1);
}

hal_status event_wait(hal_device *device, hal_event *event, hal_stream *stream) {
    return add(device, event, stream, await, 0);
}

/* When the last record so far is reached: seconds, or less than 0 if there is none. */
static double when(hal_event *event) {
    pthread_mutex_lock(&event->lock);
    const uint64_t target = event->recorded;
    while (event->done < target) pthread_cond_wait(&event->reached, &event->lock);
    const double seconds = target ? event->seconds : -1;
    pthread_mutex_unlock(&event->lock);
    return seconds;
}

hal_status event_elapsed(hal_device *device, hal_event *start, hal_event *stop, double *seconds) {
    (void)device;
    const double from = when(start), to = when(stop);
    if (from < 0 || to < 0) return fail(HAL_INVALID, "an event that was never recorded has no time");
    *seconds = to - from;
    return HAL_OK;
}

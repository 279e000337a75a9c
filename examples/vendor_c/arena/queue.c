/* Streams: each has a thread that works off a list of tasks. */
#include <stdlib.h>

#include "arena.h"

typedef struct Task {
    struct Task *next;
    Work work;
    void *data;
} Task;

static void *serve(void *argument) {
    hal_stream *stream = argument;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (!stream->first && !stream->closing) pthread_cond_wait(&stream->changed, &stream->lock);
        Task *task = stream->first;
        if (!task) break; /* closing, and nothing is left */
        stream->first = task->next;
        if (!stream->first) stream->last = NULL;
        pthread_mutex_unlock(&stream->lock);
        task->work(task->data);
        free(task);
        pthread_mutex_lock(&stream->lock);
        ++stream->done;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

hal_status queue_make(hal_device *device, hal_stream **stream) {
    hal_stream *made = calloc(1, sizeof *made);
    if (!made) return fail(HAL_OUT_OF_MEMORY, "no host memory for a stream");
    made->device = device;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    if (pthread_create(&made->thread, NULL, serve, made)) {
        free(made);
        return fail(1, "the system gives no thread for a stream");
    }
    *stream = made;
    return HAL_OK;
}

void queue_end(hal_stream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->closing = 1;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

hal_status queue_add(hal_stream *stream, Work work, void *data) {
    Task *task = malloc(sizeof *task);
    if (!task) return fail(HAL_OUT_OF_MEMORY, "no host memory for a task");
    *task = (Task){NULL, work, data};
    pthread_mutex_lock(&stream->lock);
    if (stream->last) stream->last->next = task;
    else stream->first = task;
    stream->last = task;
    ++stream->queued;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return HAL_OK;
}

void queue_finish(hal_stream *stream) {
    pthread_mutex_lock(&stream->lock);
    const uint64_t target = stream->queued; /* not what others queue meanwhile */
    while (stream->done < target) pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}

/* What the files of this backend share. A user of the library sees none of it: hal_backend.h is the interface. */
#ifndef ARENA_H
#define ARENA_H

#include <pthread.h>

#include "hal_backend.h"

enum { MAX_AXES = 64, MAX_OPERANDS = 8 };

/* ---- numbers.c: elements of every dtype as double, and back with one rounding */

typedef enum { FLOAT64, FLOAT32, FLOAT16, BFLOAT16, INT8, INT32, BOOL, UNKNOWN } Kind;

Kind kind_of(const hal_tensor *tensor);
int64_t size_of(Kind kind);
double load(Kind kind, const char *at);
void store(Kind kind, char *at, double value);
double rounded(Kind kind, double value);

/* ---- memory.c: one large piece of host memory plays the chip's; device addresses are offsets in it, far from any
   address of the host */

typedef struct Block Block;
typedef struct {
    char *bytes;
    Block *first; /* all blocks, used and free, in the order of their offsets */
    pthread_mutex_t lock;
} Memory;

hal_status memory_make(Memory *memory);
void memory_end(Memory *memory);
hal_status memory_take(Memory *memory, uint64_t bytes, uint64_t *handle);
hal_status memory_give(Memory *memory, uint64_t handle);
/* The host's view of bytes low to high of a block, counted from handle + offset; NULL where they are not all its. */
char *memory_view(Memory *memory, uint64_t handle, uint64_t offset, int64_t low, int64_t high);

/* ---- queue.c: a thread for each stream works off its tasks in order */

typedef void (*Work)(void *data);

hal_status queue_make(hal_device *device, hal_stream **stream);
void queue_end(hal_stream *stream); /* after the last task */
hal_status queue_add(hal_stream *stream, Work work, void *data);
void queue_finish(hal_stream *stream);

/* ---- events.c */

hal_status event_create(hal_device *device, hal_event **event);
void event_destroy(hal_device *device, hal_event *event);
hal_status event_record(hal_device *device, hal_event *event, hal_stream *stream);
hal_status event_wait(hal_device *device, hal_event *event, hal_stream *stream);
hal_status event_elapsed(hal_device *device, hal_event *start, hal_event *stop, double *seconds);

/* ---- arena.c */

struct hal_device {
    Memory memory;
    hal_stream *queue;   /* the device's own */
    hal_stream *streams; /* the others */
    pthread_mutex_t lock; /* of `streams` */
};

struct hal_stream {
    hal_device *device;
    hal_stream *next; /* in the device's list */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct Task *first, *last;
    uint64_t queued, done; /* tasks so far */
    int closing;
};

/* Keep the words for error_text, and hand the status back. */
hal_status fail(hal_status status, const char *format, ...);
void error_text(hal_status status, char *text, size_t size);

/* ---- plan.c: an op as the operators below read it */

typedef struct {
    char role[16];
    Kind kind;
    int axes;
    int64_t shape[MAX_AXES], strides[MAX_AXES]; /* strides in bytes */
    int64_t low, high;                          /* bytes touched, from element [0, ..., 0] */
} Operand;

typedef struct hal_plan Plan;
typedef void (*Run)(const Plan *plan, char *const *at, char *workspace);

struct hal_plan {
    hal_device *device;
    Run run;
    int count, outputs;
    Operand operands[MAX_OPERANDS]; /* outputs first */
    double alpha, scale, eps;
    int row_axes, logarithm;
    char activation[16];
    uint64_t workspace_bytes;
    int references; /* hal's, and one for each launch that is queued */
};

int find(const Plan *plan, const char *role); /* index of the operand, or -1 */
/* Byte offset of the element of that number, counted row-major over axes first to last - 1. */
int64_t place(const Operand *operand, int first, int last, int64_t number);
int64_t count(const Operand *operand, int first, int last); /* elements of these axes */

hal_status plan_prepare(hal_device *device, const hal_op *op, hal_plan **plan, hal_plan_info *info);
hal_status plan_launch(hal_plan *plan, const hal_buffer *operands, const hal_buffer *workspace, hal_stream *stream);
void plan_release(hal_plan *plan);

/* ---- matmul.c, softmax.c, norms.c */

void run_matmul(const Plan *plan, char *const *at, char *workspace);
void run_softmax(const Plan *plan, char *const *at, char *workspace);
void run_layernorm(const Plan *plan, char *const *at, char *workspace);
void run_rmsnorm(const Plan *plan, char *const *at, char *workspace);
/* Sum of (x - shift)^power. In halves, so that no chain of additions is longer than 32 and a few levels. */
double sum(const double *x, int64_t n, double shift, int power);

#endif

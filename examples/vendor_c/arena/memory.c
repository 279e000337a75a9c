/* The chip's memory: first fit over a list of blocks, neighbours merged when they are free. */
#include <stdlib.h>

#include "arena.h"

#define BYTES ((uint64_t)1 << 30)
#define BASE ((uint64_t)0xA << 60) /* no address of a host is there: one used by mistake crashes at once */
#define ALIGN 64

struct Block {
    uint64_t offset, bytes;
    int used;
    Block *next;
};

static Block *block(uint64_t offset, uint64_t bytes, Block *next) {
    Block *made = malloc(sizeof *made);
    if (made) *made = (Block){offset, bytes, 0, next};
    return made;
}

hal_status memory_make(Memory *memory) {
    pthread_mutex_init(&memory->lock, NULL);
    memory->bytes = malloc(BYTES); /* the system gives pages only when they are touched */
    memory->first = block(0, BYTES, NULL);
    if (memory->bytes && memory->first) return HAL_OK;
    memory_end(memory);
    return fail(HAL_OUT_OF_MEMORY, "the host has no %llu bytes", (unsigned long long)BYTES);
}

void memory_end(Memory *memory) {
    for (Block *each = memory->first, *next; each; each = next) next = each->next, free(each);
    free(memory->bytes);
    pthread_mutex_destroy(&memory->lock);
}

hal_status memory_take(Memory *memory, uint64_t bytes, uint64_t *handle) {
    Block *found;
    if (bytes > BYTES) return fail(HAL_OUT_OF_MEMORY, "%llu bytes are more than there is", (unsigned long long)bytes);
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    pthread_mutex_lock(&memory->lock);
    for (found = memory->first; found && (found->used || found->bytes < bytes); found = found->next) {}
    if (found && found->bytes > bytes) {
        Block *rest = block(found->offset + bytes, found->bytes - bytes, found->next);
        if (rest) found->bytes = bytes, found->next = rest;
    }
    if (found) found->used = 1, *handle = BASE + found->offset;
    pthread_mutex_unlock(&memory->lock);
    if (found) return HAL_OK;
    return fail(HAL_OUT_OF_MEMORY, "no piece of %llu bytes is free", (unsigned long long)bytes);
}

hal_status memory_give(Memory *memory, uint64_t handle) {
    Block *before = NULL, *found;
    pthread_mutex_lock(&memory->lock);
    for (found = memory->first; found && BASE + found->offset != handle; found = found->next) before = found;
    const int known = found && found->used;
    if (known) {
        found->used = 0;
        if (!before || before->used) before = found;
        for (Block *next; (next = before->next) && !next->used;) {
            before->bytes += next->bytes;
            before->next = next->next;
            free(next);
        }
    }
    pthread_mutex_unlock(&memory->lock);
    return known ? HAL_OK : fail(HAL_INVALID, "%#llx is no memory of this device", (unsigned long long)handle);
}

char *memory_view(Memory *memory, uint64_t handle, uint64_t offset, int64_t low, int64_t high) {
    const Block *found;
    pthread_mutex_lock(&memory->lock);
    for (found = memory->first; found && BASE + found->offset != handle; found = found->next) {}
    const int inside = found && found->used && offset <= found->bytes && (int64_t)offset + low >= 0 &&
                       high <= (int64_t)(found->bytes - offset);
    char *const view = inside ? memory->bytes + found->offset + offset : NULL;
    pthread_mutex_unlock(&memory->lock);
    return view;
}

#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#define BIAS ((uint64_t)0x12C0 << 48) /* the host cannot follow a device address */

void *rt_on_chip(uint64_t address) { return (void *)(uintptr_t)(address - BIAS); }

static int is_address(uint64_t address) { return address >> 48 == 0x12C0; }

int rt_malloc(uint64_t *address, uint64_t bytes) {
    void *memory;
    if (bytes > (uint64_t)1 << 32 || posix_memalign(&memory, 512, bytes)) return RT_NO_MEMORY;
    *address = (uint64_t)(uintptr_t)memory + BIAS;
    return RT_SUCCESS;
}

int rt_free(uint64_t address) {
    if (!is_address(address)) return RT_BAD_ADDRESS;
    free(rt_on_chip(address));
    return RT_SUCCESS;
}

int rt_copy_in(uint64_t to, const void *from, uint64_t bytes) {
    if (!is_address(to)) return RT_BAD_ADDRESS;
    memcpy(rt_on_chip(to), from, bytes);
    return RT_SUCCESS;
}

int rt_copy_out(void *to, uint64_t from, uint64_t bytes) {
    if (!is_address(from)) return RT_BAD_ADDRESS;
    memcpy(to, rt_on_chip(from), bytes);
    return RT_SUCCESS;
}

int rt_copy(uint64_t to, uint64_t from, uint64_t bytes) {
    if (!is_address(to) || !is_address(from)) return RT_BAD_ADDRESS;
    memmove(rt_on_chip(to), rt_on_chip(from), bytes);
    return RT_SUCCESS;
}

int rt_launch(rt_kernel kernel, uint32_t blocks, uint64_t arguments) {
    if (!kernel || !blocks) return RT_INVALID_PARAM;
    if (!is_address(arguments)) return RT_BAD_ADDRESS;
    for (uint32_t block = 0; block < blocks; ++block) kernel(block, blocks, rt_on_chip(arguments));
    return RT_SUCCESS;
}

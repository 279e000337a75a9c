/* The runtime of the chip, as its vendor would ship it. The names are this package's own. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stddef.h>
#include <stdint.h>

enum { /* errors are numbers */
    RT_SUCCESS = 0,
    RT_INVALID_PARAM = 100000,
    RT_NO_MEMORY = 207001,
    RT_BAD_ADDRESS = 507015,
    NN_PARAM_NULL = 161001,
    NN_EXECUTOR_USED = 561103
};

/* A kernel runs once for each block and reads its arguments from device memory. */
typedef void (*rt_kernel)(uint32_t block, uint32_t blocks, const void *arguments);

int rt_malloc(uint64_t *address, uint64_t bytes);
int rt_free(uint64_t address);
int rt_copy_in(uint64_t to, const void *from, uint64_t bytes);
int rt_copy_out(void *to, uint64_t from, uint64_t bytes);
int rt_copy(uint64_t to, uint64_t from, uint64_t bytes);
int rt_launch(rt_kernel kernel, uint32_t blocks, uint64_t arguments);

/* For kernels only, which run on the chip: what an address stands for there. */
void *rt_on_chip(uint64_t address);

#endif

/* A library that cuda.bindings takes for NVIDIA's driver.

   cuda.bindings asks one function, cuGetProcAddress_v2, for the address of each other. Here those are addresses that
   Python has registered: its callbacks, or `nothing`, which does nothing and says that all went well.
*/
#include <stddef.h>
#include <string.h>

enum { MOST = 256, SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500 };

static struct {
    char name[64];
    void *address;
} table[MOST];
static int count;

static void *address_of(const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].address;
    return NULL;
}

int nothing(void)
{
    return SUCCESS;
}

int stand_in_register(const char *name, void *address)
{
    if (count == MOST || strlen(name) >= sizeof table[0].name)
        return INVALID_VALUE;
    strcpy(table[count].name, name);
    table[count++].address = address;
    return SUCCESS;
}

/* `version` and `flags` choose among a function's forms; Python registers the newest form only. */
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, int *status)
{
    (void)version;
    (void)flags;
    *address = strcmp(name, "cuGetProcAddress") == 0 ? (void *)cuGetProcAddress_v2 : address_of(name);
    if (status)
        *status = *address ? 0 : 1; /* CU_GET_PROC_ADDRESS_SUCCESS, …_SYMBOL_NOT_FOUND */
    return *address ? SUCCESS : NOT_FOUND;
}

/* Functions that a program finds by name, as dlsym does it. All have at most eleven arguments, each an integer or an
   address; those that a function does not have are not looked at. */
typedef size_t word;
#define FUNCTION(symbol, name)                                                                                         \
    int symbol(word a, word b, word c, word d, word e, word f, word g, word h, word i, word j, word k)                 \
    {                                                                                                                  \
        int (*registered)(word, word, word, word, word, word, word, word, word, word, word);                           \
        *(void **)&registered = address_of(name);                                                                      \
        return registered ? registered(a, b, c, d, e, f, g, h, i, j, k) : NOT_FOUND;                                   \
    }
FUNCTION(cuInit, "cuInit")
FUNCTION(cuDriverGetVersion, "cuDriverGetVersion")
FUNCTION(cuDeviceGetCount, "cuDeviceGetCount")
FUNCTION(cuDeviceGetName, "cuDeviceGetName")
FUNCTION(cuDeviceTotalMem_v2, "cuDeviceTotalMem")
FUNCTION(cuDeviceGetAttribute, "cuDeviceGetAttribute")
FUNCTION(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain")
FUNCTION(cuCtxSetCurrent, "cuCtxSetCurrent")
FUNCTION(cuCtxSynchronize, "cuCtxSynchronize")
FUNCTION(cuMemAlloc_v2, "cuMemAlloc")
FUNCTION(cuMemFree_v2, "cuMemFree")
FUNCTION(cuMemcpyHtoD_v2, "cuMemcpyHtoD")
FUNCTION(cuMemcpyDtoH_v2, "cuMemcpyDtoH")
FUNCTION(cuMemcpyDtoD_v2, "cuMemcpyDtoD")
FUNCTION(cuModuleLoadData, "cuModuleLoadData")
FUNCTION(cuModuleGetFunction, "cuModuleGetFunction")
FUNCTION(cuLaunchKernel, "cuLaunchKernel")

/* NVRTC asks for this one, where the process has a driver, and can do without. */
int cuGetExportTable(const void **exported, const void *id)
{
    (void)id;
    *exported = NULL;
    return NOT_FOUND;
}

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

/* `hal doctor` asks the library itself for this one. */
int cuDriverGetVersion(int *version)
{
    int (*registered)(int *) = (int (*)(int *))address_of("cuDriverGetVersion");
    return registered ? registered(version) : INVALID_VALUE;
}

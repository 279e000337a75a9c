/* The driver of a chip that is this machine, with the functions that drivers of CUDA's kind have. Compiled code is a
   shared library; a launch runs its blocks one after the other, and a block's threads as fibres (dialect.h).

   What it is stricter in than it would have to be: memory that was not allocated here is refused, memory is freed once,
   and a thread that has not called fbSetDevice is told so. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include <map>
#include <mutex>
#include <vector>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 4, INVALID_IMAGE = 200, NOT_FOUND = 500 };
static const size_t MEMORY = size_t(1) << 30, STACK = 256 << 10;
static std::mutex lock;                   /* of the two below */
static std::map<char *, size_t> blocks; /* address -> bytes */
static size_t used;
static thread_local bool current;

struct fibre_item {
    unsigned local[3], group[3];
};
struct Module {
    void *library;
    void (*enter)(fibre_item *, void (*)());
    void (*call)(void **);
};

static bool inside(const void *p, size_t size)
{
    std::lock_guard<std::mutex> held(lock);
    std::map<char *, size_t>::iterator next = blocks.upper_bound((char *)p);
    if (next == blocks.begin())
        return false;
    --next;
    return (char *)p + size <= next->first + next->second;
}

/* ---- Fibres: each finished or waiting at a barrier; the scheduler resumes them in turn. */

struct Fibre {
    ucontext_t context;
    fibre_item item;
    bool done;
};
static thread_local std::vector<Fibre> *fibres;
static thread_local std::vector<char> *stacks;
static thread_local ucontext_t scheduler;
static thread_local Fibre *running;
static thread_local Module *module;
static thread_local void **arguments;

static void barrier()
{
    Fibre *self = running;
    swapcontext(&self->context, &scheduler);
}

static void start()
{
    module->call(arguments);
    running->done = true;
}

static void run_block(const unsigned *block, const unsigned *group)
{
    size_t count = size_t(block[0]) * block[1] * block[2];
    if (!fibres) {
        fibres = new std::vector<Fibre>;
        stacks = new std::vector<char>;
    }
    if (fibres->size() < count) {
        fibres->resize(count);
        stacks->resize(count * STACK);
    }
    for (size_t i = 0; i < count; i++) {
        Fibre &fibre = (*fibres)[i];
        fibre.done = false;
        unsigned local[3] = {unsigned(i % block[0]), unsigned(i / block[0] % block[1]), unsigned(i / block[0] / block[1])};
        memcpy(fibre.item.local, local, sizeof local);
        memcpy(fibre.item.group, group, sizeof local);
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks->data() + i * STACK;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, start, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (size_t i = 0; i < count; i++) {
            running = &(*fibres)[i];
            if (running->done)
                continue;
            module->enter(&running->item, barrier);
            swapcontext(&scheduler, &running->context);
            left = left || !running->done;
        }
    }
}

/* ---- What the library offers */

extern "C" {

int fbInit(unsigned)
{
    return SUCCESS;
}

int fbGetDeviceCount(int *count)
{
    *count = 1;
    return SUCCESS;
}

int fbDeviceGetName(char *name, int size, int device)
{
    snprintf(name, size, "Fibre One");
    return device == 0 ? SUCCESS : NO_DEVICE;
}

int fbDeviceTotalMem(size_t *bytes, int device)
{
    *bytes = MEMORY;
    return device == 0 ? SUCCESS : NO_DEVICE;
}

int fbSetDevice(int device)
{
    current = device == 0;
    return current ? SUCCESS : NO_DEVICE;
}

int fbMalloc(void **address, size_t size)
{
    std::lock_guard<std::mutex> held(lock);
    if (!current)
        return NO_DEVICE;
    if (size > MEMORY - used || posix_memalign(address, 256, size))
        return OUT_OF_MEMORY;
    blocks[(char *)*address] = size;
    used += size;
    return SUCCESS;
}

int fbFree(void *address)
{
    std::lock_guard<std::mutex> held(lock);
    std::map<char *, size_t>::iterator found = blocks.find((char *)address);
    if (!current || found == blocks.end())
        return current ? INVALID_VALUE : NO_DEVICE;
    used -= found->second;
    blocks.erase(found);
    free(address);
    return SUCCESS;
}

int fbMemcpyHtoD(void *target, const void *source, size_t size)
{
    if (!current || !inside(target, size))
        return current ? INVALID_VALUE : NO_DEVICE;
    memcpy(target, source, size);
    return SUCCESS;
}

int fbMemcpyDtoH(void *target, const void *source, size_t size)
{
    if (!current || !inside(source, size))
        return current ? INVALID_VALUE : NO_DEVICE;
    memcpy(target, source, size);
    return SUCCESS;
}

int fbMemcpyDtoD(void *target, const void *source, size_t size)
{
    if (!current || !inside(source, size) || !inside(target, size))
        return current ? INVALID_VALUE : NO_DEVICE;
    memmove(target, source, size);
    return SUCCESS;
}

int fbModuleLoadData(Module **loaded, const void *image, size_t size)
{
    char path[] = "/tmp/fibre-XXXXXX";
    int file = current ? mkstemp(path) : -1;
    if (file < 0)
        return current ? INVALID_IMAGE : NO_DEVICE;
    bool written = write(file, image, size) == (ssize_t)size;
    close(file);
    void *library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : 0;
    unlink(path);
    if (!library)
        return INVALID_IMAGE;
    *loaded = new Module;
    (*loaded)->library = library;
    (*loaded)->enter = (void (*)(fibre_item *, void (*)()))dlsym(library, "fibre_enter");
    (*loaded)->call = (void (*)(void **))dlsym(library, "fibre_call");
    return (*loaded)->enter && (*loaded)->call ? SUCCESS : INVALID_IMAGE;
}

int fbModuleGetFunction(Module **function, Module *from, const char *name)
{
    *function = from;
    return dlsym(from->library, name) ? SUCCESS : NOT_FOUND;
}

int fbLaunchKernel(Module *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void **given)
{
    if (!current)
        return NO_DEVICE;
    if (!gx || !gy || !gz || !bx || !by || !bz || shared_bytes || size_t(bx) * by * bz > 1024)
        return INVALID_VALUE;
    module = function;
    arguments = given;
    unsigned block[3] = {bx, by, bz};
    for (unsigned z = 0; z < gz; z++)
        for (unsigned y = 0; y < gy; y++)
            for (unsigned x = 0; x < gx; x++) {
                unsigned group[3] = {x, y, z};
                run_block(block, group);
            }
    return SUCCESS;
}

int fbDeviceSynchronize(void)
{
    return current ? SUCCESS : NO_DEVICE; /* a launch has run when it returns */
}

const char *fbGetErrorName(int error)
{
    switch (error) {
    case SUCCESS: return "FB_SUCCESS";
    case INVALID_VALUE: return "FB_ERROR_INVALID_VALUE";
    case OUT_OF_MEMORY: return "FB_ERROR_OUT_OF_MEMORY";
    case NO_DEVICE: return "FB_ERROR_NO_DEVICE";
    case INVALID_IMAGE: return "FB_ERROR_INVALID_IMAGE";
    case NOT_FOUND: return "FB_ERROR_NOT_FOUND";
    default: return "FB_ERROR_UNKNOWN";
    }
}
}

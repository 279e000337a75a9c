/* What hal_cuda_like.h asks of a dialect, for a "chip" that is this machine: the threads of a block are fibres of one
   thread of the system, and a barrier is a switch to the next. */
#include <math.h>

struct fibre_item {
    unsigned local[3], group[3];
};
static thread_local fibre_item *fibre_current; /* set by the driver before each switch */
static thread_local void (*fibre_barrier)();

extern "C" void fibre_enter(fibre_item *item, void (*barrier)())
{
    fibre_current = item;
    fibre_barrier = barrier;
}

#define HAL_KERNEL extern "C"
#define HAL_DEVICE inline
#define HAL_SHARED static thread_local
#define HAL_CONSTANT static const
#define HAL_BARRIER() fibre_barrier()
#define HAL_LOCAL_ID(axis) fibre_current->local[axis]
#define HAL_GROUP_ID(axis) fibre_current->group[axis]
#define HAL_GROUP_SIZE(x, y, z)

/* fibre_call: the kernel that FIBRE_ENTRY names, with arguments as cuLaunchKernel takes them, an address for each. */
template <int... I> struct fibre_indices {};
template <int N, int... I> struct fibre_make : fibre_make<N - 1, N - 1, I...> {};
template <int... I> struct fibre_make<0, I...> {
    typedef fibre_indices<I...> type;
};
template <typename... A, int... I> inline void fibre_invoke(void (*kernel)(A...), void **arguments, fibre_indices<I...>)
{
    kernel(*(A *)arguments[I]...);
}
template <typename... A> inline void fibre_apply(void (*kernel)(A...), void **arguments)
{
    fibre_invoke(kernel, arguments, typename fibre_make<sizeof...(A)>::type());
}
#define FIBRE_ENTRY(kernel) extern "C" void fibre_call(void **arguments) { fibre_apply(kernel, arguments); }

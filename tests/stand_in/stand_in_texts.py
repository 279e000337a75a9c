"""PTX for the tests."""

from __future__ import annotations

# y = a x, elementwise over n numbers. Nothing keeps n within the arrays: the callers do, or mean not to.
SCALE = """\
.version 8.0
.target sm_80
.address_size 64

.visible .entry scale(
    .param .u64 x,
    .param .u64 y,
    .param .f32 a,
    .param .s32 n
)
{
    .reg .pred %p;
    .reg .s32 %i, %thread, %block, %size, %n;
    .reg .f32 %v, %a;
    .reg .s64 %x, %y, %offset;

    mov.u32 %thread, %tid.x;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mad.lo.s32 %i, %block, %size, %thread;
    ld.param.s32 %n, [n];
    setp.ge.s32 %p, %i, %n;
    @%p bra done;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    ld.param.f32 %a, [a];
    mul.wide.s32 %offset, %i, 4;
    add.s64 %x, %x, %offset;
    add.s64 %y, %y, %offset;
    ld.global.f32 %v, [%x];
    mul.f32 %v, %v, %a;
    st.global.f32 [%y], %v;
done:
    ret;
}
"""

# Each thread puts its number into dynamic shared memory and stores its neighbour's.
SHARED = """\
.version 8.0
.target sm_80
.address_size 64

.extern .shared .align 16 .b8 tile[];

.visible .entry rotate(.param .u64 y)
{
    .reg .s32 %thread, %base, %at, %next, %size, %v;
    .reg .s64 %y, %offset;

    mov.u32 %thread, %tid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %base, tile;
    shl.b32 %at, %thread, 2;
    add.s32 %at, %at, %base;
    st.shared.s32 [%at], %thread;
    bar.sync 0;
    add.s32 %next, %thread, 1;
    rem.s32 %next, %next, %size;
    shl.b32 %next, %next, 2;
    add.s32 %next, %next, %base;
    ld.shared.s32 %v, [%next];
    ld.param.u64 %y, [y];
    mul.wide.s32 %offset, %thread, 4;
    add.s64 %y, %y, %offset;
    st.global.s32 [%y], %v;
    ret;
}
"""

"""Where a kernel's parameters and variables lie in their spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hal_nvidia_ptx.emulator.memory import LOCAL_START, SHARED_START
from hal_nvidia_ptx.emulator.syntax import Addr, Function, Instruction, Module, Operand, Symbol, Variable, Vector


class Layout:
    """Addresses are known when the text is loaded, but for variables in global memory.

    variables: by name, the module's, the kernel's and its parameters; parameters: byte offset of each parameter;
    offsets: address of each shared or local variable that an instruction names; shared_static, dynamic_start: bytes of
    shared memory before the end of the static and before the start of the dynamic part; local_bytes: of a lane.
    """

    def __init__(self, module: Module, function: Function, instructions: Sequence[Instruction]) -> None:
        self.variables: dict[str, Variable] = dict(module.variables) | function.variables
        self.parameters: dict[str, int] = {}
        self.parameter_bytes = 0
        for each in function.params:
            start = _aligned(self.parameter_bytes, each.align)
            self.parameters[each.name] = start
            self.variables[each.name] = each
            self.parameter_bytes = start + each.nbytes
        self.offsets: dict[str, int] = {}
        used = _named(instructions)
        placed = [each for name, each in self.variables.items() if name in used and name not in self.parameters]
        # A .param variable of a body is how calls pass values: memory of the lane.
        self.local_bytes = self._place(placed, ("local", "param"), LOCAL_START) - LOCAL_START
        self.shared_static = self._place(placed, ("shared",), SHARED_START) - SHARED_START
        dynamic = [each for each in placed if each.space == "shared" and not each.count]
        align = max((each.align for each in dynamic), default=1)
        self.dynamic_start = _aligned(SHARED_START + self.shared_static, align) - SHARED_START
        for each in dynamic:
            self.offsets[each.name] = SHARED_START + self.dynamic_start

    def _place(self, variables: Iterable[Variable], spaces: Sequence[str], start: int) -> int:
        """Addresses of the variables of these spaces from `start` on; gives the end."""
        for each in variables:
            if each.space in spaces and each.count:
                start = _aligned(start, each.align)
                self.offsets[each.name] = start
                start += each.nbytes
        return start


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align


def _named(instructions: Iterable[Instruction]) -> set[str]:
    """Names that instructions refer to."""
    names: set[str] = set()

    def collect(operand: Operand) -> None:
        if isinstance(operand, Addr):
            collect(operand.base)
        elif isinstance(operand, Vector):
            for item in operand.items:
                collect(item)
        elif isinstance(operand, Symbol):
            names.add(operand.name)

    for ins in instructions:
        for operand in ins.operands:
            collect(operand)
    return names

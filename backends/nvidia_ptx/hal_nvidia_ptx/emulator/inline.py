"""Calls of .func: the callee's instructions are put where the call stands, with names of their own."""

from __future__ import annotations

from dataclasses import replace

from hal_nvidia_ptx.emulator.syntax import (
    Addr,
    Function,
    Group,
    Instruction,
    Module,
    Not,
    Operand,
    Pair,
    Reg,
    Symbol,
    Variable,
    Vector,
)

LIBRARY = ("vprintf", "__assertfail")  # of the driver: instructions/library.py
DEPTH = 16  # calls within calls; a recursive function would not end


def inline(module: Module, function: Function) -> Function:
    """The function without calls. Raises PtxError for calls that are recursive, indirect, or of unknown functions."""
    if not any(ins.opcode.startswith("call") for ins in function.instructions):
        return function
    return _Inliner(module, function).result


class _Inliner:
    def __init__(self, module: Module, function: Function) -> None:
        self.module = module
        self.result = replace(
            function, registers=dict(function.registers), variables=dict(function.variables), instructions=[], labels={}
        )
        self.result.tables = dict(function.tables)
        self.copies = 0
        self._append(function, "", {}, 0)

    def _append(self, function: Function, prefix: str, names: dict[str, str], depth: int) -> None:
        """The body, its names mapped by `names`; a `ret` of a callee goes to the label `<prefix>end`."""
        out = self.result.instructions
        at_pc: dict[int, list[str]] = {}
        for label, pc in function.labels.items():
            at_pc.setdefault(pc, []).append(names.get(label, label))
        for pc, ins in enumerate(function.instructions):
            for label in at_pc.get(pc, ()):
                self.result.labels[label] = len(out)
            copy = _renamed(ins, names) if names else ins
            if ins.opcode.startswith("call"):
                self._call(copy, depth)
            elif prefix and ins.opcode.startswith("ret"):
                self._emit(copy, "bra", Symbol(f"{prefix}end"))
            else:
                copy.pc = len(out)
                out.append(copy)
        for label in at_pc.get(len(function.instructions), ()):
            self.result.labels[label] = len(out)

    def _emit(self, at: Instruction, opcode: str, *operands: Operand) -> None:
        out = self.result.instructions
        out.append(Instruction(opcode, operands, at.line, at.text, at.guard, at.guard_not, len(out)))

    def _call(self, ins: Instruction, depth: int) -> None:
        groups = [each for each in ins.operands if isinstance(each, Group)]
        name = next((each.name for each in ins.operands if isinstance(each, Symbol)), "")
        callee = self.module.functions.get(name)
        if callee is None and name in LIBRARY:
            self._emit(ins, f"call.{name}", *(item for group in groups for item in group.items))
            return
        if callee is None:
            known = f"only functions whose body is in the text can be called, and {' and '.join(LIBRARY)}"
            raise ins.error(f"call of {name or 'an address'}: {known}")
        if depth >= DEPTH:
            raise ins.error("calls are nested too deeply")
        results = groups[0].items if callee.results and groups else ()
        arguments = groups[-1].items if callee.params and groups else ()
        if len(results) != len(callee.results) or len(arguments) != len(callee.params):
            raise ins.error(f"{name} takes {len(callee.params)} arguments and gives {len(callee.results)} results")
        self.copies += 1
        prefix = f"{name}#{self.copies}."
        names = self._names(callee, prefix)
        if ins.guard is not None:
            out = self.result.instructions
            out.append(
                Instruction(
                    "bra", (Symbol(f"{prefix}end"),), ins.line, ins.text, ins.guard, not ins.guard_not, len(out)
                )
            )
        moves: list[tuple[Operand, Variable]] = []
        for formal, actual in zip((*callee.params, *callee.results), (*arguments, *results), strict=True):
            self._bind(ins, formal, actual, names, moves, formal in callee.results)
        self._append(callee, prefix, names, depth + 1)
        self.result.labels[f"{prefix}end"] = len(self.result.instructions)
        for register, formal in moves:
            self._plain(ins, f"mov.{formal.kind}", register, Reg(names[formal.name]))

    def _plain(self, ins: Instruction, opcode: str, *operands: Operand) -> None:
        out = self.result.instructions
        out.append(Instruction(opcode, operands, ins.line, ins.text, None, False, len(out)))

    def _bind(
        self,
        ins: Instruction,
        formal: Variable,
        actual: Operand,
        names: dict[str, str],
        moves: list[tuple[Operand, Variable]],
        result: bool,
    ) -> None:
        """A .param variable stands for the callee's; registers are copied in, or out behind the body."""
        if isinstance(actual, Symbol) and actual.name in self.result.variables and formal.name not in names:
            names[formal.name] = actual.name
        elif formal.name in names and result:
            moves.append((actual, formal))
        elif formal.name in names:
            self._plain(ins, f"mov.{formal.kind}", Reg(names[formal.name]), actual)
        else:
            raise ins.error(f"{actual} for parameter {formal.name}: a variable in .param space is needed")

    def _names(self, callee: Function, prefix: str) -> dict[str, str]:
        names: dict[str, str] = {}
        for name, kind in callee.registers.items():
            names[name] = prefix + name
            self.result.registers[prefix + name] = kind
        for name, variable in callee.variables.items():
            names[name] = prefix + name
            self.result.variables[prefix + name] = replace(variable, name=prefix + name)
        for name in callee.labels:
            names[name] = prefix + name
        for name, targets in callee.tables.items():
            names[name] = prefix + name
            self.result.tables[prefix + name] = tuple(prefix + target for target in targets)
        return names


def _renamed(ins: Instruction, names: dict[str, str]) -> Instruction:
    guard = ins.guard
    if guard is not None:
        guard = Reg(names.get(guard.name, guard.name))
    return replace(ins, operands=tuple(_operand(each, names) for each in ins.operands), guard=guard)


def _operand(operand: Operand, names: dict[str, str]) -> Operand:
    if isinstance(operand, Reg):
        return Reg(names.get(operand.name, operand.name))
    if isinstance(operand, Symbol):
        return Symbol(names.get(operand.name, operand.name), operand.offset)
    if isinstance(operand, Vector):
        return Vector(tuple(_operand(item, names) for item in operand.items))
    if isinstance(operand, Group):
        return Group(tuple(_operand(item, names) for item in operand.items))
    if isinstance(operand, Addr):
        coordinates = operand.coordinates
        if coordinates is not None:
            coordinates = Vector(tuple(_operand(item, names) for item in coordinates.items))
        base = _operand(operand.base, names)
        assert not isinstance(base, (Vector, Group, Addr, Not, Pair))
        return Addr(base, operand.offset, coordinates)  # type: ignore[arg-type]
    if isinstance(operand, Not):
        return Not(Reg(names.get(operand.operand.name, operand.operand.name)))
    if isinstance(operand, Pair):
        return Pair(_operand(operand.first, names), _operand(operand.second, names))  # type: ignore[arg-type]
    return operand

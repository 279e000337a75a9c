"""PTX text -> Module.

One pass: a regular expression finds the next statement; instructions (nearly all of them) are handled at once,
directives by a method each. Names that braces scope are made unique, so nothing behind this file knows of scopes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from hal_nvidia_ptx.emulator.declarations import LINKAGE, SPACES, Head, array_of, check_name, declared, initial_bytes
from hal_nvidia_ptx.emulator.header import check_directive, check_head, read
from hal_nvidia_ptx.emulator.operands import Names, Scope, parse_operand, split
from hal_nvidia_ptx.emulator.syntax import (
    WIDTH,
    Function,
    Instruction,
    Module,
    Operand,
    PtxError,
    Reg,
    Symbol,
    Variable,
)

_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_STATEMENT = re.compile(
    r"\s*(?:([A-Za-z_$%][\w$]*)\s*:(?!:)"  # 1 label
    r"|(?:@\s*(!?)\s*([\w$%.]+)\s+)?([a-z][\w.:]*)\s*([^;{}]*(?:\{[^{}]*\}[^;{}]*)*);"  # guard, 4 opcode, 5 operands
    r"|([{}])|\.(\w+)|;)"  # 6 brace, 7 directive
)
_DECLARATION = re.compile(r"[^;={]*(=\s*)?")
_HEAD = re.compile(r"\s*(\([^()]*\))?\s*([\w$%]+)\s*(\([^()]*\))?")
_TUNING = frozenset(
    ["maxntid", "reqntid", "minnctapersm", "maxnreg", "maxnctapersm", "reqnctapercluster", "explicitcluster"]
    + ["maxclusterrank", "noreturn", "blocksareclusters", "pragma"]
)
_SIZES = frozenset(("maxntid", "reqntid", "maxnreg", "reqnctapercluster", "maxclusterrank"))
_TO_LINE_END = frozenset(("loc", "file"))
_HEADER = frozenset(("address_size", "target", "version"))

Result = TypeVar("Result")


def parse(text: str) -> Module:
    """A Module. Raises PtxError, which names the line, for what is no PTX."""
    return _Parser(text).module()


def strip_comments(text: str) -> str:
    """The text with comments as blanks; line ends stay."""
    return _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = strip_comments(text)
        self.lines = text.splitlines()
        self.result = Module((0, 0), "", self.lines)
        self.pos = 0
        self.line, self._counted = 1, 0
        self.function: Function | None = None
        self.scope = self.top = Scope(0, None, Names({}))
        self.scopes = 0
        self.jumps: list[tuple[Instruction, Scope]] = []

    def module(self) -> Module:
        text, match, end = self.text, _STATEMENT.match, len(self.text.rstrip())
        while self.pos < end:
            found = match(text, self.pos)
            if found is None:
                self.fail("this is no PTX statement", self.pos)
            assert found is not None
            kind = found.lastindex
            self.pos = found.end()
            if kind == 5:
                self._instruction(found)
            elif kind == 1:
                self._label(found[1], found.start(1))
            elif kind == 6:
                self._brace(found[6], found.start(6))
            elif kind == 7:
                self._directive(found[7], found.start(7))
        if self.function is not None:
            self.fail(f"the body of {self.function.name} has no end", end)
        check_head(self.result)
        return self.result

    def at(self, position: int) -> int:
        """The line of a position; positions have to come in order."""
        self.line += self.text.count("\n", self._counted, position)
        self._counted = position
        return self.line

    def fail(self, message: str, position: int) -> None:
        line = self.text.count("\n", 0, self._skip(position)) + 1
        raise PtxError(message, line, self.lines[line - 1] if line <= len(self.lines) else "")

    def _skip(self, position: int) -> int:
        while position < len(self.text) and self.text[position].isspace():
            position += 1
        return position

    def _instruction(self, found: re.Match[str]) -> None:
        function = self.function
        start = found.start(4)
        if function is None:
            self.fail("an instruction outside of a function", start)
            return
        line = self.at(start)
        opcode, arguments = found[4], found[5]
        scope = self.scope
        operands, guard = self._located(line, self._operands, arguments, found[3], scope)
        if guard is not None and not isinstance(guard, Reg):
            raise PtxError(f"@{found[3]}: the guard is no register", line, self.lines[line - 1])
        instruction = Instruction(
            opcode, operands, line, found[0].strip(), guard, found[2] == "!", len(function.instructions)
        )
        function.instructions.append(instruction)
        if opcode[:2] == "br" or opcode[:4] == "call":
            self.jumps.append((instruction, scope))

    @staticmethod
    def _operands(arguments: str, guard: str | None, scope: Scope) -> tuple[tuple[Operand, ...], Operand | None]:
        known = scope.known
        operands = [known[part] if part in known else parse_operand(part, scope) for part in split(arguments.strip())]
        return tuple(operands), parse_operand(guard, scope) if guard else None

    def _label(self, name: str, position: int) -> None:
        function = self.function
        if function is None:
            self.fail(f"label {name} outside of a function", position)
            return
        if name in self.scope.labels:
            self.fail(f"label {name} is defined twice", position)
        unique = name if name not in function.labels else f"{name}@{self.scope.number}"
        self.scope.labels[name] = unique
        table = re.compile(r"\s*\.(branchtargets|calltargets|callprototype)\b([^;]*);").match(self.text, self.pos)
        if table is not None:
            function.tables[unique] = tuple(split(table[2].strip()))
            self.pos = table.end()
        else:
            function.labels[unique] = len(function.instructions)

    def _brace(self, brace: str, position: int) -> None:
        if self.function is None:
            self.fail("a brace outside of a function", position)
        if brace == "{":
            self._open()
        else:
            assert self.scope.parent is not None
            self.scope = self.scope.parent
            if self.scope is self.top:
                self._close_function()

    def _open(self) -> None:
        self.scopes += 1
        self.scope = Scope(self.scopes, self.scope, self.scope.all)

    def _close_function(self) -> None:
        function = self.function
        assert function is not None
        for instruction, scope in self.jumps:
            first = instruction.operands[0] if instruction.operands else None
            here = isinstance(first, Symbol) and scope.label(first.name) is not None
            instruction.operands = tuple(self._target(each, scope) for each in instruction.operands)
            if instruction.opcode.startswith("bra") and not here:
                raise PtxError(f"{first} is no label here", instruction.line, instruction.text)
        self.jumps = []
        self.function = None

    @staticmethod
    def _target(operand: Operand, scope: Scope) -> Operand:
        label = scope.label(operand.name) if isinstance(operand, Symbol) else None
        return operand if label is None else Symbol(label)

    def _directive(self, name: str, position: int) -> None:
        if name in SPACES:
            self._declare(name, position)
        elif name == "entry" or name == "func":
            self._function(name == "entry", position)
        elif name in _HEADER:
            self.pos = self._located(self.at(position), read, self.result, name, self.text, self.pos)
        elif name in _TO_LINE_END:
            self.pos = self._line_end()
        elif name in LINKAGE:
            pass
        elif name == "section":
            self.pos = self.text.index("}", self.pos) + 1
        elif name == "pragma" or name == "alias":
            self.pos = self.text.index(";", self.pos) + 1
        else:
            self.fail(f"unknown directive .{name}", position)

    def _line_end(self) -> int:
        end = self.text.find("\n", self.pos)
        return len(self.text) if end < 0 else end

    def _function(self, entry: bool, position: int) -> None:
        found = _HEAD.match(self.text, self.pos)
        if found is None or found[2] is None:
            self.fail("a function without a name", position)
            return
        line = self.at(position)
        self.pos = found.end()
        function = Function(found[2], line, entry)
        self.scope = self.top
        body_scope = Scope(0, self.top, Names(function.registers))
        for group, into in ((found[1], function.results), (found[3], function.params)):
            for text in filter(str.strip, group[1:-1].split(",") if group else []):
                into.append(self._parameter(text, body_scope, function, line))
        self._tuning(function)
        after = self._skip(self.pos)
        if self.text[after : after + 1] == ";":
            self.pos = after + 1
            return
        if self.text[after : after + 1] != "{":
            self.fail(f"expected the body of {function.name}", after)
        self.pos = after + 1
        self.function = function
        known = self.result.entries if entry else self.result.functions
        if function.name in known:
            self.fail(f"{function.name} is defined twice", position)
        known[function.name] = function
        self.scopes += 1
        body_scope.number = self.scopes
        self.scope = body_scope

    def _tuning(self, function: Function) -> None:
        pattern = re.compile(r"\s*\.(\w+)([^.;{}]*)")
        while (found := pattern.match(self.text, self.pos)) is not None:
            if found[1] not in _TUNING:
                self.fail(f"unknown directive .{found[1]} of {function.name}", found.start(1))
            numbers = tuple(int(number) for number in re.findall(r"\d+", found[2]))
            self._located(self.at(found.start(1)), check_directive, self.result, found[1])
            if found[1] in _SIZES and not all(numbers):
                self.fail(f".{found[1]} of 0", found.start(1))
            function.directives[found[1]] = numbers
            self.pos = found.end()
        if {"maxntid", "reqntid"} <= function.directives.keys():
            self.fail(f"{function.name} has both .maxntid and .reqntid", self.pos)

    def _parameter(self, text: str, scope: Scope, function: Function, line: int) -> Variable:
        words = re.sub(r"\.ptr\b(\s*\.(global|shared|const|local|param)\b)?(\s*\.align\s+\d+)?", " ", text)
        head, rest = self._located(line, declared, words)
        name, count, array = array_of(rest.strip())
        variable = Variable(name, "param", head.kind, max(count, 1), max(head.align, WIDTH[head.kind]), line, array)
        if head.space == "reg":
            scope.names[name] = name
            function.registers[name] = head.kind
        else:
            if name in scope.variables:
                raise PtxError(f"parameter {name} is declared twice", line, self.lines[line - 1])
            scope.variables[name] = variable
        return variable

    def _located(self, line: int, parse: Callable[..., Result], *arguments: Any) -> Result:
        """What `parse` gives; its errors get the line."""
        try:
            return parse(*arguments)
        except PtxError as error:
            raise PtxError(str(error), line, self.lines[line - 1]) from None

    def _declare(self, space: str, position: int) -> None:
        line = self.at(position)
        found = _DECLARATION.match(self.text, self.pos)
        assert found is not None
        head = found[0][: -len(found[1])] if found[1] else found[0]
        self.pos = found.end()
        initial = ""
        if found[1]:
            end = self.text.find(";", self.pos)
            initial = self.text[self.pos : end]
            self.pos = end
        if self.text[self.pos : self.pos + 1] != ";":
            self.fail(f"the .{space} declaration does not end in a semicolon", self.pos)
        self.pos += 1
        front, names = self._located(line, declared, f".{space} {head}")
        for name in map(str.strip, names.split(",")):
            if space == "reg":
                self._register(name, front.kind, position)
            else:
                self._variable(front, name, initial, line)

    def _register(self, name: str, kind: str, position: int) -> None:
        function, scope = self.function, self.scope
        if function is None:
            self.fail("a register outside of a function", position)
            return
        if scope.declares(name):
            self.fail(f"{name} is declared twice", position)
        many = re.fullmatch(r"([%\w$]+?)<(\d+)>", name)
        taken = function.registers
        if many is None:
            self._located(self.at(position), check_name, name)
            unique = name if name not in taken else f"{name}@{scope.number}"
            scope.names[name] = unique
            scope.all.renamed |= unique != name
            taken[unique] = kind
            return
        prefix = many[1]
        if f"{prefix}0" in taken or f"{prefix}1" in taken:
            prefix = f"{prefix}@{scope.number}."
            scope.all.renamed = True
        scope.ranges[many[1]] = (int(many[2]), prefix)
        for number in range(int(many[2])):
            taken[f"{prefix}{number}"] = kind

    def _variable(self, head: Head, text: str, initial: str, line: int) -> None:
        name, count, array = self._located(line, array_of, text)
        function, width = self.function, WIDTH[head.kind]
        if name in self.scope.variables and not self.scope.variables[name].array:
            raise PtxError(f"{name} is declared twice", line, self.lines[line - 1])
        if initial and head.space not in ("global", "const"):
            raise PtxError(f".{head.space} memory has no initial values", line, self.lines[line - 1])
        table = self.result.variables if function is None else function.variables
        unique = name if name not in table else f"{name}@{self.scope.number}"
        data, relocations = self._located(line, initial_bytes, initial, head.kind) if initial else (None, ())
        if data is not None and count and len(data) > count * width:
            raise PtxError(f"{len(data) // width} initial values for {count}", line, self.lines[line - 1])
        if data is not None:
            count = max(count, len(data) // width)
            data = data.ljust(count * width, b"\0")
        elif head.space in ("global", "const"):
            data = bytes(count * width)
        variable = Variable(unique, head.space, head.kind, count, head.align or width, line, array, data, relocations)
        table[unique] = variable
        self.scope.variables[name] = variable
        self.scope.known.pop(name, None)

"""Operands of PTX instructions from their text, in the scope of names that they stand in."""

from __future__ import annotations

import ast
import operator
import re
import struct
from dataclasses import dataclass, field

from hal_nvidia_ptx.emulator.syntax import (
    WIDTH,
    Addr,
    Group,
    Imm,
    Not,
    Operand,
    Pair,
    PtxError,
    Reg,
    Sink,
    Symbol,
    Variable,
    Vector,
)

SPECIAL = frozenset(
    ["%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid", "%clock", "%clock_hi", "%clock64"]
    + ["%globaltimer", "%globaltimer_lo", "%globaltimer_hi", "%cluster_ctarank", "%cluster_nctarank"]
    + ["%is_explicit_cluster", "%dynamic_smem_size", "%total_smem_size", "%aggr_smem_size"]
    + ["%reserved_smem_offset_begin"]
    + [f"%lanemask_{relation}" for relation in ("eq", "le", "lt", "ge", "gt")]
    + [
        f"%{name}.{axis}"
        for name in ("tid", "ntid", "ctaid", "nctaid", "cluster_ctaid", "cluster_nctaid", "clusterid", "nclusterid")
        for axis in "xyz"
    ]
)  # fmt: skip

_SPLIT = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|[^,\s\[{][^,\[{]*(?:\[[^\[\]]*\])?[^,\[{]*")
_NUMBERED = re.compile(r"(.*?)(\d+)$", re.DOTALL)
_NAME = re.compile(r"[%A-Za-z_$][\w$.]*$")
_DECIMAL = re.compile(r"-?(\d+\.\d*|\.?\d+)([eE][-+]?\d+)?$")
_HEX_FLOAT = re.compile(r"(-?)0([fFdD])([0-9a-fA-F]+)$")
_INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?$")
_OFFSET = re.compile(r"\[\s*([%A-Za-z_$][\w$.]*)\s*(?:\+\s*([^,\]]+?)\s*)?\]$")
_ELEMENT = re.compile(r"([A-Za-z_$][\w$]*)\[([^\[\]]+)\]$")
_ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv,
    ast.Mod: operator.mod, ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.USub: operator.neg, ast.Invert: operator.invert,
}  # fmt: skip


@dataclass(slots=True)
class Names:
    """The registers of a function, unique name -> type, and whether any had to be renamed to be unique."""

    registers: dict[str, str]
    renamed: bool = False


@dataclass(slots=True)
class Scope:
    """The names declared between a pair of braces, in terms of names unique in the function."""

    number: int
    parent: Scope | None
    all: Names
    names: dict[str, str] = field(default_factory=dict)  # register as written -> unique
    ranges: dict[str, tuple[int, str]] = field(default_factory=dict)  # prefix -> (count, unique prefix)
    variables: dict[str, Variable] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    known: dict[str, Operand] = field(default_factory=dict)  # operands seen in this scope

    def declares(self, name: str) -> bool:
        """Whether a register, or a range `%r<4>`, is declared between these braces already, in whole or part."""
        stem, _, count = name.partition("<")
        if count:
            below = int(count.rstrip("> "))
            taken = (each.removeprefix(stem) for each in self.names if each.startswith(stem))
            return stem in self.ranges or any(each.isdigit() and int(each) < below for each in taken)
        numbered = _NUMBERED.match(name)
        within = numbered is not None and int(numbered[2]) < self.ranges.get(numbered[1], (0, ""))[0]
        return name in self.names or within

    def register(self, name: str) -> str | None:
        """The unique name of a declared register, None if there is none of this name."""
        if not self.all.renamed:
            return name if name in self.all.registers else None
        numbered = _NUMBERED.match(name)
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if numbered is not None and numbered[1] in scope.ranges:
                count, prefix = scope.ranges[numbered[1]]
                if int(numbered[2]) < count and str(int(numbered[2])) == numbered[2]:
                    return prefix + numbered[2]
            scope = scope.parent
        return None

    def variable(self, name: str) -> Variable | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope.variables[name]
            scope = scope.parent
        return None

    def label(self, name: str) -> str | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.labels:
                return scope.labels[name]
            scope = scope.parent
        return None


def split(text: str) -> list[str]:
    """Operand texts between the commas that are not inside brackets."""
    if "(" in text:
        return _split_nested(text)
    if "{" in text or "[" in text:
        return [part.strip() for part in _SPLIT.findall(text)]
    return [part.strip() for part in text.split(",")] if text else []


def _split_nested(text: str) -> list[str]:
    """The same where there are parentheses, which may stand in each other."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse_operand(text: str, scope: Scope) -> Operand:
    """One operand. Raises PtxError (without a line) for text that is none."""
    known = scope.known.get(text)
    if known is None:
        plain = scope.register(text)
        known = scope.known[text] = _parse(text, scope) if plain is None else Reg(plain)
    return known


def _parse(text: str, scope: Scope) -> Operand:
    first = text[:1]
    if first == "[":
        return _address(text, scope)
    if first == "{":
        return Vector(tuple(parse_operand(part, scope) for part in split(text[1:-1].strip())))
    if first == "(":
        if number := constant(text):
            return number
        if text[-1] != ")":
            raise PtxError(f"{text!r} is no operand")
        return Group(tuple(parse_operand(part, scope) for part in split(text[1:-1].strip())))
    if text == "_":
        return Sink()
    if first == "!":
        return Not(_register(text[1:].strip(), scope))
    if "|" in text:
        one, _, two = text.partition("|")
        return Pair(_register_or_sink(one.strip(), scope), _register_or_sink(two.strip(), scope))
    if _NAME.match(text):
        return _named(text, scope)
    number = constant(text)
    if number is not None:
        return number
    if element := _ELEMENT.match(text):
        variable = scope.variable(element[1])
        if variable is not None:
            return Addr(Symbol(variable.name), _integer(element[2].strip()) * WIDTH[variable.kind])
    if plus := re.match(r"([A-Za-z_$%][\w$]*)\s*\+\s*(\w+)$", text):
        return Symbol(_symbol(plus[1], scope), _integer(plus[2]))
    raise PtxError(f"{text!r} is no operand")


def _named(name: str, scope: Scope) -> Operand:
    unique = scope.register(name)
    if unique is not None:
        return Reg(unique)
    if name in SPECIAL:
        if "." in name and scope.register(name.partition(".")[0]) is not None:
            raise PtxError(f"{name}: the text has a register {name.partition('.')[0]}, which hides it")
        return Reg(name)
    if name == "WARP_SZ":
        return Imm(32)
    if name[0] == "%" and scope.variable(name) is None:
        return Reg(name)  # not declared, or special and not known: an error in the kernel that is run, and only there
    return Symbol(_symbol(name, scope))


def _symbol(name: str, scope: Scope) -> str:
    variable = scope.variable(name)
    return variable.name if variable is not None else name


def _register(name: str, scope: Scope) -> Reg:
    operand = _named(name, scope)
    if not isinstance(operand, Reg):
        raise PtxError(f"register {name} is not declared")
    return operand


def _register_or_sink(name: str, scope: Scope) -> Reg | Sink:
    return Sink() if name == "_" else _register(name, scope)


def _address(text: str, scope: Scope) -> Addr:
    plain = _OFFSET.match(text)
    if plain is not None:
        base = _named(plain[1], scope)
        offset = 0 if plain[2] is None else _integer(plain[2])
        if isinstance(base, (Reg, Symbol)):
            return Addr(base, offset)
    inner = text[1:-1].strip()
    if "," in inner:
        head, _, tail = inner.partition(",")
        plain_head = _address(f"[{head.strip()}]", scope)
        coordinates = parse_operand(tail.strip(), scope)
        if not isinstance(coordinates, Vector):
            raise PtxError(f"{tail.strip()!r}: coordinates are written {{c0, c1, …}}")
        return Addr(plain_head.base, plain_head.offset, coordinates)
    number = constant(inner)
    if isinstance(number, Imm) and isinstance(number.value, int):
        return Addr(number)
    raise PtxError(f"{text!r} is no address")


def constant(text: str) -> Imm | None:
    """A constant or constant expression, None if the text is neither."""
    whole = _INTEGER.match(text)
    if whole is not None:
        digits = whole[2]
        octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
        if octal and not digits.strip("01234567") == "":
            raise PtxError(f"{text}: a number that starts with 0 is octal")
        value = int(digits, 8) if octal else int(digits, 0)
        if value >= 1 << 64:
            raise PtxError(f"{text} has more than 64 bits")
        return Imm(-value if whole[1] else value)
    exact = _HEX_FLOAT.match(text)
    if exact is not None:
        single = exact[2] in "fF"
        if len(exact[3]) != (8 if single else 16):
            raise PtxError(f"{text}: a constant 0f has 8 digits, 0d has 16")
        raw = int(exact[3], 16)
        value = (
            struct.unpack("<f", struct.pack("<I", raw))[0] if single else struct.unpack("<d", struct.pack("<Q", raw))[0]
        )
        return Imm(-value if exact[1] else value, 32 if single else 64)
    if _DECIMAL.match(text):
        return Imm(float(text), 64)
    return _expression(text)


def _integer(text: str) -> int:
    number = constant(text)
    if number is None or not isinstance(number.value, int):
        raise PtxError(f"{text!r} is no integer constant")
    return number.value


def _expression(text: str) -> Imm | None:
    cleaned = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uU]\b", r"\1", text.replace("WARP_SZ", "32"))
    if not re.fullmatch(r"[\w\s()+\-*/%<>&|^~]+", cleaned) or not re.search(r"\d", cleaned):
        return None
    try:
        return Imm(_evaluate(ast.parse(cleaned.strip(), mode="eval").body))
    except (SyntaxError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _evaluate(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return int(_ARITHMETIC[type(node.op)](_evaluate(node.operand)))  # type: ignore[operator]
    if isinstance(node, ast.BinOp):
        return int(_ARITHMETIC[type(node.op)](_evaluate(node.left), _evaluate(node.right)))  # type: ignore[operator]
    raise KeyError(type(node))

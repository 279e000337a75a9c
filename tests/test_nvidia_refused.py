"""Texts that the assembler refuses are refused by the emulator too, with the line: heads, targets, types, modifiers.

`tests/golden/lines` has what ptxas says of each line: operands.txt whether it takes it (+) or not (-), needs.txt the
lowest .version and .target. Where ptxas is installed its answers are asked for again.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from hal.errors import BackendUnavailable, CompileError
from hal_nvidia_ptx import check
from hal_nvidia_ptx.assembly.assembler import assemble, tool
from hal_nvidia_ptx.emulator import program
from hal_nvidia_ptx.emulator.operands import split
from hal_nvidia_ptx.emulator.places import excerpt, place_of
from hal_nvidia_ptx.emulator.source import parse
from hal_nvidia_ptx.emulator.syntax import PtxError
from hal_nvidia_ptx.requirements import register_requirement, requirement

LINES = Path(__file__).parent / "golden" / "lines"
REGISTERS = """.reg .pred %p<8>; .reg .b16 %h<8>; .reg .u16 %uh<4>; .reg .s16 %sh<4>; .reg .f16 %hf<4>;
.reg .b32 %b<8>; .reg .u32 %u<8>; .reg .s32 %s<8>; .reg .f32 %f<8>; .reg .f64 %fd<8>; .reg .b64 %bd<8>;
.reg .u64 %ud<8>; .reg .s64 %sd<8>; .reg .f16x2 %hx<4>; .reg .b8 %o<4>; .reg .u8 %uo<4>;
.shared .align 16 .b8 sm[1024]; .local .align 16 .b8 lm[64];"""

# Lines on which the emulator differs (marked ! in the file): forms that no compiler writes and it does not know, and
# vectors of registers of different widths.
DIFFERENT = 10


def text(lines: list[str], version: str, target: str) -> str:
    body = "\n".join(lines)
    return (
        f".version {version}\n.target {target}\n.address_size 64\n"
        f".visible .entry k(.param .u64 X, .param .align 64 .b8 T[128])\n{{\n{REGISTERS}\n{body}\nret;\n}}\n"
    )


def refused(lines: list[str], version: str, target: str) -> set[int]:
    """Which of the lines ptxas does not take; asked again without those, since some errors hide others."""
    first = text([], version, target).count("\n") - 2
    bad: set[int] = set()
    while True:
        left = [index for index in range(len(lines)) if index not in bad]
        try:
            assemble(text([lines[index] for index in left], version, target), target, options=("-O0",))
            return bad
        except CompileError as error:
            found = {int(number) - first for number in re.findall(r"line (\d+); (?:error|fatal)", error.log)}
            assert found, error.log
            bad |= {left[number] for number in found if 0 <= number < len(left)}


def loads(line: str, version: str, target: str) -> bool:
    try:
        program.load(text([line], version, target), "k", target)
    except PtxError as error:
        assert error.line == text([], version, target).count("\n") - 2, (line, str(error))
        return False
    return True


def operand_lines() -> list[tuple[str, str]]:
    """(mark, line)"""
    rows = (LINES / "operands.txt").read_text().splitlines()
    return [(row[:2].strip(), row[3:]) for row in rows]


def need_lines() -> list[tuple[str, str, str]]:
    """(version, target, line)"""
    return [tuple(row.split(None, 2)) for row in (LINES / "needs.txt").read_text().splitlines()]  # type: ignore[misc]


def has_assembler() -> bool:
    try:
        tool("ptxas")
    except BackendUnavailable:
        return False
    return True


with_assembler = pytest.mark.skipif(not has_assembler(), reason="ptxas is not installed")


def test_operands_of_a_wrong_type_and_unknown_modifiers_are_refused_where_the_assembler_does() -> None:
    rows = operand_lines()
    wrong = [line for mark, line in rows if loads(line, "8.8", "sm_90a") != (mark in ("+", "-!"))]
    assert wrong == []
    assert len(rows) > 600
    assert sum("!" in mark for mark, _ in rows) == DIFFERENT


@with_assembler
def test_what_the_file_says_of_operands_is_what_the_assembler_says() -> None:
    rows = operand_lines()
    bad = refused([line for _, line in rows], "8.8", "sm_90a")
    assert [line for index, (mark, line) in enumerate(rows) if (mark[0] == "-") != (index in bad)] == []


def test_lowest_versions_and_targets() -> None:
    wrong = []
    for version, target, line in need_lines():
        opcode, _, operands = line.rstrip(";").partition(" ")
        names = split(operands.strip())
        needs = register_requirement(names[1]) if opcode.startswith("mov.") else requirement(opcode, len(names))
        stated = tuple(map(int, version.split(".")))
        wanted = max(stated, (6, 3)), 75 if target == "sm_70" else int(re.sub(r"\D", "", target))
        if (max(needs.version, (6, 3)), max(needs.sm, 75)) != wanted or (target[-1] == "a") != bool(needs.targets):
            wrong.append((line, str(needs), version, target))
    assert wrong == []


@with_assembler
def test_what_the_file_says_of_versions_is_what_the_assembler_says() -> None:
    rows = sorted(need_lines())
    for (version, target), group in groupby(rows, key=lambda row: row[:2]):
        lines = [line for _, _, line in group]
        if target != "sm_70":
            assert refused(lines, version, target) == set(), (version, target)
            below = {"sm_80": "sm_75", "sm_86": "sm_80", "sm_89": "sm_86", "sm_90": "sm_89", "sm_90a": "sm_90"}
            if target in below:
                assert len(refused(lines, "8.8", below[target])) == len(lines), (version, target)


@pytest.mark.parametrize(
    ("version", "target", "line", "message"),
    [
        ("7.8", "sm_90", "fence.proxy.async;", "takes .version 8.0 or newer and .target sm_90 or newer, the text has"),
        ("8.0", "sm_90", "wgmma.fence.sync.aligned;", "takes .version 8.0 or newer and .target sm_90a"),
        ("8.0", "sm_80", "mbarrier.try_wait.shared.b64 %p0, [%u0], %bd0;", "sm_90 or newer"),
        ("8.0", "sm_75", "cp.async.wait_all;", "sm_80 or newer"),
        ("8.0", "sm_90", "min.f32 %f0, %f1, %f2, %f3;", "sm_100 or newer"),
        ("8.0", "sm_80", "mov.u32 %u0, %cluster_ctarank;", "%cluster_ctarank takes"),
        ("8.0", "sm_80", "mul.low.s32 %s0, %s1, %s2;", "mul.s32 has no modifier .low; it has .hi .lo .wide"),
        ("8.0", "sm_80", "add.f32 %f0, %f1, %fd1;", "%fd1 is .f64, .f32 is wanted"),
        ("8.0", "sm_80", "mov.f32 %f0, 1;", "the constant 1 cannot stand for .f32"),
        ("8.0", "sm_80", "st.global.s32 [%ud0], %f0;", "%f0 is .f32, .s32 is wanted"),
        ("8.0", "sm_80", "st.global.u64 [%ud0], %u0;", "%u0 is .u32, .u64 is wanted"),
    ],
)
def test_errors_say_what_is_wanted_and_what_is_there(version: str, target: str, line: str, message: str) -> None:
    with pytest.raises(PtxError) as caught:
        program.load(text([line], version, target), "k", target)
    assert message in str(caught.value)
    assert line in str(caught.value)


def test_the_value_of_a_register_keeps_its_type() -> None:
    """Also where the register is a constant, whose readers get the value."""
    with pytest.raises(PtxError, match=r"line 11: a \.u32 register's value cannot stand for \.f32"):
        program.load(text(["mov.u32 %u0, 5;", "add.f32 %f0, %f1, %u0;"], "8.0", "sm_80"), "k", "sm_80")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (".version 8.0\n.target sm_99", "line 2: .target sm_99 is not emulated; known are sm_50"),
        (".version 8.0", "line 1: the text has no .target"),
        (".target sm_80", "line 1: the text has no .version"),
        (".version 12.0\n.target sm_80", "line 1: .version 12.0 is newer than"),
        (".version 6.0\n.target sm_80", "line 2: .target sm_80 takes .version 7.0 or newer, the text has 6.0"),
        (".version 8\n.target sm_80", "line 1: .version 8: write it as 8.0"),
        (".version 8.0\n.target sm_80\n.address_size 32", "line 3: .address_size 32: addresses have 64 bits"),
    ],
)
def test_heads_that_no_assembler_takes(head: str, message: str) -> None:
    with pytest.raises(PtxError) as caught:
        parse(f"{head}\n.visible .entry k() {{ ret; }}\n")
    assert str(caught.value).startswith(message)


def test_texts_for_old_chips_run_on_newer_ones() -> None:
    module = parse(".version 6.0\n.target sm_70, debug\n.visible .entry k() { ret; }")
    assert (module.version, module.target) == ((6, 0), "sm_70")
    program.build(module, "k", "sm_80")


COMPILED = """.version 8.0
.target sm_80
.file 1 "/home/a/k.cu"
.visible .entry k()
{
    .reg .f32 %f<4>;
    .reg .b32 %r<4>;
    .loc 1 12 3
    // begin inline asm
    mov.u32 %r1, 1;
    // end inline asm
    // the last of
    // three
    // lines that
    // speak of it
    mov.u32 %r2, 2;
    .loc 2 7 1, function_name $L__info_string0, inlined_at 1 14 3
    mov.u32 %r3, 3;
    ret;
}
.visible .entry other()
{
    ret;
}
.file 2 "/home/b" "h.cuh"
"""


def test_a_place_names_the_source_that_the_text_was_compiled_from() -> None:
    lines = COMPILED.splitlines()
    assert [place_of(lines, n).source for n in (6, 10, 16, 18, 23)] == [
        "",
        "/home/a/k.cu:12",
        "/home/a/k.cu:12",
        "/home/b/h.cuh:7, inlined at /home/a/k.cu:14",
        "",
    ]
    assert excerpt(place_of(lines, 10)) == ["    10 | mov.u32 %r1, 1;", "       | from /home/a/k.cu:12"]


def test_what_compilers_say_of_themselves_is_no_comment() -> None:
    lines = COMPILED.splitlines()
    assert place_of(lines, 10).comment == ""
    assert place_of(lines, 16).comment == "three lines that speak of it"


def kernel(body: str, before: str = "", head: str = ".visible .entry k(.param .u64 X)", target: str = "sm_80") -> str:
    return f".version 8.0\n.target {target}\n.address_size 64\n{before}\n{head}\n{{\n{body}\nret;\n}}\n"


WHOLE_TEXTS = {
    "a register that hides a special one": kernel(".reg .u32 %tid; mov.u32 %tid, %tid.x;"),
    "a register twice": kernel(".reg .u32 %a; .reg .u32 %a;"),
    "a register of a range": kernel(".reg .u32 %a<4>; .reg .u32 %a1;"),
    "a range twice": kernel(".reg .u32 %a<4>; .reg .f32 %a<2>;"),
    "a variable twice": kernel(".shared .b32 s; .shared .b32 s;"),
    "a parameter twice": kernel("", head=".visible .entry k(.param .u64 X, .param .u64 X)"),
    "an entry twice": kernel("") + ".visible .entry k() { ret; }",
    "a label twice": kernel("A: A:"),
    "a label between other braces": kernel("{ A: } bra A;"),
    "a register beyond its range": kernel(".reg .u32 %a<4>; mov.u32 %a4, 1;"),
    "an odd alignment": kernel("", ".shared .align 3 .b8 s[4];"),
    "too much static shared memory": kernel(".reg .u32 %r; mov.u32 %r, s;", ".shared .align 4 .b8 s[49153];"),
    "initial values of shared memory": kernel("", ".shared .b32 s = 5;"),
    "too many initial values": kernel("", ".global .b32 s[2] = {1,2,3};"),
    "a type that is none": kernel(".reg .u33 %r;"),
    "a guard that is no predicate": kernel(".reg .u32 %r; @%r mov.u32 %r, 1;"),
    "a declaration without semicolon": kernel(".reg .u32 %r\nmov.u32 %r, 1;"),
    "an instruction without semicolon": kernel(".reg .u32 %r;\nmov.u32 %r, 1\nmov.u32 %r, 2;"),
    "a name that starts with a digit": kernel(".reg .u32 1a;"),
    "no threads": kernel("", head=".visible .entry k() .maxntid 0"),
    "a cluster on a chip that has none": kernel("", head=".visible .entry k() .reqnctapercluster 2"),
    "two sizes of a block": kernel("", head=".visible .entry k() .maxntid 32 .reqntid 32"),
    "a value for ret": kernel(".reg .u32 %r; ret %r;"),
    "more than 64 bits": kernel(".reg .u32 %r; mov.u32 %r, 99999999999999999999999;"),
    "no octal number": kernel(".reg .u32 %r; mov.u32 %r, 08;"),
    "a short float": kernel(".reg .f32 %r; mov.f32 %r, 0f3F8;"),
    "an offset that is subtracted": kernel(".reg .u64 %r; .reg .u32 %q; ld.global.u32 %q, [%r-8];"),
    "an address without brackets": kernel(".reg .u64 %r; .reg .u32 %q; ld.global.u32 %q, %r;"),
    "a variable of another space": kernel(".reg .u32 %q; ld.shared.u32 %q, [s];", ".global .b32 s[4];"),
    "a store to constants": kernel(".reg .u32 %q; mov.u32 %q, 1; st.const.u32 [s], %q;", ".const .b32 s[4];"),
}


@pytest.mark.parametrize("name", WHOLE_TEXTS)
def test_texts_that_the_assembler_refuses_are_refused(name: str) -> None:
    with pytest.raises(PtxError) as caught:
        program.load(WHOLE_TEXTS[name], "k", "sm_80")
    assert caught.value.line
    if has_assembler():
        with pytest.raises(CompileError):
            assemble(WHOLE_TEXTS[name], "sm_80")


GOOD_TEXTS = {
    "constant expressions": (".reg .u32 %r; mov.u32 %r, (1<<4)|3;", ""),
    "nested parentheses": (".reg .u32 %r; mov.u32 %r, ((1 + 2) * (3 + 4));", ""),
    "negative offsets": (".reg .u64 %r; .reg .u32 %q; ld.global.u32 %q, [%r+-8];", ""),
    "an element of an array": (".reg .u32 %q; ld.shared.u32 %q, s[1];", ".shared .b32 s[4];"),
    "one name in two scopes": ("{ .reg .u32 %a; .reg .f32 %b<2>; } { .reg .f32 %a; .reg .u32 %b<3>; A: } A:", ""),
}


@pytest.mark.parametrize("name", GOOD_TEXTS)
def test_texts_that_the_assembler_takes_are_taken(name: str) -> None:
    text = kernel(*GOOD_TEXTS[name])
    program.load(text, "k", "sm_80")
    if has_assembler():
        assemble(text, "sm_80")


def test_an_element_of_an_array_is_counted_in_its_type() -> None:
    body = """
    .reg .u64 %p; .reg .u32 %a, %b;
    ld.param.u64 %p, [X]; mov.u32 %a, 7; st.shared.u32 [s+8], %a; ld.shared.u32 %b, s[2]; st.global.u32 [%p], %b;
    """
    report = check(kernel(body, ".shared .align 4 .b32 s[4];"), 1, 1, ["x:u32[1]"])
    assert report.clean and report.outputs["x"].tolist() == [7]

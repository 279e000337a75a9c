"""One kernel measured without a GPU: assembled, disassembled, and its machine code read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hal.errors import UnsupportedError
from hal.kernel import Config, Kernel
from hal.ops import OPERATORS
from hal_nvidia_ptx.assembly import pipeline
from hal_nvidia_ptx.assembly.assembler import assemble, in_order
from hal_nvidia_ptx.assembly.occupancy import occupancy
from hal_nvidia_ptx.assembly.paths import main_loop, main_path
from hal_nvidia_ptx.assembly.sass import GROUP_MMA, LOCAL, Function, disassemble
from hal_nvidia_ptx.figures.cases import Case, cases, device_info
from hal_nvidia_ptx.figures.goals import goal_of, has_own
from hal_nvidia_ptx.target import CHECKED, TARGETS

KIB = 1024


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one kernel on one target. What a kernel has not is None: a loop in rows, elements in matmul.

    version: lowest PTX `.version`. spills: bytes of spills and stack. shared: bytes, static and dynamic. blocks, share:
    per SM, and of the SM's threads. others: loop instructions for each MMA that are none. fma: share of FFMA or DFMA in
    a loop without MMAs. cover, port, util: pipeline.py. slots: instructions per element. flight: KiB of loads
    under way per SM before the first wait. barriers: on a thread's path, or in the loop. special: MUFU per element.
    """

    version: str
    registers: int
    spills: int
    shared: int
    threads: int
    blocks: int
    share: float
    code: int
    complaints: tuple[str, ...] = ()
    loop: int | None = None
    others: float | None = None
    fma: float | None = None
    cover: float | None = None
    port: float | None = None
    util: float | None = None
    slots: float | None = None
    flight: float | None = None
    barriers: int | None = None
    special: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to measure: `case` gives the name, `itemsize` is that of the elements that it stores."""

    case: str
    target: str
    config: Config
    kernel: Kernel
    threads: int
    shared: int
    matmul: bool
    itemsize: int

    @property
    def key(self) -> str:
        """Unique in a table."""
        return f"{self.case} | {self.target} | {self.config} | {self.kernel.entry}"


def measure(text: str, entry: str, target: str, threads: int, shared: int, itemsize: int, matmul: bool) -> Figures:
    """Assemble one text and read its machine code. `shared`: dynamic bytes; `itemsize`: of what rows store.

    Raises CompileError; BackendUnavailable without the assembler.
    """
    done = assemble(text, target)
    usage = done.entry(entry)
    function = disassemble(done.cubin)[entry]
    all_shared = usage.shared + shared
    resident = occupancy(TARGETS[target], usage.registers, all_shared, threads)
    complaints = list(done.complaints)
    if function.count(*LOCAL):
        complaints.append(f"{entry}: {function.count(*LOCAL)} accesses to local memory")
    version = re.search(r"^\.version (\S+)", text, re.MULTILINE)
    return Figures(
        version=version[1] if version else "",
        registers=usage.registers,
        spills=usage.spill_stores + usage.spill_loads + usage.stack,
        shared=all_shared,
        threads=threads,
        blocks=resident.blocks,
        share=resident.share,
        code=function.code_bytes,
        complaints=tuple(complaints),
        **(
            _loop(function, target, threads, resident.blocks) if matmul else _path(function, itemsize, resident.threads)
        ),
    )


def _loop(function: Function, target: str, threads: int, blocks: int) -> dict[str, Any]:
    """The figures of a main loop; nothing where there is none. A warp group's MMAs run beside its other instructions,
    which the simulation does not follow."""
    loop = main_loop(function)
    if loop is None:
        return {}
    known = TARGETS[target]
    return {
        "loop": len(loop.instructions),
        "others": loop.others_per_mma if loop.mmas else None,
        "fma": loop.fma_share if not loop.mmas else None,
        "cover": pipeline.cover(loop, known),
        "port": pipeline.shared_load(loop, known),
        "util": None if loop.count(*GROUP_MMA) else pipeline.utilization(loop, known, threads // 32, blocks),
        "barriers": loop.count("BAR"),
    }


def _path(function: Function, itemsize: int, resident: int) -> dict[str, Any]:
    """The figures of a thread's path; nothing where it stores nothing."""
    path = main_path(function)
    elements = path.stored_bytes / itemsize
    if not elements:
        return {}
    return {
        "slots": len(path.instructions) / elements,
        "flight": path.bytes_in_flight * resident / KIB,
        "barriers": path.count("BAR"),
        "special": path.count("MUFU") / elements,
    }


def jobs(which: Iterable[Case], targets: Sequence[str], every_config: bool) -> Iterator[Job]:
    """The kernels of these calls; equal ones once. Of each call the config that a device would take, of matmul also
    those that have goals of their own; or every one."""
    from hal_nvidia_ptx.kernels import ALGORITHMS

    seen: set[tuple[str, Kernel, int, int]] = set()
    for case in which:
        algorithm, op = ALGORITHMS[case.op.name], case.op
        op_class = OPERATORS[op.name].classify(op)
        for target in targets:
            configs = list(algorithm.configs(op, device_info(target)))
            for i, config in enumerate(configs):
                own = case.is_matmul and has_own(goal_of(case.name, target, config))
                if i and not own and not every_config:
                    continue
                try:
                    kernels, schedule = algorithm.kernels(op_class, config), algorithm.schedule(op, config)
                except UnsupportedError:
                    continue  # as prepare does: the next config
                for index, kernel in enumerate(kernels):
                    launches = [launch for launch in schedule.launches if launch.kernel == index]
                    if not launches:
                        continue
                    threads = max(launch.block[0] * launch.block[1] * launch.block[2] for launch in launches)
                    shared = max(launch.shared_bytes for launch in launches)
                    if (same := (target, kernel, threads, shared)) not in seen:
                        seen.add(same)
                        yield Job(case.name, target, config, kernel, threads, shared, case.is_matmul, case.itemsize)


def measure_all(work: Iterable[Job]) -> Iterator[tuple[Job, Figures]]:
    """Each job with its figures, in order, two at a time. Raises CompileError at the first that does not assemble."""

    def one(job: Job) -> tuple[Job, Figures]:
        kernel = job.kernel
        figures = measure(kernel.source, kernel.entry, job.target, job.threads, job.shared, job.itemsize, job.matmul)
        return job, figures

    yield from in_order(one, work)


def lowest_versions(which: Iterable[Case] | None = None) -> list[tuple[str, str, str]]:
    """(algorithm, target, lowest PTX version that has all its instructions); nothing is assembled."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for job in jobs(cases() if which is None else which, CHECKED, every_config=True):
        version = re.search(r"^\.version (\d+)\.(\d+)", job.kernel.source, re.MULTILINE)
        assert version is not None  # the writer gives every module one
        place = (f"{job.case.split()[0]} {job.config.name}", job.target)
        found[place] = max(found.get(place, (0, 0)), (int(version[1]), int(version[2])))
    return [(name, target, f"{version[0]}.{version[1]}") for (name, target), version in sorted(found.items())]


def version_table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """`lowest_versions` as lines of a Markdown table: an algorithm a row, a target a column."""
    found: dict[str, dict[str, str]] = {}
    for name, target, version in rows:
        found.setdefault(name, {})[target] = version
    head = ["| kernel | " + " | ".join(CHECKED) + " |", "|---" * (1 + len(CHECKED)) + "|"]
    return head + [
        f"| {name} | " + " | ".join(versions.get(target, "–") for target in CHECKED) + " |"
        for name, versions in found.items()
    ]

"""Compile the decode kernels ahead of time for graphics cards that are not here.

    python benchmarks/compile_check.py [--targets cuda:86 hip:gfx1100] [--jobs 2]

Prints registers, instructions per decoded weight (NVIDIA), what spilled and shared memory of every
kernel for every target, and ends with status 1 where one spills, wants more shared memory than the
target has, or does not compile.
No graphics card is needed; none runs anything. ``specs`` says which kernels stand for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where comfy_vq lies

SHARED_BYTES = {
    "cuda:80": 166912,
    "cuda:86": 101376,
    "cuda:89": 101376,
    "cuda:90": 232448,
    "cuda:100": 232448,
    "cuda:120": 101376,
    "hip:gfx942": 65536,
    "hip:gfx1100": 65536,
    "hip:gfx1201": 65536,
}
"""Targets, and the shared memory that a program may have there; Triton checks it at launch only."""

RUNS = {"unrotated": 1, "64": 8, "128": 16}
"""Groups of a run, by rotation block."""

NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""Triton's names of the types that a kernel is told by name."""


@dataclass(frozen=True)
class Spec:
    """One specialization of a kernel.

    Attributes:
        kernel: ``int8``; ``additive`` or ``trellis``, alone, with ``_batch`` or with ``_int8``;
            ``forward`` or ``trace``, which search.
        books, run: codebooks, or bits of a trellis, and rotation; 0 and "" where the kernel has none.
        dtype: of the result.
        window: of a trellis.
        sums_are_bytes: as for ``decode_additive``.
        most_registers: of a thread on NVIDIA's cards; to see that spills are found.
    """

    kernel: str
    books: int = 0
    run: str = ""
    dtype: str = "fp16"
    sums_are_bytes: bool = False
    most_registers: int | None = None
    window: int = 12

    @property
    def name(self) -> str:
        parts = (
            self.kernel,
            f"{'k' if self.is_trellis else 'M'}={self.books}" if self.books else "",
            f"L={self.window}" if self.searches else "",
            self.run,
            self.dtype,
            "bytes" if self.sums_are_bytes else "",
        )
        return " ".join(part for part in parts if part)

    @property
    def is_trellis(self) -> bool:
        return self.kernel.startswith("trellis") or self.searches

    @property
    def searches(self) -> bool:
        return self.kernel in ("forward", "trace")

    @property
    def weights_of_a_lane(self) -> int:
        """What one lane decodes: half a rotated run, one group, or two in bytes."""
        if self.kernel.endswith("_int8"):
            return 16
        return 8 if RUNS.get(self.run, 1) == 1 else RUNS[self.run] * 8 // 2


@dataclass(frozen=True)
class Compiled:
    """What one became.

    Attributes:
        registers: of a thread.
        spilled: bytes spilled or put on the stack.
        shared: bytes of shared memory.
        seconds: that compiling took.
        instructions: per decoded weight, on NVIDIA's cards; None of what has loops.
    """

    target: str
    name: str
    registers: int
    spilled: int
    shared: int
    seconds: float
    instructions: float | None = None

    @property
    def fits(self) -> bool:
        return self.spilled == 0 and self.shared <= SHARED_BYTES[self.target]


def specs() -> Iterator[Spec]:
    """What stands for all.

    Registers are scarcest under 128, in float32 and with more than 4 codebooks; the rest are the
    usual ones, each type, and those under which the code takes another branch.
    """
    yield Spec("additive", 6, "128", "fp32")
    for books in (1, 3, 4):
        yield Spec("additive", books, "128")
    yield Spec("additive", 3, "128", "bf16", True)
    for books in (3, 6):
        yield Spec("additive", books, "64")
        yield Spec("additive", books, "unrotated", "fp32")
    yield Spec("additive_batch", 3, "128", "fp16", True)
    yield Spec("additive_batch", 3, "64", "fp32", True)
    yield Spec("additive_batch", 3, "64", "bf16")
    yield Spec("additive_batch", 3, "unrotated", "bf16")
    for books in range(1, 7):
        yield Spec("additive_int8", books, "", "i8")
    for bits in (2, 3, 4, 5):
        yield Spec("trellis", bits, "128")
        yield Spec("trellis_int8", bits, "", "i8")
    yield Spec("trellis", 3, "128", "fp32")
    yield Spec("trellis", 3, "64", "bf16")
    yield Spec("trellis", 3, "unrotated")
    yield Spec("trellis_batch", 3, "128")
    yield Spec("trellis_batch", 5, "64", "fp32")
    yield Spec("trellis_batch", 3, "unrotated", "bf16")
    for dtype in ("fp16", "bf16", "fp32"):
        yield Spec("int8", 0, "", dtype)
    for bits in (2, 3, 4, 5):
        for window in (10, 12):
            yield Spec("forward", bits, "", "fp32", window=window)
    yield Spec("trace", 3, "", "i32")


def compile_one(spec: Spec, target: str) -> Compiled:
    """Compile what the modules ``triton_*`` of ``kernels`` launch.

    Raises:
        Exception: of many kinds, where Triton cannot. Some of LLVM's errors end the process.
    """
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from comfy_vq.kernels import triton_batch, triton_decode, triton_trellis, triton_viterbi

    backend, architecture = target.split(":")
    warp = 64 if architecture.startswith("gfx9") else 32
    gpu = GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, warp)
    module, name = (triton_trellis if spec.is_trellis else triton_decode), spec.kernel
    if spec.searches:
        module = triton_viterbi
    if spec.kernel.endswith("_batch"):
        module, name = triton_batch, "batch"
    kernel = getattr(module, name)
    kinds = {"codes": "*i8" if spec.kernel == "int8" else "*u8", "codebooks": "*u8"}
    kinds |= {"table": {"batch": "*i64", "forward": "*fp32"}.get(name, "*u8")}
    kinds |= {"weights": "*fp32", "begins": "*i32", "closes": "*i32", "back": "*u8"}
    kinds |= {"ends": "*i32", "states": "*i32"}
    kinds |= {"signs": "*u8", "scales": "*fp16", "out": f"*{spec.dtype}"}
    kinds |= {"items": "*i32"}
    pointers = [name for name in kinds if name in kernel.arg_names]
    possible = {
        "M": spec.books,
        "K": spec.books,
        "BITS": spec.books,
        "L": spec.window if spec.is_trellis else 0,
        "BEGUN": True,
        "CLOSED": True,
        "RENEWED": triton_viterbi.RENEWED,
        "ROWS": triton_viterbi.ROWS,
        "RUN": RUNS.get(spec.run),
        "BYTES": spec.sums_are_bytes,
        "PAIRED": True,
        "SCALES": tl.float16,
        "OUT": getattr(tl, NAMES.get(spec.dtype, "int8")),
        "LANES": triton_decode.LANES,
        "BLOCK": triton_decode.INT8_BLOCK,
    }
    names = kernel.arg_names
    constants = {name: value for name, value in possible.items() if name in names}
    kinds |= {"norm": "fp32", **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    warps = {
        "int8": 4,
        "forward": triton_viterbi.warps_of(spec.window),
        "trace": 1,
    }.get(spec.kernel, triton_decode.LANES // warp)
    started = time.perf_counter()
    options = {"num_warps": warps, "num_stages": 1}
    if spec.most_registers is not None:
        options["maxnreg"] = spec.most_registers
    made = triton.compile(source, target=gpu, options=options)
    seconds = time.perf_counter() - started
    found = _nvidia(made) if backend == "cuda" else _amd(made)
    registers, spilled, instructions = found
    per_weight = None
    if instructions is not None and not spec.searches:
        per_weight = instructions / spec.weights_of_a_lane
    shared = made.metadata.shared
    return Compiled(target, spec.name, registers, spilled, shared, seconds, per_weight)


def _nvidia(made) -> tuple[int, int, int]:
    """Registers, bytes of stack and local memory, and instructions, from the binary."""
    import triton.backends.nvidia as backend

    tool = Path(backend.__file__).parent / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        command = [tool, "--dump-resource-usage", "--dump-sass", binary]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    # Where there are no loops each instruction runs once; NOP fills the end.
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)", text, re.MULTILINE)
    return used["REG"], used["STACK"] + used["LOCAL"], len(instructions)


def _amd(made) -> tuple[int, int, None]:
    """Vector registers and 4 bytes for each spilled one, from the metadata of the assembly."""
    found = dict(re.findall(r"\.(vgpr_count|[vs]gpr_spill_count):\s*(\d+)", made.asm["amdgcn"]))
    spilled = int(found["vgpr_spill_count"]) + int(found["sgpr_spill_count"])
    return int(found["vgpr_count"]), 4 * spilled, None


def compile_for(target: str, wanted: list[Spec]) -> list[Compiled]:
    """Compile for one target in a process of its own, since LLVM may end it.

    Raises:
        RuntimeError: something did not compile; the message is the end of what was printed.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, "--one", target],
            input=json.dumps([asdict(spec) for spec in wanted]),
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "TRITON_CACHE_DIR": cache, "TRITON_INTERPRET": "0"},
        )
    if done.returncode != 0:
        raise RuntimeError(f"{target}: ended with {done.returncode}: {done.stderr[-2000:]}")
    return [Compiled(**record) for record in json.loads(done.stdout)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="*", choices=SHARED_BYTES, default=list(SHARED_BYTES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time")
    parser.add_argument("--one", choices=SHARED_BYTES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        wanted = [Spec(**record) for record in json.load(sys.stdin)]
        print(json.dumps([asdict(compile_one(spec, args.one)) for spec in wanted]))
        return 0

    started, wanted = time.perf_counter(), list(specs())
    print(f"| {' | '.join(_HEAD)} |")
    print("|---" * len(_HEAD) + "|")
    with ThreadPoolExecutor(args.jobs) as pool:
        wrong = sum(pool.map(lambda target: show(target, wanted), args.targets))
    seconds = time.perf_counter() - started
    print(f"{len(wanted)} kernels, {len(args.targets)} targets: {wrong} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


_HEAD = (
    "kernel",
    "target",
    "registers",
    "instructions/weight",
    "spilled bytes",
    "shared bytes",
    "seconds",
)


def show(target: str, wanted: list[Spec]) -> int:
    """Compile for a target and print its rows of the table; returns how many are wrong."""
    try:
        compiled = compile_for(target, wanted)
    except RuntimeError as error:
        print(error, flush=True)
        return len(wanted)
    lines = []
    for c in compiled:
        work = "" if c.instructions is None else f"{c.instructions:.1f}"
        shown = (c.name, c.target, c.registers, work, c.spilled, c.shared, f"{c.seconds:.1f}")
        lines.append("| " + " | ".join(map(str, shown)) + " |" + ("" if c.fits else " too much"))
    print("\n".join(lines), flush=True)
    return sum(not c.fits for c in compiled)


if __name__ == "__main__":
    sys.exit(main())

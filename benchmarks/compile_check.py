"""Compile the decode kernels ahead of time for graphics cards that are not here.

    python -m benchmarks.compile_check [--targets cuda:86 hip:gfx1100] [--jobs 2]

Prints registers, what spilled and shared memory of every kernel for every target, and ends with
status 1 where one spills, wants more shared memory than the target has, or does not compile.
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

RUNS = {"no rotation": (4, False), "odd rows": (1, False), "64": (8, True), "128": (16, True)}
"""Groups of a run, and whether it is rotated, by rotation block."""


@dataclass(frozen=True)
class Spec:
    """One specialization of a kernel: ``additive`` of so many codebooks, or ``int8`` for none."""

    books: int
    run: str
    dtype: str

    @property
    def name(self) -> str:
        return (
            f"additive M={self.books} {self.run} {self.dtype}"
            if self.books
            else f"int8 {self.dtype}"
        )


@dataclass(frozen=True)
class Compiled:
    """What one became: registers of a thread, bytes spilled or put on the stack, shared bytes."""

    target: str
    name: str
    registers: int
    spilled: int
    shared: int
    seconds: float

    @property
    def fits(self) -> bool:
        return self.spilled == 0 and self.shared <= SHARED_BYTES[self.target]


def specs() -> Iterator[Spec]:
    """What stands for all: every M in float16, but under 128 the least, the usual and the largest.

    The other types under 128, where registers are scarcest, and rows of an odd number of groups.
    """
    for books in range(1, 7):
        yield Spec(books, "no rotation", "fp16")
        yield Spec(books, "64", "fp16")
    for books in (1, 3, 6):
        yield Spec(books, "128", "fp16")
    yield Spec(3, "odd rows", "fp16")
    for dtype in ("bf16", "fp32"):
        yield Spec(3, "128", dtype)
    for dtype in ("fp16", "bf16", "fp32"):
        yield Spec(0, "", dtype)


def compile_one(spec: Spec, target: str) -> Compiled:
    """Compile what ``kernels/triton_decode.py`` launches.

    Raises:
        Exception: of many kinds, where Triton cannot. Some of LLVM's errors end the process.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from comfy_vq.kernels import triton_decode as decode

    backend, architecture = target.split(":")
    warp = 64 if architecture.startswith("gfx9") else 32
    gpu = GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, warp)
    pointers = {"codes": "*u8", "codebooks": "*u8", "signs": "*u8", "scales": "*fp16"}
    pointers["out"] = f"*{spec.dtype}"
    if spec.books:
        run, rotated = RUNS[spec.run]
        kernel, warps = decode.additive, decode.LANES // warp
        constants = {"M": spec.books, "RUN": run, "ROTATED": rotated, "LANES": decode.LANES}
    else:
        kernel, warps = decode.int8, 4
        constants, pointers["codes"] = {"BLOCK": decode.INT8_BLOCK}, "*i8"
    kinds = {**dict.fromkeys(constants, "constexpr"), **pointers, "norm": "fp32"}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs=constants,
        attrs={
            (names.index(name),): [["tt.divisibility", 16]] for name in pointers if name in names
        },
    )
    started = time.perf_counter()
    made = triton.compile(source, target=gpu, options={"num_warps": warps, "num_stages": 1})
    seconds = time.perf_counter() - started
    registers, spilled = _nvidia(made) if backend == "cuda" else _amd(made)
    return Compiled(target, spec.name, registers, spilled, made.metadata.shared, seconds)


def _nvidia(made) -> tuple[int, int]:
    """Registers and bytes of stack and local memory, from the binary."""
    import triton.backends.nvidia as backend

    tool = Path(backend.__file__).parent / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        command = [tool, "--dump-resource-usage", binary]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return used["REG"], used["STACK"] + used["LOCAL"]


def _amd(made) -> tuple[int, int]:
    """Vector registers and 4 bytes for each spilled one, from the metadata of the assembly."""
    found = dict(re.findall(r"\.(vgpr_count|[vs]gpr_spill_count):\s*(\d+)", made.asm["amdgcn"]))
    spilled = int(found["vgpr_spill_count"]) + int(found["sgpr_spill_count"])
    return int(found["vgpr_count"]), 4 * spilled


def compile_for(target: str, wanted: list[Spec]) -> list[Compiled]:
    """Compile for one target in a process of its own, since LLVM may end it.

    Raises:
        RuntimeError: something did not compile; the message is the end of what was printed.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compile_check", "--one", target],
            input=json.dumps([asdict(spec) for spec in wanted]),
            check=False,
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
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

    started, wrong, wanted = time.perf_counter(), 0, list(specs())
    print("| kernel | target | registers | spilled bytes | shared bytes | seconds |")
    print("|---|---|---|---|---|---|")
    with ThreadPoolExecutor(args.jobs) as pool:
        pending = [pool.submit(compile_for, target, wanted) for target in args.targets]
        for future in pending:
            try:
                for c in future.result():
                    wrong += not c.fits
                    shown = (c.name, c.target, c.registers, c.spilled, c.shared, f"{c.seconds:.1f}")
                    print(
                        "| " + " | ".join(map(str, shown)) + " |" + (" too much" * (not c.fits)),
                        flush=True,
                    )
            except RuntimeError as error:
                wrong += 1
                print(error, flush=True)
    seconds = time.perf_counter() - started
    print(f"{len(wanted)} kernels, {len(args.targets)} targets: {wrong} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

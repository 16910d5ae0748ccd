"""Random damage to valid VQ files: each is refused with a VQError, or loads, decodes and saves again.

    python -m benchmarks.mutations --count 5000 [--first 0]

A mutation follows from its seed: to see one again, run ``--first SEED --count 1``. They run in child
processes of bounded address space and time, so that a crash, a hang or an allocation without
bounds is seen, and reported with its seed.
"""

import argparse
import contextlib
import faulthandler
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from tests.checkpoint.conftest import full_components, tiny_model

try:
    import resource
except ImportError:  # Windows
    resource = None

CHECKOUT = Path(__file__).resolve().parents[1]
PER_PROCESS = 1250
SECONDS_EACH = 20
MOST_FAILURES = 10
"""Enough to look into; then the run ends."""
HEADROOM = 256 << 20
"""Bytes of address space that a child may take beyond what it has when it begins."""


@dataclass
class Result:
    """What became of the mutations.

    Attributes:
        outcomes: how many were ``refused`` and ``loaded``.
        failures: seed -> what happened instead.
        memory: largest growth of a child's resident memory, in bytes.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    memory: int = 0


class Members(list):
    """The members of a JSON object, as ``[key, value]``: keys may come twice."""


@dataclass
class Text:
    """A string that holds JSON."""

    inside: list


@dataclass
class Raw:
    """Anything, as it stands in the file."""

    text: str


WILD = tuple(
    Raw(text)
    for text in (
        *("0", "1", "-1", "7", "8", "255", "256", "65536", "-0", "0.5", "2.0", "1e308", "1e999"),
        *(str(2**power + step) for power in (31, 32, 47, 48, 63, 64, 128) for step in (-1, 0)),
        *("NaN", "-Infinity", "true", "false", "null", "[]", "{}", "[[]]", '[""]', '{"":0}', '""'),
        *(f'"{name}"' for name in ("F16", "F64", "U8", "I8", "BF16", "F8_E4M3", "BOOL", "F4")),
        *('"additive"', '"int8"', '"additive-2"', '"gaussian-M3"', '"1.1"', '"2.0"', '"[]"'),
        *(r'"\ud800"', r'"\u0000"', r'"\u001b[2J"', '"\u202eü"', '"../../x"', '"__metadata__"'),
        *('"' + "a" * 100_000 + '"', "9" * 5000, "[" * 500 + "]" * 500, "[" * 100_000, "nonsense"),
        *("[16,64]", "[8,16,3,3]", "[0,0]", "[0,8]", f"[{2**40},{2**40},0]", "[1,1,1,1,1]"),
    )
)


def mutate(content: bytes, seed: int) -> bytes:
    """A damaged copy of a safetensors file."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice(
            (_change_bytes, _change_bytes, _change_json, _change_json, _change_json)
        )
        try:
            content = change(content, rng)
        except RecursionError:  # nested too deep already to be changed once more
            break
    return content


def _change_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    low, high = _region(content, rng)
    begin = rng.randint(low, high)
    end = min(high, begin + rng.choice((1, 2, 8, 64, 1000)))
    match rng.randrange(7):
        case 0:
            for _ in range(rng.choice((1, 2, 8))):
                if high > low:
                    data[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        case 1:
            data[begin:end] = rng.randbytes(end - begin)
        case 2:
            data[begin:end] = bytes([rng.choice((0, 0x7F, 0xFF, 0x20))]) * (end - begin)
        case 3:
            del data[begin:end]
        case 4:
            data[begin:begin] = rng.randbytes(rng.choice((1, 8, 500)))
        case 5:
            del data[begin:]
        case 6:
            other = rng.randint(low, high)
            data[begin:end] = content[other : other + end - begin]
    return bytes(data)


def _region(content: bytes, rng: random.Random) -> tuple[int, int]:
    """Where to change bytes: the length, the header, one tensor, or anywhere."""
    start = 8 + int.from_bytes(content[:8], "little")
    if start > len(content):
        return 0, len(content)
    places = [(0, 8), (8, start), (start, len(content)), (0, len(content))]
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
        entries = json.loads(content[8:start]).values()
        offsets = [entry["data_offsets"] for entry in entries if "data_offsets" in entry]
        begin, end = rng.choice(offsets)
        if 0 <= begin <= end <= len(content) - start:
            places += 3 * [(start + begin, start + end)]
    return rng.choice(places)


def _change_json(content: bytes, rng: random.Random) -> bytes:
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        tree = json.loads(content[8:start], object_pairs_hook=_members)
    except (ValueError, RecursionError):
        return _change_bytes(content, rng)
    if not isinstance(tree, Members):
        return _change_bytes(content, rng)
    _change_tree(tree, rng)
    header = _dump(tree).encode(errors="surrogatepass")
    if rng.random() < 0.05:
        at = rng.randint(0, len(header))
        header = header[:at] + rng.choice((b"\xff", b"\xc3", b"\0")) + header[at:]
    return len(header).to_bytes(8, "little") + header + content[start:]


def _members(pairs: list[tuple[str, Any]]) -> Members:
    return Members([key, _opened(value)] for key, value in pairs)


def _opened(value: Any) -> Any:
    """A string that holds a JSON object or list, opened."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            return Text([json.loads(value, object_pairs_hook=_members)])
    return value


def _dump(value: Any) -> str:
    match value:
        case Raw(text):
            return text
        case Text(inside):
            return json.dumps("".join(map(_dump, inside)))
        case Members():
            return "{" + ",".join(f"{_dump(k)}:{_dump(v)}" for k, v in value) + "}"
        case list():
            return "[" + ",".join(map(_dump, value)) + "]"
    return json.dumps(value)


def _slots(value: Any) -> Iterator[tuple[list, int]]:
    """Every place in the tree that holds a value or a member: a list and an index into it."""
    inside = value.inside if isinstance(value, Text) else value
    if isinstance(inside, Members):
        for index, pair in enumerate(inside):
            yield inside, index
            yield from _slots(pair[1])
    elif isinstance(inside, list):
        for index, element in enumerate(inside):
            yield inside, index
            yield from _slots(element)


def _change_tree(tree: Members, rng: random.Random) -> None:
    slots = list(_slots(tree)) or [(tree, 0)]
    nested = [slot for _, value in tree if isinstance(value, Members) for slot in _slots(value)]
    place, index = rng.choice(rng.choice((slots, nested or slots)))
    if isinstance(place, Members):
        _change_members(place, rng)
        return
    value = place[index]
    match rng.randrange(6):
        case 0:
            place[index] = rng.choice(WILD)
        case 1:
            place[index] = _tweaked(value, rng)
        case 2:
            del place[index]
        case 3:
            place.insert(rng.randint(0, len(place)), value)
        case 4:
            place.insert(rng.randint(0, len(place)), rng.choice(WILD))
        case 5:
            other, at = rng.choice([slot for slot in slots if not isinstance(slot[0], Members)])
            place[index], other[at] = other[at], place[index]


def _change_members(members: Members, rng: random.Random) -> None:
    new = [rng.choice(("", "x", "vq.x", "vq.root.x", "vq.codebooks.x")), rng.choice(WILD)]
    if not members:
        members.append(new)
        return
    index, other = rng.randrange(len(members)), rng.randrange(len(members))
    pair = members[index]
    match rng.randrange(7):
        case 0:
            members[index] = [pair[0], new[1]]
        case 1:
            members[index] = [pair[0], _tweaked(pair[1], rng)]
        case 2:
            members[index] = [_tweaked(pair[0], rng), pair[1]]
        case 3:
            del members[index]
        case 4:
            members.insert(other, [pair[0], rng.choice((pair[1], new[1]))])
        case 5:
            members.insert(other, new)
        case 6:
            members[index], members[other] = [
                [pair[0], members[other][1]],
                [members[other][0], pair[1]],
            ]


def _tweaked(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return rng.choice((0, 1, "", None))
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 8, value + 2**32, 1e30))
    if isinstance(value, str):
        at = rng.randint(0, len(value))
        return value[:at] + rng.choice(("", "x", ".", "\0", "é", "0")) + value[at + 1 :]
    if type(value) is list:
        return rng.sample(value, rng.randint(0, len(value)))
    if isinstance(value, Text):
        return Text([_tweaked(v, rng) for v in value.inside])
    return value


def outcome(path: Path) -> str:
    """``refused`` or ``loaded``. Raises whatever else happens."""
    try:
        header = checkpoint.inspect(path)
        model = checkpoint.load(path)
        components = {name: checkpoint.load_component(path, name) for name in header.components}
    except VQError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        return "refused"
    parts = [(model, header)]
    parts += [(component.model, header.components[n]) for n, component in components.items()]
    for loaded, part in parts:
        assert {n: w.decode().shape for n, w in loaded.layers.items()} == {
            name: record.shape for name, record in part.layers.items()
        }
    checkpoint.save(path.with_name("again"), model, components=components)
    checkpoint.load(path.with_name("again"))
    return "loaded"


def originals(folder: Path) -> None:
    """Write the files that mutations begin from."""
    model = tiny_model()
    two = {name: model.layers[name] for name in ("blocks.0.q", "out")}
    checkpoint.save(folder / "0", model)
    checkpoint.save(folder / "1", replace(model, layers=two, dense={}))
    small = replace(model, layers=two, dense={})
    checkpoint.save(folder / "2", small, components=full_components())


def work(folder: Path, first: int, stop: int, report: Callable[[str], object]) -> None:
    """Try mutations ``first`` to ``stop - 1``; reports ``SEED`` before and ``SEED OUTCOME`` after."""
    faulthandler.enable()
    contents = [(folder / name).read_bytes() for name in "012"]
    outcome(folder / "0")
    before = _bound_memory()
    for seed in range(first, stop):
        report(f"{seed}")
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
        path = folder / "mutant.safetensors"
        path.unlink(missing_ok=True)  # the last one may be mapped still
        path.write_bytes(mutate(contents[seed % len(contents)], seed))
        try:
            report(f"{seed} {outcome(path)}")
        except Exception:  # noqa: BLE001 - whatever it is, it is the finding
            report(f"{seed} failed {json.dumps(traceback.format_exc()[-2000:])}")
        faulthandler.cancel_dump_traceback_later()
    report(f"memory {_resident() - before}")


def _bound_memory() -> int:
    """Bound the address space where the system can; returns the resident bytes so far."""
    size = Path("/proc/self/statm")
    if resource is not None and size.exists():
        limit = int(size.read_text().split()[0]) * resource.getpagesize() + HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return _resident()


def _resident() -> int:
    """The most that was resident so far, in bytes; 0 where that is not known."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run(count: int, first: int = 0) -> Result:
    """Try ``count`` mutations from seed ``first`` on, in one child process after another."""
    result, seed, stop = Result(), first, first + count
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # spares the disk its fsyncs
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        originals(folder)
        while seed < stop and len(result.failures) < MOST_FAILURES:
            batch = min(stop, seed + PER_PROCESS)
            command = [sys.executable, "-m", "benchmarks.mutations", "--work", name]
            command += ["--first", str(seed), "--count", str(batch - seed)]
            child = subprocess.run(
                command, cwd=CHECKOUT, capture_output=True, text=True, check=False
            )
            seed = collect(child, seed, batch, result)
    return result


def collect(child: subprocess.CompletedProcess[str], first: int, stop: int, result: Result) -> int:
    """Add what a child reported; returns the seed to go on from."""
    last = first
    for line in child.stdout.splitlines():
        seed, _, told = line.partition(" ")
        if seed == "memory":
            result.memory = max(result.memory, int(told))
            continue
        last = int(seed)
        kind, _, detail = told.partition(" ")
        if kind == "failed":
            result.failures[last] = json.loads(detail)
        elif kind:
            result.outcomes[kind] += 1
    if child.returncode == 0:
        return stop
    result.failures[last] = f"the process ended with {child.returncode}: {child.stderr[-2000:]}"
    return last + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutation")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work, args.first, args.first + args.count, lambda line: print(line, flush=True))
        return 0
    started = time.monotonic()
    result = run(args.count, args.first)
    for seed, what in result.failures.items():
        print(f"seed {seed}: {what}")
    print(
        f"{args.count} mutations, seeds from {args.first}: {result.outcomes['refused']} refused, "
        f"{result.outcomes['loaded']} loaded and decoded, {len(result.failures)} anything else "
        f"(other errors, crashes, hangs); at most {result.memory / 2**20:.0f} MiB more memory than at first; "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())

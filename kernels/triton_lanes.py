"""What a lane of a Triton kernel does to decode additive codes; ``triton_decode`` launches it.

Rotated weights: two lanes share a rotation block of ``RUN`` groups. Both look up all of its entries,
form the sums of groups 2j and 2j + 1 or their differences, and so hold every other group of the
result: the rest of the inverse rotation, ``turned_back``, takes place between values of one lane. Two
adjacent lanes store adjacent groups of 16 bytes, which fill a sector of memory. Other weights: a lane
per group.

Two sums of entries lie in one word, as ``high * 65536 + low``. Additions and subtractions of words
keep that form, also where a field is negative; only the fields of the last result must fit 16 bits.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def hadamard(x, SIZE: tl.constexpr, ORDER: tl.constexpr):
    """Hadamard transforms of order ORDER, up to 32, side by side across a tuple of SIZE tensors."""
    for level in tl.static_range(5):
        if (1 << level) < ORDER:
            y = ()
            for n in tl.static_range(SIZE):
                if n & (1 << level):
                    y = y + (x[n ^ (1 << level)] - x[n],)
                else:
                    y = y + (x[n] + x[n ^ (1 << level)],)
            x = y
    return x


@triton.jit
def last_level(x, SIZE: tl.constexpr):
    """The level of a Hadamard transform that joins the halves of a tuple of SIZE tensors."""
    y = ()
    for n in tl.static_range(SIZE):
        if n < SIZE // 2:
            y = y + (x[n] + x[n + SIZE // 2],)
        else:
            y = y + (x[n - SIZE // 2] - x[n],)
    return y


@triton.jit
def cast(x, dtype: tl.constexpr):
    """float32 rounded to the nearest, ties to even. In Triton's interpreter, which cuts the low bits
    off for bfloat16, that is done in integers."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def split8(x, LANES: tl.constexpr):
    """The columns of ``x [LANES, 8]``, each lane holding a row."""
    even, odd = tl.split(x.reshape(LANES, 4, 2))
    x04, x26 = tl.split(even.reshape(LANES, 2, 2))
    x15, x37 = tl.split(odd.reshape(LANES, 2, 2))
    x0, x4 = tl.split(x04)
    x2, x6 = tl.split(x26)
    x1, x5 = tl.split(x15)
    x3, x7 = tl.split(x37)
    return (x0, x1, x2, x3, x4, x5, x6, x7)


@triton.jit
def lookup(codebooks, codes, first: tl.constexpr, M: tl.constexpr):
    """The M entries for ``codes[first : first + M]``: words of weights 0-3, and of weights 4-7."""
    entries = codebooks.to(tl.pointer_type(tl.int64), bitcast=True)
    low = ()
    high = ()
    for m in tl.static_range(M):
        entry = tl.load(entries + (m * 256 + codes[first + m].to(tl.int32)))
        low = low + (entry.to(tl.int32),)
        high = high + ((entry >> 32).to(tl.int32),)
    return low, high


@triton.jit
def added(words, M: tl.constexpr):
    total = words[0]
    for m in tl.static_range(1, M):
        total += words[m]
    return total


@triton.jit
def fields(words, M: tl.constexpr, BYTES: tl.constexpr):
    """Sums over M words of bytes, in fields of 16 bits: of bytes 0 and 2, and of bytes 1 and 3.

    BYTES: the sums are bytes themselves.
    """
    if BYTES:
        total = added(words, M)
        return total & 0x00FF00FF, (total >> 8) & 0x00FF00FF
    else:
        even = words[0] & 0x00FF00FF
        odd = (words[0] >> 8) & 0x00FF00FF
        for m in tl.static_range(1, M):
            even += words[m] & 0x00FF00FF
            odd += (words[m] >> 8) & 0x00FF00FF
        return even, odd


@triton.jit
def sums(codebooks, codes, first: tl.constexpr, M: tl.constexpr, BYTES: tl.constexpr):
    """Sums of entries of a group, as fields: of weights (0, 2), (1, 3), (4, 6), (5, 7)."""
    low, high = lookup(codebooks, codes, first, M)
    a, b = fields(low, M, BYTES)
    c, d = fields(high, M, BYTES)
    return a, b, c, d


@triton.jit
def joined(x, first: tl.constexpr):
    """Words of the weights (0, 2), (1, 3), (4, 6), (5, 7) as ``[LANES, 2, 2]``: bits 2 and 0."""
    return tl.join(tl.join(x[first], x[first + 2]), tl.join(x[first + 1], x[first + 3]))


@triton.jit
def in_order(low, high, LANES: tl.constexpr):
    """The weights ``[LANES, 8]`` of the low and the high fields of ``joined`` words."""
    return tl.trans(tl.join(low, high), 0, 1, 3, 2).reshape(LANES, 8)


@triton.jit
def store8(at, y, LANES: tl.constexpr):
    """Store ``y [LANES, 8]`` float32 at pointers ``at [LANES]``, 16 bytes of a lane at a time."""
    dtype: tl.constexpr = at.dtype.element_ty
    if dtype == tl.float32:
        low, high = tl.split(tl.trans(y.reshape(LANES, 2, 4), 0, 2, 1))
        tl.store(at[:, None] + tl.arange(0, 4)[None, :], low)
        tl.store(at[:, None] + (4 + tl.arange(0, 4))[None, :], high)
    else:
        tl.store(at[:, None] + tl.arange(0, 8)[None, :], cast(y, dtype))


@triton.jit
def store_bytes(out, group, groups, low, high, shift, PAIRED: tl.constexpr, LANES: tl.constexpr):
    """Store two groups of numbers as signed bytes.

    Args:
        out: int8 ``[groups, 8]``.
        group: the first of a lane's two, which are 16 bytes; PAIRED: the number of groups is even.
        low, high: for each of both, words of unsigned numbers 0-3 and 4-7.
        shift: 128 less the offset in every byte. It makes numbers unsigned bytes, so that words of
            them add up without carries.
    """
    words = tl.join(tl.join(low[0], low[1]), tl.join(high[0], high[1])).reshape(LANES, 4)
    words = (words + shift) ^ -0x7F7F7F80
    at = out.to(tl.pointer_type(tl.int32), bitcast=True) + group.to(tl.int64) * 2
    if PAIRED:
        here = (group < groups)[:, None]
    else:
        here = group[:, None] + (tl.arange(0, 4) // 2)[None, :] < groups
    tl.store(at[:, None] + tl.arange(0, 4)[None, :], words, mask=here)


@triton.jit
def unrotated(codes, codebooks, scales, out, norm, offset, program, runs, runs_per_row,
              M: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """A group of eight weights for every lane."""
    run = tl.minimum(program * LANES + tl.arange(0, LANES), runs - 1)
    read = ()
    for m in tl.static_range(M):
        read = read + (tl.load(codes + run.to(tl.int64) * M + m),)
    x = sums(codebooks, read, 0, M, False)
    factor = tl.load(scales + run // runs_per_row).to(tl.float32) * norm
    words = joined(x, 0)
    y = (in_order(words & 0xFFFF, words >> 16, LANES) - offset).to(tl.float32)
    store8(out + run.to(tl.int64) * 8, y * factor[:, None], LANES)


@triton.jit
def block_of_two_lanes(program, runs, runs_per_row, LANES: tl.constexpr):
    """For every lane its rotation block, whether it is the second of two, and the block's row."""
    lane = tl.arange(0, LANES)
    run = tl.minimum(program * (LANES // 2) + lane // 2, runs - 1)
    # Unsigned, because the division of signed numbers is longer.
    row = run.to(tl.uint32, bitcast=True) // runs_per_row.to(tl.uint32, bitcast=True)
    return run, lane % 2, row


@triton.jit
def rotated(codes, codebooks, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, M: tl.constexpr, RUN: tl.constexpr, BYTES: tl.constexpr,
            LANES: tl.constexpr):  # fmt: skip
    """Every other group of a rotation block of RUN groups for every lane."""
    run, half, row = block_of_two_lanes(program, runs, runs_per_row, LANES)
    at = codes + run.to(tl.int64) * (RUN * M)
    read = ()
    for i in tl.static_range(RUN * M // 8):
        read = read + split8(tl.load(at[:, None] + (8 * i + tl.arange(0, 8))[None, :]), LANES)

    # A word ends as sums over TERMS weights. With 64 of them its fields have room for 4 codebooks,
    # or for sums that are bytes; else one level is left to float32.
    TERMS: tl.constexpr = 32 if RUN == 8 or (M > 4 and not BYTES) else 64
    x = ()
    for j in tl.static_range(RUN // 2):
        a = sums(codebooks, read, 2 * j * M, M, BYTES)
        b = sums(codebooks, read, (2 * j + 1) * M, M, BYTES)
        for i in tl.static_range(4):
            x = x + (a[i] + (1 - 2 * half) * b[i],)
    # Only the first sum of a transform, without differences, does not lie around zero by itself.
    CENTRE: tl.constexpr = 0 if BYTES else TERMS * M * 255 // 2
    turned_back(
        x, scales, signs, out, norm, offset, run, half, row, runs_per_period, RUN, TERMS, CENTRE,
        LANES,
    )  # fmt: skip


@triton.jit
def turned_back(x, scales, signs, out, norm, offset, run, half, row, runs_per_period,
                RUN: tl.constexpr, TERMS: tl.constexpr, CENTRE: tl.constexpr,
                LANES: tl.constexpr):  # fmt: skip
    """Store every other group, from ``x``, the words after the level between groups 2j and 2j + 1.

    Args:
        x: tuple of 2 RUN words, for each j of weights (0, 2), (1, 3), (4, 6) and (5, 7).
        CENTRE: what is taken from the first sum of a transform so that its field has room.
    """
    raised = ()
    for n in tl.static_range(2 * RUN):
        if n % (TERMS // 2) == 0:
            # Makes the fields positive: the first of the inputs is in each of the outputs.
            raised = raised + (x[n] - 0x7FFF8000,)
        else:
            raised = raised + (x[n],)
    x = hadamard(raised, 2 * RUN, TERMS // 2)

    y = ()
    for j in tl.static_range(RUN // 2):
        words = joined(x, 4 * j)
        if 4 * j % (TERMS // 2) == 0:
            first = (half == 0)[:, None, None] & (tl.arange(0, 4).reshape(1, 2, 2) == 0)
            words -= tl.where(first, CENTRE * 65537, 0)
        # As the low bits of 2**23 in float32, a field makes 2**23 + 2**15 + its value.
        low = ((words & 0xFFFF) | 0x4B000000).to(tl.float32, bitcast=True)
        high = (((words >> 16) & 0xFFFF) | 0x4B000000).to(tl.float32, bitcast=True)
        y = y + (in_order((low - 16842752.0) + high, low - high, LANES),)
    if TERMS < 4 * RUN:
        y = last_level(y, RUN // 2)

    factor = tl.load(scales + row).to(tl.float32) * norm
    place = run.to(tl.uint32, bitcast=True) % runs_per_period.to(tl.uint32, bitcast=True)
    sign_words = signs.to(tl.pointer_type(tl.int32), bitcast=True) + place * (RUN // 4)
    word = tl.zeros([LANES], tl.int32)
    weight = tl.arange(0, 8)[None, :]
    to = out + run.to(tl.int64) * (8 * RUN) + 8 * half
    for j in tl.static_range(RUN // 2):
        value = y[j]
        if j == 0:
            # The transform of the constant offset: all of it in the first of the block.
            missing = 8.0 * RUN // TERMS * CENTRE - 8.0 * RUN * offset
            value += tl.where((half == 0)[:, None] & (weight == 0), missing, 0.0)
        if j % 2 == 0:
            word = tl.load(sign_words + j // 2) >> (8 * half)
        bits = value.to(tl.int32, bitcast=True)
        bits ^= (word[:, None] << (31 - 16 * (j % 2) - weight)) & -0x80000000
        store8(to + 16 * j, bits.to(tl.float32, bitcast=True) * factor[:, None], LANES)

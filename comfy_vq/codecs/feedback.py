"""Coding under second moments: each error is made up for by the weights that are coded after it.

The error of a layer's output is ``sum_n e_n H e_n^T`` over rows ``e`` of the weight's error, with ``H``
the second moments of the input. With columns coded in some order and ``H^-1 = U^T U``, U upper
triangular in that order, it equals the sum over groups G of ``||z_G||^2``, ``z_G = x_G U_GG^-1``, where
x_G is the error of a group's code against a target; every later target moves by ``-z_G U_G,later``
(GPTQ, arXiv 2210.17323; with groups for columns QuIP#, arXiv 2402.04396). So a search by the squared
error of ``x U_GG^-1`` sees all that an error costs once the rest has been made up for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..kernels import Rotation
from . import beam, survivors, viterbi
from .codebooks import GROUP, gaussian_sqnr_db

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: so few pictures know no direction exactly."""
_CHUNK = 128
"""Columns after which what comes later is made up for, in one product."""


@dataclass(frozen=True, eq=False)
class Aim:
    """What a search under moments needs of them.

    Attributes:
        factors: U, float32 ``[blocks, width, width]``, each in the order of its columns.
        orders: columns of each block in the order of coding, int64 ``[blocks, width]``.
    """

    factors: Tensor
    orders: Tensor


def aim_at(moments: Tensor, rotation: Rotation | None, period: int, *, backwards: bool) -> Aim:
    """Prepare a search.

    Args:
        moments: H, float32 ``[blocks, width, width]``, see ``calibration.Moments``.
        rotation: under which rows are coded.
        period: the input width.
        backwards: code from the last column to the first; else groups of columns with the largest
            moments come first, whose errors then have the most left to be made up by.

    Raises:
        torch.linalg.LinAlgError: the moments are of no input.
    """
    turned = turned_moments(moments, rotation, period)
    diagonals = turned.diagonal(dim1=1, dim2=2)
    columns = torch.arange(turned.shape[1], device=turned.device)
    if backwards:
        orders = columns.flip(0).expand(len(turned), -1)
    else:
        groups = diagonals.unflatten(1, (-1, GROUP)).sum(2).argsort(1, descending=True)
        orders = columns.view(-1, GROUP)[groups].flatten(1)
    factors = [_factor(h[order][:, order]) for h, order in zip(turned, orders, strict=True)]
    return Aim(torch.stack(factors), orders)


def turned_moments(moments: Tensor, rotation: Rotation | None, period: int) -> Tensor:
    """Moments of inputs that are rotated as the columns of a weight are."""
    if rotation is None:
        return moments
    once = _turned_rows(moments, rotation, period)
    return _turned_rows(once.transpose(1, 2), rotation, period)


def _turned_rows(moments: Tensor, rotation: Rotation, period: int) -> Tensor:
    blocks, width = moments.shape[:2]
    beside = moments.transpose(0, 1).reshape(width, blocks * width)
    return kernels.rotate(beside, rotation, period).view(width, blocks, width).transpose(0, 1)


def attainable(unit: Tensor, aim: Aim, codec: str, bits: int) -> Tensor:
    """Rows less what lies below the noise of their codes at the output, and is not worth its bits.

    At a fixed rate the least error leaves out directions whose power does not reach the noise in the
    others (reverse water-filling, Cover and Thomas, section 10.3). With N for that noise and H for the
    damped moments, ``x (H - N) H^-1`` does so smoothly, as a term ``N |code|^2`` beside the error would.
    Codes that need not follow ``x`` there are free to make up for errors, and stay within their range.

    Args:
        unit: x, float32 ``[rows, columns]``, of mean square 1.
        aim: of ``aim_at``.
        codec, bits: what codes it; N is its noise on Gaussian weights times the geometric mean of what
            errors in single weights cost once the others have made up for them.
    """
    noise = 10 ** (-gaussian_sqnr_db()[codec, bits] / 10)
    blocks, size = aim.orders.shape
    parts = unit.clone().view(len(unit), -1, blocks, size)
    for block, (order, factor) in enumerate(zip(aim.orders, aim.factors, strict=True)):
        level = noise * factor.diagonal().log().mean().mul(-2).exp()
        rows = parts[:, :, block, order]
        parts[:, :, block, order] = rows - level * (rows @ factor.T) @ factor
    return parts.view(unit.shape)


def additive(unit: Tensor, values: Tensor, width: int, aim: Aim) -> Tensor:
    """Codes of rows that (nearly) minimize the error of the output.

    Args:
        unit: float32 ``[rows, columns]``.
        values: codebooks, float32 ``[M, entries, 8]``.
        width: partial sums kept in the search.
        aim: of ``aim_at``, forwards.

    Returns:
        uint8 ``[rows, columns / 8, M]``.
    """
    blocks, size = aim.orders.shape
    parts = unit.view(len(unit), -1, blocks, size)
    codes = torch.empty(
        (*parts.shape[:3], size // GROUP, len(values)), dtype=torch.uint8, device=unit.device
    )
    for block in range(blocks):
        order, factor = aim.orders[block], aim.factors[block]
        targets = parts[:, :, block, order].reshape(-1, size)
        errors = torch.empty_like(targets)
        found = torch.empty((len(targets), *codes.shape[3:]), dtype=torch.uint8, device=unit.device)
        for start in range(0, size, GROUP):
            part = slice(start, start + GROUP)
            metric = _inverse(factor[part, part])
            target = targets[:, part].contiguous()
            code = beam.search(target @ metric, values @ metric, width)[0]
            found[:, start // GROUP] = code
            decoded = sum(book[code[:, m].long()] for m, book in enumerate(values))
            errors[:, part] = (target - decoded) @ metric
            _make_up(targets, errors, factor, part)
        codes[:, :, block, order[::GROUP] // GROUP] = found.view(*parts.shape[:2], *found.shape[1:])
    return codes.view(len(unit), -1, len(values))


def trellis(unit: Tensor, table: Tensor, bits: int, aim: Aim) -> Tensor:
    """The same for paths through a trellis, see ``survivors``.

    Args:
        unit: float32 ``[rows, columns]``.
        table: float32 ``[2^L]``.
        bits: k.
        aim: of ``aim_at``, backwards.

    Returns:
        uint8 ``[rows, columns / 8, k]``, as ``viterbi.search`` does.
    """
    columns = unit.shape[1]
    stretches = survivors.stretches(aim.factors.flip(0), columns)
    codes = []
    for part in unit.split(survivors.rows_at_once(table, bits)):
        targets = part.flip(1)
        ring = viterbi.joint(targets.T.contiguous(), table, bits).long()
        states = survivors.path(targets, table, bits, ring, stretches).T.flip(1)
        codes.append(viterbi.packed(states & ((1 << bits) - 1), bits))
    return torch.cat(codes)


def _make_up(targets: Tensor, errors: Tensor, factor: Tensor, part: slice) -> None:
    """Move the targets that follow a part: those of its chunk at once, the others after the chunk."""
    begin = part.start // _CHUNK * _CHUNK
    end = min(begin + _CHUNK, targets.shape[1])
    if part.stop < end:
        targets[:, part.stop : end] -= errors[:, part] @ factor[part, part.stop : end]
    else:
        targets[:, end:] -= errors[:, begin:end] @ factor[begin:end, end:]


def _factor(moments: Tensor) -> Tensor:
    """U with ``(H + damping)^-1 = U^T U``, upper triangular, float32."""
    damped = moments.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean().clamp(min=1e-30))
    # H = V V^T with V upper triangular, then U = V^-1
    lower = torch.linalg.cholesky(damped.flip(0, 1))
    return _inverse(lower.flip(0, 1)).float()


def _inverse(upper: Tensor) -> Tensor:
    unit = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, unit, upper=True)

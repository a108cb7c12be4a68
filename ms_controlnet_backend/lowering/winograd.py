"""3 x 3 convolutions of stride 1 by Winograd's minimal filtering (Lavin & Gray, arXiv 1509.09308).

F(2x2, 3x3): tiles of 4 x 4 pixels, overlapping by 2, give 2 x 2 outputs with 16 multiplications a pair of channels
instead of 36. On the matrix of pixels by channels it is: rows gathered into tiles, a product with the Kronecker product
of the input transforms, one product with the transformed weight a place in the tile, a product with the Kronecker
product of the output transforms, rows put in order.

Larger tiles save more multiplications and cost accuracy. RMS error of one layer as a multiple of the plain sum's:
F(2x2) 1.5, F(2x4) 2.6, F(4x4) 4.3 (with the points 0, ±5/8, ±3/2; 10 with the usual ones). They put a whole VAE decoder
2.2, 3.4 and 4.6 times as far from float64 as torch is, and the UNet was no faster with F(2x4) than with F(2x2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SIZE, OUTPUTS = 4, 2
"""Pixels and outputs along a side of a tile."""
_OUTPUT = [[1, 1, 1, 0], [0, 1, -1, 1]]
_WEIGHT = [[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
_INPUT = [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]

BAND_BYTES = 48 * 2**20
"""Largest array of tiles at once; more are done band after band, which bounds the memory. Bands of 12 to 96 MiB were
measured to take the same time, but each kernel of a compiled graph keeps 64 KB and takes its time to compile."""


@dataclass(frozen=True)
class WinogradWeight:
    """(O, C, 3, 3) → (16, C, O): the weight in the domain of the products, one matrix a place in the tile."""

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        transform = torch.kron(*[torch.tensor(_WEIGHT, dtype=torch.float64)] * 2)  # (16, 9)
        o, c = weight.shape[:2]
        result = torch.empty(SIZE * SIZE, c, o)
        for start in range(0, c, 64):  # in float64, which need not hold the whole weight
            part = weight[:, start : start + 64].permute(2, 3, 1, 0).double()
            result[:, start : start + 64] = (transform @ part.reshape(9, -1)).reshape(SIZE * SIZE, -1, o)
        return result


def tiles_of(n: int, h: int, w: int) -> int:
    return n * -(-h // OUTPUTS) * -(-w // OUTPUTS)


def winograd(b, x, weight, bias=None, keep=True):
    """x: (N, C, H, W), weight: (O, C, 3, 3), bias: (O,), padding 1 → the (N H W, O) matrix of the result. The bias is
    added band by band, in the cache. keep: the transformed weight is made once and kept, else in every call."""
    n, c, h, w = x.shape
    o, places, outputs = weight.shape[0], SIZE * SIZE, OUTPUTS * OUTPUTS
    take, give = (b.constant(torch.kron(*[torch.tensor(m, dtype=torch.float32)] * 2)) for m in (_INPUT, _OUTPUT))
    matrix = b.rows(x)
    kernel = b.prepared(weight, WinogradWeight(), (places, c, o)) if keep else None
    bands, last = [], None
    for first, count in _bands(n, h, places * -(-w // OUTPUTS) * max(c, o) * 4):
        source, target = _rows(n, h, w, first, count)
        area = source.shape[1]
        d = b.gather_rows(matrix, source, last)
        kernel = kernel or _transformed(b, weight, d)
        d = b.matmul(take, b.reshape(d, (places, area * c)))
        y = b.matmul(b.reshape(d, (places, area, c)), kernel, transpose_y=not keep)
        y = b.matmul(give, b.reshape(y, (places, area * o)))
        last = b.gather_rows(b.reshape(y, (outputs * area, o)), target)
        last = last if bias is None else b.add(last, b.reshape(bias, (1, o)))
        bands.append(last)
    return b.concat(bands, 0)


def _transformed(b, weight, done):
    """(O, C, 3, 3) → (16, O, C), in every call; after ``done``, or those of all layers would be made at once."""
    o, c = weight.shape[:2]
    transform = b.constant(torch.kron(*[torch.tensor(_WEIGHT, dtype=torch.float32)] * 2))
    original = b.after(b.reshape(weight, (o * c, 9)), done)
    return b.reshape(b.matmul(transform, original, transpose_y=True), (SIZE * SIZE, o, c))


def _bands(n, h, row_bytes):
    """(first, count) of the rows of tiles to be done together."""
    rows = n * -(-h // OUTPUTS)
    most = max(1, BAND_BYTES // row_bytes)
    return [(first, min(most, rows - first)) for first in range(0, rows, most)]


def _rows(n, h, w, first, count):
    """Of a band: which pixel lies in each place of each tile, (places, tiles), -1 outside the picture; and where each
    of its pixels lies in the (outputs * tiles) results."""
    down, across = -(-h // OUTPUTS), -(-w // OUTPUTS)
    band, columns = torch.arange(first, first + count), torch.arange(across)
    y = (band % down * OUTPUTS)[:, None] + torch.arange(-1, OUTPUTS + 1)  # (rows of tiles, 4)
    x = (columns * OUTPUTS)[:, None] + torch.arange(-1, OUTPUTS + 1)  # (tiles across, 4)
    inside = ((y >= 0) & (y < h))[:, None, :, None] & ((x >= 0) & (x < w))[None, :, None, :]
    pixel = ((band // down)[:, None, None, None] * h + y[:, None, :, None]) * w + x[None, :, None, :]
    source = torch.where(inside, pixel, -1).permute(2, 3, 0, 1).reshape(SIZE * SIZE, -1)
    number = torch.arange(count)[:, None, None, None] * across + columns[:, None]  # of the tile
    place = torch.arange(OUTPUTS)[:, None, None] * OUTPUTS + torch.arange(OUTPUTS)  # in the tile
    target = place * count * across + number  # (rows of tiles, 2, tiles across, 2)
    seen = (y[:, 1:-1] < h)[:, :, None, None] & (x[:, 1:-1] < w)
    return source, target[seen.expand_as(target)]

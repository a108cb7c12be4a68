"""Complex numbers as pairs: every supported overload against torch, on MindSpore."""

import pytest
import torch

from ms_controlnet_backend import plugins
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.hookspecs import Options, Site

fft = torch.fft


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, mask):
        return self.function(x, mask)


def filtered(x, mask):
    """As FreeU does it."""
    y = fft.fftshift(fft.fftn(x, dim=(-2, -1)), dim=(-2, -1)) * mask
    return fft.ifftn(fft.ifftshift(y, dim=(-2, -1)), dim=(-2, -1)).real


def both(y):
    return torch.view_as_real(y)


CASES = {
    "filter": filtered,
    "fft": lambda x, mask: both(fft.fft(x)),
    "fft along an axis": lambda x, mask: both(fft.fft(x, dim=1, norm="ortho")),
    "ifft": lambda x, mask: both(fft.ifft(fft.fft2(x), norm="forward")),
    "fft2": lambda x, mask: both(fft.fft2(x, norm="forward")),
    "ifft2": lambda x, mask: both(fft.ifft2(fft.fft2(x))),
    "fftn": lambda x, mask: both(fft.fftn(x)),
    "ifftn": lambda x, mask: both(fft.ifftn(x, dim=(0, -1), norm="ortho")),
    "shift": lambda x, mask: both(fft.fftshift(fft.fft(x))),
    "unshift": lambda x, mask: both(fft.ifftshift(fft.fft(x), dim=[-1])),
    "product": lambda x, mask: (fft.fft(x) * fft.fft2(x)).imag,
    "product with numbers": lambda x, mask: both(fft.fft(x) * (2 - 0.5j) * 3),
    "sum": lambda x, mask: both(fft.fft(x) + fft.fft2(x) - 2),
    "sum with a larger real": lambda x, mask: both(mask - fft.fft(x[:1])) + both(fft.fft(x[:1]) - mask),
    "absolute by parts": lambda x, mask: fft.fft(x).real ** 2 + fft.fft(x).imag ** 2,
    "shapes": lambda x, mask: both(fft.fft(x).transpose(1, 2).reshape(2, -1)[:, 1:3]),
}


def run(function, x, mask):
    module = Module(function).eval()
    engine = plugins.registry().backend("mindspore").build(Options(strict=True))
    with torch.no_grad():
        return engine.component(Site("complex", module))(module.forward, (x, mask), {}), module(x, mask)


@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case):
    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(2, 3, 6, 5, generator=generator), torch.rand(2, 3, 6, 5, generator=generator)
    got, expected = run(CASES[case], x, mask)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


def test_as_exact_as_torch_at_the_largest_size():
    x = torch.randn(1, 2, 128, 128, generator=torch.Generator().manual_seed(0))
    got, _ = run(filtered, x, torch.ones(128, 128))
    assert (got - x).abs().max() < 1e-5


@pytest.mark.parametrize(
    "function, named",
    [
        (lambda x, mask: fft.fft(x).abs(), "aten.abs.default"),
        (lambda x, mask: fft.fft(x, n=3).real, "aten.fft_fft.default with a size"),
        (lambda x, mask: fft.fft(x), "a complex output"),
        (lambda x, mask: fft.fft(x.double()).real, "float64"),
    ],
)
def test_the_rest_is_refused_by_name(function, named):
    with pytest.raises(Refused, match=named):
        run(function, torch.ones(2, 4), torch.ones(1))

"""What scripts do to a UNet: each is done to a UNet, or a pipeline that has one, and returns what undoes it."""

from __future__ import annotations

import torch


def deep_cache(pipe, interval: int = 2):
    """As the DeepCache package does: the forwards of the UNet and of its blocks are replaced on the instances; inner
    blocks are computed in every ``interval``-th step and kept for the others (Ma et al., arXiv 2312.00858)."""
    return DeepCache(pipe, interval).disable


class DeepCache:
    def __init__(self, pipe, interval):
        self.pipe, self.interval, self.step, self.functions, self.kept = pipe, interval, 0, {}, {}
        unet = pipe.unet
        self.functions["unet"] = unet.forward
        unet.forward = self.count
        self.blocks = {("down", i): b for i, b in enumerate(unet.down_blocks)} | {"mid": unet.mid_block}
        self.blocks |= {("up", i): b for i, b in enumerate(unet.up_blocks)}
        outer = ("down", 0), ("up", len(unet.up_blocks) - 1)
        for key, block in self.blocks.items():
            self.wrap(key, block, key in outer)

    def count(self, *args, **kwargs):
        timesteps = [float(t) for t in self.pipe.scheduler.timesteps]
        self.step = timesteps.index(float(args[1])) if float(args[1]) in timesteps else self.step + 1
        return self.functions["unet"](*args, **kwargs)

    def wrap(self, key, block, outer):
        self.functions[key] = block.forward

        def forward(*args, **kwargs):
            if outer or self.step % self.interval == 0 or key not in self.kept:
                self.kept[key] = self.functions[key](*args, **kwargs)
            return self.kept[key]

        block.forward = forward

    def disable(self):
        self.pipe.unet.forward = self.functions["unet"]
        for key, block in self.blocks.items():
            block.forward = self.functions[key]


def replaced_forward(pipe):
    """A block's forward that counts its calls."""
    block, calls = pipe.unet.up_blocks[-1], []
    upstream = block.forward

    def forward(*args, **kwargs):
        calls.append(1)
        out = upstream(*args, **kwargs)
        return out.flip(-1) if len(calls) % 3 == 0 else out

    block.forward = forward
    return lambda: delattr(block, "forward")


def recording_processor(pipe):
    """An attention processor that keeps what each attention returned."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Recording(AttnProcessor2_0):
        kept = {}

        def __call__(self, attn, hidden_states, *args, **kwargs):
            out = super().__call__(attn, hidden_states, *args, **kwargs)
            self.kept[attn] = out.detach()
            return out

    before = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(Recording())
    return lambda: pipe.unet.set_attn_processor(before)


def hook_on_each_resnet(pipe):
    from diffusers.models.resnet import ResnetBlock2D

    kept = {}
    resnets = [m for m in pipe.unet.modules() if isinstance(m, ResnetBlock2D)]
    handles = [m.register_forward_hook(lambda m, inputs, out: kept.update({m: out.detach()})) for m in resnets]
    return lambda: [handle.remove() for handle in handles]


class Unknown(torch.nn.Module):
    """SiLU by an operator that has no lowering."""

    def forward(self, x):
        return x * torch.special.expit(x) + torch.special.erfcx(x.abs()) * 0.01


def unknown_overload(pipe):
    """One, in the middle of the UNet."""
    resnet = pipe.unet.mid_block.resnets[0]
    before, resnet.nonlinearity = resnet.nonlinearity, Unknown()
    return lambda: setattr(resnet, "nonlinearity", before)


PATCHES = [deep_cache, replaced_forward, recording_processor, hook_on_each_resnet, unknown_overload]

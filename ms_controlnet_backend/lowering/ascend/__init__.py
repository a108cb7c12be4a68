"""Lowerings for Ascend NPUs: the functions of ``mindspore.mint`` and others whose kernels are CANN's aclnn operators.

What is not lowered here is lowered as for every target, with :class:`.builder.AscendBuilder` in place of the CPU's.

Counted in a step of Stable Diffusion 1.5's UNet, float16, 512 px, batch 2 (514 kernels, 6.28 GB read and written), what
leaving a rewrite out costs:

===================  =======  ==============
left out             kernels  bytes
===================  =======  ==============
attention               +206  2.99 times
transposes              +222  1.23 times
grouped_projections      +53  1.015 times
feed_forward             +48  1.059 times
add_layer_norm           +32  1.015 times
padded_projections       +20  1.033 times
split_projections          0  the same; with neither it nor feed_forward +80, 1.24 times
casts                      0  the same; of the ControlNet's 247 kernels +12
===================  =======  ==============

Queries, keys and values are one kernel, GroupedMatmul, which reads their input once and writes each to a tensor of its
own: 24.9 MB at 64 x 64 positions, where the three products take 35. One product with the weights one below the other
would have to be cut apart again, as the attention does not read them side by side: 62.6 MB. In the whole step, by the
prediction for a 910B, feed-forward layers in four kernels: 25.2 ms apart, 24.8 ms grouped, 27.1 ms (595 kernels,
7.70 GB) as one product and a Split each. How fast the grouped kernel is in truth cannot be measured here;
``MS_CONTROLNET_WITHOUT=grouped_projections`` leaves it out.

A feed-forward layer with GEGLU is one kernel, FFN, in place of four. What the four write and read, 8 numbers for each
of the layer's inner ones, becomes 6 that go through its workspace. CANN's document of it says that it may be slower
than the small kernels and should be tried; ``MS_CONTROLNET_WITHOUT=feed_forward`` leaves it out.

GroupNorm with SiLU is a fused operator of CANN's that MindSpore has no primitive for (its GroupNormSilu belongs to the
deprecated GE backend; a test says so when that changes).
"""

REWRITES = {
    "attention": "FlashAttentionScore in place of matrix products and a softmax",
    "transposes": "a transpose of a transpose is one of the original; attention reads its heads where they lie",
    "casts": "a value is cast once for all who ask, and one widened and cast back is the value",
    "padded_projections": "heads are padded in the weights of the projections around an attention, not in the graph",
    "feed_forward": "a gated feed-forward layer (GEGLU) is one kernel, FFN",
    "split_projections": "slices of a linear layer's output are linear layers with slices of its weight (GEGLU)",
    "grouped_projections": "linear layers of one input are one kernel: queries, keys and values, the halves of GEGLU",
    "add_layer_norm": "an addition and the layer norm of the sum are one kernel",
}
"""What is done to save kernels, memory traffic or both, the likeliest to fail first. Each is left out by its name."""
BESIDE = frozenset({"grouped_projections"})
"""Left out where torch has the weights on the NPU, too: they would be there twice. Of Stable Diffusion 1.5's UNet and
ControlNet, 2330 MiB in float16, 670 MiB are then rearranged for 761 kernels a step, and without grouped projections 437
for 837. (FFN takes 420 of them and saves 115 more kernels.)"""

"""Lowerings for Ascend NPUs: the functions of ``mindspore.mint`` and others whose kernels are CANN's aclnn operators.

What is not lowered here is lowered as for every target, with :class:`.builder.AscendBuilder` in place of the CPU's.

Counted in a step of Stable Diffusion 1.5's UNet, float16, 512 px, batch 2 (562 kernels, 6.65 GB read and written), what
leaving a rewrite out costs:

===================  =======  ==============
left out             kernels  bytes
===================  =======  ==============
attention               +222  2.89 times
transposes              +222  1.21 times
grouped_projections      +69  1.021 times
add_layer_norm           +32  1.014 times
split_projections        +32  1.167 times
padded_projections       +20  1.031 times
casts                      0  the same; of the ControlNet's 268 kernels +12
===================  =======  ==============

Queries, keys and values are one kernel, GroupedMatmul, which reads their input once and writes each to a tensor of its
own: 24.9 MB at 64 x 64 positions, where the three products take 35. One product with the weights one below the other
would have to be cut apart again, as the attention does not read them side by side: 62.6 MB. In the whole step, by the
prediction for a 910B: 25.2 ms apart, 24.8 ms grouped, 27.1 ms (595 kernels, 7.70 GB) as one product and a Split each.
SDXL's UNet at 1024 px: 1404 kernels and 165.5 ms apart, 1178 and 164.4 ms grouped. How fast the grouped kernel is in
truth cannot be measured here; ``MS_CONTROLNET_WITHOUT=grouped_projections`` leaves it out.

GroupNorm with SiLU, and GEGLU, are fused operators of CANN's that MindSpore has no primitive for (its GroupNormSilu and
GeGluV2 belong to the deprecated GE backend; a test says so when that changes). Its FFNExt has a GEGLU, but which half
it takes for the gate, and which GELU, it does not document, and it cannot be tried here.
"""

REWRITES = {
    "attention": "FlashAttentionScore in place of matrix products and a softmax",
    "transposes": "a transpose of a transpose is one of the original; attention reads its heads where they lie",
    "casts": "a value is cast once for all who ask, and one widened and cast back is the value",
    "padded_projections": "heads are padded in the weights of the projections around an attention, not in the graph",
    "split_projections": "slices of a linear layer's output are linear layers with slices of its weight (GEGLU)",
    "grouped_projections": "linear layers of one input are one kernel: queries, keys and values, the halves of GEGLU",
    "add_layer_norm": "an addition and the layer norm of the sum are one kernel",
}
"""What is done to save kernels, memory traffic or both, the likeliest to fail first. Each is left out by its name."""

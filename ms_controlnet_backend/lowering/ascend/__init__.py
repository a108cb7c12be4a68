"""Lowerings for Ascend NPUs: the functions of ``mindspore.mint`` and others whose kernels are CANN's aclnn operators.

What is not lowered here is lowered as for every target, with :class:`.builder.AscendBuilder` in place of the CPU's.

Counted in a step of Stable Diffusion 1.5's UNet, float16, 512 px, batch 2 (631 kernels, 6.79 GB read and written), what
leaving a rewrite out costs:

===================  =======  ==============
left out             kernels  bytes
===================  =======  ==============
attention               +222  2.85 times
transposes              +222  1.21 times
add_layer_norm           +32  1.013 times
padded_projections       +20  1.031 times
split_projections        +16  1.157 times
casts                      0  the same; of the ControlNet's 298 kernels +12
===================  =======  ==============

Not done, for a reason: queries, keys and values in one product. The kernel of the attention does not read them side by
side, so they would have to be cut apart again: at 64 x 64 positions 62 MB instead of 35 MB for one kernel less.
GroupNorm with SiLU, and GEGLU, are fused operators of CANN's that MindSpore has no primitive for; its FFNExt has a
GEGLU, but which half it takes for the gate, and which GELU, it does not document, and it cannot be tried here.
"""

REWRITES = {
    "transposes": "a transpose of a transpose is one of the original; attention reads its heads where they lie",
    "casts": "a value is cast once for all who ask, and one widened and cast back is the value",
    "constants": "small tensors of one number are constants",
    "attention": "FlashAttentionScore in place of matrix products and a softmax",
    "padded_projections": "heads are padded in the weights of the projections around an attention, not in the graph",
    "split_projections": "slices of a linear layer's output are linear layers with slices of its weight (GEGLU)",
    "add_layer_norm": "an addition and the layer norm of the sum are one kernel",
}
"""What is done to save kernels, memory traffic or both. Each can be left out by its name."""

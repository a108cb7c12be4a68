"""Lowerings for Ascend NPUs: the functions of ``mindspore.mint`` and others whose kernels are CANN's aclnn operators.

What is not lowered here is lowered as for every target, with :class:`.builder.AscendBuilder` in place of the CPU's.
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

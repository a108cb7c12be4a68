"""Kernels that MindSpore has for CPUs and ``mindspore.ops`` no class for; generated source calls them."""

from mindspore.ops import PrimitiveWithInfer, prim_attr_register


class FusedMatMulBiasAdd(PrimitiveWithInfer):
    """``(m, k)`` and ``(k, n)`` float32 matrices, either of them transposed, and a bias ``(n,)``. The kernel reads the
    attributes, the choice of a kernel wants them as inputs too."""

    @prim_attr_register
    def __init__(self, transpose_a: bool, transpose_b: bool):
        self.init_prim_io_names(["x1", "x2", "bias", "transpose_a", "transpose_b"], ["output"])
        self.add_prim_attr("with_bias_add", True)

    def __infer__(self, a, b, bias, transpose_a, transpose_b):
        rows, columns = a["shape"][int(self.transpose_a)], b["shape"][int(not self.transpose_b)]
        return {"shape": (rows, columns), "dtype": a["dtype"], "value": None}


matmul_bias = FusedMatMulBiasAdd(False, False)
linear = FusedMatMulBiasAdd(False, True)

// CANN's documents aclnnMatmul, aclnnMm, aclnnBatchMatMul, aclnnAddmm, aclnnBaddbmm, aclnnGroupedMatmulV4.
#include "products.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif
WIDE static void band(const float *a, const float *b, float *c, int64_t rows, int64_t k, int64_t n) {
  const int64_t columns = 512;
  for (int64_t from = 0; from < n; from += columns) {
    int64_t to = std::min(n, from + columns);
    for (int64_t p = 0; p < k; p++)
      for (int64_t i = 0; i < rows; i++) {
        float factor = a[i * k + p];
        for (int64_t j = from; j < to; j++) c[i * n + j] += factor * b[p * n + j];
      }
  }
}
void multiply(const float *a, const float *b, float *c, int64_t m, int64_t k, int64_t n) {
#pragma omp parallel for if (m * k * n > 1000000)
  for (int64_t i = 0; i < m; i += 4) band(a + i * k, b, c + i * n, std::min<int64_t>(4, m - i), k, n);
}

void cube_math(Tensor self, int8_t math) {
  type(self, floats(), "self");
  NEED(math >= 0 && math <= 4, "cubeMathType %d", math);
  if (self->type == FLOAT32 && report::on("exact_float32")) NEED(math == 0 || math == 4, "float32 at the precision of cubeMathType %d (HF32)", math);
}
Singles for_cube(Singles values, Tensor self, int8_t math) {
  if (self->type != FLOAT32 || (math != 1 && math != 3) || !report::on("hf32")) return values;
  for (auto &x : values) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x7ff + ((bits >> 12) & 1)) & 0xfffff000;
    memcpy(&x, &bits, 4);
  }
  return values;
}

static Shape batch(Tensor t) { return t.rank() > 2 ? Shape(t->shape.begin(), t->shape.end() - 2) : Shape(); }
static void check(Tensor self, Tensor other, Tensor out, int8_t math) {
  cube_math(self, math);
  same_type(other, self, "mat2");
  same_type(out, self, "out");
  int64_t inner = other.rank() > 1 ? other.size(-2) : other.size(0);
  NEED(self.size(-1) == inner, "%s times %s", text(self->shape).c_str(), text(other->shape).c_str());
  Shape expected = broadcast(batch(self), batch(other));
  if (self.rank() > 1) expected.push_back(self.size(-2));
  if (other.rank() > 1) expected.push_back(other.size(-1));
  NEED(expected == out->shape, "out is %s for %s times %s", text(out->shape).c_str(), text(self->shape).c_str(), text(other->shape).c_str());
}
static void product(Tensor self, Tensor other, Tensor out, int8_t math, Tensor bias = {}, double beta = 1, double alpha = 1) {
  int64_t m = self.rank() > 1 ? self.size(-2) : 1, k = self.size(-1), n = other.rank() > 1 ? other.size(-1) : 1;
  Shape each = broadcast(batch(self), batch(other)), left = each, right = each, whole = each;
  left.insert(left.end(), {m, k});
  right.insert(right.end(), {k, n});
  whole.insert(whole.end(), {m, n});
  Singles a = for_cube(load<float>(self, left), self, math), c(elements(whole), 0);
  // a vector on the right is a column
  Singles b = for_cube(other.rank() > 1 ? load<float>(other, right) : load<float>(other), other, math);
  for (int64_t i = 0; i < elements(each); i++) multiply(&a[i * m * k], &b[i * k * n], &c[i * m * n], m, k, n);
  if (bias) {
    Singles added = load<float>(bias, whole);
    for (size_t i = 0; i < c.size(); i++) c[i] = alpha * c[i] + (beta ? beta * added[i] : 0);  // torch gives memory without numbers for 0
  }
  store(out, c);
}
static void ranks(Tensor self, Tensor other, size_t rank) { NEED(self.rank() == rank && other.rank() == rank, "%zu and %zu dimensions", self.rank(), other.rank()); }

ACLNN(aclnnMatmul, (Tensor self, Tensor mat2, Tensor out, int8_t math), (self, mat2, out, math)) {
  check(self, mat2, out, math);
  return [=] { product(self, mat2, out, math); };
}
ACLNN(aclnnMm, (Tensor self, Tensor mat2, Tensor out, int8_t math), (self, mat2, out, math)) {
  ranks(self, mat2, 2);
  check(self, mat2, out, math);
  return [=] { product(self, mat2, out, math); };
}
ACLNN(aclnnBatchMatMul, (Tensor self, Tensor mat2, Tensor out, int8_t math), (self, mat2, out, math)) {
  ranks(self, mat2, 3);
  check(self, mat2, out, math);
  return [=] { product(self, mat2, out, math); };
}
ACLNN(aclnnAddmm, (Tensor self, Tensor mat1, Tensor mat2, Scalar beta, Scalar alpha, Tensor out, int8_t math), (self, mat1, mat2, beta, alpha, out, math)) {
  ranks(mat1, mat2, 2);
  check(mat1, mat2, out, math);
  same_type(self, mat1, "self");
  broadcasts(self->shape, out->shape, "self");
  return [=] { product(mat1, mat2, out, math, self, *beta, *alpha); };
}
ACLNN(aclnnBaddbmm, (Tensor self, Tensor mat1, Tensor mat2, Scalar beta, Scalar alpha, Tensor out, int8_t math), (self, mat1, mat2, beta, alpha, out, math)) {
  ranks(mat1, mat2, 3);
  check(mat1, mat2, out, math);
  broadcasts(self->shape, out->shape, "self");
  return [=] { product(mat1, mat2, out, math, self, *beta, *alpha); };
}

// Several products in one launch: split_item 0 and group_type -1, every x with its own weight, bias and y.
ACLNN(aclnnGroupedMatmulV4, (Tensors x, Tensors weight, Tensors bias, Tensors scale, Tensors offset, Tensors antiquant_scale, Tensors antiquant_offset,
       Tensors per_token_scale, Tensor group_list, Tensors activation_input, Tensors activation_quant_scale, Tensors activation_quant_offset,
       int64_t split_item, int64_t group_type, int64_t group_list_type, int64_t act_type, Tensors out, Tensors activation_feature_out, Tensors dyn_quant_scale_out),
      (x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, per_token_scale, group_list, activation_input, activation_quant_scale,
       activation_quant_offset, split_item, group_type, group_list_type, act_type, out, activation_feature_out, dyn_quant_scale_out)) {
  NEED(split_item == 0 && group_type == -1 && !group_list && act_type == 0, "split_item %lld, group_type %lld", (long long)split_item, (long long)group_type);
  size_t n = x.raw ? x.count() : 0;
  NEED(n >= 1 && n <= 128 && weight.count() == n && out.count() == n && (!bias || bias.count() == n), "lists of %zu, %zu and %zu", n, weight.count(), out.count());
  for (size_t i = 0; i < n; i++) {
    type(x[i], {FLOAT16, BFLOAT16}, "x");
    same_type(weight[i], x[i], "weight");
    NEED(x[i].rank() >= 2 && x[i].rank() <= 6 && weight[i].rank() == 2 && x[i].size(-1) == weight[i].size(0), "%s times %s", text(x[i]->shape).c_str(), text(weight[i]->shape).c_str());
    NEED(x[i].size(-1) <= 65535 && weight[i].size(1) <= 65535, "an inner size over 65535");
    if (bias) NEED(bias[i].rank() == 1 && bias[i]->type == (x[i]->type == BFLOAT16 ? FLOAT32 : FLOAT16), "bias is %s", said(bias[i]).c_str());
  }
  return [=] { for (size_t i = 0; i < n; i++) product(x[i], weight[i], out[i], 0, bias ? bias[i] : Tensor{}); };
}

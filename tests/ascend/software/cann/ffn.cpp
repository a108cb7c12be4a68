// CANN's document aclnnFFN (ops-transformer). Its GLU kernel (ffn_glu.cpp there) multiplies the left half with the activation of
// the right one, by AscendC's GeGLU (adv_api/activation/geglu.h: x1 * GeLU(x2)), whose GELU is the one with tanh, in float32.
#include "products.h"

static float half(float x) { return from_half(to_half(x)); }
static float gelu_by_tanh(float x) { return x / (1 + std::exp(-0.0713548162726f * (x * x + 22.363860002236f) * x)); }

ACLNN(aclnnFFN, (Tensor x, Tensor weight1, Tensor weight2, Ints expert_tokens, Tensor bias1, Tensor bias2, Tensor scale, Tensor offset, Tensor deq_scale1, Tensor deq_scale2,
       Tensor antiquant_scale1, Tensor antiquant_scale2, Tensor antiquant_offset1, Tensor antiquant_offset2, const char *activation, int64_t inner_precise, Tensor y),
      (x, weight1, weight2, expert_tokens, bias1, bias2, scale, offset, deq_scale1, deq_scale2, antiquant_scale1, antiquant_scale2, antiquant_offset1,
       antiquant_offset2, activation, inner_precise, y)) {
  NEED(!expert_tokens || (*expert_tokens).empty(), "experts");
  NEED(!scale && !offset && !deq_scale1 && !deq_scale2 && !antiquant_scale1 && !antiquant_scale2 && !antiquant_offset1 && !antiquant_offset2, "a quantised product");
  NEED(activation && !strcmp(activation, "geglu"), "activation %s", said(activation).c_str());
  NEED(inner_precise == 1, "geglu with inner_precise %lld: high performance (1) only", (long long)inner_precise);
  for (Tensor tensor : {x, weight1, weight2, y}) type(tensor, {FLOAT16}, "of geglu one");
  NEED(x.rank() >= 2 && x.rank() <= 8 && weight1.rank() == 2 && weight2.rank() == 2, "ranks %zu, %zu, %zu", x.rank(), weight1.rank(), weight2.rank());
  int64_t k1 = x.size(-1), k2 = weight2.size(0), n2 = weight2.size(1), rows = k1 ? x.count() / k1 : 0;
  NEED(weight1.size(0) == k1 && weight1.size(1) == 2 * k2 && n2 == k1 && k1 < 65536 && k2 < 65536, "%s, %s, %s", text(x->shape).c_str(), text(weight1->shape).c_str(), text(weight2->shape).c_str());
  NEED(y->shape == x->shape, "y is %s", text(y->shape).c_str());
  if (bias1) NEED(bias1->type == FLOAT16 && bias1->shape == Shape{2 * k2}, "bias1 is %s", said(bias1).c_str());
  if (bias2) NEED(bias2->type == FLOAT16 && bias2->shape == Shape{n2}, "bias2 is %s", said(bias2).c_str());
  return [=] {
    Singles in = load<float>(x), first = load<float>(weight1), second = load<float>(weight2), wide(rows * 2 * k2, 0), gated(rows * k2), out(rows * n2, 0);
    multiply(in.data(), first.data(), wide.data(), rows, k1, 2 * k2);
    Singles added1 = bias1 ? load<float>(bias1) : Singles(2 * k2, 0), added2 = bias2 ? load<float>(bias2) : Singles(n2, 0);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < k2; j++) {
        float left = half(wide[i * 2 * k2 + j] + added1[j]), right = half(wide[i * 2 * k2 + k2 + j] + added1[k2 + j]);
        gated[i * k2 + j] = half(left * gelu_by_tanh(right));
      }
    multiply(gated.data(), second.data(), out.data(), rows, k2, n2);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n2; j++) out[i * n2 + j] += added2[j];
    store(y, out);
  };
}

// CANN's documents aclnnGroupNorm, aclnnLayerNorm, aclnnAddLayerNorm.
#include "numbers.h"

typedef std::vector<float> Singles;
namespace {
struct Normed { Singles values, mean, rstd; };
Normed normed(Singles x, int64_t length, double eps) {
  Normed result;
  for (size_t start = 0; start < x.size(); start += length) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < length; i++) sum += x[start + i];
    double mean = sum / length;
    for (int64_t i = 0; i < length; i++) squares += (x[start + i] - mean) * (x[start + i] - mean);
    double rstd = 1 / std::sqrt(squares / length + eps);
    for (int64_t i = 0; i < length; i++) x[start + i] = (x[start + i] - mean) * rstd;
    result.mean.push_back(mean);
    result.rstd.push_back(rstd);
  }
  result.values = std::move(x);
  return result;
}
// Element i takes the factor i / each % channels.
void scale(Singles &x, Tensor gamma, Tensor beta, int64_t channels, int64_t each) {
  Singles factor = gamma ? load<float>(gamma) : Singles(channels, 1), added = beta ? load<float>(beta) : Singles(channels, 0);
  for (size_t i = 0; i < x.size(); i++) x[i] = x[i] * factor[i / each % channels] + added[i / each % channels];
}
void finish(Normed result, Tensor gamma, Tensor beta, int64_t channels, int64_t each, Tensor out, Tensor mean, Tensor rstd) {
  scale(result.values, gamma, beta, channels, each);
  store(out, result.values);
  if (mean) store(mean, result.mean);
  if (rstd) store(rstd, result.rstd);
}
}  // namespace

ACLNN(aclnnGroupNorm, (Tensor self, Tensor gamma, Tensor beta, int64_t batch, int64_t channels, int64_t plane, int64_t groups, double eps, Tensor out, Tensor mean, Tensor rstd),
      (self, gamma, beta, batch, channels, plane, groups, eps, out, mean, rstd)) {
  type(self, floats(), "self");
  for (Tensor other : {gamma, beta, out, mean, rstd}) same_type(other, self, "gamma, beta or an output");
  NEED(groups > 0 && channels % groups == 0 && batch * channels * plane == self.count() && eps > 0, "%lld groups of %lld channels", (long long)groups, (long long)channels);
  NEED((!gamma || gamma.count() == channels) && (!beta || beta.count() == channels) && mean->shape == Shape({batch, groups}), "mean is %s", said(mean).c_str());
  return [=] { finish(normed(load<float>(self), channels / groups * plane, eps), gamma, beta, channels, plane, out, mean, rstd); };
}
ACLNN(aclnnLayerNorm, (Tensor input, Ints normalized_shape, Tensor weight, Tensor bias, double eps, Tensor out, Tensor mean, Tensor rstd),
      (input, normalized_shape, weight, bias, eps, out, mean, rstd)) {
  type(input, floats(), "input");
  same_type(out, input, "out");
  if (weight) same_type(bias, weight, "bias");
  int64_t length = elements(*normalized_shape);
  NEED((!weight || weight.count() == length) && (!bias || bias.count() == length), "weights of another size than %s", text(*normalized_shape).c_str());
  return [=] { finish(normed(load<float>(input), length, eps), weight, bias, length, 1, out, mean, rstd); };
}
ACLNN(aclnnAddLayerNorm, (Tensor x1, Tensor x2, Tensor gamma, Tensor beta, Tensor bias, double eps, bool additional_output, Tensor out, Tensor mean, Tensor rstd, Tensor sum),
      (x1, x2, gamma, beta, bias, eps, additional_output, out, mean, rstd, sum)) {
  type(x1, floats(), "x1");
  same_type(x2, x1, "x2");
  same_type(beta, gamma, "beta");
  NEED(x1->shape == x2->shape && gamma.rank() == 1 && beta.rank() == 1 && gamma.size(0) == x1.size(-1), "%s, %s and gamma %s", text(x1->shape).c_str(), text(x2->shape).c_str(), text(gamma->shape).c_str());
  NEED(mean->type == FLOAT32 && rstd->type == FLOAT32, "mean is %s", name_of(mean->type));
  NEED(!additional_output || sum, "no output for the sum");
  return [=] {
    Singles x = load<float>(x1), other = load<float>(x2);
    for (size_t i = 0; i < x.size(); i++) x[i] += other[i];
    if (bias) {
      Singles more = load<float>(bias, x1->shape);
      for (size_t i = 0; i < x.size(); i++) x[i] += more[i];
    }
    if (additional_output) store(sum, x);
    finish(normed(x, gamma.size(0), eps), gamma, beta, gamma.size(0), 1, out, mean, rstd);
  };
}

// Operators along dimensions: CANN's documents aclnnMean, aclnnReduceSum, aclnnAmax, aclnnSoftmax, aclnnCumsum, aclnnArgMax, aclnnLinalgVectorNorm …
#include "numbers.h"

typedef std::vector<double> Values;
// f(row): every row of one dimension, which it may change; then the rows, put back together.
template <class F> static Values rows(Tensor self, int64_t dim, F f) {
  Values x = load(self);
  size_t along = axis(dim, self.rank());
  int64_t length = self.rank() ? self->shape[along] : 1, inner = 1;
  for (size_t i = along + 1; i < self.rank(); i++) inner *= self->shape[i];
  Values row(length);
  for (int64_t start = 0; start < (int64_t)x.size(); start += length * inner)
    for (int64_t j = 0; j < inner; j++) {
      for (int64_t k = 0; k < length; k++) row[k] = x[start + k * inner + j];
      f(row);
      for (int64_t k = 0; k < length; k++) x[start + k * inner + j] = row[k];
    }
  return x;
}
static void softmax_of(Values &row, bool logarithm) {
  double most = *std::max_element(row.begin(), row.end()), sum = 0;
  for (auto x : row) sum += std::exp(x - most);
  for (auto &x : row) x = logarithm ? x - most - std::log(sum) : std::exp(x - most) / sum;
}
static Kernel softmax(Tensor self, int64_t dim, Tensor out, bool logarithm) {
  type(self, floats(), "self");
  NEED(self->shape == out->shape, "out is %s", text(out->shape).c_str());
  axis(dim, self.rank());
  return [=] { store(out, rows(self, dim, [=](Values &row) { softmax_of(row, logarithm); })); };
}
ACLNN(aclnnSoftmax, (Tensor self, int64_t dim, Tensor out), (self, dim, out)) { return softmax(self, dim, out, false); }
ACLNN(aclnnLogSoftmax, (Tensor self, int64_t dim, Tensor out), (self, dim, out)) { return softmax(self, dim, out, true); }
ACLNN(aclnnCumsum, (Tensor self, int64_t dim, int32_t dtype, Tensor out), (self, dim, dtype, out)) {
  NEED(out->type == dtype && out->shape == self->shape, "out is %s", said(out).c_str());
  return [=] { store(out, rows(self, dim, [](Values &row) { for (size_t k = 1; k < row.size(); k++) row[k] += row[k - 1]; })); };
}
ACLNN(aclnnArgMax, (Tensor self, int64_t dim, bool keepdim, Tensor out), (self, dim, keepdim, out)) {
  type(out, {INT32, INT64}, "out");
  axis(dim, self.rank());
  return [=] {
    Values found;
    rows(self, dim, [&](Values &row) { found.push_back(std::max_element(row.begin(), row.end()) - row.begin()); });
    NEED((int64_t)found.size() == out.count(), "out is %s", text(out->shape).c_str());
    store(out, found);
  };
}

// Over several dimensions, all of them where none is named. end(y, n): of what n elements came to.
static double itself(double y, double) { return y; }
template <class F> static Kernel reduce(Tensor self, Ints dims, bool keepdim, Tensor out, double start, F f, double (*end)(double, double) = itself) {
  std::vector<bool> gone(self.rank(), (*dims).empty());
  for (auto dim : *dims) gone.at(axis(dim, self.rank())) = true;
  Shape stride(self.rank(), 0), expected;
  int64_t kept = 1;
  for (int i = (int)self.rank() - 1; i >= 0; i--) if (!gone[i]) stride[i] = kept, kept *= self->shape[i];
  for (size_t i = 0; i < self.rank(); i++) if (!gone[i] || keepdim) expected.push_back(gone[i] ? 1 : self->shape[i]);
  NEED(expected == out->shape, "out is %s", text(out->shape).c_str());
  return [=] {
    Values x = load(self), y(kept, start);
    each(self->shape, stride, 0, [&](int64_t i, int64_t at) { y[at] = f(y[at], x[i]); });
    for (auto &value : y) value = end(value, (double)x.size() / kept);
    store(out, y);
  };
}
static double plus(double sum, double x) { return sum + x; }
ACLNN(aclnnMean, (Tensor self, Ints dim, bool keepdim, int32_t dtype, Tensor out), (self, dim, keepdim, dtype, out)) {
  type(self, floats(), "self");
  NEED(out->type == dtype, "out is %s", name_of(out->type));
  return reduce(self, dim, keepdim, out, 0, plus, [](double sum, double n) { return sum / n; });
}
ACLNN(aclnnReduceSum, (Tensor self, Ints dims, bool keepdim, int32_t dtype, Tensor out), (self, dims, keepdim, dtype, out)) {
  NEED(out->type == dtype, "out is %s", name_of(out->type));
  return reduce(self, dims, keepdim, out, 0, plus);
}
#define OVER(NAME, START, EXPRESSION) \
  ACLNN(NAME, (Tensor self, Ints dim, bool keepdim, Tensor out), (self, dim, keepdim, out)) { \
    return reduce(self, dim, keepdim, out, START, [](double y, double x) -> double { return EXPRESSION; }); \
  }
OVER(aclnnAmax, -INFINITY, std::max(y, x)) OVER(aclnnAmin, INFINITY, std::min(y, x)) OVER(aclnnAny, 0, y || x) OVER(aclnnAll, 1, y && x)
ACLNN(aclnnLinalgVectorNorm, (Tensor self, Scalar ord, Ints dims, bool keepdim, int32_t dtype, Tensor out), (self, ord, dims, keepdim, dtype, out)) {
  type(self, floats(), "self");
  NEED(ord && *ord == 2, "the norm of order %s is not taught", said(ord).c_str());
  NEED(out->type == dtype, "out is %s", name_of(out->type));
  return reduce(self, dims, keepdim, out, 0, [](double sum, double x) { return sum + x * x; }, [](double sum, double) { return std::sqrt(sum); });
}

// CANN's "aclnn math" operators, element by element: one document each (aclnnAdd&aclnnInplaceAdd, aclnnMul, aclnnSilu …).
#include "numbers.h"

typedef std::vector<double> Values;
static void check(Tensor self, Tensor other, Tensor out, bool logical) {
  type(self, numbers(), "self");
  type(other, numbers(), "other");
  type(out, numbers(), "out");
  NEED(self.rank() <= 8 && other.rank() <= 8, "more than 8 dimensions");
  NEED(broadcast(self->shape, other->shape) == out->shape, "out is %s", text(out->shape).c_str());
  if (logical) NEED(out->type == BOOL, "out is %s", name_of(out->type));
}
template <class F> static Kernel two(Tensor self, Tensor other, Tensor out, F f) {
  return [=] {
    Values x = load(self, out->shape), y = load(other, out->shape);
    for (size_t i = 0; i < x.size(); i++) x[i] = f(x[i], y[i]);
    store(out, x);
  };
}
template <class F> static Kernel one(Tensor self, Tensor out, F f) {
  NEED(self->shape == out->shape, "out is %s for %s", text(out->shape).c_str(), text(self->shape).c_str());
  return [=] {
    Values x = load(self);
    for (auto &value : x) value = f(value);
    store(out, x);
  };
}
static double alpha_of(Scalar alpha) { return alpha ? *alpha : 1; }

ACLNN(aclnnAdd, (Tensor self, Tensor other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
  check(self, other, out, false);
  return two(self, other, out, [=](double x, double y) { return x + alpha_of(alpha) * y; });
}
ACLNN(aclnnSub, (Tensor self, Tensor other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
  check(self, other, out, false);
  return two(self, other, out, [=](double x, double y) { return x - alpha_of(alpha) * y; });
}
#define TWO(NAME, LOGICAL, EXPRESSION) \
  ACLNN(NAME, (Tensor self, Tensor other, Tensor out), (self, other, out)) { \
    check(self, other, out, LOGICAL); \
    return two(self, other, out, [](double x, double y) -> double { return EXPRESSION; }); \
  }
TWO(aclnnMul, false, x * y) TWO(aclnnDiv, false, x / y) TWO(aclnnMaximum, false, std::max(x, y)) TWO(aclnnMinimum, false, std::min(x, y))
TWO(aclnnPowTensorTensor, false, std::pow(x, y)) TWO(aclnnEqTensor, true, x == y) TWO(aclnnNeTensor, true, x != y) TWO(aclnnLtTensor, true, x < y)
TWO(aclnnLeTensor, true, x <= y) TWO(aclnnGtTensor, true, x > y) TWO(aclnnGeTensor, true, x >= y)
TWO(aclnnLogicalAnd, true, x && y) TWO(aclnnLogicalOr, true, x || y)

#define WITH_SCALAR(NAME, EXPRESSION) \
  ACLNN(NAME, (Tensor self, Scalar other, Tensor out), (self, other, out)) { \
    type(self, numbers(), "self"); \
    NEED(other, "other is null"); \
    return one(self, out, [=](double x) -> double { double y = *other; return EXPRESSION; }); \
  }
WITH_SCALAR(aclnnMuls, x * y) WITH_SCALAR(aclnnDivs, x / y) WITH_SCALAR(aclnnPowTensorScalar, std::pow(x, y)) WITH_SCALAR(aclnnEqScalar, x == y)
WITH_SCALAR(aclnnNeScalar, x != y) WITH_SCALAR(aclnnLtScalar, x < y) WITH_SCALAR(aclnnLeScalar, x <= y) WITH_SCALAR(aclnnGtScalar, x > y)
WITH_SCALAR(aclnnGeScalar, x >= y)
ACLNN(aclnnAdds, (Tensor self, Scalar other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
  type(self, numbers(), "self");
  return one(self, out, [=](double x) { return x + alpha_of(alpha) * *other; });
}
ACLNN(aclnnSubs, (Tensor self, Scalar other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
  type(self, numbers(), "self");
  return one(self, out, [=](double x) { return x - alpha_of(alpha) * *other; });
}
ACLNN(aclnnRsubs, (Tensor self, Scalar other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
  type(self, numbers(), "self");
  return one(self, out, [=](double x) { return *other - alpha_of(alpha) * x; });
}
// Into their first argument; what is computed in a wider type is cast back.
#define INPLACE_WITH_ALPHA(NAME, SCALAR, SIGN) \
  ACLNN(NAME, (Tensor self, Tensor other, Scalar alpha), (self, other, alpha)) { \
    check(self, other, self, false); \
    return two(self, other, self, [=](double x, double y) { return x SIGN alpha_of(alpha) * y; }); \
  } \
  ACLNN(SCALAR, (Tensor self, Scalar other, Scalar alpha), (self, other, alpha)) { \
    type(self, numbers(), "self"); \
    return one(self, self, [=](double x) { return x SIGN alpha_of(alpha) * *other; }); \
  }
#define INPLACE(NAME, SCALAR, SIGN) \
  ACLNN(NAME, (Tensor self, Tensor other), (self, other)) { \
    check(self, other, self, false); \
    return two(self, other, self, [](double x, double y) { return x SIGN y; }); \
  } \
  ACLNN(SCALAR, (Tensor self, Scalar other), (self, other)) { \
    type(self, numbers(), "self"); \
    return one(self, self, [=](double x) { return x SIGN *other; }); \
  }
INPLACE_WITH_ALPHA(aclnnInplaceAdd, aclnnInplaceAdds, +) INPLACE_WITH_ALPHA(aclnnInplaceSub, aclnnInplaceSubs, -)
INPLACE(aclnnInplaceMul, aclnnInplaceMuls, *) INPLACE(aclnnInplaceDiv, aclnnInplaceDivs, /)
ACLNN(aclnnClamp, (Tensor self, Scalar min, Scalar max, Tensor out), (self, min, max, out)) {
  type(self, numbers(), "self");
  NEED(min || max, "neither min nor max");
  return one(self, out, [=](double x) { if (min && x < *min) x = *min; return max && x > *max ? *max : x; });
}
ACLNN(aclnnClampMin, (Tensor self, Scalar min, Tensor out), (self, min, out)) {
  type(self, numbers(), "self");
  NEED(min, "min is null");
  return one(self, out, [=](double x) { return x < *min ? *min : x; });
}
ACLNN(aclnnIsClose, (Tensor self, Tensor other, double rtol, double atol, bool equal_nan, Tensor out), (self, other, rtol, atol, equal_nan, out)) {
  check(self, other, out, true);
  return two(self, other, out, [=](double x, double y) {
    if (std::isnan(x) || std::isnan(y)) return equal_nan && std::isnan(x) && std::isnan(y);
    return x == y || (std::isfinite(y) && std::fabs(x - y) <= atol + rtol * std::fabs(y));
  });
}
ACLNN(aclnnPowScalarTensor, (Scalar self, Tensor exponent, Tensor out), (self, exponent, out)) {
  type(exponent, numbers(), "exponent");
  return one(exponent, out, [=](double x) { return std::pow(*self, x); });
}

#define ONE(NAME, TYPES, EXPRESSION) \
  ACLNN(NAME, (Tensor self, Tensor out), (self, out)) { type(self, TYPES, "self"); return one(self, out, [](double x) -> double { return EXPRESSION; }); }
static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
static double gelu(double x) { return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0))); }
static double gelu_by_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
ONE(aclnnSilu, floats(), x * sigmoid(x)) ONE(aclnnGelu, floats(), gelu(x)) ONE(aclnnSigmoid, numbers(), sigmoid(x)) ONE(aclnnTanh, numbers(), std::tanh(x))
ONE(aclnnSin, numbers(), std::sin(x)) ONE(aclnnCos, numbers(), std::cos(x)) ONE(aclnnExp, numbers(), std::exp(x)) ONE(aclnnLog, numbers(), std::log(x))
ONE(aclnnErf, numbers(), std::erf(x)) ONE(aclnnAbs, numbers(), std::fabs(x)) ONE(aclnnNeg, numbers(), -x) ONE(aclnnFloor, numbers(), std::floor(x))
ONE(aclnnRelu, numbers(), x > 0 ? x : 0) ONE(aclnnSqrt, numbers(), std::sqrt(x)) ONE(aclnnRsqrt, numbers(), 1 / std::sqrt(x))
ONE(aclnnExpm1, numbers(), std::expm1(x)) ONE(aclnnSign, numbers(), (x > 0) - (x < 0)) ONE(aclnnRound, numbers(), std::nearbyint(x)) ONE(aclnnCeil, numbers(), std::ceil(x))
ONE(aclnnReciprocal, numbers(), 1 / x) ONE(aclnnLogicalNot, numbers(), !x) ONE(aclnnIsNegInf, numbers(), x == -INFINITY) ONE(aclnnIsPosInf, numbers(), x == INFINITY)
ACLNN(aclnnGeluV2, (Tensor self, int64_t approximate, Tensor out), (self, approximate, out)) {
  type(self, floats(), "x");
  same_type(out, self, "y");
  NEED(approximate == 0 || approximate == 1, "approximate is %lld", (long long)approximate);
  return one(self, out, approximate ? gelu_by_tanh : gelu);
}
// approximate: 0 the exact GELU, 1 by tanh; of the right half, or of the left one.
ACLNN(aclnnGeGluV3, (Tensor self, int64_t dim, int64_t approximate, bool activate_left, Tensor out, Tensor out_gelu), (self, dim, approximate, activate_left, out, out_gelu)) {
  type(self, floats(), "self");
  same_type(out, self, "out");
  NEED(approximate == 0 || approximate == 1, "approximate is %lld", (long long)approximate);
  size_t along = axis(dim, self.rank());
  Shape half = self->shape;
  NEED(half[along] % 2 == 0, "self is %s", text(half).c_str());
  half[along] /= 2;
  NEED(out->shape == half && out_gelu->shape == half, "out is %s", text(out->shape).c_str());
  return [=] {
    int64_t step = half[along] * self->stride[along];
    Values left = read<double>(self, half, self->stride, self->offset), right = read<double>(self, half, self->stride, self->offset + step);
    Values &activated = activate_left ? left : right, &other = activate_left ? right : left;
    for (auto &x : activated) x = approximate ? gelu_by_tanh(x) : gelu(x);
    store(out_gelu, activated);
    for (size_t i = 0; i < other.size(); i++) other[i] *= activated[i];
    store(out, other);
  };
}
ACLNN(aclnnBitwiseNot, (Tensor self, Tensor out), (self, out)) {
  type(self, {BOOL, INT8, UINT8, INT16, INT32, INT64}, "self");
  bool logical = self->type == BOOL;
  return one(self, out, [=](double x) -> double { return logical ? !x : -x - 1; });
}

ACLNN(aclnnCast, (Tensor self, int32_t dtype, Tensor out), (self, dtype, out)) {
  NEED(out->type == dtype, "out is %s, dtype says %s", name_of(out->type), name_of(dtype));
  bool cut = is_float(self->type) && !is_float(dtype) && dtype != BOOL;
  return one(self, out, [=](double x) { return cut ? std::trunc(x) : x; });
}
ACLNN(aclnnSWhere, (Tensor condition, Tensor self, Tensor other, Tensor out), (condition, self, other, out)) {
  type(condition, {BOOL, UINT8}, "condition");
  same_type(other, self, "other");
  return [=] {
    Values x = load(self, out->shape), y = load(other, out->shape), chosen = load(condition, out->shape);
    for (size_t i = 0; i < x.size(); i++) if (!chosen[i]) x[i] = y[i];
    store(out, x);
  };
}
ACLNN(aclnnInplaceMaskedFillScalar, (Tensor self, Tensor mask, Scalar value), (self, mask, value)) {
  type(mask, {BOOL}, "mask");
  broadcasts(mask->shape, self->shape, "mask");
  return [=] {
    Values x = load(self), filled = load(mask, self->shape);
    for (size_t i = 0; i < x.size(); i++) if (filled[i]) x[i] = *value;
    store(self, x);
  };
}
ACLNN(aclnnInplaceCopy, (Tensor self, Tensor source), (self, source)) {
  broadcasts(source->shape, self->shape, "the source");
  return [=] { store(self, load(source, self->shape)); };
}
ACLNN(aclnnInplaceFillScalar, (Tensor self, Scalar value), (self, value)) { return [=] { store(self, Values(self.count(), *value)); }; }
ACLNN(aclnnInplaceZero, (Tensor self), (self)) { return [=] { store(self, Values(self.count(), 0)); }; }
ACLNN(aclnnInplaceOne, (Tensor self), (self)) { return [=] { store(self, Values(self.count(), 1)); }; }

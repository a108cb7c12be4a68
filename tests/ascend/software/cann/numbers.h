// Strided tensors of any dtype to contiguous numbers and back.
#pragma once
#include "operator.h"
#include <algorithm>
#include <cmath>

// f(i, position): every element in the order of the shape.
template <class F> void each(const Shape &shape, const Shape &stride, int64_t offset, F f) {
  int64_t count = elements(shape), position = offset;
  int rank = shape.size();
  if (!count) return;
  if (!rank) { f(0, position); return; }
  Shape at(rank, 0);
  int64_t inner = shape[rank - 1], step = stride[rank - 1];
  for (int64_t i = 0; i < count; i += inner) {
    for (int64_t k = 0; k < inner; k++) f(i + k, position + k * step);
    for (int axis = rank - 2; axis >= 0; axis--) {
      if (++at[axis] < shape[axis]) { position += stride[axis]; break; }
      position -= stride[axis] * (shape[axis] - 1);
      at[axis] = 0;
    }
  }
}
#define FOR_TYPES(DO) \
  DO(FLOAT32, float, x, x) DO(FLOAT64, double, x, x) DO(FLOAT16, uint16_t, from_half(x), to_half(x)) \
  DO(BFLOAT16, uint16_t, from_bfloat(x), to_bfloat(x)) DO(INT8, int8_t, x, x) DO(UINT8, uint8_t, x, x) DO(BOOL, uint8_t, x != 0, x != 0) \
  DO(INT16, int16_t, x, x) DO(UINT16, uint16_t, x, x) DO(INT32, int32_t, x, x) DO(UINT32, uint32_t, x, x) DO(INT64, int64_t, x, x) DO(UINT64, uint64_t, x, x)

template <class N> std::vector<N> read(Tensor tensor, const Shape &shape, const Shape &stride, int64_t offset) {
  std::vector<N> values(elements(shape));
  N *to = values.data();
  const char *data = tensor->data;
#define READ(TYPE, C, GET, PUT) case TYPE: each(shape, stride, offset, [=](int64_t i, int64_t at) { C x = ((const C *)data)[at]; to[i] = (N)(GET); }); break;
  switch (tensor->type) { FOR_TYPES(READ) }
#undef READ
  return values;
}
template <class N = double> std::vector<N> load(Tensor tensor) { return read<N>(tensor, tensor->shape, tensor->stride, tensor->offset); }
// As the larger shape has it; the leading dimensions and those of size 1 are repeated.
template <class N = double> std::vector<N> load(Tensor tensor, const Shape &shape) {
  Shape stride(shape.size(), 0);
  size_t more = shape.size() - tensor.rank();
  for (size_t i = 0; i < tensor.rank(); i++) stride[i + more] = tensor->shape[i] == 1 ? 0 : tensor->stride[i];
  return read<N>(tensor, shape, stride, tensor->offset);
}
template <class N> void store(Tensor tensor, const Shape &shape, const Shape &stride, int64_t offset, const std::vector<N> &values) {
  const N *from = values.data();
  char *data = tensor->data;
#define WRITE(TYPE, C, GET, PUT) case TYPE: each(shape, stride, offset, [=](int64_t i, int64_t at) { N x = from[i]; ((C *)data)[at] = (C)(PUT); }); break;
  switch (tensor->type) { FOR_TYPES(WRITE) }
#undef WRITE
}
template <class N> void store(Tensor tensor, const std::vector<N> &values) { store(tensor, tensor->shape, tensor->stride, tensor->offset, values); }

inline Shape broadcast(const Shape &a, const Shape &b) {
  Shape shape(std::max(a.size(), b.size()));
  for (size_t i = 1; i <= shape.size(); i++) {
    int64_t x = i <= a.size() ? a[a.size() - i] : 1, y = i <= b.size() ? b[b.size() - i] : 1;
    NEED(x == y || x == 1 || y == 1, "%s and %s do not broadcast", text(a).c_str(), text(b).c_str());
    shape[shape.size() - i] = x == 1 ? y : x;
  }
  return shape;
}
inline void broadcasts(const Shape &shape, const Shape &to, const char *what) {
  NEED(shape.size() <= to.size() && broadcast(shape, to) == to, "%s %s does not broadcast to %s", what, text(shape).c_str(), text(to).c_str());
}

// CANN's documents aclnnConvolution (two dimensions, groups, and transposed) and aclnnAvgPool2d.
#include "products.h"

namespace {
struct Window {  // along one axis
  int64_t in, out, kernel, stride, before, after, dilation;
  int64_t forward() const { return (in + before + after - dilation * (kernel - 1) - 1) / stride + 1; }
  int64_t transposed(int64_t more) const { return (in - 1) * stride - before - after + dilation * (kernel - 1) + more + 1; }
};
Window window(Tensor input, Tensor weight, Tensor out, const Shape &stride, const Shape &padding, const Shape &dilation, int which) {
  bool four = padding.size() == 4;  // top, bottom, left, right
  return {input.size(2 + which), out.size(2 + which), weight.size(2 + which), stride[which],
          four ? padding[2 * which] : padding[which], four ? padding[2 * which + 1] : padding[which], dilation[which]};
}
struct Sizes { int64_t batch, in, out, groups; Window v, h; };

void forward(const Sizes &s, const Singles &x, const Singles &k, Singles &y) {
  int64_t in = s.in / s.groups, out = s.out / s.groups, taps = s.v.kernel * s.h.kernel, plane = s.v.out * s.h.out;
  Singles columns(in * taps * plane);
  for (int64_t n = 0; n < s.batch; n++)
    for (int64_t g = 0; g < s.groups; g++) {
      for (int64_t row = 0; row < in * taps; row++) {
        int64_t channel = row / taps, r = row % taps / s.h.kernel, q = row % s.h.kernel;
        const float *from = &x[(n * s.in + g * in + channel) * s.v.in * s.h.in];
        float *to = &columns[row * plane];
        for (int64_t i = 0; i < s.v.out; i++)
          for (int64_t j = 0; j < s.h.out; j++) {
            int64_t a = i * s.v.stride - s.v.before + r * s.v.dilation, b = j * s.h.stride - s.h.before + q * s.h.dilation;
            *to++ = a >= 0 && a < s.v.in && b >= 0 && b < s.h.in ? from[a * s.h.in + b] : 0;
          }
      }
      multiply(&k[g * out * in * taps], columns.data(), &y[(n * s.out + g * out) * plane], out, in * taps, plane);
    }
}
void transposed(const Sizes &s, const Singles &x, const Singles &k, Singles &y) {
  int64_t in = s.in / s.groups, out = s.out / s.groups;
  for (int64_t n = 0; n < s.batch; n++)
    for (int64_t c = 0; c < s.in; c++)
      for (int64_t f = 0; f < out; f++) {
        float *to = &y[(n * s.out + c / in * out + f) * s.v.out * s.h.out];
        const float *from = &x[(n * s.in + c) * s.v.in * s.h.in], *taps = &k[(c * out + f) * s.v.kernel * s.h.kernel];
        for (int64_t i = 0; i < s.v.in; i++)
          for (int64_t j = 0; j < s.h.in; j++)
            for (int64_t r = 0; r < s.v.kernel; r++)
              for (int64_t q = 0; q < s.h.kernel; q++) {
                int64_t a = i * s.v.stride - s.v.before + r * s.v.dilation, b = j * s.h.stride - s.h.before + q * s.h.dilation;
                if (a >= 0 && a < s.v.out && b >= 0 && b < s.h.out) to[a * s.h.out + b] += from[i * s.h.in + j] * taps[r * s.h.kernel + q];
              }
      }
}
}  // namespace

ACLNN(aclnnConvolution, (Tensor input, Tensor weight, Tensor bias, Ints stride, Ints padding, Ints dilation, bool is_transposed, Ints output_padding,
       int64_t groups, Tensor out, int8_t math),
      (input, weight, bias, stride, padding, dilation, is_transposed, output_padding, groups, out, math)) {
  cube_math(input, math);
  same_type(weight, input, "weight");
  same_type(bias, input, "bias");
  same_type(out, input, "out");
  NEED(input.rank() == 4 && weight.rank() == 4 && out.rank() == 4, "%zu, %zu and %zu dimensions", input.rank(), weight.rank(), out.rank());
  NEED((*stride).size() == 2 && (*dilation).size() == 2 && ((*padding).size() == 2 || (*padding).size() == 4), "lengths of stride, padding, dilation");
  for (auto v : *stride) NEED(v >= 1, "stride %lld", (long long)v);
  for (auto v : *padding) NEED(v >= 0 && v <= 255, "padding %lld", (long long)v);
  for (auto v : *dilation) NEED(v >= 1 && v <= 255, "dilation %lld", (long long)v);
  Sizes s{input.size(0), input.size(1), out.size(1), groups, window(input, weight, out, *stride, *padding, *dilation, 0), window(input, weight, out, *stride, *padding, *dilation, 1)};
  NEED(groups >= 1 && s.in % groups == 0 && s.out % groups == 0, "%lld groups", (long long)groups);
  if (is_transposed) {
    NEED(weight.size(0) == s.in && weight.size(1) == s.out / groups, "weight is %s", text(weight->shape).c_str());
    NEED(s.v.out == s.v.transposed((*output_padding)[0]) && s.h.out == s.h.transposed((*output_padding)[1]), "out is %s", text(out->shape).c_str());
  } else {
    NEED(weight.size(0) == s.out && weight.size(1) == s.in / groups, "weight is %s", text(weight->shape).c_str());
    NEED(s.v.out == s.v.forward() && s.h.out == s.h.forward(), "out is %s", text(out->shape).c_str());
  }
  if (bias) NEED(bias.count() == s.out, "bias is %s", text(bias->shape).c_str());
  return [=] {
    Singles x = for_cube(load<float>(input), input, math), k = for_cube(load<float>(weight), weight, math), y(out.count(), 0);
    (is_transposed ? transposed : forward)(s, x, k, y);
    if (bias) {
      Singles added = load<float>(bias);
      int64_t plane = s.v.out * s.h.out;
      for (size_t i = 0; i < y.size(); i++) y[i] += added[i / plane % s.out];
    }
    store(out, y);
  };
}
ACLNN(aclnnAvgPool2d, (Tensor self, Ints kernel, Ints stride, Ints padding, bool ceil_mode, bool count_padding, int64_t divisor, int8_t math, Tensor out),
      (self, kernel, stride, padding, ceil_mode, count_padding, divisor, math, out)) {
  cube_math(self, math);
  same_type(out, self, "out");
  NEED(self.rank() == 3 || self.rank() == 4, "%zu dimensions", self.rank());
  NEED(!divisor, "divisor_override is not taught");
  auto along = [=](int which) -> Window {
    int64_t step = (*stride).empty() ? (*kernel)[which] : (*stride)[which];
    return {self.size(which - 2), out.size(which - 2), (*kernel)[which], step, (*padding)[which], (*padding)[which], 1};
  };
  Window v = along(0), h = along(1);
  NEED(v.out == v.forward() && h.out == h.forward(), "out is %s", text(out->shape).c_str());
  for (const Window &w : {v, h}) NEED(!ceil_mode || (w.in + w.before + w.after - w.kernel) % w.stride == 0, "ceil_mode is taught where it changes nothing");
  return [=] {
    Singles x = load<float>(self), y(out.count());
    for (int64_t n = 0; n < (int64_t)y.size(); n++) {
      const float *plane = &x[n / (v.out * h.out) * v.in * h.in];
      int64_t top = n / h.out % v.out * v.stride - v.before, left = n % h.out * h.stride - h.before, count = 0;
      double sum = 0;
      for (int64_t a = top; a < top + v.kernel; a++)
        for (int64_t b = left; b < left + h.kernel; b++)
          if (a >= 0 && a < v.in && b >= 0 && b < h.in) sum += plane[a * h.in + b], count++;
      y[n] = sum / (count_padding ? v.kernel * h.kernel : count);
    }
    store(out, y);
  };
}

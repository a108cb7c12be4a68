// Operators that move elements: CANN's documents aclnnPermute, aclnnCat, aclnnSlice, aclnnIndexSelect, aclnnUpsampleNearest2d …
#include "numbers.h"

typedef std::vector<double> Values;
// A part of a tensor: another shape, stride and offset over the same memory.
struct View { Tensor tensor; Shape shape, stride; int64_t offset; };
static View view(Tensor tensor) { return {tensor, tensor->shape, tensor->stride, tensor->offset}; }
static Values load(const View &v) { return read<double>(v.tensor, v.shape, v.stride, v.offset); }
static void store(const View &v, const Values &values) { store(v.tensor, v.shape, v.stride, v.offset, values); }
static Shape strides(const Shape &shape) {
  Shape result(shape.size(), 1);
  for (int i = (int)shape.size() - 2; i >= 0; i--) result[i] = result[i + 1] * shape[i + 1];
  return result;
}

ACLNN(aclnnPermute, (Tensor self, Ints dims, Tensor out), (self, dims, out)) {
  NEED((*dims).size() == self.rank(), "%zu dims for %zu", (*dims).size(), self.rank());
  View from = view(self);
  for (size_t i = 0; i < self.rank(); i++) {
    size_t k = axis((*dims)[i], self.rank());
    from.shape[i] = self->shape[k];
    from.stride[i] = self->stride[k];
  }
  NEED(from.shape == out->shape, "out is %s", text(out->shape).c_str());
  return [=] { store(out, load(from)); };
}
ACLNN(aclnnExpand, (Tensor self, Ints size, Tensor out), (self, size, out)) {
  broadcasts(self->shape, out->shape, "self");
  return [=] { store(out, load(self, out->shape)); };
}
ACLNN(aclnnRepeat, (Tensor self, Ints repeats, Tensor out), (self, repeats, out)) {
  size_t rank = (*repeats).size();
  NEED(rank >= self.rank(), "%zu repeats for %zu dimensions", rank, self.rank());
  Shape from(rank, 1);
  std::copy(self->shape.begin(), self->shape.end(), from.begin() + (rank - self.rank()));
  for (size_t i = 0; i < rank; i++) NEED(out->shape.at(i) == from[i] * (*repeats)[i], "out is %s", text(out->shape).c_str());
  return [=] {
    Values x = load(self), y(out.count());
    Shape outer = strides(out->shape), inner = strides(from);
    for (size_t i = 0; i < y.size(); i++) {
      int64_t at = 0;
      for (size_t d = 0; d < rank; d++) at += (int64_t)i / outer[d] % out->shape[d] % from[d] * inner[d];
      y[i] = x[at];
    }
    store(out, y);
  };
}
ACLNN(aclnnRepeatInterleaveInt, (Tensor self, int64_t repeats, int64_t output_size, Tensor out), (self, repeats, output_size, out)) {
  NEED(out.rank() == 1 && out.count() == self.count() * repeats && output_size == out.count(), "out is %s", text(out->shape).c_str());
  return [=] {
    Values x = load(self), y(out.count());
    for (size_t i = 0; i < y.size(); i++) y[i] = x[i / repeats];
    store(out, y);
  };
}
ACLNN(aclnnRepeatInterleaveIntWithDim, (Tensor self, int64_t repeats, int64_t dim, int64_t output_size, Tensor out), (self, repeats, dim, output_size, out)) {
  size_t along = axis(dim, self.rank());
  Shape whole = self->shape;
  whole[along] *= repeats;
  NEED(whole == out->shape && output_size == whole[along], "out is %s", text(out->shape).c_str());
  return [=] {
    View from = view(self), to = view(out);
    from.shape[along] = to.shape[along] = 1;
    for (int64_t i = 0; i < whole[along]; i++) {
      from.offset = self->offset + i / repeats * self->stride[along];
      to.offset = out->offset + i * out->stride[along];
      store(to, load(from));
    }
  };
}
ACLNN(aclnnCat, (Tensors tensors, int64_t dim, Tensor out), (tensors, dim, out)) {
  NEED(tensors, "no tensors");
  size_t along = axis(dim, out.rank());
  int64_t sum = 0;
  for (size_t i = 0; i < tensors.count(); i++) {
    Tensor part = tensors[i];
    NEED(part->type == out->type || (is_float(part->type) && is_float(out->type)), "a tensor is %s beside %s", name_of(part->type), name_of(out->type));
    NEED(part.rank() == out.rank(), "ranks differ");
    for (size_t d = 0; d < out.rank(); d++) NEED(d == along || part->shape[d] == out->shape[d], "%s beside %s", text(part->shape).c_str(), text(out->shape).c_str());
    sum += part->shape[along];
  }
  NEED(sum == out->shape[along], "out is %s", text(out->shape).c_str());
  return [=] {
    View to = view(out);
    for (size_t i = 0; i < tensors.count(); i++) {
      to.shape = tensors[i]->shape;
      store(to, load(view(tensors[i])));
      to.offset += to.shape[along] * out->stride[along];
    }
  };
}
ACLNN(aclnnStack, (Tensors tensors, int64_t dim, Tensor out), (tensors, dim, out)) {
  NEED(tensors, "no tensors");
  size_t along = axis(dim, out.rank());
  NEED(out->shape[along] == (int64_t)tensors.count(), "out is %s", text(out->shape).c_str());
  for (size_t i = 0; i < tensors.count(); i++) {
    Shape whole = tensors[i]->shape;
    whole.insert(whole.begin() + along, tensors.count());
    same_type(tensors[i], out, "a tensor");
    NEED(whole == out->shape, "%s beside %s", text(tensors[i]->shape).c_str(), text(out->shape).c_str());
  }
  return [=] {
    View to = view(out);
    to.shape[along] = 1;
    for (size_t i = 0; i < tensors.count(); i++, to.offset += out->stride[along]) store(to, load(view(tensors[i])));
  };
}
ACLNN(aclnnArange, (Scalar start, Scalar end, Scalar step, Tensor out), (start, end, step, out)) {
  NEED(*step != 0 && out.rank() == 1 && out.count() == (int64_t)std::ceil((*end - *start) / *step), "out is %s", text(out->shape).c_str());
  return [=] {
    Values y(out.count());
    for (size_t i = 0; i < y.size(); i++) y[i] = *start + i * *step;
    store(out, y);
  };
}
ACLNN(aclnnLogSpace, (Scalar start, Scalar end, int64_t steps, double base, Tensor out), (start, end, steps, base, out)) {
  NEED(out.rank() == 1 && out.count() == steps, "out is %s", text(out->shape).c_str());
  return [=] {
    Values y(steps);
    for (int64_t i = 0; i < steps; i++) y[i] = std::pow(base, *start + (steps > 1 ? i * (*end - *start) / (steps - 1) : 0));
    store(out, y);
  };
}
ACLNN(aclnnTriu, (Tensor self, int64_t diagonal, Tensor out), (self, diagonal, out)) {
  NEED(self.rank() >= 2 && self->shape == out->shape, "self is %s", text(self->shape).c_str());
  return [=] {
    Values x = load(self);
    int64_t columns = self.size(-1), rows = self.size(-2);
    for (int64_t i = 0; i < (int64_t)x.size(); i++) if (i % columns - i / columns % rows < diagonal) x[i] = 0;
    store(out, x);
  };
}
ACLNN(aclnnSlice, (Tensor self, int64_t dim, int64_t start, int64_t end, int64_t step, Tensor out), (self, dim, start, end, step, out)) {
  size_t along = axis(dim, self.rank());
  NEED(start >= 0 && end <= self->shape[along] && step >= 1, "%lld to %lld by %lld of %lld", (long long)start, (long long)end, (long long)step, (long long)self->shape[along]);
  View from = view(self);
  from.offset += start * self->stride[along];
  from.stride[along] *= step;
  from.shape[along] = (end - start + step - 1) / step;
  NEED(from.shape == out->shape, "out is %s", text(out->shape).c_str());
  return [=] { store(out, load(from)); };
}
ACLNN(aclnnFlip, (Tensor self, Ints dims, Tensor out), (self, dims, out)) {
  View from = view(self);
  for (auto dim : *dims) {
    size_t k = axis(dim, self.rank());
    from.offset += (from.shape[k] - 1) * from.stride[k];
    from.stride[k] *= -1;
  }
  return [=] { store(out, load(from)); };
}
// Without dims over all of it, as if it had one dimension.
ACLNN(aclnnRoll, (Tensor self, Ints shifts, Ints dims, Tensor out), (self, shifts, dims, out)) {
  NEED(self->shape == out->shape, "out is %s", text(out->shape).c_str());
  NEED((*shifts).size() == ((*dims).empty() ? 1 : (*dims).size()), "%zu shifts", (*shifts).size());
  return [=] {
    Values x = load(self);
    for (size_t k = 0; k < (*shifts).size() && !x.empty(); k++) {
      size_t along = (*dims).empty() ? 0 : axis((*dims)[k], self.rank());
      int64_t length = (*dims).empty() ? self.count() : self->shape[along], inner = 1;
      for (size_t i = along + 1; i < self.rank() && !(*dims).empty(); i++) inner *= self->shape[i];
      Values y(x.size());
      for (int64_t i = 0; i < (int64_t)x.size(); i++) {
        int64_t place = i / inner % length, moved = ((place + (*shifts)[k]) % length + length) % length;
        y[i + (moved - place) * inner] = x[i];
      }
      x.swap(y);
    }
    store(out, x);
  };
}
ACLNN(aclnnConstantPadNd, (Tensor self, Ints pads, Scalar value, Tensor out), (self, pads, value, out)) {
  View to = view(out);
  to.shape = self->shape;
  Shape whole = self->shape;
  for (size_t i = 0; i < (*pads).size() / 2; i++) {  // pairs, the last dimension first
    size_t k = self.rank() - 1 - i;
    to.offset += (*pads)[2 * i] * out->stride[k];
    whole[k] += (*pads)[2 * i] + (*pads)[2 * i + 1];
  }
  NEED(whole == out->shape, "out is %s", text(out->shape).c_str());
  return [=] {
    store(out, Values(out.count(), *value));
    store(to, load(view(self)));
  };
}

static void indices(Tensor index) { type(index, {INT32, INT64}, "the index"); }
ACLNN(aclnnIndexSelect, (Tensor self, int64_t dim, Tensor index, Tensor out), (self, dim, index, out)) {
  indices(index);
  NEED(index.rank() <= 1, "the index has %zu dimensions", index.rank());
  size_t along = axis(dim, self.rank());
  return [=] {
    View from = view(self), to = view(out);
    from.shape[along] = to.shape[along] = 1;
    for (auto row : load<int64_t>(index)) {
      from.offset = self->offset + row * self->stride[along];
      store(to, load(from));
      to.offset += out->stride[along];
    }
  };
}
// As self[i, j, …] of torch: the first axes are chosen by tensors of equal or broadcast shapes; only such.
ACLNN(aclnnIndex, (Tensor self, Tensors index, Tensor out), (self, index, out)) {
  NEED(index && index.count() <= self.rank(), "%zu indices for %zu axes", index.raw ? index.count() : 0, self.rank());
  Shape chosen;
  for (size_t i = 0; i < index.count(); i++) {
    NEED(index[i].count(), "only whole indices are known here");
    type(index[i], {INT32, INT64}, "an index");
    chosen = broadcast(chosen, index[i]->shape);
  }
  Shape rest(self->shape.begin() + index.count(), self->shape.end()), whole = chosen;
  whole.insert(whole.end(), rest.begin(), rest.end());
  NEED(whole == out->shape, "out is %s", text(out->shape).c_str());
  return [=] {
    std::vector<std::vector<int64_t>> at;
    for (size_t i = 0; i < index.count(); i++) at.push_back(load<int64_t>(index[i], chosen));
    View from = view(self);
    from.shape = rest;
    from.stride.erase(from.stride.begin(), from.stride.begin() + index.count());
    Values y;
    for (int64_t n = 0; n < elements(chosen); n++) {
      from.offset = self->offset;
      for (size_t i = 0; i < at.size(); i++) from.offset += (at[i][n] + (at[i][n] < 0 ? self->shape[i] : 0)) * self->stride[i];
      Values part = load(from);
      y.insert(y.end(), part.begin(), part.end());
    }
    store(out, y);
  };
}
// The caller gives room for every element, waits, and asks for the shape (aclGetViewShape).
ACLNN(aclnnNonzero, (Tensor self, Tensor out), (self, out)) {
  type(out, {INT64}, "out");
  NEED(out.rank() == 2 && out.size(0) == self.count() && out.size(1) == (int64_t)self.rank(), "out is %s", text(out->shape).c_str());
  return [=] {
    Values x = load(self), places;
    Shape steps = strides(self->shape);
    for (size_t i = 0; i < x.size(); i++)
      if (x[i] != 0) for (size_t d = 0; d < self.rank(); d++) places.push_back((int64_t)i / steps[d] % self->shape[d]);
    Shape found{(int64_t)(self.rank() ? places.size() / self.rank() : 0), (int64_t)self.rank()};
    store(View{out, found, strides(found), out->offset}, places);
    const_cast<aclTensor *>(out->origin)->shape = found;
  };
}
ACLNN(aclnnEmbedding, (Tensor weight, Tensor index, Tensor out), (weight, index, out)) {
  indices(index);
  same_type(out, weight, "out");
  NEED(weight.rank() == 2, "weight is %s", text(weight->shape).c_str());
  return [=] {
    Values table = load(weight), rows;
    int64_t width = weight->shape[1];
    for (auto row : load<int64_t>(index)) rows.insert(rows.end(), table.begin() + row * width, table.begin() + (row + 1) * width);
    store(out, rows);
  };
}
ACLNN(aclnnGather, (Tensor self, int64_t dim, Tensor index, Tensor out), (self, dim, index, out)) {
  indices(index);
  NEED(index->shape == out->shape && index.rank() == self.rank(), "index %s, out %s", text(index->shape).c_str(), text(out->shape).c_str());
  size_t along = axis(dim, self.rank());
  return [=] {
    Values x = load(self), y(out.count());
    auto chosen = load<int64_t>(index);
    Shape outer = strides(out->shape), inner = strides(self->shape);
    for (size_t i = 0; i < y.size(); i++) {
      int64_t at = 0;
      for (size_t d = 0; d < self.rank(); d++) at += (d == along ? chosen[i] : (int64_t)i / outer[d] % out->shape[d]) * inner[d];
      y[i] = x[at];
    }
    store(out, y);
  };
}

static void image(Tensor self, Ints size, Tensor out) {
  type(self, floats(), "self");
  same_type(out, self, "out");
  NEED(self.rank() == 4 && (*size).size() == 2, "self is %s", text(self->shape).c_str());
  NEED(out->shape == Shape({self->shape[0], self->shape[1], (*size)[0], (*size)[1]}), "out is %s", text(out->shape).c_str());
}
static Kernel nearest(Tensor self, Ints size, double scale_h, double scale_w, Tensor out) {
  image(self, size, out);
  return [=] {
    Values x = load(self), y;
    int64_t height = self.size(2), width = self.size(3), rows = out.size(2), columns = out.size(3);
    auto source = [](int64_t i, int64_t from, int64_t to, double scale) { return std::min(from - 1, (int64_t)((float)i * (float)(scale > 0 ? 1 / scale : (double)from / to))); };
    for (int64_t plane = 0; plane < self.size(0) * self.size(1); plane++)
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) y.push_back(x[(plane * height + source(i, height, rows, scale_h)) * width + source(j, width, columns, scale_w)]);
    store(out, y);
  };
}
ACLNN(aclnnUpsampleNearest2d, (Tensor self, Ints size, Tensor out), (self, size, out)) { return nearest(self, size, 0, 0, out); }
ACLNN(aclnnUpsampleNearest2dV2, (Tensor self, Ints size, float scale_h, float scale_w, Tensor out), (self, size, scale_h, scale_w, out)) {
  return nearest(self, size, scale_h, scale_w, out);
}
// Where a pixel of the result lies between those of the source, along one axis.
static double place(int64_t i, int64_t from, int64_t to, bool align_corners, double scale) {
  if (align_corners) return to > 1 ? i * (from - 1.0) / (to - 1) : 0;
  return (i + 0.5) * (scale > 0 ? 1 / scale : (double)from / to) - 0.5;
}
struct Tap { int64_t at; double weight; };
// taps(i, from, to, scale): what of the source goes into a pixel along one axis.
template <class F> static Kernel resampled(Tensor self, Tensor out, double scale_h, double scale_w, F taps) {
  return [=] {
    Values x = load(self), y;
    int64_t height = self.size(2), width = self.size(3);
    for (int64_t plane = 0; plane < self.size(0) * self.size(1); plane++)
      for (int64_t i = 0; i < out.size(2); i++) {
        std::vector<Tap> rows = taps(i, height, out.size(2), scale_h);
        for (int64_t j = 0; j < out.size(3); j++) {
          double sum = 0;
          std::vector<Tap> columns = taps(j, width, out.size(3), scale_w);
          for (auto &row : rows)
            for (auto &column : columns) sum += row.weight * column.weight * x[(plane * height + row.at) * width + column.at];
          y.push_back(sum);
        }
      }
    store(out, y);
  };
}
ACLNN(aclnnUpsampleBilinear2d, (Tensor self, Ints size, bool align_corners, double scale_h, double scale_w, Tensor out),
      (self, size, align_corners, scale_h, scale_w, out)) {
  image(self, size, out);
  return resampled(self, out, scale_h, scale_w, [=](int64_t i, int64_t from, int64_t to, double scale) {
    double at = std::max(0.0, place(i, from, to, align_corners, scale));
    int64_t low = std::min((int64_t)at, from - 1);
    return std::vector<Tap>{{low, 1 - (at - low)}, {std::min(from - 1, low + 1), at - low}};
  });
}
ACLNN(aclnnUpsampleBicubic2d, (Tensor self, Ints size, bool align_corners, double scale_h, double scale_w, Tensor out),
      (self, size, align_corners, scale_h, scale_w, out)) {
  image(self, size, out);
  // Keys' kernel with a = -0.75, as torch has it (aten/src/ATen/native/UpSample.h)
  return resampled(self, out, scale_h, scale_w, [=](int64_t i, int64_t from, int64_t to, double scale) {
    double at = place(i, from, to, align_corners, scale), part = at - std::floor(at), a = -0.75;
    std::vector<Tap> result;
    for (int k = 0; k < 4; k++) {
      double x = std::fabs(part + 1 - k);
      double weight = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
      result.push_back({std::min(from - 1, std::max<int64_t>(0, (int64_t)std::floor(at) - 1 + k)), weight});
    }
    return result;
  });
}

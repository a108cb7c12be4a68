// CANN's documents aclnnInplaceNormal and aclnnInplaceUniform. The numbers are this NPU's own: equal seeds and offsets give equal ones.
#include "numbers.h"
#include <random>

template <class Distribution> static Kernel drawn(Tensor self, int64_t seed, int64_t offset, Distribution distribution) {
  return [=] {
    std::mt19937_64 bits(seed * 0x9E3779B97F4A7C15ull + offset);
    auto next = distribution;
    std::vector<double> values(self.count());
    for (auto &value : values) value = next(bits);
    store(self, values);
  };
}
ACLNN(aclnnInplaceNormal, (Tensor self, float mean, float deviation, int64_t seed, int64_t offset), (self, mean, deviation, seed, offset)) {
  type(self, floats(), "self");
  NEED(deviation >= 0, "std is %f", deviation);
  return drawn(self, seed, offset, std::normal_distribution<double>(mean, deviation));
}
ACLNN(aclnnInplaceUniform, (Tensor self, double from, double to, uint64_t seed, uint64_t offset), (self, from, to, seed, offset)) {
  type(self, numbers(), "selfRef");
  NEED(from <= to, "from %f to %f", from, to);
  return drawn(self, seed, offset, std::uniform_real_distribution<double>(from, to));
}

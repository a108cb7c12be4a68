// CANN's document aclnnInplaceNormal. The numbers are this NPU's own: equal seeds and offsets give equal ones.
#include "numbers.h"
#include <random>

ACLNN(aclnnInplaceNormal, (Tensor self, float mean, float deviation, int64_t seed, int64_t offset), (self, mean, deviation, seed, offset)) {
  type(self, floats(), "self");
  NEED(deviation >= 0, "std is %f", deviation);
  return [=] {
    std::mt19937_64 bits(seed * 0x9E3779B97F4A7C15ull + offset);
    std::normal_distribution<double> normal(mean, deviation);
    std::vector<double> values(self.count());
    for (auto &value : values) value = normal(bits);
    store(self, values);
  };
}

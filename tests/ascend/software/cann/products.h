// What the matrix unit (the cube) computes, in float32.
#pragma once
#include "numbers.h"

typedef std::vector<float> Singles;
// cubeMathType of CANN's documents: KEEP_DTYPE, ALLOW_FP32_DOWN_PRECISION, USE_FP16, USE_HF32, and 4 for the newest.
void cube_math(Tensor self, int8_t math);
// The values as the unit takes them: with the setting "hf32", float32 has 11 bits where the math type allows it.
Singles for_cube(Singles values, Tensor self, int8_t math);
// C[m, n] += A[m, k] B[k, n]
void multiply(const float *a, const float *b, float *c, int64_t m, int64_t k, int64_t n);

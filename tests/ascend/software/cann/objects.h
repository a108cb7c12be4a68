// What aclnn calls take: aclTensor, aclScalar, the lists, and the executor between the two phases of a call.
// Answers to CANN's include/aclnn/acl_meta.h and include/acl/acl_base.h (aclDataType), found in libnnopbase.so.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

enum Type : int {
  FLOAT32 = 0, FLOAT16 = 1, INT8 = 2, INT32 = 3, UINT8 = 4, INT16 = 6, UINT16 = 7, UINT32 = 8, INT64 = 9, UINT64 = 10,
  FLOAT64 = 11, BOOL = 12, COMPLEX64 = 16, COMPLEX128 = 17, BFLOAT16 = 27
};
enum Status : int { OK = 0, BAD_PARAMETER = 100000, NULL_POINTER = 161001, INVALID = 161002, INNER = 561000 };
typedef std::vector<int64_t> Shape;

size_t size_of(int type);
const char *name_of(int type);
float from_half(uint16_t bits);
uint16_t to_half(float value);
float from_bfloat(uint16_t bits);
uint16_t to_bfloat(float value);
int64_t elements(const Shape &shape);
std::string text(const Shape &shape);

// offset and stride count elements, as CANN has them; storage is the shape of the memory that data begins.
struct aclTensor {
  Shape shape, stride, storage;
  int64_t offset;
  int type, format;
  char *data;
  const aclTensor *origin = nullptr;  // of a copy: the caller's, for the few operators that set the shape of a result
};
struct aclScalar { int type; double number; };
struct aclIntArray { Shape values; };
struct aclFloatArray { std::vector<float> values; };
struct aclBoolArray { std::vector<bool> values; };
struct aclTensorList { std::vector<aclTensor *> tensors; };
struct aclOpExecutor {
  const char *name;
  uint64_t workspace;
  bool repeatable;
  std::function<int(void *workspace, uint64_t size, void *stream)> launch;
};

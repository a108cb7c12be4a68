#include "objects.h"
#include "report.h"
#include <algorithm>
#include <cstring>

size_t size_of(int type) {
  switch (type) {
    case INT8: case UINT8: case BOOL: return 1;
    case FLOAT16: case BFLOAT16: case INT16: case UINT16: return 2;
    case FLOAT32: case INT32: case UINT32: return 4;
    case COMPLEX128: return 16;
    default: return 8;
  }
}
const char *name_of(int type) {
  switch (type) {
    case FLOAT32: return "float32"; case FLOAT16: return "float16"; case BFLOAT16: return "bfloat16"; case FLOAT64: return "float64";
    case INT8: return "int8"; case INT16: return "int16"; case INT32: return "int32"; case INT64: return "int64"; case BOOL: return "bool";
    case UINT8: return "uint8"; case UINT16: return "uint16"; case UINT32: return "uint32"; case UINT64: return "uint64";
    case COMPLEX64: return "complex64"; case COMPLEX128: return "complex128"; default: return "unknown dtype";
  }
}

#if defined(__aarch64__)  // where g++ has _Float16 from version 13 on
typedef __fp16 Half;
#else
typedef _Float16 Half;
#endif
float from_half(uint16_t bits) { Half value; memcpy(&value, &bits, 2); return (float)value; }
uint16_t to_half(float value) { Half half = (Half)value; uint16_t bits; memcpy(&bits, &half, 2); return bits; }
float from_bfloat(uint16_t bits) { uint32_t wide = (uint32_t)bits << 16; float value; memcpy(&value, &wide, 4); return value; }
uint16_t to_bfloat(float value) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

int64_t elements(const Shape &shape) { int64_t n = 1; for (auto size : shape) n *= size; return n; }
std::string text(const Shape &shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); i++) result += (i ? "," : "") + std::to_string(shape[i]);
  return result + "]";
}

#define API extern "C" __attribute__((visibility("default")))
API size_t aclDataTypeSize(int type) { return size_of(type); }

API aclTensor *aclCreateTensor(const int64_t *shape, uint64_t rank, int type, const int64_t *stride, int64_t offset, int format,
                               const int64_t *storage, uint64_t storage_rank, void *data) {
  auto tensor = new aclTensor{Shape(shape, shape + rank), {}, Shape(storage, storage + storage_rank), offset, type, format, (char *)data};
  if (stride) tensor->stride.assign(stride, stride + rank);
  tensor->stride.resize(rank, 1);
  return tensor;
}
API aclScalar *aclCreateScalar(void *value, int type) {
  double number = 0;
  switch (type) {
    case FLOAT32: number = *(float *)value; break;
    case FLOAT64: number = *(double *)value; break;
    case FLOAT16: number = from_half(*(uint16_t *)value); break;
    case BFLOAT16: number = from_bfloat(*(uint16_t *)value); break;
    case INT64: number = *(int64_t *)value; break;
    case INT32: number = *(int32_t *)value; break;
    case INT16: number = *(int16_t *)value; break;
    case INT8: number = *(int8_t *)value; break;
    case UINT8: case BOOL: number = *(uint8_t *)value; break;
    default: report::error("aclCreateScalar: a scalar of %s", name_of(type)); return nullptr;
  }
  return new aclScalar{type, number};
}
API aclIntArray *aclCreateIntArray(const int64_t *values, uint64_t n) { return new aclIntArray{Shape(values, values + n)}; }
API aclFloatArray *aclCreateFloatArray(const float *values, uint64_t n) { return new aclFloatArray{std::vector<float>(values, values + n)}; }
API aclBoolArray *aclCreateBoolArray(const bool *values, uint64_t n) { return new aclBoolArray{std::vector<bool>(values, values + n)}; }
API aclTensorList *aclCreateTensorList(aclTensor *const *tensors, uint64_t n) { return new aclTensorList{std::vector<aclTensor *>(tensors, tensors + n)}; }
API int aclDestroyTensor(const aclTensor *tensor) { delete tensor; return OK; }
API int aclDestroyScalar(const aclScalar *scalar) { delete scalar; return OK; }
API int aclDestroyIntArray(const aclIntArray *array) { delete array; return OK; }
API int aclDestroyFloatArray(const aclFloatArray *array) { delete array; return OK; }
API int aclDestroyBoolArray(const aclBoolArray *array) { delete array; return OK; }
API int aclDestroyTensorList(const aclTensorList *list) {  // with its tensors
  if (list) for (auto tensor : list->tensors) delete tensor;
  delete list;
  return OK;
}
API int aclDestroyAclOpExecutor(aclOpExecutor *executor) { delete executor; return OK; }
API int aclSetAclOpExecutorRepeatable(aclOpExecutor *executor) { executor->repeatable = true; return OK; }
// An executor that is used again gets new addresses.
API int aclSetTensorAddr(aclOpExecutor *, size_t, aclTensor *tensor, void *data) { tensor->data = (char *)data; return OK; }
API int aclSetInputTensorAddr(aclOpExecutor *, size_t, aclTensor *tensor, void *data) { tensor->data = (char *)data; return OK; }
API int aclSetOutputTensorAddr(aclOpExecutor *, size_t, aclTensor *tensor, void *data) { tensor->data = (char *)data; return OK; }
API int aclSetDynamicTensorAddr(aclOpExecutor *, size_t, size_t which, aclTensorList *list, void *data) {
  list->tensors.at(which)->data = (char *)data;
  return OK;
}
API int aclGetViewShape(const aclTensor *tensor, int64_t **shape, uint64_t *rank) {  // the caller deletes it
  *rank = tensor->shape.size();
  *shape = new int64_t[*rank + 1];
  std::copy(tensor->shape.begin(), tensor->shape.end(), *shape);
  return OK;
}
API int aclnnInit(const char *) { return OK; }
API int aclnnFinalize() { return OK; }

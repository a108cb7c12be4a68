// How an aclnn operator is declared. CANN calls it in two phases: aclnnAddGetWorkspaceSize(arguments…, &size, &executor)
// checks, aclnnAdd(workspace, size, executor, stream) launches. Here:
//
//   ACLNN(aclnnAdd, (Tensor self, Tensor other, Scalar alpha, Tensor out), (self, other, alpha, out)) {
//     <checks, by NEED>
//     return [=] { <what it computes> };
//   }
//
// The body runs in both phases: first with the caller's arguments, for its checks; at the launch with copies of them,
// since the caller may destroy them before the stream gets there, and what it returns is what the stream runs.
#pragma once
#include "memory.h"
#include "objects.h"
#include "report.h"
#include "streams.h"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <type_traits>

// Pointers, as they are passed, with what one asks of them.
struct Tensor {
  const aclTensor *raw;
  explicit operator bool() const { return raw; }
  const aclTensor *operator->() const { return raw; }
  int64_t size(int axis) const { return raw->shape.at(axis < 0 ? axis + raw->shape.size() : axis); }
  size_t rank() const { return raw->shape.size(); }
  int64_t count() const { return elements(raw->shape); }
};
struct Scalar { const aclScalar *raw; explicit operator bool() const { return raw; } double operator*() const { return raw->number; } };
struct Ints { const aclIntArray *raw; explicit operator bool() const { return raw; } const Shape &operator*() const { return raw->values; } };
struct Floats { const aclFloatArray *raw; };
struct Bools { const aclBoolArray *raw; };
struct Tensors {
  const aclTensorList *raw;
  explicit operator bool() const { return raw && !raw->tensors.empty(); }
  size_t count() const { return raw->tensors.size(); }
  Tensor operator[](size_t i) const { return {raw->tensors[i]}; }
};
static_assert(std::is_trivially_copyable<Tensor>::value && sizeof(Tensor) == sizeof(void *), "passed like a pointer");
typedef std::function<void()> Kernel;

// -- checks
struct Refusal { std::string reason; };
#define NEED(CONDITION, ...) do { if (!(CONDITION)) { char why_[512]; snprintf(why_, sizeof why_, __VA_ARGS__); throw Refusal{why_}; } } while (0)
inline const std::set<int> &floats() { static const std::set<int> all{FLOAT32, FLOAT16, BFLOAT16}; return all; }
inline const std::set<int> &numbers() {
  static const std::set<int> all{FLOAT32, FLOAT16, BFLOAT16, FLOAT64, INT8, UINT8, INT16, INT32, INT64, BOOL};
  return all;
}
inline bool is_float(int type) { return floats().count(type) || type == FLOAT64; }
inline void type(Tensor tensor, const std::set<int> &allowed, const char *what) {
  NEED(tensor, "%s is null", what);
  NEED(allowed.count(tensor->type), "%s is %s", what, name_of(tensor->type));
}
inline void same_type(Tensor tensor, Tensor other, const char *what) {
  if (tensor) NEED(tensor->type == other->type, "%s is %s beside %s", what, name_of(tensor->type), name_of(other->type));
}
inline size_t axis(int64_t dim, size_t rank) {
  int64_t n = rank ? rank : 1;
  NEED(dim >= -n && dim < n, "there is no dimension %lld of %zu", (long long)dim, rank);
  return (dim + n) % n;
}

// -- texts of arguments
inline std::string said(Tensor tensor) {
  if (!tensor) return "null";
  std::string result = name_of(tensor->type) + text(tensor->shape);
  int64_t expected = 1;
  bool contiguous = true;
  for (int i = (int)tensor.rank() - 1; i >= 0; i--) {
    contiguous &= tensor->shape[i] == 1 || tensor->stride[i] == expected;
    expected *= tensor->shape[i];
  }
  if (!contiguous) result += "/stride" + text(tensor->stride);
  return tensor->offset ? result + "+" + std::to_string(tensor->offset) : result;
}
inline std::string said(Scalar scalar) { return scalar ? std::to_string(*scalar) : "null"; }
inline std::string said(Ints ints) { return ints ? text(*ints) : "null"; }
inline std::string said(Floats) { return "floats"; }
inline std::string said(Bools) { return "bools"; }
inline std::string said(Tensors list) {
  std::string result = "{";
  for (size_t i = 0; list.raw && i < list.count(); i++) result += (i ? " " : "") + said(list[i]);
  return result + "}";
}
inline std::string said(const char *string) { return string ? string : "null"; }
template <class N, class = std::enable_if_t<std::is_arithmetic<N>::value>> std::string said(N value) { return std::to_string(value); }

// -- memory of the arguments: in the storage, and at a launch on this device, and aligned
std::string misplaced(Tensor tensor, bool launching, int device);
template <class A> std::string misplaced(A, bool, int) { return ""; }
inline std::string misplaced(Tensors list, bool launching, int device) {
  for (size_t i = 0; list.raw && i < list.count(); i++) {
    std::string wrong = misplaced(list[i], launching, device);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

inline int64_t elements_of(Tensor tensor) { return tensor ? tensor.count() : 0; }
template <class A> int64_t elements_of(A) { return 0; }

// -- copies of the arguments for as long as a launch waits
class Copies {
  std::vector<std::shared_ptr<void>> kept;
  template <class R> const R *keep(const R *raw) {
    if (!raw) return nullptr;
    auto copy = std::make_shared<R>(*raw);
    kept.push_back(copy);
    return copy.get();
  }

 public:
  Tensor of(Tensor a) {
    const aclTensor *copy = keep(a.raw);
    if (copy) const_cast<aclTensor *>(copy)->origin = a.raw;
    return {copy};
  }
  Scalar of(Scalar a) { return {keep(a.raw)}; }
  Ints of(Ints a) { return {keep(a.raw)}; }
  Floats of(Floats a) { return {keep(a.raw)}; }
  Bools of(Bools a) { return {keep(a.raw)}; }
  Tensors of(Tensors a) {
    if (!a.raw) return a;
    aclTensorList list;
    for (auto tensor : a.raw->tensors) list.tensors.push_back(const_cast<aclTensor *>(keep((const aclTensor *)tensor)));
    return {keep(&list)};
  }
  const char *of(const char *a) {
    if (!a) return a;
    auto copy = std::make_shared<std::string>(a);
    kept.push_back(copy);
    return copy->c_str();
  }
  template <class N, class = std::enable_if_t<std::is_arithmetic<N>::value>> N of(N a) { return a; }
};

int checked_launch(const char *op, aclOpExecutor *executor, void *workspace, uint64_t size, void *stream);
// What a launch does to its outputs where a test wants it wrong.
int sabotaged(const char *op, int *status);
void spoil(Tensor tensor);
template <class A> void spoil(A) {}

// Texts are read in the first phase alone: the caller's may be gone by the second (torch_npu launches in another thread).
template <class A> void keep_text(Copies &, A &) {}
inline void keep_text(Copies &texts, const char *&a) { a = texts.of(a); }

template <class... A> int first_phase(const char *op, Kernel (*body)(A...), uint64_t *workspace, aclOpExecutor **executor, A... a) {
  auto texts = std::make_shared<Copies>();
  (keep_text(*texts, a), ...);
  auto arguments = [=] { std::string all; ((all += " " + said(a)), ...); return all; };
  if (report::logging()) report::line("%s%s", op, arguments().c_str());
  try {
    body(a...);
  } catch (const Refusal &refusal) {
    report::error("%sGetWorkspaceSize: %s; arguments:%s", op, refusal.reason.c_str(), arguments().c_str());
    return INVALID;
  }
  std::string wrong;
  ((wrong = wrong.empty() ? misplaced(a, false, 0) : wrong), ...);
  if (!wrong.empty()) { report::error("%sGetWorkspaceSize: %s", op, wrong.c_str()); return INVALID; }
  uint64_t size = (uint64_t)report::number("workspace", 0);
  *workspace = size;
  *executor = new aclOpExecutor{op, size, false, nullptr};
  (*executor)->launch = [=](void *at, uint64_t room, void *stream) -> int {
    int device = streams::device(), status = OK;
    std::string lost;
    ((lost = lost.empty() ? misplaced(a, true, device) : lost), ...);
    if (!lost.empty()) { report::error("%s: %s; arguments:%s", op, lost.c_str(), arguments().c_str()); return INNER; }
    auto copies = std::make_shared<Copies>();
    (void)texts;
    std::tuple<A...> held{copies->of(a)...};
    Kernel kernel;
    try {
      kernel = std::apply(body, held);
    } catch (const Refusal &refusal) {  // what changed since the first phase
      report::error("%s: %s; arguments:%s", op, refusal.reason.c_str(), arguments().c_str());
      return INNER;
    }
    bool wrong_result = sabotaged(op, &status);
    int64_t largest = 0;
    ((largest = std::max(largest, elements_of(a))), ...);
    // "skip": everything but the arithmetic; "skip_from": that of operators with a tensor of so many elements
    if (status || report::on("skip") || largest >= report::number("skip_from", INFINITY)) return status;
    return streams::push(stream, [=] {
      std::string freed;
      std::apply([&](auto... x) { ((freed = freed.empty() ? misplaced(x, true, device) : freed), ...); }, held);
      (void)copies;
      if (!freed.empty()) { report::error("%s ran after its memory was freed: %s", op, freed.c_str()); return (int)INNER; }
      if (room) memset(at, 0x7f, room);
      try {
        kernel();
      } catch (const Refusal &refusal) {
        report::error("%s: %s", op, refusal.reason.c_str());
        return (int)INNER;
      }
      if (wrong_result) std::apply([&](auto... x) { (spoil(x), ...); }, held);
      return (int)OK;
    });
  };
  return OK;
}

#define ACLNN(NAME, PARAMETERS, ARGUMENTS) \
  static Kernel NAME##_body PARAMETERS; \
  extern "C" __attribute__((visibility("default"))) int NAME##GetWorkspaceSize(UNPACKED PARAMETERS, uint64_t *workspace_, aclOpExecutor **executor_) { \
    return first_phase(#NAME, NAME##_body, workspace_, executor_, UNPACKED ARGUMENTS); \
  } \
  extern "C" __attribute__((visibility("default"))) int NAME(void *workspace_, uint64_t size_, aclOpExecutor *executor_, void *stream_) { \
    return checked_launch(#NAME, executor_, workspace_, size_, stream_); \
  } \
  static Kernel NAME##_body PARAMETERS
#define UNPACKED(...) __VA_ARGS__

#include "operator.h"
#include <chrono>
#include <thread>

std::string misplaced(Tensor tensor, bool launching, int device) {
  if (!tensor || !tensor.count()) return "";
  int64_t last = tensor->offset;
  for (size_t i = 0; i < tensor.rank(); i++) last += (tensor->shape[i] - 1) * tensor->stride[i];
  if (!tensor->storage.empty() && last >= elements(tensor->storage)) return said(tensor) + " reaches beyond its storage " + text(tensor->storage);
  if (!launching) return "";
  char where[64];
  snprintf(where, sizeof where, " at %p", tensor->data);
  if (!tensor->data) return said(tensor) + " has no address";
  int found = memory::device_of(tensor->data, (last + 1) * size_of(tensor->type));
  if (found < 0) return said(tensor) + where + " is not in device memory";
  if (found != device) return said(tensor) + where + " is on device " + std::to_string(found) + ", launched on " + std::to_string(device);
  if ((uintptr_t)tensor->data % 32) return said(tensor) + where + " is not aligned to 32 bytes";
  return "";
}

int checked_launch(const char *op, aclOpExecutor *executor, void *workspace, uint64_t size, void *stream) {
  report::launched(op, streams::device());
  if (!executor) { report::error("%s: no executor", op); return NULL_POINTER; }
  if (strcmp(executor->name, op)) { report::error("%s: the executor of %s", op, executor->name); return INVALID; }
  if (size < executor->workspace) { report::error("%s: a workspace of %zu bytes, %zu needed", op, (size_t)size, (size_t)executor->workspace); return INVALID; }
  if (size && memory::device_of(workspace, size) != streams::device()) { report::error("%s: its workspace is not on the device", op); return INNER; }
  if ((long)size > report::workspace) report::workspace = size;
  int status = executor->launch(workspace, size, stream);
  if (!executor->repeatable) delete executor;
  return status;
}

// Settings "hang=aclnnAdd" ("hang_seconds=60"), "crash=aclnnAdd", "error=aclnnAdd" ("error_code=507015"), "wrong=aclnnAdd".
int sabotaged(const char *op, int *status) {
  if (report::setting("crash") == op) abort();
  if (report::setting("hang") == op) std::this_thread::sleep_for(std::chrono::duration<double>(report::number("hang_seconds", 60)));
  if (report::setting("error") == op) {
    *status = (int)report::number("error_code", 507015);
    report::error("EZ9999: Inner Error! %s: the error from device(chipId:0, dieId:0), there is an aicore error exception", op);
  }
  return report::setting("wrong") == op;
}
void spoil(Tensor tensor) {
  if (!tensor || !tensor.count() || !is_float(tensor->type)) return;
  char *first = tensor->data + tensor->offset * size_of(tensor->type);
  first[size_of(tensor->type) - 1] ^= 0x40;  // its exponent
}

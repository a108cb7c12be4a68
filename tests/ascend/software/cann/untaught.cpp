// What symbols.py makes the rest of: functions that nothing here answers.
#include "operator.h"

extern "C" {
// Any other function of CANN: 0 is success to most callers; that it was called is counted.
long software_npu_untaught(const char *function) { report::untaught(function); return 0; }
// An aclnn operator without a computation fails at its first phase.
int software_npu_unknown_operator(const char *op) {
  report::untaught(op);
  report::error("%s: the software NPU does not know this operator", op);
  return INNER;
}
int software_npu_launch_unknown(const char *op, void *workspace, uint64_t size, aclOpExecutor *executor, void *stream) {
  return checked_launch(op, executor, workspace, size, stream);
}
}

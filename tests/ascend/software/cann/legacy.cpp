// aclopCompileAndExecute: CANN's deprecated single operators (include/acl/acl_op_compiler.h), compiled shape by shape at
// run time. Nothing of this project may take that road, so the call is refused by the operator's name. For others' code
// the setting allow_legacy lets them be launched; what they would compute is not.
#include "objects.h"
#include "report.h"

#define API extern "C" __attribute__((visibility("default")))
static int refused(const char *op) {
  report::legacy(op);
  if (report::on("allow_legacy")) return report::launched(op, 0), OK;
  report::error("%s has no aclnn kernel: it goes by aclopCompileAndExecute, which is deprecated", op);
  return INNER;
}
API int aclopCompileAndExecute(const char *op, ...) { return refused(op); }
API int aclopCompileAndExecuteV2(const char *op, ...) { return refused(op); }
API int aclopCompile(const char *op, ...) { return refused(op); }
API int aclopUpdateParams(const char *op, ...) { return refused(op); }
API void *aclCreateTensorDesc(int, int, const int64_t *, int) { return new int(0); }
API void aclDestroyTensorDesc(const void *description) { delete (int *)description; }
API void *aclCreateDataBuffer(void *, size_t) { return new int(0); }
API int aclDestroyDataBuffer(const void *buffer) { delete (int *)buffer; return OK; }
API void *aclopCreateAttr() { return new int(0); }
API void aclopDestroyAttr(const void *attributes) { delete (int *)attributes; }

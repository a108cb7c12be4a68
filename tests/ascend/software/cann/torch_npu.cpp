// What torch_npu asks of CANN beyond what MindSpore does: CANN's include/acl/acl_rt.h, acl_op_compiler.h and aclnn/acl_meta.h.
#include "memory.h"
#include "objects.h"
#include "report.h"
#include "streams.h"
#include <cstring>

#define API extern "C" __attribute__((visibility("default")))
enum { OPTIONS = 64, CUBE_CORES = 24, JIT_COMPILE = 10 };
static int64_t options[OPTIONS];
API int aclrtGetSysParamOpt(int which, int64_t *value) { *value = which >= 0 && which < OPTIONS ? options[which] : 0; return OK; }
API int aclrtSetSysParamOpt(int which, int64_t value) { if (which >= 0 && which < OPTIONS) options[which] = value; return OK; }
API int aclrtStreamGetId(void *stream, int32_t *id) { *id = stream ? *(int *)stream : 0; return OK; }
API int aclrtGetStreamOverflowSwitch(void *, uint32_t *flag) { *flag = 0; return OK; }
API int aclrtMallocHost(void **, size_t);
API int aclrtMallocHostWithCfg(void **address, size_t size, void *) { return aclrtMallocHost(address, size); }
API int aclrtLaunchHostFunc(void *stream, void (*function)(void *), void *data) { return streams::push(stream, [=] { function(data); return OK; }); }
API int aclGetDeviceCapability(uint32_t, int, int64_t *value) { *value = CUBE_CORES; return OK; }
// Operators compiled shape by shape at run time (aclCompileOpt's ACL_OP_JIT_COMPILE): not on a 910B.
static const char *compile_option(int which) { return which == JIT_COMPILE ? "disable" : ""; }
API size_t aclGetCompileoptSize(int which) { return strlen(compile_option(which)) + 1; }
API int aclGetCompileopt(int which, char *value, size_t size) { strncpy(value, compile_option(which), size); return OK; }
struct aclScalarList { std::vector<const aclScalar *> scalars; };
API aclScalarList *aclCreateScalarList(aclScalar *const *scalars, uint64_t n) { return new aclScalarList{{scalars, scalars + n}}; }
API int aclDestroyScalarList(const aclScalarList *list) { delete list; return OK; }

// aclInit, devices, contexts and what is asked of them: CANN's include/acl/acl.h and acl_rt.h ("Device", "Context").
#include "objects.h"
#include "report.h"
#include "streams.h"
#include <unistd.h>

static thread_local int current = -1;
static thread_local void *context = nullptr;
static int default_context[8];
int streams::device() { return current < 0 ? 0 : current; }

#define API extern "C" __attribute__((visibility("default")))
enum { INVALID_DEVICE = 107001, NO_CONTEXT = 107002, ACL_HOST = 1, CUBE_CORES = 24, VECTOR_CORES = 48 };
API int aclInit(const char *) { return OK; }
API int aclFinalize() { return OK; }
API const char *aclrtGetSocName() { static std::string name = report::setting("soc", "Ascend910B2"); return name.c_str(); }
API int aclrtGetDeviceCount(uint32_t *count) { *count = (uint32_t)report::number("devices", 1); return OK; }
API int aclrtSetDevice(int32_t device) {
  uint32_t count;
  aclrtGetDeviceCount(&count);
  if (device < 0 || device >= (int32_t)count) { report::error("aclrtSetDevice: there is no device %d of %u", device, count); return INVALID_DEVICE; }
  current = device;
  context = &default_context[device];
  return OK;
}
API int aclrtResetDevice(int32_t) { return OK; }
API int aclrtGetDevice(int32_t *device) { *device = streams::device(); return OK; }
API int aclrtGetRunMode(int *mode) { *mode = ACL_HOST; return OK; }
API int aclrtCreateContext(void **made, int32_t device) { aclrtSetDevice(device); *made = context; return OK; }
API int aclrtDestroyContext(void *) { return OK; }
API int aclrtGetCurrentContext(void **found) { *found = context; return context ? 0 : NO_CONTEXT; }
API int aclrtSetCurrentContext(void *chosen) { context = chosen; if (chosen) current = (int)((int *)chosen - default_context); return OK; }

API int aclrtDeviceCanAccessPeer(int32_t *can, int32_t, int32_t) { *can = 0; return OK; }
API int aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return OK; }
API int aclrtDeviceGetStreamPriorityRange(int32_t *least, int32_t *greatest) { *least = 7; *greatest = 0; return OK; }
API int aclrtDeviceGetBareTgid(int32_t *pid) { *pid = getpid(); return OK; }
API int aclrtGetLastError(int) { return OK; }
static uint32_t cores(int kind) { return kind == 0 ? CUBE_CORES : VECTOR_CORES; }
API int aclrtGetDeviceResLimit(int32_t, int kind, uint32_t *limit) { *limit = cores(kind); return OK; }
API int aclrtGetStreamResLimit(void *, int kind, uint32_t *limit) { *limit = cores(kind); return OK; }
API int aclrtGetResInCurrentThread(int kind, uint32_t *limit) { *limit = cores(kind); return OK; }

// Taken, and without a consequence here.
#define TAKEN(NAME) API int NAME() { return OK; }
TAKEN(aclrtSetDeviceSatMode) TAKEN(aclrtSetExceptionInfoCallback) TAKEN(aclrtSetOpExecuteTimeOut) TAKEN(aclrtSetOpWaitTimeout)
TAKEN(aclrtCtxSetSysParamOpt) TAKEN(aclrtSetDeviceResLimit) TAKEN(aclrtSetStreamResLimit) TAKEN(aclrtResetStreamResLimit)
TAKEN(aclrtUseStreamResInCurrentThread) TAKEN(aclSetCompileopt) TAKEN(aclopSetCompileFlag)
// MindSpore registers its memory pool, for operators that allocate by themselves.
API void *aclrtAllocatorCreateDesc() { return new int(0); }
API int aclrtAllocatorDestroyDesc(void *description) { delete (int *)description; return OK; }
TAKEN(aclrtAllocatorRegister) TAKEN(aclrtAllocatorUnregister) TAKEN(aclrtAllocatorSetObjToDesc) TAKEN(aclrtAllocatorSetAllocFuncToDesc)
TAKEN(aclrtAllocatorSetFreeFuncToDesc) TAKEN(aclrtAllocatorSetAllocAdviseFuncToDesc) TAKEN(aclrtAllocatorSetGetAddrFromBlockFuncToDesc)

// aclrtMalloc …, aclrtMallocHost, virtual memory, aclrtMemcpy …: CANN's include/acl/acl_rt.h ("Memory Management").
#include "memory.h"
#include "objects.h"
#include "report.h"
#include "streams.h"
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

enum { ALLOCATION_FAILED = 207001, MEMORY_ADDRESS = 507899 };
enum Kind { HOST_TO_HOST, UP, DOWN, WITHIN };

namespace {
struct Range { size_t size; int device; };
std::mutex guard;
std::map<char *, Range> live;  // device memory
std::map<void *, size_t> reserved;
long allocations = 0;

size_t total() { return (size_t)(report::number("memory_gb", 32) * (1L << 30)); }

// Takes the bytes from the device's memory; false where it is full, or where a test wants this allocation to fail.
bool take(size_t size) {
  allocations++;
  long failing = (long)report::number("fail_allocation", 0);
  if (report::used + (long)size > (long)total() || (failing && allocations >= failing)) {
    report::error("out of device memory: %zu bytes wanted, %ld in use of %zu", size, report::used.load(), total());
    return false;
  }
  report::used += size;
  if (report::used > report::peak) report::peak = report::used.load();
  return true;
}
void *pages(size_t size, int protection) {
  void *address = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
}

int copy(void *to, const void *from, size_t size, int kind) {
  if (!size) return OK;
  if (kind == UP && memory::device_of(to, size) < 0) { report::error("aclrtMemcpy to the device: %p (%zu bytes) is not device memory", to, size); return MEMORY_ADDRESS; }
  if (kind == DOWN && memory::device_of(from, size) < 0) { report::error("aclrtMemcpy to the host: %p (%zu bytes) is not device memory", from, size); return MEMORY_ADDRESS; }
  if (kind == WITHIN && (memory::device_of(from, size) < 0 || memory::device_of(to, size) < 0)) { report::error("aclrtMemcpy within the device: %p or %p (%zu bytes) is not device memory", from, to, size); return MEMORY_ADDRESS; }
  memmove(to, from, size);
  return OK;
}
int counted(size_t room, size_t size, int kind) {
  if (size > room) { report::error("aclrtMemcpy: %zu bytes to a buffer of %zu", size, room); return BAD_PARAMETER; }
  if (kind == UP) report::up.add(size), report::trace("copy up", size);
  if (kind == DOWN) report::down.add(size), report::trace("copy down", size);
  if (kind == WITHIN) report::within.add(size), report::trace("copy within", size);
  return OK;
}
}  // namespace

int memory::device_of(const void *address, size_t size) {
  std::lock_guard<std::mutex> held(guard);
  auto next = live.upper_bound((char *)address);
  if (next == live.begin()) return -1;
  auto range = std::prev(next);
  char *end = range->first + range->second.size;  // pieces of virtual memory may follow one another
  for (; next != live.end() && next->first == end; ++next) end += next->second.size;
  return (char *)address + size <= end ? range->second.device : -1;
}

#define API extern "C" __attribute__((visibility("default")))
API int aclrtMalloc(void **address, size_t size, int) {
  size = (size + 511) / 512 * 512 + 512;  // what CANN takes: a multiple of 512, and 32 more
  std::lock_guard<std::mutex> held(guard);
  if (!take(size) || !(*address = pages(size, PROT_READ | PROT_WRITE))) return ALLOCATION_FAILED;
  live[(char *)*address] = {size, streams::device()};
  return OK;
}
API int aclrtMallocAlign32(void **address, size_t size, int policy) { return aclrtMalloc(address, size, policy); }
API int aclrtFree(void *address) {
  std::lock_guard<std::mutex> held(guard);
  auto range = live.find((char *)address);
  if (range == live.end()) { report::error("aclrtFree: %p was not allocated", address); return BAD_PARAMETER; }
  report::used -= range->second.size;
  munmap(address, range->second.size);
  live.erase(range);
  return OK;
}
API int aclrtMallocHost(void **address, size_t size) { *address = aligned_alloc(64, (size + 63) / 64 * 64); return *address ? 0 : ALLOCATION_FAILED; }
API int aclrtFreeHost(void *address) { free(address); return OK; }
API int aclrtGetMemInfo(int, size_t *free_bytes, size_t *total_bytes) { *total_bytes = total(); *free_bytes = total() - report::used; return OK; }
API int aclrtGetMemUceInfo(int32_t, void *, size_t, size_t *errors) { *errors = 0; return OK; }

API int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) {
  int status = counted(room, size, kind);
  return status ? status : copy(to, from, size, kind);
}
API int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *stream) {
  if (int status = counted(room, size, kind)) return status;
  return streams::push(stream, [=] { return copy(to, from, size, kind); });
}
API int aclrtMemset(void *address, size_t room, int32_t value, size_t size) {
  if (size > room) { report::error("aclrtMemset: %zu bytes in a buffer of %zu", size, room); return BAD_PARAMETER; }
  memset(address, value, size);
  return OK;
}
API int aclrtMemsetAsync(void *address, size_t room, int32_t value, size_t size, void *stream) {
  return streams::push(stream, [=] { return aclrtMemset(address, room, value, size); });
}

// Virtual memory: addresses are reserved first, and physical memory is put behind them piece by piece.
struct Physical { size_t size; };
API int aclrtReserveMemAddress(void **address, size_t size, size_t, void *, uint64_t) {
  if (!(*address = pages(size, PROT_NONE))) return ALLOCATION_FAILED;
  std::lock_guard<std::mutex> held(guard);
  reserved[*address] = size;
  return OK;
}
API int aclrtReleaseMemAddress(void *address) {
  std::lock_guard<std::mutex> held(guard);
  munmap(address, reserved[address]);
  reserved.erase(address);
  return OK;
}
API int aclrtMallocPhysical(void **handle, size_t size, const void *, uint64_t) {
  std::lock_guard<std::mutex> held(guard);
  if (!take(size)) return ALLOCATION_FAILED;
  *handle = new Physical{size};
  return OK;
}
API int aclrtFreePhysical(void *handle) { report::used -= ((Physical *)handle)->size; delete (Physical *)handle; return OK; }
API int aclrtMapMem(void *address, size_t size, size_t, void *, uint64_t) {
  std::lock_guard<std::mutex> held(guard);
  mprotect(address, size, PROT_READ | PROT_WRITE);
  live[(char *)address] = {size, streams::device()};
  return OK;
}
API int aclrtUnmapMem(void *address) {
  std::lock_guard<std::mutex> held(guard);
  auto range = live.find((char *)address);
  if (range == live.end()) { report::error("aclrtUnmapMem: %p is not mapped", address); return BAD_PARAMETER; }
  mprotect(address, range->second.size, PROT_NONE);
  live.erase(range);
  return OK;
}
API int halHostRegister(void *host, uint64_t, uint32_t, uint32_t, void **device) { *device = host; return 0; }
API int halHostUnregister(void *, uint32_t) { return 0; }

// What is counted at the boundary of CANN, what went wrong there, and the settings by which a test makes it go wrong.
#pragma once
#include <atomic>
#include <cstddef>
#include <string>

namespace report {
struct Counter { std::atomic<long> number{0}, bytes{0}; void add(size_t n) { number++; bytes += n; } };
extern Counter up, down, within;                       // copies host to device, device to host, device to device
extern std::atomic<long> stream_waits, device_waits, event_waits;  // calls that block the host
extern std::atomic<long> used, peak, workspace;        // bytes of device memory; the largest workspace

void launched(const char *op, int device);
void legacy(const char *op);                           // by CANN's deprecated aclop interface
void untaught(const char *function);                   // called, and nothing here answers it
void error(const char *format, ...) __attribute__((format(printf, 1, 2)));  // also what aclGetRecentErrMsg returns
void line(const char *format, ...) __attribute__((format(printf, 1, 2)));   // to the log, where there is one
bool logging();
void trace(const char *what, size_t bytes);            // names the functions that led here, where tracing is on

// Settings: SOFTWARE_NPU="key=value;key=value" when the library is loaded, software_npu_set(key, value) later.
bool on(const char *key);
double number(const char *key, double otherwise);
std::string setting(const char *key, const char *otherwise = "");
}  // namespace report

#include "report.h"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <map>
#include <mutex>
#include <vector>

namespace report {
Counter up, down, within;
std::atomic<long> stream_waits{0}, device_waits{0}, event_waits{0}, used{0}, peak{0}, workspace{0};
static std::mutex guard;  // of what follows
static std::map<std::string, long> launches, legacies, untaughts, devices;
static std::vector<std::string> errors;
static FILE *log_file;
static thread_local char last_error[2048];

static std::map<std::string, std::string> parsed(const char *text) {
  std::map<std::string, std::string> result;
  std::string rest = text ? text : "";
  while (!rest.empty()) {
    size_t end = rest.find(';');
    std::string item = rest.substr(0, end);
    size_t equals = item.find('=');
    if (equals != std::string::npos) result[item.substr(0, equals)] = item.substr(equals + 1);
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
  }
  return result;
}
static std::map<std::string, std::string> &settings() { static auto all = parsed(getenv("SOFTWARE_NPU")); return all; }
std::string setting(const char *key, const char *otherwise) {
  std::lock_guard<std::mutex> held(guard);
  auto found = settings().find(key);
  return found == settings().end() ? otherwise : found->second;
}
bool on(const char *key) { std::string value = setting(key); return !value.empty() && value != "0"; }
double number(const char *key, double otherwise) { std::string value = setting(key); return value.empty() ? otherwise : atof(value.c_str()); }

static void count(std::map<std::string, long> &names, const char *name) { std::lock_guard<std::mutex> held(guard); names[name]++; }
void launched(const char *op, int device) { count(launches, op); count(devices, std::to_string(device).c_str()); }
void legacy(const char *op) { count(legacies, op); line("legacy %s", op); }
void untaught(const char *function) { count(untaughts, function); line("untaught %s", function); }

bool logging() { return on("log"); }
static void write(const char *kind, const char *message) {
  if (!logging()) return;
  std::string path = setting("log");
  std::lock_guard<std::mutex> held(guard);
  if (!log_file) log_file = fopen(path.c_str(), "a");
  if (log_file) fprintf(log_file, "%s%s\n", kind, message), fflush(log_file);
}
void line(const char *format, ...) {
  if (!logging()) return;
  char message[8192];
  va_list values;
  va_start(values, format); vsnprintf(message, sizeof message, format, values); va_end(values);
  write("", message);
}
void error(const char *format, ...) {
  va_list values;
  va_start(values, format); vsnprintf(last_error, sizeof last_error, format, values); va_end(values);
  { std::lock_guard<std::mutex> held(guard); errors.push_back(last_error); }
  write("ERROR ", last_error);
}

void trace(const char *what, size_t bytes) {
  if (!on("trace")) return;
  void *stack[48];
  int depth = backtrace(stack, 48);
  std::string names;
  for (int i = 2; i < depth; i++) {
    Dl_info info;
    if (!dladdr(stack[i], &info) || !info.dli_fname) continue;
    const char *file = strrchr(info.dli_fname, '/');
    if (strstr(info.dli_fname, "python3") && !strstr(info.dli_fname, "site-packages")) { names += " < python"; break; }
    names += std::string(" < ") + (file ? file + 1 : info.dli_fname) + ":" + (info.dli_sname ? info.dli_sname : "?");
  }
  write((std::string("trace ") + what + " " + std::to_string(bytes)).c_str(), names.c_str());
}

static std::string quoted(const std::string &text) {
  std::string result = "\"";
  for (char c : text) { if (c == '"' || c == '\\') result += '\\'; result += (unsigned char)c < 32 ? ' ' : c; }
  return result + "\"";
}
static std::string object(const std::map<std::string, long> &names) {
  std::string result = "{";
  for (auto &item : names) result += (result.size() > 1 ? "," : "") + quoted(item.first) + ":" + std::to_string(item.second);
  return result + "}";
}
static std::string json() {
  std::lock_guard<std::mutex> held(guard);
  std::string result = "{\"launches\":" + object(launches) + ",\"devices\":" + object(devices) + ",\"legacy\":" + object(legacies) + ",\"untaught\":" + object(untaughts) + ",\"errors\":[";
  for (size_t i = 0; i < errors.size(); i++) result += (i ? "," : "") + quoted(errors[i]);
  result += "]";
  auto add = [&](const char *key, long value) { result += std::string(",\"") + key + "\":" + std::to_string(value); };
  add("up", up.number); add("up_bytes", up.bytes); add("down", down.number); add("down_bytes", down.bytes);
  add("within", within.number); add("within_bytes", within.bytes);
  add("stream_waits", stream_waits); add("device_waits", device_waits); add("event_waits", event_waits);
  add("used", used); add("peak", peak); add("workspace", workspace);
  return result + "}";
}
}  // namespace report

#define API extern "C" __attribute__((visibility("default")))
API const char *aclGetRecentErrMsg() { return report::last_error; }
API void software_npu_set(const char *key, const char *value) { std::lock_guard<std::mutex> held(report::guard); report::settings()[key] = value; }
// Everything counted so far, as JSON; stays valid until this thread asks again.
API const char *software_npu_report() { static thread_local std::string text; text = report::json(); return text.c_str(); }
// Begins to count anew; memory in use stays counted.
API void software_npu_reset() {
  using namespace report;
  std::lock_guard<std::mutex> held(guard);
  launches.clear(); devices.clear(); legacies.clear(); untaughts.clear(); errors.clear();
  for (auto counter : {&up, &down, &within}) counter->number = 0, counter->bytes = 0;
  stream_waits = device_waits = event_waits = workspace = 0;
  peak = used.load();
}

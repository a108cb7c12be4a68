// aclrtCreateStream …, aclrtRecordEvent …, aclrtSynchronize…: CANN's include/acl/acl_rt.h ("Stream", "Event").
// With "defer" the order of a stream and of its events is kept, and nothing runs before somebody waits: memory that the
// host frees or overwrites too early then shows as a wrong result or as an error.
#include "streams.h"
#include "objects.h"
#include "report.h"
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace {
enum { NEVER_RECORDED = 507000 };
struct Event { double milliseconds = 0; long recorded = 0, asked = 0; };
struct Task { std::function<bool()> ready; std::function<int()> run; };
struct Stream { int id; std::deque<Task> tasks; int failed = OK; };
std::recursive_mutex guard;
std::vector<Stream *> all;

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int add(void *stream, Task task) {
  auto it = (Stream *)stream;
  std::unique_lock<std::recursive_mutex> held(guard);
  if (report::on("defer") || (it && !it->tasks.empty()) || !task.ready()) { it->tasks.push_back(std::move(task)); return OK; }
  held.unlock();
  return task.run();
}
bool advance(Stream *stream) {
  bool any = false;
  while (!stream->tasks.empty() && stream->tasks.front().ready()) {
    Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    if (int status = task.run()) stream->failed = status;
    any = true;
  }
  return any;
}
// Runs streams, all of them if need be, until it is done.
template <class Done> int until(Stream *first, Done done) {
  std::lock_guard<std::recursive_mutex> held(guard);
  while (!done()) {
    bool any = first && advance(first);
    if (!any) for (auto stream : all) any |= advance(stream);
    if (!any && !done()) { report::error("a wait for an event that nobody records"); return NEVER_RECORDED; }
  }
  int status = first ? first->failed : OK;
  if (first) first->failed = OK;
  return status;
}
int drain(Stream *stream) { return stream ? until(stream, [=] { return stream->tasks.empty(); }) : OK; }
}  // namespace

int streams::push(void *stream, std::function<int()> task) { return add(stream, {[] { return true; }, task}); }

#define API extern "C" __attribute__((visibility("default")))
API int aclrtCreateStream(void **stream) {
  std::lock_guard<std::recursive_mutex> held(guard);
  auto made = new Stream{(int)all.size(), {}};
  all.push_back(made);
  *stream = made;
  return OK;
}
API int aclrtCreateStreamWithConfig(void **stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }
API int aclrtDestroyStream(void *stream) { return drain((Stream *)stream); }
API int aclrtDestroyStreamForce(void *) { return OK; }
API int aclrtSetStreamFailureMode(void *, uint64_t) { return OK; }
API int aclrtStreamQuery(void *stream, int *status) { *status = stream && !((Stream *)stream)->tasks.empty(); return OK; }
API int aclrtSynchronizeStream(void *stream) {
  report::stream_waits++;
  report::trace("wait for a stream", 0);
  return drain((Stream *)stream);
}
API int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t) { return aclrtSynchronizeStream(stream); }
API int aclrtSynchronizeDevice() {
  report::device_waits++;
  report::trace("wait for the device", 0);
  int status = OK;
  std::lock_guard<std::recursive_mutex> held(guard);
  for (auto stream : std::vector<Stream *>(all)) if (int failed = drain(stream)) status = failed;
  return status;
}
API int aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

API int aclrtCreateEvent(void **event) { *event = new Event; return OK; }
API int aclrtCreateEventWithFlag(void **event, uint32_t) { return aclrtCreateEvent(event); }
API int aclrtCreateEventExWithFlag(void **event, uint32_t) { return aclrtCreateEvent(event); }
API int aclrtDestroyEvent(void *) { return OK; }  // a task may still hold it
API int aclrtRecordEvent(void *event, void *stream) {
  auto it = (Event *)event;
  long count = ++it->asked;
  return add(stream, {[] { return true; }, [=] { it->milliseconds = now(); it->recorded = count; return OK; }});
}
API int aclrtResetEvent(void *, void *) { return OK; }
API int aclrtStreamWaitEvent(void *stream, void *event) {
  auto it = (Event *)event;
  long wanted = it->asked;
  return add(stream, {[=] { return it->recorded >= wanted; }, [] { return OK; }});
}
API int aclrtQueryEventStatus(void *event, int *status) { *status = ((Event *)event)->recorded >= ((Event *)event)->asked; return OK; }
API int aclrtSynchronizeEvent(void *event) {
  auto it = (Event *)event;
  report::event_waits++;
  report::trace("wait for an event", 0);
  return until(nullptr, [=] { return it->recorded >= it->asked; });
}
API int aclrtEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = ((Event *)to)->milliseconds - ((Event *)from)->milliseconds; return OK; }
API int aclrtEventGetTimestamp(void *event, uint64_t *microseconds) { *microseconds = (uint64_t)(((Event *)event)->milliseconds * 1000); return OK; }
API int aclrtLaunchCallback(void (*function)(void *), void *data, int, void *stream) { return streams::push(stream, [=] { function(data); return OK; }); }
API int aclrtProcessReport(int32_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); return OK; }
API int aclrtSubscribeReport(uint64_t, void *) { return OK; }

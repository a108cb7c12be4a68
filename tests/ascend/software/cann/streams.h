// Streams run what they are given at once or, with the setting "defer", when somebody waits for it.
#pragma once
#include <functional>

namespace streams {
int device();  // of the calling thread
int push(void *stream, std::function<int()> task);  // the task's status where it ran at once
}  // namespace streams

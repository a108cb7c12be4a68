// Device memory is host memory whose ranges are known, so that an address on the wrong side is found.
#pragma once
#include <cstddef>

namespace memory {
// The number of the device on which all of [address, address + size) lies, or -1.
int device_of(const void *address, size_t size);
}  // namespace memory

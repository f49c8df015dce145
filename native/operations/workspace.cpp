#include "operations/workspace.hpp"

#include <new>

namespace isogrid {
namespace {

constexpr std::align_val_t line{64};

struct Buffer {
    float* data = nullptr;
    std::size_t size = 0;

    ~Buffer() { ::operator delete(data, line); }

    float* get(std::size_t floats) noexcept {
        if (floats > size) {
            ::operator delete(data, line);
            data = nullptr;
            size = 0;
            if (floats > static_cast<std::size_t>(-1) / sizeof(float) - 64) return nullptr;
            data = static_cast<float*>(::operator new(floats * sizeof(float), line, std::nothrow));
            if (data != nullptr) size = floats;
        }
        return data;
    }
};

}  // namespace

float* workspace(Slot slot, std::size_t floats) noexcept {
    thread_local Buffer buffers[2];
    return buffers[static_cast<int>(slot)].get(floats);
}

}  // namespace isogrid

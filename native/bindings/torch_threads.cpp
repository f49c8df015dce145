#include "bindings/torch_threads.hpp"

#include <dlfcn.h>

#include <atomic>
#include <cstdint>

namespace {

using Loop = std::int32_t (*)(std::int64_t begin, std::int64_t end, std::int64_t grain,
                              void (*body)(std::int64_t begin, std::int64_t end, void* context), void* context);
using Count = std::int32_t (*)(std::uint32_t* threads);

std::atomic<Loop> loop{nullptr};
std::atomic<Count> count{nullptr};

struct Call {
    void (*body)(void* argument, int task) noexcept;
    void* argument;
};

void run(void*, void (*body)(void*, int) noexcept, void* argument, int tasks) {
    Call call{body, argument};
    const auto range = [](std::int64_t begin, std::int64_t end, void* context) {
        const Call& c = *static_cast<Call*>(context);
        for (std::int64_t i = begin; i < end; ++i) c.body(c.argument, static_cast<int>(i));
    };
    // The body cannot throw, so the loop fails only before it has begun.
    if (loop.load()(0, tasks, 1, range, &call) != 0) range(0, tasks, &call);
}

}  // namespace

bool find_torch_threads() {
    if (loop.load() != nullptr) return true;
    // The process's global scope, and PyTorch's library by name, since Python loads extension modules into scopes of
    // their own.
    void* handle = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    void* const scope = handle != nullptr ? handle : RTLD_DEFAULT;
    const auto found_loop = reinterpret_cast<Loop>(dlsym(scope, "torch_parallel_for"));
    const auto found_count = reinterpret_cast<Count>(dlsym(scope, "torch_get_num_threads"));
    if (found_loop != nullptr && found_count != nullptr) {
        count.store(found_count);
        loop.store(found_loop);
    }
    return loop.load() != nullptr;
}

isogrid::Executor torch_executor() {
    std::uint32_t threads = 1;
    if (loop.load() == nullptr || count.load()(&threads) != 0 || threads < 2) return isogrid::serial_executor();
    return {nullptr, static_cast<int>(threads), run};
}

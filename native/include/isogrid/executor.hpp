// The host's threads. The core starts none of its own: a second pool beside the host's makes both slower.
#pragma once

namespace isogrid {

// `run` calls `body(argument, i)` once for every i in [0, tasks), on any threads and in any order, and returns when all
// calls have. `threads` is how many of them may run at once, at least 1; it decides how work is cut, and with it in
// which order a sum is added up: results may differ in their last bits.
struct Executor {
    void* context;
    int threads;
    void (*run)(void* context, void (*body)(void* argument, int task) noexcept, void* argument, int tasks);
};

// Everything on the calling thread.
Executor serial_executor() noexcept;

}  // namespace isogrid

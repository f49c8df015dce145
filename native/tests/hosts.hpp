// What a host brings: targets to choose from, and threads.
#pragma once

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <thread>
#include <vector>

#include "isogrid/executor.hpp"
#include "isogrid/targets.hpp"
#include "kernels/table.hpp"

namespace isogrid::tests {

// The targets on which at least one test ran to its end. main.cpp compares it with what this processor can run.
inline std::set<std::string>& executed_targets() {
    static std::set<std::string> names;
    return names;
}

// What this processor can run, best first, asked without the core.
inline std::vector<std::string> expected_targets() {
    std::vector<std::string> names;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        names.push_back("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.push_back("avx2");
#elif defined(__aarch64__)
    names.push_back("neon");
#endif
    names.push_back("baseline");
    return names;
}

// Restores the target that a test found.
class KeepTarget {
  public:
    KeepTarget() : name_(current_target()) {}
    KeepTarget(const KeepTarget&) = delete;
    KeepTarget& operator=(const KeepTarget&) = delete;
    ~KeepTarget() { select_target(name_); }

  private:
    const char* name_;
};

// Calls body(kernels) with each target of this processor selected.
template <class Body>
void on_every_target(const Body& body) {
    const KeepTarget keep;
    const char* names[max_targets];
    const int count = available_targets(names);
    for (int i = 0; i < count; ++i) {
        const std::string target = names[i];
        CAPTURE(target);
        REQUIRE(select_target(names[i]) == Status::ok);
        REQUIRE(kernels().name == target);
        body(kernels());
        executed_targets().insert(target);
    }
}

// `count` threads of its own for every run; thread i takes the tasks i, i + count ...
class Threads {
  public:
    explicit Threads(int count) : count_(count) {}

    Executor executor() { return {this, count_, run}; }

  private:
    static void run(void* context, void (*body)(void*, int) noexcept, void* argument, int tasks) {
        const int count = static_cast<Threads*>(context)->count_;
        std::vector<std::thread> threads;
        for (int first = 0; first < count && first < tasks; ++first) {
            threads.emplace_back([=] {
                for (int task = first; task < tasks; task += count) body(argument, task);
            });
        }
        for (std::thread& thread : threads) thread.join();
    }

    int count_;
};

}  // namespace isogrid::tests

// Tasks of unequal length on the host's threads. Each thread has a range of neighbouring tasks, which often share cache
// lines, and when it is done with them helps with the others': a machine that is busy elsewhere slows a thread down.
#pragma once

#include <atomic>

#include "isogrid/executor.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

// More are not used: `run_tasks` keeps a range for each of them on the stack.
inline constexpr int most_threads = 64;

inline Executor with_useful_threads(const Executor& executor) noexcept {
    return {executor.context, executor.threads < most_threads ? executor.threads : most_threads, executor.run};
}

// Calls body(i) for every i in [0, tasks); `body` is noexcept and returns a Status, of which one that is not ok is
// returned if there is any.
template <class Body>
Status run_tasks(const Executor& executor, int tasks, const Body& body) noexcept {
    struct Range {
        std::atomic<int> next{0};
        int end = 0;
    };
    struct Shared {
        const Body& body;
        int threads;
        Range ranges[most_threads] = {};
        std::atomic<int> failure{0};
    };
    int threads = executor.threads < tasks ? executor.threads : tasks;
    threads = threads < 1 ? 1 : threads > most_threads ? most_threads : threads;
    Shared shared{.body = body, .threads = threads};
    for (int i = 0; i < threads; ++i) {
        shared.ranges[i].next = static_cast<int>(static_cast<long long>(tasks) * i / threads);
        shared.ranges[i].end = static_cast<int>(static_cast<long long>(tasks) * (i + 1) / threads);
    }
    const auto work = [](void* argument, int thread) noexcept {
        auto& s = *static_cast<Shared*>(argument);
        for (int i = 0; i < s.threads; ++i) {
            Range& range = s.ranges[(thread + i) % s.threads];
            for (int task = range.next.fetch_add(1); task < range.end; task = range.next.fetch_add(1)) {
                const Status status = s.body(task);
                if (status != Status::ok) s.failure = static_cast<int>(status);
            }
        }
    };
    if (threads == 1) {
        work(&shared, 0);
    } else {
        executor.run(executor.context, work, &shared, threads);
    }
    return static_cast<Status>(shared.failure.load());
}

}  // namespace isogrid

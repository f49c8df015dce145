// Tasks of unequal length on the host's threads: each takes the next one when it is done with its last.
#pragma once

#include <atomic>

#include "isogrid/executor.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

// Calls body(i) for every i in [0, tasks); `body` is noexcept and returns a Status, of which the first that is not ok
// is returned. A machine that is busy elsewhere slows one of its threads down, and the others then do more.
template <class Body>
Status run_tasks(const Executor& executor, int tasks, const Body& body) noexcept {
    struct Shared {
        const Body& body;
        int tasks;
        std::atomic<int> next{0};
        std::atomic<int> failure{0};
    } shared{body, tasks};
    const auto work = [](void* argument, int) noexcept {
        auto& s = *static_cast<Shared*>(argument);
        for (int i = s.next.fetch_add(1); i < s.tasks; i = s.next.fetch_add(1)) {
            const Status status = s.body(i);
            if (status != Status::ok) s.failure.store(static_cast<int>(status));
        }
    };
    const int threads = executor.threads < tasks ? executor.threads : tasks;
    if (threads <= 1) {
        work(&shared, 0);
    } else {
        executor.run(executor.context, work, &shared, threads);
    }
    return static_cast<Status>(shared.failure.load());
}

}  // namespace isogrid

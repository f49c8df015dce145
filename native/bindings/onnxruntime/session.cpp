#include "bindings/onnxruntime/session.hpp"

#include <atomic>
#include <chrono>
#include <thread>

#include "operations/pool.hpp"

namespace isogrid::onnxruntime {
namespace {

// The runtime does not tell how many threads a session has, and it matters: cut for more of them, work is packed once
// more for each; cut for fewer, some of them idle. So they are counted. Each of the calls of one ParallelFor waits
// until as many threads are there as can be of use, or until no more have come for a while: a thread that waits cannot
// take a second call, so the calls that wait are as many as the threads. The usual session has a thread for each
// processor and is counted as fast as these wake up; one with fewer pays for the wait, once.
constexpr auto patience = std::chrono::milliseconds(20);

struct Meeting {
    int wanted;
    std::atomic<int> here{0};
    std::atomic<bool> over{false};

    void attend() noexcept {
        using Clock = std::chrono::steady_clock;
        if (over) return;
        int known = ++here;
        auto deadline = Clock::now() + patience;
        while (!over && known < wanted) {
            std::this_thread::yield();
            if (const int now = here; now != known) {
                known = now;
                deadline = Clock::now() + patience;
            } else if (Clock::now() > deadline) {
                break;
            }
        }
        over = true;
    }
};

int useful_threads() {
    const unsigned processors = std::thread::hardware_concurrency();
    return processors == 0 ? 1 : processors < most_threads ? static_cast<int>(processors) : most_threads;
}

int count_threads(const Call& call) {
    Meeting meeting{useful_threads()};
    if (meeting.wanted == 1) return 1;
    const auto attend = [](void* argument, std::size_t) { static_cast<Meeting*>(argument)->attend(); };
    const auto calls = static_cast<std::size_t>(meeting.wanted);
    const bool done =
        accepted(call.table(), entry::ParallelFor::of(call.table())(call.context(), attend, calls, calls, &meeting));
    return done && meeting.here > 1 ? meeting.here.load() : 1;
}

}  // namespace

std::shared_ptr<Session> Session::of(const Node& node) {
    static std::mutex mutex;
    static std::map<const void*, std::weak_ptr<Session>> sessions;
    const std::lock_guard<std::mutex> lock(mutex);
    std::erase_if(sessions, [](const auto& known) { return known.second.expired(); });
    std::weak_ptr<Session>& known = sessions[node.session()];
    std::shared_ptr<Session> session = known.lock();
    if (session == nullptr) known = session = std::make_shared<Session>();
    return session;
}

int Session::threads(const Call& call) {
    std::call_once(counted_, [&] { threads_ = count_threads(call); });
    return threads_;
}

void Pool::run(void* context, void (*body)(void* argument, int task) noexcept, void* argument, int tasks) {
    struct Work {
        void (*body)(void* argument, int task) noexcept;
        void* argument;
    };
    Work work{body, argument};
    const auto one = [](void* data, std::size_t task) {
        const Work& w = *static_cast<Work*>(data);
        w.body(w.argument, static_cast<int>(task));
    };
    const Call& call = static_cast<Pool*>(context)->call_;
    const auto calls = static_cast<std::size_t>(tasks);
    if (accepted(call.table(), entry::ParallelFor::of(call.table())(call.context(), one, calls, calls, &work))) return;
    // It fails before it has begun, if at all.
    for (int task = 0; task < tasks; ++task) body(argument, task);
}

}  // namespace isogrid::onnxruntime

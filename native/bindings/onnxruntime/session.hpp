// What the kernels of one session share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "bindings/onnxruntime/host.hpp"
#include "isogrid/executor.hpp"

namespace isogrid::onnxruntime {

class Session {
  public:
    // Of the session that a node belongs to; kept as long as one of its kernels.
    static std::shared_ptr<Session> of(const Node& node);

    // The threads that a run may use at once.
    int threads(const Call& call);

    // The object with this key, made where no kernel holds one: a weight that several nodes use is laid out once.
    template <class T, class Make>
    std::shared_ptr<T> share(const std::string& key, const Make& make) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::weak_ptr<void>& known = shared_[key];
        if (auto held = std::static_pointer_cast<T>(known.lock())) return held;
        std::shared_ptr<T> made = make();
        known = made;
        return made;
    }

  private:
    std::once_flag counted_;
    int threads_ = 1;
    std::mutex mutex_;
    std::map<std::string, std::weak_ptr<void>> shared_;
};

// The session's thread pool for the time of one call.
class Pool {
  public:
    Pool(const Call& call, Session& session) : call_(call), threads_(session.threads(call)) {}
    Executor executor() noexcept { return {this, threads_, run}; }

  private:
    static void run(void* context, void (*body)(void* argument, int task) noexcept, void* argument, int tasks);

    const Call& call_;
    int threads_;
};

}  // namespace isogrid::onnxruntime

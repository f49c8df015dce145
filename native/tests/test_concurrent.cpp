// Several threads at one operation. `make native-test-threads` runs these under the thread sanitizer.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "operations.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

constexpr int callers = 4;

// Runs work(caller, round) on several threads at once, `rounds` times on each; it returns what is wrong. Meanwhile
// another thread switches from target to target.
template <class Work>
std::string at_once(int rounds, const Work& work) {
    const KeepTarget keep;
    const char* names[max_targets];
    const int targets = available_targets(names);
    std::atomic<int> running{callers};
    std::mutex mutex;
    std::string wrong;
    std::vector<std::thread> threads;
    for (int caller = 0; caller < callers; ++caller) {
        threads.emplace_back([&, caller] {
            for (int round = 0; round < rounds; ++round) {
                const std::string found = work(caller, round);
                const std::lock_guard<std::mutex> lock(mutex);
                if (wrong.empty()) wrong = found;
            }
            --running;
        });
    }
    for (int i = 0; running > 0; ++i) {
        select_target(names[i % targets]);
        std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    return wrong;
}

// Like the helpers in operations.hpp, but without doctest's macros, which are for one thread.
std::string run_and_compare(Linear& linear, const Floats& x, std::int64_t tokens, const Expected& expected,
                            const Executor& executor) {
    Floats y(expected.sum.size(), not_a_number);
    if (linear.run(executor, x.data(), tokens, nullptr, y.data()) != Status::ok) return "a run failed";
    return difference(y, expected, {}, Numbers::whole);
}

}  // namespace

TEST_CASE("concurrent: one linear operation, any numbers of tokens at once") {
    Random random(1);
    const Weights weights = random_weights(random, 60, 50, 0.2);
    // More than an operation keeps layouts for, and the one-token layouts.
    const std::vector<std::int64_t> tokens{1, 2, 9, 20, 40, 70, 130, 1};
    std::vector<Floats> x;
    std::vector<Expected> expected;
    for (const std::int64_t count : tokens) {
        x.push_back(floats(random, static_cast<std::size_t>(count * weights.columns)));
        expected.push_back(linear_reference(weights, x.back(), {}, {}));
    }
    for (const bool skip_zeros : {false, true}) {
        const OwnedLinear linear = make_linear(weights, {}, {}, skip_zeros);
        CHECK(at_once(24, [&](int caller, int round) {
                  const auto i = static_cast<std::size_t>(caller * 3 + round) % tokens.size();
                  Threads host(1 + round % 3);
                  return run_and_compare(*linear, x[i], tokens[i], expected[i], host.executor());
              }) == "");
    }
}

TEST_CASE("concurrent: one convolution, any sizes of images at once") {
    Random random(2);
    for (const int groups : {1, 6}) {
        std::vector<Images> images;
        for (const int size : {5, 8, 9, 12, 16, 20})
            images.push_back({{groups == 1 ? 4 : 1, size, size, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, groups, 12, 2});
        const Weights weights = random_weights(random, 12, images[0].shape.channels * 9, 0.4);
        std::vector<Floats> x;
        std::vector<Expected> expected;
        for (const Images& i : images) {
            x.push_back(floats(random, i.inputs()));
            expected.push_back(convolution_reference(weights, i, x.back(), {}, {}));
        }
        const OwnedConvolution convolution = make_convolution(weights, images[0]);
        CHECK(at_once(18, [&](int caller, int round) {
                  const auto i = static_cast<std::size_t>(caller + round) % images.size();
                  const int size = images[i].shape.height;
                  Threads host(1 + round % 2);
                  Floats y(images[i].outputs(), not_a_number);
                  const Status status =
                      convolution->run(host.executor(), x[i].data(), 2, size, size, nullptr, y.data());
                  if (status != Status::ok) return std::string("a run failed");
                  return difference(y, expected[i], {}, Numbers::whole);
              }) == "");
    }
}

TEST_CASE("concurrent: operations are made, used and destroyed on any thread") {
    Random random(3);
    const Weights weights = random_weights(random, 30, 20, 0.3);
    const Floats x = floats(random, 20 * 20);
    const Expected expected = linear_reference(weights, x, {}, {});
    CHECK(at_once(10, [&](int, int) {
              Linear* made = nullptr;
              if (Linear::create(weights.view(), {}, false, &made) != Status::ok) return std::string("not made");
              const std::string wrong = run_and_compare(*made, x, 20, expected, serial_executor());
              Linear::destroy(made);
              return wrong;
          }) == "");
}

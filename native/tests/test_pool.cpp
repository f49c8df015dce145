#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "hosts.hpp"
#include "operations/pool.hpp"
#include "samples.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

using Counts = std::vector<std::atomic<int>>;

// Empty if every task ran once.
std::string wrong_count(const Counts& counts) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] != 1) return "task " + std::to_string(i) + " ran " + std::to_string(counts[i]) + " times";
    }
    return "";
}

const std::vector<int> sizes{0, 1, 2, 3, 63, 64, 65, 1000};

}  // namespace

TEST_CASE("pool: every task runs once, on any number of threads") {
    for (const int threads : {1, 2, 3, 7, 64, 65, 1000}) {
        for (const int tasks : sizes) {
            CAPTURE(threads);
            CAPTURE(tasks);
            Counts counts(static_cast<std::size_t>(tasks));
            Threads host(threads);
            const Status status = run_tasks(host.executor(), tasks, [&](int task) noexcept {
                ++counts[static_cast<std::size_t>(task)];
                return Status::ok;
            });
            CHECK(status == Status::ok);
            CHECK(wrong_count(counts) == "");
        }
    }
}

TEST_CASE("pool: every task runs once on a host that calls its bodies one after another, the last one first") {
    const Executor backwards{nullptr, 5, [](void*, void (*body)(void*, int) noexcept, void* argument, int tasks) {
                                 for (int i = tasks - 1; i >= 0; --i) body(argument, i);
                             }};
    for (const int tasks : sizes) {
        Counts counts(static_cast<std::size_t>(tasks));
        run_tasks(backwards, tasks, [&](int task) noexcept {
            ++counts[static_cast<std::size_t>(task)];
            return Status::ok;
        });
        CHECK(wrong_count(counts) == "");
    }
}

TEST_CASE("pool: a failure is reported, and the other tasks run all the same") {
    for (const int threads : {1, 2, 5}) {
        for (const int failing : {0, 1, 50, 99}) {
            CAPTURE(threads);
            CAPTURE(failing);
            Counts counts(100);
            Threads host(threads);
            const Status status = run_tasks(host.executor(), 100, [&](int task) noexcept {
                ++counts[static_cast<std::size_t>(task)];
                return task == failing ? Status::out_of_memory : Status::ok;
            });
            CHECK(status == Status::out_of_memory);
            CHECK(wrong_count(counts) == "");
        }
    }
}

TEST_CASE("pool: the tasks of a thread that is held up are done by the others") {
    constexpr int tasks = 40;
    std::atomic<int> done{0};
    std::atomic<bool> waited_in_vain{false};
    Threads host(4);
    const Status status = run_tasks(host.executor(), tasks, [&](int task) noexcept {
        // The first task of the first thread ends when all others have. The deadline only makes a failure of a hang.
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (task == 0 && done < tasks - 1 && !waited_in_vain) {
            std::this_thread::yield();
            if (std::chrono::steady_clock::now() > deadline) waited_in_vain = true;
        }
        ++done;
        return Status::ok;
    });
    CHECK(status == Status::ok);
    CHECK(done == tasks);
    CHECK_FALSE(waited_in_vain);
}

TEST_CASE("pool: the calling thread alone works where one thread or one task is all there is") {
    const Executor no_host{nullptr, 1, nullptr};
    int ran = 0;
    run_tasks(no_host, 5, [&](int) noexcept {
        ++ran;
        return Status::ok;
    });
    CHECK(ran == 5);
    run_tasks({nullptr, 8, nullptr}, 1, [&](int) noexcept {
        ++ran;
        return Status::ok;
    });
    CHECK(ran == 6);
}

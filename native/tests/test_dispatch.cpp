#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "hosts.hpp"
#include "samples.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

std::vector<std::string> target_names() {
    const char* names[max_targets];
    const int count = available_targets(names);
    return {names, names + count};
}

}  // namespace

TEST_CASE("dispatch: the targets of this processor, best first, the baseline last") {
    CHECK(target_names() == expected_targets());
}

TEST_CASE("dispatch: a target is used from the moment it is selected") {
    const KeepTarget keep;
    for (const std::string& name : target_names()) {
        CHECK(select_target(name.c_str()) == Status::ok);
        CHECK(current_target() == name);
        CHECK(kernels().name == name);
    }
}

TEST_CASE("dispatch: a target that there is not changes nothing") {
    const KeepTarget keep;
    REQUIRE(select_target("baseline") == Status::ok);
    for (const char* const name : {"", "avx", "AVX2", "avx512f", "baseline ", "scalar", "sve"}) {
        CHECK(select_target(name) == Status::unknown_target);
        CHECK(current_target() == std::string("baseline"));
    }
    CHECK(select_target(nullptr) == Status::unknown_target);
    CHECK(current_target() == std::string("baseline"));
}

// Run by CMakeLists.txt with several values of the variable; the tests before leave the first choice in place.
TEST_CASE("dispatch: the environment chooses the first target, if there is such a one") {
    const char* const forced = std::getenv("ISOGRID_TARGET");
    const std::vector<std::string> names = target_names();
    const bool known = forced != nullptr && std::find(names.begin(), names.end(), forced) != names.end();
    CHECK(current_target() == (known ? std::string(forced) : names.front()));
}

TEST_CASE("dispatch: every table is complete") {
    on_every_target([](const Kernels& k) {
        CHECK(k.width >= 4);
        CHECK(k.max_vectors >= 8);
        // Behind the name and the two numbers there are only functions.
        constexpr std::size_t first = offsetof(Kernels, multiply);
        constexpr std::size_t count = (sizeof(Kernels) - first) / sizeof(void (*)());
        void (*functions[count])();
        std::memcpy(functions, reinterpret_cast<const char*>(&k) + first, sizeof functions);
        for (const auto function : functions) CHECK((function != nullptr));
    });
}

TEST_CASE("dispatch: the serial executor runs every task in turn on the calling thread") {
    struct Ran {
        std::vector<int> tasks;
        std::thread::id thread;
    } ran;
    const auto body = [](void* argument, int task) noexcept {
        static_cast<Ran*>(argument)->tasks.push_back(task);
        static_cast<Ran*>(argument)->thread = std::this_thread::get_id();
    };
    const Executor executor = serial_executor();
    executor.run(executor.context, body, &ran, 4);
    CHECK(ran.tasks == std::vector<int>{0, 1, 2, 3});
    CHECK(ran.thread == std::this_thread::get_id());
    CHECK(executor.threads == 1);
}

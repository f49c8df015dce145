#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <thread>

#include "operations/workspace.hpp"

using namespace isogrid;

TEST_CASE("workspace: each slot of each thread has memory of its own, at a cache line's boundary") {
    float* const tile = workspace(Slot::tile, 100);
    float* const sums = workspace(Slot::sums, 100);
    REQUIRE(tile != nullptr);
    REQUIRE(sums != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(tile) % 64 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(sums) % 64 == 0);
    CHECK(tile != sums);
    float* other = nullptr;
    std::thread([&] {
        other = workspace(Slot::tile, 100);
        for (int i = 0; i < 100; ++i) other[i] = 1.0f;
    }).join();
    CHECK(other != tile);
}

TEST_CASE("workspace: what is asked for again is kept, what is larger is there as a whole") {
    float* const first = workspace(Slot::tile, 1000);
    CHECK(workspace(Slot::tile, 1000) == first);
    CHECK(workspace(Slot::tile, 10) == first);
    float* const larger = workspace(Slot::tile, 100'000);
    REQUIRE(larger != nullptr);
    for (int i = 0; i < 100'000; ++i) larger[i] = 1.0f;
}

TEST_CASE("workspace: more than there can be is null, and less is there afterwards") {
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
    for (const std::size_t floats : {most, most / 4, most / 4 + 1, most - 63})
        CHECK(workspace(Slot::sums, floats) == nullptr);
    CHECK(workspace(Slot::sums, 10) != nullptr);
}

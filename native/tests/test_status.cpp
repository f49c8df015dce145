#include <doctest/doctest.h>

#include <set>
#include <string>

#include "isogrid/status.hpp"

TEST_CASE("status: every status has a sentence of its own") {
    // The compiler warns of a status that `message` leaves out, so the first unknown one is the end of the enumeration.
    const std::string unknown = isogrid::message(static_cast<isogrid::Status>(1000));
    std::set<std::string> sentences;
    int value = 0;
    for (; isogrid::message(static_cast<isogrid::Status>(value)) != unknown; ++value)
        sentences.insert(isogrid::message(static_cast<isogrid::Status>(value)));
    CHECK(sentences.size() == static_cast<std::size_t>(value));
    CHECK(value > static_cast<int>(isogrid::Status::unknown_target));
}

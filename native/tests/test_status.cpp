#include <doctest/doctest.h>

#include <set>
#include <string>

#include "isogrid/status.hpp"

TEST_CASE("status: every status has a sentence of its own") {
    std::set<std::string> sentences;
    const int last = static_cast<int>(isogrid::Status::wrong_count);
    for (int value = 0; value <= last; ++value) {
        const std::string sentence = isogrid::message(static_cast<isogrid::Status>(value));
        CHECK(sentence != "unknown status");
        sentences.insert(sentence);
    }
    CHECK(sentences.size() == static_cast<std::size_t>(last) + 1);
}

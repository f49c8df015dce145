#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "hosts.hpp"

namespace {

// Those of this processor, and what ISOGRID_MUST_RUN names, for a test under an emulator that must not pass because it
// ran natively.
std::set<std::string> required_targets() {
    const std::vector<std::string> expected = isogrid::tests::expected_targets();
    std::set<std::string> names(expected.begin(), expected.end());
    const char* const more = std::getenv("ISOGRID_MUST_RUN");
    std::istringstream words(more == nullptr ? "" : more);
    for (std::string name; words >> name;) names.insert(name);
    return names;
}

}  // namespace

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    int failed = context.run();
    // With arguments only some of the tests run, or none.
    if (context.shouldExit() || argc > 1) return failed;
    for (const std::string& name : required_targets()) {
        const bool executed = isogrid::tests::executed_targets().count(name) > 0;
        std::printf("target %s: %s\n", name.c_str(), executed ? "tested" : "NOT TESTED, BUT IT MUST BE");
        if (!executed) failed = 1;
    }
    return failed;
}

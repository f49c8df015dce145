#include <doctest/doctest.h>

#include <algorithm>

#include "layout/cut.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

ConvolutionShape square(int channels, int size, int kernel, int stride = 1) {
    ConvolutionShape s{};
    s.channels = channels;
    s.height = s.width = size;
    s.kernel_height = s.kernel_width = kernel;
    s.stride_y = s.stride_x = stride;
    s.dilation_y = s.dilation_x = 1;
    s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = kernel / 2;
    return s;
}

Product product(const ConvolutionShape& s, int rows, double density) {
    return {rows, density * rows * s.channels * s.kernel_height * s.kernel_width, false};
}

bool aligned(const Cut& cut, int lanes) {
    return std::all_of(cut.geometry.tap_shift.begin(), cut.geometry.tap_shift.end(),
                       [=](int shift) { return shift % lanes == 0; });
}

}  // namespace

TEST_CASE("cut: tiles hold all outputs, none is empty, and offsets reach their windows") {
    Random random(1);
    for (int round = 0; round < 500; ++round) {
        CAPTURE(round);
        const int kernel = one_of(random, std::vector<int>{1, 1, 3, 5});
        const ConvolutionShape s =
            square(between(random, 1, 600), between(random, 1, 60), kernel, between(random, 1, 2));
        const int rows = between(random, 1, 600);
        const int threads = between(random, 1, 5);
        const int lanes = one_of(random, std::vector<int>{4, 8});
        const double density = one_of(random, std::vector<double>{0.001, 0.01, 0.1, 0.5});
        Cut cut;
        REQUIRE(best_cut(s, product(s, rows, density), threads, lanes, 10, cut) == Status::ok);
        const int tile = cut.vectors * lanes;
        CHECK(cut.tiles * tile >= cut.geometry.length);
        CHECK((cut.tiles - 1) * tile < cut.geometry.length);
        CHECK(cut.vectors <= 10);
        CHECK(cut.window >= tile + cut.geometry.reach);
        CHECK((cut.parts == 1 || (cut.parts == threads && rows >= threads)));
        CHECK(cut.block_channels >= 1);
        CHECK(cut.block_channels <= s.channels);
        CHECK(static_cast<int>(cut.geometry.phases.size()) * cut.window < 65536);
        Cut again;
        REQUIRE(best_cut(s, product(s, rows, density), threads, lanes, 10, again) == Status::ok);
        CHECK(again.tiles == cut.tiles);
        CHECK(again.geometry.pitch == cut.geometry.pitch);
    }
}

TEST_CASE("cut: planes are aligned where there are enough nonzeros to pay for the copies") {
    const ConvolutionShape s = square(256, 28, 3);
    Cut cut;
    REQUIRE(best_cut(s, product(s, 256, 0.2), 1, 8, 10, cut) == Status::ok);
    CHECK(aligned(cut, 8));
    REQUIRE(best_cut(s, product(s, 256, 0.001), 1, 8, 10, cut) == Status::ok);
    CHECK_FALSE(aligned(cut, 8));
    // One tap is in step with itself, whatever the width of the image.
    const ConvolutionShape one = square(256, 13, 1);
    REQUIRE(best_cut(one, product(one, 256, 0.2), 1, 8, 10, cut) == Status::ok);
    CHECK(cut.geometry.pitch == 13);
    CHECK(cut.geometry.phases.size() == 1);
}

TEST_CASE("cut: many threads share out the rows of a large matrix, and the rows of what is one tile") {
    const ConvolutionShape large = square(512, 7, 3);
    Cut cut;
    REQUIRE(best_cut(large, product(large, 512, 0.1), 2, 8, 10, cut) == Status::ok);
    CHECK(cut.parts == 2);
    const ConvolutionShape small = square(16, 56, 3);
    REQUIRE(best_cut(small, product(small, 16, 0.1), 2, 8, 10, cut) == Status::ok);
    CHECK(cut.parts == 1);
}

TEST_CASE("cut: windows beyond all reach are refused") {
    ConvolutionShape s = square(1, 1 << 15, 255);
    s.dilation_y = s.dilation_x = 128;
    s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = 0;
    s.stride_y = s.stride_x = 255;
    Cut cut;
    const Status status = best_cut(s, {1, 10.0, false}, 1, 8, 10, cut);
    CHECK(status == Status::window_too_large);
}

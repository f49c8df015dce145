#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "layout/geometry.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

ConvolutionShape random_shape(Random& random) {
    ConvolutionShape s{};
    s.channels = 1;
    s.height = between(random, 1, 9);
    s.width = between(random, 1, 9);
    s.kernel_height = between(random, 1, 5);
    s.kernel_width = between(random, 1, 5);
    s.stride_y = between(random, 1, 4);
    s.stride_x = between(random, 1, 4);
    s.dilation_y = between(random, 1, 3);
    s.dilation_x = between(random, 1, 3);
    for (int* pad : {&s.pad_top, &s.pad_left, &s.pad_bottom, &s.pad_right})
        *pad = chance(random, 0.2) ? between(random, 0, 12) : between(random, 0, 2);
    return s;
}

// Where the flat position `f` of a phase lies in the image, as geometry.hpp and table.hpp say: row, column; -1, -1 in
// the padding.
std::pair<int, int> place(const Geometry& g, const ConvolutionShape& s, const Phase& phase, int f) {
    const int row = static_cast<int>(std::floor(static_cast<double>(f) / g.pitch));
    const int column = f - row * g.pitch;
    if (row < 0 || row >= phase.height || column < phase.skip || column >= phase.width) return {-1, -1};
    return {phase.first_row + row * s.stride_y, phase.first_column + column * s.stride_x};
}

ConvolutionShape one_tap(int height, int width) {
    return {1, height, width, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1};
}

}  // namespace

TEST_CASE("geometry: every tap meets the input that the convolution wants, or zero in the padding") {
    Random random(1);
    int fitting = 0;
    for (int round = 0; round < 4000; ++round) {
        const ConvolutionShape s = random_shape(random);
        const Images images{s, 1, 1, 1};
        CAPTURE(round);
        Geometry g;
        const int lanes = one_of(random, std::vector<int>{1, 1, 4, 8});
        CAPTURE(lanes);
        const Status status = make_geometry(s, g, lanes);
        if (images.out_height() < 1 || images.out_width() < 1) {
            CHECK(status == Status::kernel_larger_than_image);
            continue;
        }
        ++fitting;
        REQUIRE(status == Status::ok);
        CHECK(g.out_height == images.out_height());
        CHECK(g.out_width == images.out_width());
        CHECK(g.length == (g.out_height - 1) * g.pitch + g.out_width);
        if (lanes > 1) {
            CHECK(g.pitch % lanes == 0);
            CHECK(g.pitch < g.out_width + lanes);
            CHECK(g.first % lanes == 0);
            for (const int shift : g.tap_shift) CHECK(shift % lanes == 0);
        }
        REQUIRE(g.tap_shift.size() == static_cast<std::size_t>(s.kernel_height * s.kernel_width));
        REQUIRE(g.tap_phase.size() == g.tap_shift.size());
        CHECK(*std::min_element(g.tap_shift.begin(), g.tap_shift.end()) == 0);
        CHECK(*std::max_element(g.tap_shift.begin(), g.tap_shift.end()) == g.reach);
        int wrong = 0;
        for (int dy = 0; dy < s.kernel_height; ++dy) {
            for (int dx = 0; dx < s.kernel_width; ++dx) {
                const auto tap = static_cast<std::size_t>(dy * s.kernel_width + dx);
                const Phase& phase = g.phases[static_cast<std::size_t>(g.tap_phase[tap])];
                for (int oy = 0; oy < g.out_height; ++oy) {
                    for (int ox = 0; ox < g.out_width; ++ox) {
                        const int iy = oy * s.stride_y + dy * s.dilation_y - s.pad_top;
                        const int ix = ox * s.stride_x + dx * s.dilation_x - s.pad_left;
                        const bool inside = iy >= 0 && iy < s.height && ix >= 0 && ix < s.width;
                        const auto got = place(g, s, phase, oy * g.pitch + ox + g.tap_shift[tap] + g.first);
                        wrong += got == (inside ? std::pair(iy, ix) : std::pair(-1, -1)) ? 0 : 1;
                    }
                }
            }
        }
        CHECK(wrong == 0);
    }
    CHECK(fitting > 2000);
}

TEST_CASE("geometry: phases are the remainders that some tap needs, each once and within the image") {
    Random random(2);
    for (int round = 0; round < 500; ++round) {
        const ConvolutionShape s = random_shape(random);
        Geometry g;
        if (make_geometry(s, g) != Status::ok) continue;
        CAPTURE(round);
        for (std::size_t p = 0; p < g.phases.size(); ++p) {
            const Phase& phase = g.phases[p];
            CHECK(std::count(g.tap_phase.begin(), g.tap_phase.end(), static_cast<int>(p)) > 0);
            for (std::size_t other = 0; other < p; ++other) {
                CHECK((g.phases[other].first_row != phase.first_row ||
                       g.phases[other].first_column != phase.first_column));
            }
            CHECK(phase.width <= g.pitch);
            // The last row and column are the last of the image in this phase.
            CHECK(phase.first_row + (phase.height - 1) * s.stride_y < s.height);
            CHECK(phase.first_row + phase.height * s.stride_y >= s.height);
            CHECK(phase.first_column + (phase.width - 1) * s.stride_x < s.width);
            CHECK(phase.first_column + phase.width * s.stride_x >= s.width);
        }
    }
}

TEST_CASE("geometry: segments are the window, each place of it once") {
    Random random(4);
    for (int round = 0; round < 3000; ++round) {
        const ConvolutionShape s = random_shape(random);
        Geometry g;
        if (make_geometry(s, g, one_of(random, std::vector<int>{1, 8})) != Status::ok) continue;
        CAPTURE(round);
        const int first = g.first + between(random, 0, g.length);
        const int length = between(random, 1, g.reach + g.length + 20);
        const Phase& phase = one_of(random, g.phases);
        // Behind those of another window, which stay.
        std::vector<Segment> segments{{-1, 0, 7}};
        add_segments(g, phase, s, first, length, segments);
        CHECK(segments[0].count == 7);
        int at = 0;
        int wrong = 0;
        for (std::size_t i = 1; i < segments.size(); ++i) {
            const Segment& segment = segments[i];
            wrong += segment.to == at && segment.count > 0 ? 0 : 1;
            for (int n = 0; n < segment.count; ++n, ++at) {
                const auto [row, column] = place(g, s, phase, first + at);
                const int from = segment.from < 0 ? -1 : segment.from + n * s.stride_x;
                wrong += from == (row < 0 ? -1 : row * s.width + column) ? 0 : 1;
            }
        }
        CHECK(wrong == 0);
        CHECK(at == length);
    }
}

TEST_CASE("geometry: neighbouring rows of a plane without padding are one segment") {
    const ConvolutionShape s = one_tap(6, 5);
    Geometry g;
    REQUIRE(make_geometry(s, g) == Status::ok);
    std::vector<Segment> segments;
    add_segments(g, g.phases.front(), s, 7, 20, segments);
    REQUIRE(segments.size() == 1);
    CHECK(segments[0].from == 7);
    CHECK(segments[0].count == 20);
}

TEST_CASE("geometry: a linear layer is one tap over one row, nothing wasted") {
    Geometry g;
    REQUIRE(make_geometry(one_tap(1, 77), g) == Status::ok);
    CHECK(g.length == 77);
    CHECK(g.pitch == 77);
    CHECK(g.reach == 0);
    CHECK(g.first == 0);
    CHECK(g.phases.size() == 1);
}

TEST_CASE("geometry: sizes that are refused") {
    constexpr int highest = std::numeric_limits<int>::max();
    constexpr int lowest = std::numeric_limits<int>::min();
    Geometry g;
    int ConvolutionShape::* const positive[] = {
        &ConvolutionShape::height,       &ConvolutionShape::width,      &ConvolutionShape::kernel_height,
        &ConvolutionShape::kernel_width, &ConvolutionShape::stride_y,   &ConvolutionShape::stride_x,
        &ConvolutionShape::dilation_y,   &ConvolutionShape::dilation_x,
    };
    for (int ConvolutionShape::* const size : positive) {
        for (const int wrong : {0, -1, lowest, highest}) {
            ConvolutionShape s = one_tap(4, 4);
            s.*size = wrong;
            CHECK(make_geometry(s, g) == Status::shape_out_of_range);
        }
    }
    int ConvolutionShape::* const pads[] = {&ConvolutionShape::pad_top, &ConvolutionShape::pad_left,
                                            &ConvolutionShape::pad_bottom, &ConvolutionShape::pad_right};
    for (int ConvolutionShape::* const pad : pads) {
        for (const int wrong : {-1, lowest, highest}) {
            ConvolutionShape s = one_tap(4, 4);
            s.*pad = wrong;
            CHECK(make_geometry(s, g) == Status::shape_out_of_range);
        }
    }
    ConvolutionShape s = one_tap(4, 4);
    s.kernel_height = 5;
    CHECK(make_geometry(s, g) == Status::kernel_larger_than_image);
    s.pad_bottom = 1;
    CHECK(make_geometry(s, g) == Status::ok);
    s = one_tap(4, 4);
    s.kernel_width = 2;
    s.dilation_x = 4;
    CHECK(make_geometry(s, g) == Status::kernel_larger_than_image);
    s.pad_left = 1;
    CHECK(make_geometry(s, g) == Status::ok);
}

TEST_CASE("geometry: the largest sizes of all are worked out or refused, without overflow") {
    Random random(3);
    const auto extreme = [&](int low, int high) {
        return one_of(random, std::vector<int>{low, low + 1, high - 1, high});
    };
    constexpr int most = 1 << 20;
    for (int round = 0; round < 300; ++round) {
        const ConvolutionShape s{1,
                                 extreme(1, most),
                                 extreme(1, most),
                                 extreme(1, 20),
                                 extreme(1, 20),
                                 extreme(1, 255),
                                 extreme(1, 255),
                                 extreme(0, most),
                                 extreme(0, most),
                                 extreme(0, most),
                                 extreme(0, most),
                                 extreme(1, 4096),
                                 extreme(1, 4096)};
        Geometry g;
        const Status status = make_geometry(s, g, one_of(random, std::vector<int>{1, 4, 8}));
        if (status != Status::ok) continue;
        CHECK(g.out_height >= 1);
        CHECK(g.out_width >= 1);
        CHECK(g.pitch >= g.out_width);
        CHECK(g.length >= g.out_width);
        CHECK(g.reach >= 0);
        // A window that is cut out of the largest image, and beside it.
        for (const int first : {g.first, g.first + g.length - 1, g.first + g.reach + g.length}) {
            std::vector<Segment> segments;
            add_segments(g, g.phases.back(), s, first, 100, segments);
            CHECK(segments.back().to + segments.back().count == 100);
        }
    }
}

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "isogrid/max_pool.hpp"
#include "operations.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

ConvolutionShape random_shape(Random& random) {
    ConvolutionShape s{};
    s.channels = 1;
    s.height = between(random, 1, 14);
    s.width = between(random, 1, 40);
    s.kernel_height = between(random, 1, 4);
    s.kernel_width = between(random, 1, 4);
    s.stride_y = between(random, 1, 3);
    s.stride_x = between(random, 1, 3);
    s.dilation_y = between(random, 1, 2);
    s.dilation_x = between(random, 1, 2);
    for (int* pad : {&s.pad_top, &s.pad_left, &s.pad_bottom, &s.pad_right}) *pad = between(random, 0, 2);
    return s;
}

// The largest input of each window; NaN if there is one, minus infinity if all of it is padding.
Floats reference(const Images& images, const Floats& x) {
    const ConvolutionShape& s = images.shape;
    Floats y;
    for (int plane = 0; plane < images.images; ++plane) {
        for (int oy = 0; oy < images.out_height(); ++oy) {
            for (int ox = 0; ox < images.out_width(); ++ox) {
                float best = -infinite;
                for (int dy = 0; dy < s.kernel_height; ++dy) {
                    for (int dx = 0; dx < s.kernel_width; ++dx) {
                        const int iy = oy * s.stride_y + dy * s.dilation_y - s.pad_top;
                        const int ix = ox * s.stride_x + dx * s.dilation_x - s.pad_left;
                        if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
                        const float value = x[static_cast<std::size_t>((plane * s.height + iy) * s.width + ix)];
                        best = std::isnan(value) || std::isnan(best) ? not_a_number : std::max(best, value);
                    }
                }
                y.push_back(best);
            }
        }
    }
    return y;
}

}  // namespace

TEST_CASE("max_pool: the largest input of every window, whatever its shape") {
    on_every_target([](const Kernels&) {
        Random random(1);
        for (int round = 0; round < 500; ++round) {
            const Images images{random_shape(random), 1, 1, between(random, 1, 20)};
            CAPTURE(round);
            int height = -7;
            int width = -7;
            const Status status = output_size(images.shape, &height, &width);
            if (images.out_height() < 1 || images.out_width() < 1) {
                CHECK(status == Status::kernel_larger_than_image);
                CHECK(height == -7);
                CHECK(width == -7);
                continue;
            }
            REQUIRE(status == Status::ok);
            CHECK(height == images.out_height());
            CHECK(width == images.out_width());
            Floats x = floats(random, images.inputs());
            poison(random, x, 0.02);
            Floats y(images.outputs() + 1, untouched);
            Threads threads(one_of(random, std::vector<int>{1, 3}));
            REQUIRE(max_pool(threads.executor(), images.shape, x.data(), images.images, y.data()) == Status::ok);
            CHECK(y.back() == untouched);
            y.pop_back();
            CHECK(differs(y, reference(images, x)) == "");
        }
    });
}

TEST_CASE("max_pool: what is refused, and what a host may claim") {
    const ConvolutionShape good{1, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1};
    const Executor one = serial_executor();
    Floats x(17, 1.0f);
    Floats y(5, untouched);
    float* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(x.data()) + 1);
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    CHECK(max_pool(one, good, nullptr, 1, y.data()) == Status::null_pointer);
    CHECK(max_pool(one, good, x.data(), 1, nullptr) == Status::null_pointer);
    CHECK(max_pool(one, good, odd, 1, y.data()) == Status::misaligned_pointer);
    CHECK(max_pool(one, good, x.data(), 1, odd) == Status::misaligned_pointer);
    for (const std::int64_t wrong : {std::int64_t{-1}, -most - 1, most})
        CHECK(max_pool(one, good, x.data(), wrong, y.data()) == Status::shape_out_of_range);
    ConvolutionShape wrong = good;
    wrong.height = 1;
    CHECK(max_pool(one, wrong, x.data(), 1, y.data()) == Status::kernel_larger_than_image);
    wrong.height = 0;
    CHECK(max_pool(one, wrong, x.data(), 1, y.data()) == Status::shape_out_of_range);
    wrong = good;
    wrong.height = wrong.width = 1 << 20;
    wrong.stride_y = wrong.stride_x = 255;
    CHECK(max_pool(one, wrong, x.data(), 1, y.data()) == Status::shape_out_of_range);
    Executor host = one;
    host.threads = 0;
    CHECK(max_pool(host, good, x.data(), 1, y.data()) == Status::shape_out_of_range);
    CHECK(max_pool(one, good, nullptr, 0, nullptr) == Status::ok);
    CHECK(y == Floats(5, untouched));

    host.threads = std::numeric_limits<int>::max();
    CHECK(max_pool(host, good, x.data(), 1, y.data()) == Status::ok);
    CHECK(y == Floats{1.0f, 1.0f, 1.0f, 1.0f, untouched});
}

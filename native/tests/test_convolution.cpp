#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

#include "operations.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// A convolution, its inputs, and what must come out.
struct Case {
    Images images;
    Weights weights;
    Epilogue epilogue;
    Numbers numbers;
    Floats x, bias, residual;
    Expected expected;

    Case(Random& random, const Images& i, double density, ValueType type, Epilogue e, Numbers n = Numbers::whole)
        : images(i),
          weights(random_weights(random, i.rows, i.shape.channels * i.shape.kernel_height * i.shape.kernel_width,
                                 density, type, n)),
          epilogue(e),
          numbers(n),
          x(floats(random, i.inputs(), n)),
          bias(floats(random, chance(random, 0.5) ? static_cast<std::size_t>(i.rows) : 0, n)),
          residual(floats(random, chance(random, 0.5) ? i.outputs() : 0, n)),
          expected(convolution_reference(weights, i, x, bias, residual)) {}

    void expect() { expected = convolution_reference(weights, images, x, bias, residual); }

    std::string check(Convolution& convolution, int threads) const {
        return difference(run(convolution, images, x, residual, threads), expected, epilogue, numbers);
    }
    std::string check(int threads) const {
        const OwnedConvolution convolution = make_convolution(weights, images, epilogue, bias);
        return check(*convolution, threads);
    }
};

ConvolutionShape one_tap(int channels, int height, int width) {
    return {channels, height, width, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1};
}

ConvolutionShape square(int channels, int size, int kernel, int stride, int pad) {
    return {channels, size, size, kernel, kernel, stride, stride, pad, pad, pad, pad, 1, 1};
}

// Anything into which the kernel fits.
Images random_images(Random& random) {
    while (true) {
        Images i{};
        i.groups = one_of(random, std::vector<int>{1, 1, 2, 3, 5});
        i.rows = i.groups * between(random, 1, chance(random, 0.2) ? 40 : 5);
        i.images = between(random, 1, 3);
        ConvolutionShape& s = i.shape;
        s.channels = chance(random, 0.3) ? 1 : between(random, 2, 7);
        s.height = between(random, 1, 14);
        s.width = between(random, 1, 19);
        s.kernel_height = between(random, 1, 5);
        s.kernel_width = between(random, 1, 5);
        s.stride_y = between(random, 1, 3);
        s.stride_x = between(random, 1, 3);
        s.dilation_y = between(random, 1, 3);
        s.dilation_x = between(random, 1, 3);
        for (int* pad : {&s.pad_top, &s.pad_left, &s.pad_bottom, &s.pad_right})
            *pad = chance(random, 0.5) ? 0 : between(random, 0, 4);
        if (i.out_height() > 0 && i.out_width() > 0) return i;
    }
}

}  // namespace

TEST_CASE("convolution: any shape, stride, dilation, padding, groups, density, type of value and epilogue") {
    on_every_target([](const Kernels&) {
        Random random(1);
        for (int round = 0; round < 700; ++round) {
            CAPTURE(round);
            const double density = one_of(random, std::vector<double>{0.0, 0.03, 0.1, 0.5, 1.0});
            const Case c(random, random_images(random), density, one_of(random, value_types),
                         one_of(random, epilogues()));
            CHECK(c.check(one_of(random, std::vector<int>{1, 1, 2, 5})) == "");
        }
    });
}

TEST_CASE("convolution: the shapes that networks are made of") {
    on_every_target([](const Kernels&) {
        Random random(2);
        const Images all[] = {
            // Without padding, many channels and rows: whole tiles are finished in place.
            {one_tap(600, 12, 12), 1, 40, 1},
            {one_tap(30, 13, 11), 1, 300, 2},
            {one_tap(16, 1, 500), 2, 32, 1},
            // More channels than a block, more rows than a chunk.
            {square(40, 10, 3, 1, 1), 1, 20, 2},
            {square(3, 8, 3, 1, 1), 1, 280, 1},
            {square(3, 33, 7, 2, 3), 1, 16, 1},
            {square(24, 15, 3, 2, 1), 2, 32, 1},
            {square(8, 9, 1, 2, 0), 1, 24, 1},
            // Depthwise, with and without a multiplier.
            {square(1, 17, 3, 1, 1), 20, 20, 2},
            {square(1, 17, 5, 2, 2), 7, 21, 1},
            {square(1, 5, 5, 1, 0), 6, 6, 3},
        };
        for (const Images& images : all) {
            for (const double density : {0.05, 0.3}) {
                for (const int threads : {1, 2, 4}) {
                    const Case c(random, images, density, one_of(random, value_types), one_of(random, epilogues()));
                    CAPTURE(images.shape.channels);
                    CAPTURE(images.rows);
                    CAPTURE(threads);
                    CHECK(c.check(threads) == "");
                }
            }
        }
    });
}

TEST_CASE("convolution: real numbers, within the tolerance") {
    on_every_target([](const Kernels&) {
        Random random(3);
        for (int round = 0; round < 100; ++round) {
            CAPTURE(round);
            const Case c(random, random_images(random), 0.3, one_of(random, value_types), one_of(random, epilogues()),
                         Numbers::real);
            CHECK(c.check(one_of(random, std::vector<int>{1, 2})) == "");
        }
    });
}

TEST_CASE("convolution: NaN and infinity reach the results that they belong to, and no others") {
    on_every_target([](const Kernels&) {
        Random random(4);
        for (int round = 0; round < 300; ++round) {
            const Epilogue e = one_of(random, std::vector<Epilogue>{{nullptr, Activation::none, 0, 0},
                                                                    {nullptr, Activation::relu, 0, 0},
                                                                    {nullptr, Activation::clip, -3, 6}});
            const double density = one_of(random, std::vector<double>{0.0, 0.05, 0.3});
            CAPTURE(round);
            Case c(random, random_images(random), density, one_of(random, value_types), e);
            const int threads = one_of(random, std::vector<int>{1, 3});
            poison(random, c.x, 0.03);
            c.expect();
            CHECK(c.check(threads) == "");

            // Where no weight meets them, they leave no trace at all.
            std::vector<bool> met(c.x.size(), false);
            c.images.each(c.weights, [&](std::size_t, std::size_t in, double) { met[in] = true; });
            for (std::size_t i = 0; i < c.x.size(); ++i)
                c.x[i] = met[i] ? number(random, Numbers::whole) : not_a_number;
            c.expect();
            for (const double sum : c.expected.sum) REQUIRE(std::isfinite(sum));
            CHECK(c.check(threads) == "");
        }
    });
}

TEST_CASE("convolution: one operation serves targets, image sizes and numbers of threads in any order") {
    Random random(5);
    for (const int groups : {1, 6}) {
        Images images{square(groups == 1 ? 4 : 1, 9, 3, 2, 1), groups, 12, 2};
        const Case first(random, images, 0.4, ValueType::f32, {nullptr, Activation::relu, 0, 0});
        const OwnedConvolution convolution = make_convolution(first.weights, images, first.epilogue, first.bias);
        for (int round = 0; round < 3; ++round) {
            on_every_target([&](const Kernels&) {
                for (const int size : {9, 4, 7, 20, 9, 3, 12, 30}) {
                    for (const int threads : {1, 2}) {
                        Case c = first;
                        c.images.shape.height = size;
                        c.images.shape.width = size + 3;
                        c.x = floats(random, c.images.inputs());
                        c.residual = floats(random, c.images.outputs());
                        c.expect();
                        CAPTURE(size);
                        CAPTURE(threads);
                        CHECK(c.check(*convolution, threads) == "");
                    }
                }
            });
        }
    }
}

TEST_CASE("convolution: output sizes are those of the textbook") {
    Random random(6);
    for (int round = 0; round < 300; ++round) {
        const Images images = random_images(random);
        const Case c(random, images, 0.1, ValueType::f32, {});
        const OwnedConvolution convolution = make_convolution(c.weights, images);
        for (int size = 1; size < 9; ++size) {
            Images sized = images;
            sized.shape.height = size;
            sized.shape.width = 2 * size;
            int height = -7;
            int width = -7;
            const Status status = convolution->output_size(size, 2 * size, &height, &width);
            if (sized.out_height() < 1 || sized.out_width() < 1) {
                CHECK(status == Status::kernel_larger_than_image);
                CHECK(height == -7);
                CHECK(width == -7);
            } else {
                CHECK(status == Status::ok);
                CHECK(height == sized.out_height());
                CHECK(width == sized.out_width());
            }
        }
    }
}

TEST_CASE("convolution: operations that are refused") {
    Random random(7);
    const Weights weights = random_weights(random, 6, 18, 0.5);
    const auto create = [&](int groups, const ConvolutionShape& shape, Epilogue e = {}) {
        Convolution* made = nullptr;
        const Status status = Convolution::create(weights.view(), groups, shape, e, &made);
        CHECK((made == nullptr) == (status != Status::ok));
        if (made != nullptr) Convolution::destroy(made);
        return status;
    };
    const ConvolutionShape good = square(2, 8, 3, 1, 1);
    CHECK(create(1, good) == Status::ok);
    CHECK(create(3, good) == Status::ok);
    constexpr int highest = std::numeric_limits<int>::max();
    constexpr int lowest = std::numeric_limits<int>::min();
    for (const int groups : {0, -1, 4, 7, highest, lowest}) CHECK(create(groups, good) == Status::wrong_shape);
    int ConvolutionShape::* const sizes[] = {&ConvolutionShape::channels, &ConvolutionShape::kernel_height,
                                             &ConvolutionShape::kernel_width};
    for (int ConvolutionShape::* const size : sizes) {
        for (const int wrong : {0, -1, 4, 256, highest, lowest}) {
            ConvolutionShape s = good;
            s.*size = wrong;
            CHECK(create(1, s) == Status::wrong_shape);
        }
    }
    CHECK(create(1, good, {nullptr, static_cast<Activation>(activation_count), 0, 0}) == Status::unknown_activation);
    SparseMatrix matrix = weights.view();
    matrix.row_begin.size = 3;
    Convolution* made = nullptr;
    CHECK(Convolution::create(matrix, 1, good, {}, &made) == Status::wrong_row_begin);
}

TEST_CASE("convolution: runs that are refused") {
    Random random(8);
    const Images images{square(2, 8, 3, 1, 0), 1, 6, 1};
    const Case c(random, images, 0.5, ValueType::f32, {});
    const OwnedConvolution convolution = make_convolution(c.weights, images);
    const Executor one = serial_executor();
    Floats x = c.x;
    Floats y(images.outputs(), 1.5f);
    const auto run_with = [&](const float* in, std::int64_t count, int height, int width, const float* add,
                              float* out) { return convolution->run(one, in, count, height, width, add, out); };
    float* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(x.data()) + 1);
    CHECK(run_with(nullptr, 1, 8, 8, nullptr, y.data()) == Status::null_pointer);
    CHECK(run_with(x.data(), 1, 8, 8, nullptr, nullptr) == Status::null_pointer);
    CHECK(run_with(odd, 1, 8, 8, nullptr, y.data()) == Status::misaligned_pointer);
    CHECK(run_with(x.data(), 1, 8, 8, odd, y.data()) == Status::misaligned_pointer);
    CHECK(run_with(x.data(), 1, 8, 8, nullptr, odd) == Status::misaligned_pointer);
    constexpr int highest = std::numeric_limits<int>::max();
    for (const int wrong : {0, -1, -highest - 1, highest}) {
        CHECK(run_with(x.data(), 1, wrong, 8, nullptr, y.data()) == Status::shape_out_of_range);
        CHECK(run_with(x.data(), 1, 8, wrong, nullptr, y.data()) == Status::shape_out_of_range);
    }
    CHECK(run_with(x.data(), 1, 2, 8, nullptr, y.data()) == Status::kernel_larger_than_image);
    CHECK(run_with(x.data(), 1, 8, 2, nullptr, y.data()) == Status::kernel_larger_than_image);
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    for (const std::int64_t wrong : {std::int64_t{-1}, -most - 1, most, std::int64_t{1} << 41, std::int64_t{1} << 35})
        CHECK(run_with(x.data(), wrong, 8, 8, nullptr, y.data()) == Status::shape_out_of_range);
    for (const int threads : {0, -1}) {
        Executor none = one;
        none.threads = threads;
        CHECK(convolution->run(none, x.data(), 1, 8, 8, nullptr, y.data()) == Status::shape_out_of_range);
    }
    CHECK(run_with(nullptr, 0, 8, 8, nullptr, nullptr) == Status::ok);
    CHECK(y == Floats(images.outputs(), 1.5f));
}

namespace {

// Makes an operation for these images and runs it on memory that is far too small: it must be refused before it is
// touched. `groups` have a row each.
Status run_huge(int groups, const ConvolutionShape& shape, std::int64_t images) {
    Weights weights;
    weights.rows = groups;
    weights.columns = shape.channels * shape.kernel_height * shape.kernel_width;
    weights.row_begin.assign(static_cast<std::size_t>(groups) + 1, 0);
    const OwnedConvolution convolution = make_convolution(weights, {shape, groups, groups, 1});
    Floats x(1);
    Floats y(1);
    return convolution->run(serial_executor(), x.data(), images, shape.height, shape.width, nullptr, y.data());
}

}  // namespace

TEST_CASE("convolution: sizes whose products do not fit are refused") {
    constexpr int million = 1 << 20;
    // 900 phases with windows of four million floats each.
    ConvolutionShape phases = one_tap(2, 1000, 60'000);
    phases.pad_bottom = 59 * 4096 + 1 - 1000;
    phases.kernel_height = phases.kernel_width = phases.stride_y = phases.stride_x = 60;
    phases.dilation_y = 4096;
    CHECK(run_huge(1, phases, 1) == Status::window_too_large);
    phases.channels = 1;
    CHECK(run_huge(2, phases, 1) == Status::shape_out_of_range);
    // A kernel that reaches over a billion floats.
    ConvolutionShape reach = one_tap(2, 1024, million);
    reach.kernel_height = 2;
    reach.pad_bottom = 1;
    reach.dilation_y = 1024;
    CHECK(run_huge(1, reach, 1) == Status::window_too_large);
    reach.channels = 1;
    CHECK(run_huge(2, reach, 1) == Status::shape_out_of_range);
    // The output and the reach fit, their sum does not.
    ConvolutionShape both = one_tap(1, 2047, million / 2);
    both.kernel_height = 2;
    both.dilation_y = 1024;
    both.pad_bottom = 1024;
    CHECK(run_huge(2, both, 1) == Status::shape_out_of_range);
    // Images that cannot exist: 2^62 floats and more.
    CHECK(run_huge(64, one_tap(1 << 20, million, 1024), 1) == Status::shape_out_of_range);
    CHECK(run_huge(1, one_tap(2, 1, 1), std::int64_t{1} << 40) == Status::shape_out_of_range);
    CHECK(run_huge(2, one_tap(1, 1, 1), std::int64_t{1} << 40) == Status::shape_out_of_range);
}

TEST_CASE("convolution: a host may claim any number of threads") {
    Random random(9);
    for (const Images& images : {Images{square(3, 9, 3, 1, 1), 1, 8, 2}, Images{square(1, 9, 3, 1, 1), 8, 8, 2}}) {
        const Case c(random, images, 0.5, ValueType::f32, {});
        const OwnedConvolution convolution = make_convolution(c.weights, images, c.epilogue, c.bias);
        Floats y(images.outputs(), not_a_number);
        Executor executor = serial_executor();
        executor.threads = std::numeric_limits<int>::max();
        REQUIRE(convolution->run(executor, c.x.data(), images.images, 9, 9, data_or_null(c.residual), y.data()) ==
                Status::ok);
        CHECK(difference(y, c.expected, c.epilogue, c.numbers) == "");
    }
}

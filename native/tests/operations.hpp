// Operations made from test matrices, and runs of them.
#pragma once

#include <doctest/doctest.h>

#include <memory>

#include "hosts.hpp"
#include "isogrid/convolution.hpp"
#include "isogrid/linear.hpp"
#include "matrices.hpp"
#include "reference.hpp"
#include "samples.hpp"

namespace isogrid::tests {

inline const float* data_or_null(const Floats& all) {
    return all.empty() ? nullptr : all.data();
}

using OwnedLinear = std::unique_ptr<Linear, void (*)(Linear*)>;
using OwnedConvolution = std::unique_ptr<Convolution, void (*)(Convolution*)>;

inline OwnedLinear make_linear(const Weights& weights, Epilogue e = {}, const Floats& bias = {}, bool skip = false) {
    e.bias = data_or_null(bias);
    Linear* made = nullptr;
    REQUIRE(Linear::create(weights.view(), e, skip, &made) == Status::ok);
    return {made, &Linear::destroy};
}

inline OwnedConvolution make_convolution(const Weights& weights, const Images& images, Epilogue e = {},
                                         const Floats& bias = {}) {
    e.bias = data_or_null(bias);
    Convolution* made = nullptr;
    REQUIRE(Convolution::create(weights.view(), images.groups, images.shape, e, &made) == Status::ok);
    return {made, &Convolution::destroy};
}

// The results, in memory that held NaN, so that one which is not written shows.
inline Floats run(Linear& linear, const Weights& weights, const Floats& x, const Floats& residual = {},
                  int threads = 1) {
    const auto tokens = static_cast<std::int64_t>(x.size()) / weights.columns;
    Floats y(static_cast<std::size_t>(tokens * weights.rows), not_a_number);
    Threads host(threads);
    const Executor executor = threads == 1 ? serial_executor() : host.executor();
    REQUIRE(linear.run(executor, x.data(), tokens, data_or_null(residual), y.data()) == Status::ok);
    return y;
}

inline Floats run(Convolution& convolution, const Images& images, const Floats& x, const Floats& residual = {},
                  int threads = 1) {
    Floats y(images.outputs(), not_a_number);
    Threads host(threads);
    const Executor executor = threads == 1 ? serial_executor() : host.executor();
    REQUIRE(convolution.run(executor, x.data(), images.images, images.shape.height, images.shape.width,
                            data_or_null(residual), y.data()) == Status::ok);
    return y;
}

// Makes some of the inputs NaN or infinite.
inline void poison(Random& random, Floats& x, double share) {
    for (float& value : x) {
        if (chance(random, share)) value = one_of(random, std::vector<float>{not_a_number, infinite, -infinite});
    }
}

}  // namespace isogrid::tests

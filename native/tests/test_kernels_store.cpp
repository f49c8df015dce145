// The functions of the table that finish results, of every target: activations, what is stored, gates.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// Stores a rectangle of sums through store_rows, or transposed through store_tokens, and compares.
void check_store(Random& random, const Kernels& k, bool transposed, int rows, int columns, Epilogue e) {
    CAPTURE(rows);
    CAPTURE(columns);
    CAPTURE(static_cast<int>(e.activation));
    const int pitch = columns + between(random, 0, 9);
    const int inner = transposed ? rows : columns;
    const int outer = transposed ? columns : rows;
    const auto stride = static_cast<std::size_t>(inner + between(random, 0, 5));
    const std::size_t size = static_cast<std::size_t>(outer - 1) * stride + static_cast<std::size_t>(inner);
    const Floats bias = floats(random, chance(random, 0.5) ? static_cast<std::size_t>(rows) : 0);
    const Floats residual = floats(random, chance(random, 0.5) ? size : 0);
    // What lies beside the rectangle must not be touched, let alone spread.
    Floats sums(static_cast<std::size_t>((rows - 1) * pitch + columns), not_a_number);
    Floats y(size, untouched);
    Floats gaps(size, untouched);
    Expected expected(size);
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            const auto from = static_cast<std::size_t>(r * pitch + c);
            const auto to =
                static_cast<std::size_t>(transposed ? c : r) * stride + static_cast<std::size_t>(transposed ? r : c);
            sums[from] = number(random, Numbers::whole);
            if (chance(random, 0.02)) sums[from] = not_a_number;
            expected.add(to, static_cast<double>(sums[from]));
            if (!bias.empty()) expected.add(to, static_cast<double>(bias[static_cast<std::size_t>(r)]));
            if (!residual.empty()) expected.add(to, static_cast<double>(residual[to]));
            gaps[to] = 0.0f;
        }
    }
    const auto store = transposed ? k.store_tokens : k.store_rows;
    store({sums.data(), pitch, rows, columns}, bias.empty() ? nullptr : bias.data(), e,
          residual.empty() ? nullptr : residual.data(), y.data(), stride);
    for (std::size_t i = 0; i < size; ++i) {
        if (gaps[i] != untouched) continue;
        CHECK(y[i] == untouched);
        expected.sum[i] = 0.0;
        y[i] = static_cast<float>(activated(e, 0.0));
    }
    CHECK(difference(y, expected, e, Numbers::whole) == "");
}

}  // namespace

TEST_CASE("kernels: store_rows finishes rows of any size with every activation") {
    on_every_target([](const Kernels& k) {
        Random random(7);
        for (const Epilogue& e : epilogues()) {
            for (int columns = 1; columns <= 3 * k.width + 1; ++columns) {
                for (int rows = 1; rows <= 4; ++rows) check_store(random, k, false, rows, columns, e);
            }
        }
    });
}

TEST_CASE("kernels: store_tokens finishes and transposes any rectangle with every activation") {
    on_every_target([](const Kernels& k) {
        Random random(8);
        for (const Epilogue& e : epilogues()) {
            for (const int rows : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 71}) {
                for (int columns = 1; columns <= 9; ++columns) check_store(random, k, true, rows, columns, e);
            }
        }
    });
}

TEST_CASE("kernels: activations stay as near to their functions as their fits promise") {
    Floats inputs{0.0f, -0.0f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min()};
    for (int i = -12000; i <= 12000; ++i) inputs.push_back(static_cast<float>(i) / 1000.0f);
    for (double size = 12.0; size < 1e30; size *= 1.07) {
        inputs.push_back(static_cast<float>(size));
        inputs.push_back(static_cast<float>(-size));
        inputs.push_back(static_cast<float>(1.0 / size));
    }
    on_every_target([&](const Kernels& k) {
        for (Epilogue e : epilogues()) {
            CAPTURE(static_cast<int>(e.activation));
            Expected expected(0);
            for (const float x : inputs) expected.sum.push_back(static_cast<double>(x));
            for (const float threshold : {0.0f, 0.25f, 4.0f}) {
                if (e.activation != Activation::clip) e.low = threshold;
                Floats y = inputs;
                k.activate(y.data(), y.size(), e);
                CHECK(difference(y, expected, e, Numbers::whole) == "");
            }
        }
    });
}

TEST_CASE("kernels: far out, activations are what they tend to") {
    on_every_target([](const Kernels& k) {
        const auto check = [&](Activation activation, float x, float limit) {
            CAPTURE(static_cast<int>(activation));
            CAPTURE(x);
            Floats y(9, x);
            k.activate(y.data(), y.size(), {nullptr, activation, 0.0f, 0.0f});
            CHECK(differs(y, Floats(9, limit)) == "");
        };
        for (const float x : {10.0f, 50.0f, 1e4f, 1e20f, std::numeric_limits<float>::max()}) {
            check(Activation::tanh, x, 1.0f);
            check(Activation::tanh, -x, -1.0f);
            check(Activation::sparse_tanh, x, 1.0f);
            check(Activation::sparse_tanh, -x, -1.0f);
            check(Activation::hard_sigmoid, x, 1.0f);
            check(Activation::hard_sigmoid, -x, 0.0f);
            check(Activation::hard_swish, -x, 0.0f);
            for (const Activation gated : {Activation::gelu, Activation::gelu_tanh}) {
                check(gated, x, x);
                check(gated, -x, 0.0f);
            }
        }
        for (const float x : {50.0f, 1e4f, 1e20f}) {
            check(Activation::sigmoid, x, 1.0f);
            check(Activation::silu, x, x);
        }
        check(Activation::tanh, infinite, 1.0f);
        check(Activation::tanh, -infinite, -1.0f);
        check(Activation::sigmoid, infinite, 1.0f);
        check(Activation::relu, -infinite, 0.0f);
        for (const Activation gated :
             {Activation::none, Activation::relu, Activation::leaky_relu, Activation::gelu, Activation::gelu_tanh,
              Activation::silu, Activation::hard_swish, Activation::sparse_relu}) {
            check(gated, infinite, infinite);
        }
    });
}

TEST_CASE("kernels: every kind of NaN comes out of every activation as NaN") {
    on_every_target([](const Kernels& k) {
        for (const Epilogue& e : epilogues()) {
            // Signs and payloads, which arithmetic on the bits of a number must not take for parts of one.
            for (const std::uint32_t bits :
                 {0x7fc00000u, 0x7fc00001u, 0x7fc12345u, 0x7fffffffu, 0xffc00001u, 0xffffffffu}) {
                CAPTURE(static_cast<int>(e.activation));
                CAPTURE(bits);
                Floats y(9, std::bit_cast<float>(bits));
                k.activate(y.data(), y.size(), e);
                CHECK(differs(y, Floats(9, not_a_number)) == "");
            }
        }
    });
}

TEST_CASE("kernels: activate passes NaN through and touches nothing behind the last float") {
    on_every_target([](const Kernels& k) {
        Random random(9);
        for (const Epilogue& e : epilogues()) {
            for (std::size_t size = 0; size <= static_cast<std::size_t>(3 * k.width); ++size) {
                CAPTURE(static_cast<int>(e.activation));
                CAPTURE(size);
                Floats y = floats(random, size);
                if (size > 0)
                    y[static_cast<std::size_t>(between(random, 0, static_cast<int>(size) - 1))] = not_a_number;
                Expected expected(0);
                for (const float x : y) expected.sum.push_back(static_cast<double>(x));
                y.push_back(untouched);
                k.activate(y.data(), size, e);
                CHECK(y.back() == untouched);
                y.pop_back();
                CHECK(difference(y, expected, e, Numbers::whole) == "");
            }
        }
    });
}

namespace {

double logistic(double x) {
    return 1.0 / (1.0 + std::exp(-x));
}

// Sums of the two products, a row of `units` for each gate, with gaps between the rows.
struct GateSums {
    std::size_t units, input_stride, recurrent_stride;
    Floats input, recurrent;

    GateSums(Random& random, std::size_t gates, std::size_t u)
        : units(u),
          input_stride(u + static_cast<std::size_t>(between(random, 0, 3))),
          recurrent_stride(u + static_cast<std::size_t>(between(random, 0, 3))),
          input(floats(random, (gates - 1) * input_stride + u, Numbers::real)),
          recurrent(floats(random, (gates - 1) * recurrent_stride + u, Numbers::real)) {}

    Gates view() const { return {input.data(), input_stride, recurrent.data(), recurrent_stride}; }
    double in(std::size_t gate, std::size_t u) const { return static_cast<double>(input[gate * input_stride + u]); }
    double re(std::size_t gate, std::size_t u) const {
        return static_cast<double>(recurrent[gate * recurrent_stride + u]);
    }
    double sum(std::size_t gate, std::size_t u) const { return in(gate, u) + re(gate, u); }
};

}  // namespace

TEST_CASE("kernels: the gates of an LSTM, for any number of units") {
    on_every_target([](const Kernels& k) {
        Random random(12);
        for (std::size_t units = 1; units <= static_cast<std::size_t>(3 * k.width + 1); ++units) {
            CAPTURE(units);
            const GateSums sums(random, 4, units);
            Floats c = floats(random, units, Numbers::real);
            if (units > 2) c[units - 2] = not_a_number;
            Floats h(units, not_a_number);
            const Floats before = c;
            c.push_back(untouched);
            h.push_back(untouched);
            k.lstm_gates(sums.view(), units, c.data(), h.data());
            for (std::size_t u = 0; u < units; ++u) {
                const double cell = logistic(sums.sum(1, u)) * static_cast<double>(before[u]) +
                                    logistic(sums.sum(0, u)) * std::tanh(sums.sum(2, u));
                CHECK(is_near(static_cast<double>(c[u]), cell, 2e-6));
                CHECK(is_near(static_cast<double>(h[u]), logistic(sums.sum(3, u)) * std::tanh(cell), 2e-6));
            }
            CHECK(c.back() == untouched);
            CHECK(h.back() == untouched);
        }
    });
}

TEST_CASE("kernels: the gates of a GRU, for any number of units, in place or not") {
    on_every_target([](const Kernels& k) {
        Random random(13);
        for (std::size_t units = 1; units <= static_cast<std::size_t>(3 * k.width + 1); ++units) {
            for (const bool in_place : {false, true}) {
                CAPTURE(units);
                CAPTURE(in_place);
                const GateSums sums(random, 3, units);
                const Floats before = floats(random, units, Numbers::real);
                Floats h = in_place ? before : Floats(units, not_a_number);
                h.push_back(untouched);
                k.gru_gates(sums.view(), units, in_place ? h.data() : before.data(), h.data());
                for (std::size_t u = 0; u < units; ++u) {
                    const double keep = logistic(sums.sum(1, u));
                    const double fresh = std::tanh(sums.in(2, u) + logistic(sums.sum(0, u)) * sums.re(2, u));
                    const double right = (1.0 - keep) * fresh + keep * static_cast<double>(before[u]);
                    CHECK(is_near(static_cast<double>(h[u]), right, 2e-6));
                }
                CHECK(h.back() == untouched);
            }
        }
    });
}

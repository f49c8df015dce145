// LSTM and GRU on every target against the definition in double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include "hosts.hpp"
#include "isogrid/recurrent.hpp"
#include "matrices.hpp"
#include "samples.hpp"

namespace isogrid::tests {
namespace {

// A matrix, and its values where they belong.
struct Matrix {
    Weights weights;
    std::vector<double> dense;

    Matrix(Random& random, int rows, int columns, double density, ValueType type)
        : weights(random_weights(random, rows, columns, density, type, Numbers::real)),
          dense(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns)) {
        // Not so large that every gate saturates.
        for (float& value : weights.f32) value *= 0.4f;
        weights.each([&](std::int32_t row, std::int32_t column, double value) {
            dense[static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
                  static_cast<std::size_t>(column)] = value;
        });
    }
    SparseMatrix view() const { return weights.view(); }
};

Floats numbers(std::size_t size, Random& random) {
    return floats(random, size, Numbers::real);
}

struct Layer {
    Cell cell;
    bool reverse;
    Matrix input, recurrent;
    Floats input_bias, recurrent_bias;
    int units, columns;

    int gates() const { return cell == Cell::lstm ? 4 : 3; }
    RecurrentWeights view() const {
        return {cell,
                reverse,
                input.view(),
                recurrent.view(),
                input_bias.empty() ? nullptr : input_bias.data(),
                recurrent_bias.empty() ? nullptr : recurrent_bias.data()};
    }
};

Layer layer(Cell cell, bool reverse, int columns, int units, double density, ValueType type, bool bias,
            Random& random) {
    const int rows = (cell == Cell::lstm ? 4 : 3) * units;
    Layer made{cell,
               reverse,
               Matrix(random, rows, columns, density, type),
               Matrix(random, rows, units, density, type),
               {},
               {},
               units,
               columns};
    if (bias) {
        made.input_bias = numbers(static_cast<std::size_t>(rows), random);
        made.recurrent_bias = numbers(static_cast<std::size_t>(rows), random);
    }
    return made;
}

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

// One sample's next state, in place.
void reference_step(const Layer& l, const float* x, std::vector<double>& h, std::vector<double>& c) {
    const auto row = [&](const Matrix& m, const Floats& bias, int r, auto at) {
        double sum = bias.empty() ? 0.0 : bias[static_cast<std::size_t>(r)];
        for (int i = 0; i < m.weights.columns; ++i) {
            sum += m.dense[static_cast<std::size_t>(r) * static_cast<std::size_t>(m.weights.columns) +
                           static_cast<std::size_t>(i)] *
                   at(i);
        }
        return sum;
    };
    const std::vector<double> before = h;
    for (int u = 0; u < l.units; ++u) {
        const auto a = [&](int gate) {
            return row(l.input, l.input_bias, gate * l.units + u, [&](int i) { return static_cast<double>(x[i]); });
        };
        const auto b = [&](int gate) {
            return row(l.recurrent, l.recurrent_bias, gate * l.units + u,
                       [&](int i) { return before[static_cast<std::size_t>(i)]; });
        };
        const auto at = static_cast<std::size_t>(u);
        if (l.cell == Cell::lstm) {
            c[at] = sigmoid(a(1) + b(1)) * c[at] + sigmoid(a(0) + b(0)) * std::tanh(a(2) + b(2));
            h[at] = sigmoid(a(3) + b(3)) * std::tanh(c[at]);
        } else {
            const double z = sigmoid(a(1) + b(1));
            const double n = std::tanh(a(2) + sigmoid(a(0) + b(0)) * b(2));
            h[at] = (1 - z) * n + z * before[at];
        }
    }
}

struct Result {
    Floats y, h, c;
};

Result reference(const Layer& l, const Floats& x, const std::vector<std::int64_t>& sizes, const Floats& h,
                 const Floats& c, int stride) {
    std::vector<std::int64_t> begin{0};
    for (const std::int64_t size : sizes) begin.push_back(begin.back() + size);
    const auto units = static_cast<std::size_t>(l.units);
    const auto steps = static_cast<std::int64_t>(sizes.size());
    Result out{Floats(static_cast<std::size_t>(begin.back() * stride), 7.0f), h, c};
    for (std::int64_t sample = 0; sample < sizes[0]; ++sample) {
        const auto from = static_cast<std::ptrdiff_t>(sample * l.units);
        std::vector<double> state(h.begin() + from, h.begin() + from + l.units);
        std::vector<double> memory(c.begin() + from, c.begin() + from + l.units);
        for (std::int64_t i = 0; i < steps; ++i) {
            const std::int64_t t = l.reverse ? steps - 1 - i : i;
            if (sizes[static_cast<std::size_t>(t)] <= sample) continue;
            const std::int64_t token = begin[static_cast<std::size_t>(t)] + sample;
            reference_step(l, x.data() + token * l.columns, state, memory);
            std::copy(state.begin(), state.end(), out.y.begin() + token * stride);
        }
        for (std::size_t u = 0; u < units; ++u) {
            out.h[static_cast<std::size_t>(from) + u] = static_cast<float>(state[u]);
            out.c[static_cast<std::size_t>(from) + u] = static_cast<float>(memory[u]);
        }
    }
    return out;
}

double distance(const Floats& a, const Floats& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        most = d <= most ? most : d;  // and not the other way round: NaN is far away
        if (std::isnan(d)) return d;
    }
    return most;
}

void compare(const Layer& l, const std::vector<std::int64_t>& sizes, bool packed, int thread_count, Random& random) {
    const auto steps = static_cast<std::int64_t>(sizes.size());
    const std::int64_t batch = sizes[0];
    std::size_t tokens = 0;
    for (const std::int64_t size : sizes) tokens += static_cast<std::size_t>(size);
    const int stride = l.units + 3;
    const auto states = static_cast<std::size_t>(batch * l.units);
    const Floats x = numbers(tokens * static_cast<std::size_t>(l.columns), random);
    const Floats h = numbers(states, random);
    const Floats c = numbers(states, random);
    const Result expected = reference(l, x, sizes, h, c, stride);

    Recurrent* operation = nullptr;
    REQUIRE(Recurrent::create(l.view(), &operation) == Status::ok);
    Result got{Floats(tokens * static_cast<std::size_t>(stride), 7.0f), Floats(states), Floats(states)};
    if (l.cell == Cell::gru) got.c = c;  // not its business
    Threads threads(thread_count);
    const Status status = operation->run(threads.executor(), {x.data(), steps, batch, packed ? sizes.data() : nullptr},
                                         {h.data(), c.data(), got.h.data(), got.c.data()}, got.y.data(), stride);
    Recurrent::destroy(operation);
    REQUIRE(status == Status::ok);
    CHECK(distance(got.y, expected.y) < 1e-5);
    CHECK(distance(got.h, expected.h) < 1e-5);
    CHECK(distance(got.c, expected.c) < 1e-5);
}

std::vector<std::int64_t> equal(std::int64_t steps, std::int64_t batch) {
    return std::vector<std::int64_t>(static_cast<std::size_t>(steps), batch);
}

}  // namespace

TEST_CASE("recurrent: both cells, both directions, all values, one and several samples and steps") {
    on_every_target([](const Kernels&) {
        Random random(1);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            for (const bool reverse : {false, true}) {
                for (const ValueType type : {ValueType::f32, ValueType::f16, ValueType::int8}) {
                    const Layer l = layer(cell, reverse, 11, 13, 0.3, type, true, random);
                    for (const std::int64_t steps : {1, 2, 5}) {
                        for (const std::int64_t batch : {1, 2, 9}) {
                            CAPTURE(static_cast<int>(cell));
                            CAPTURE(static_cast<int>(type));
                            CAPTURE(reverse);
                            CAPTURE(steps);
                            CAPTURE(batch);
                            compare(l, equal(steps, batch), false, 1, random);
                        }
                    }
                }
            }
        }
    });
}

TEST_CASE("recurrent: every number of units up to three vectors") {
    on_every_target([](const Kernels&) {
        Random random(2);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            for (int units = 1; units <= 25; ++units) {
                CAPTURE(units);
                const Layer l =
                    layer(cell, units % 2 == 0, 1 + units % 3, units, 0.5, ValueType::f32, units % 3 != 0, random);
                compare(l, equal(2, 1), false, 1, random);
                compare(l, equal(2, 3), false, 1, random);
                compare(l, equal(1, 1), false, 1, random);
            }
        }
    });
}

TEST_CASE("recurrent: samples of falling lengths") {
    on_every_target([](const Kernels&) {
        Random random(3);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            for (const bool reverse : {false, true}) {
                const Layer l = layer(cell, reverse, 7, 20, 0.4, ValueType::f32, true, random);
                compare(l, {5, 5, 3, 3, 1, 1}, true, 1, random);
                compare(l, {9, 1}, true, 2, random);
                compare(l, {1, 1, 1}, true, 2, random);
                compare(l, {2}, true, 1, random);
            }
        }
    });
}

TEST_CASE("recurrent: shared out over threads, in many parts, with more steps than are multiplied at once") {
    on_every_target([](const Kernels&) {
        Random random(4);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            for (const bool reverse : {false, true}) {
                const Layer l = layer(cell, reverse, 40, 150, 0.6, ValueType::f32, true, random);
                compare(l, equal(1, 1), false, 3, random);
                compare(l, equal(3, 1), false, 3, random);
                compare(l, equal(3, 40), false, 3, random);
                compare(l, {60, 31, 30, 8, 1}, true, 3, random);
            }
        }
        const Layer small = layer(Cell::gru, true, 3, 300, 0.01, ValueType::f32, true, random);
        compare(small, equal(700, 1), false, 2, random);
    });
}

TEST_CASE("recurrent: matrices without any weight, without biases, and an input wider than 16 bits tell apart") {
    on_every_target([](const Kernels&) {
        Random random(5);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            compare(layer(cell, false, 6, 9, 0.0, ValueType::f32, true, random), equal(2, 2), false, 1, random);
            compare(layer(cell, false, 6, 9, 0.0, ValueType::int8, false, random), equal(1, 1), false, 1, random);
            for (const int columns : {65533, 65534, 66000}) {
                Layer wide = layer(cell, false, columns, 2, 0.0003, ValueType::f32, true, random);
                wide.recurrent = Matrix(random, wide.gates() * 2, 2, 1.0, ValueType::f32);
                compare(wide, equal(1, 1), false, 1, random);
            }
        }
        Layer one_bias = layer(Cell::gru, false, 6, 9, 0.5, ValueType::f32, true, random);
        one_bias.input_bias.clear();
        compare(one_bias, equal(2, 1), false, 1, random);
        one_bias.input_bias.swap(one_bias.recurrent_bias);
        compare(one_bias, equal(2, 1), false, 1, random);
    });
}

TEST_CASE("recurrent: states may be missing, may be updated in place, and stay where there is no step") {
    Random random(6);
    const Layer l = layer(Cell::lstm, false, 4, 6, 0.5, ValueType::f32, true, random);
    Recurrent* operation = nullptr;
    REQUIRE(Recurrent::create(l.view(), &operation) == Status::ok);
    const Floats x = numbers(2 * 3 * 4, random);
    const Floats zeros(3 * 6, 0.0f);
    const Result expected = reference(l, x, equal(2, 3), zeros, zeros, 6);
    Result got{Floats(2 * 3 * 6), Floats(3 * 6, 9.0f), Floats(3 * 6, 9.0f)};
    REQUIRE(operation->run(serial_executor(), {x.data(), 2, 3, nullptr}, {nullptr, nullptr, got.h.data(), got.c.data()},
                           got.y.data(), 6) == Status::ok);
    CHECK(distance(got.y, expected.y) < 1e-5);
    CHECK(distance(got.c, expected.c) < 1e-5);

    // One step after the other, in place: the same as both at once.
    Result steps{Floats(2 * 3 * 6), zeros, zeros};
    for (int t = 0; t < 2; ++t) {
        REQUIRE(operation->run(serial_executor(), {x.data() + t * 12, 1, 3, nullptr},
                               {steps.h.data(), steps.c.data(), steps.h.data(), steps.c.data()},
                               steps.y.data() + t * 18, 6) == Status::ok);
    }
    CHECK(distance(steps.y, expected.y) < 1e-5);

    const Floats h = numbers(3 * 6, random);
    REQUIRE(operation->run(serial_executor(), {nullptr, 0, 3, nullptr},
                           {h.data(), h.data(), got.h.data(), got.c.data()}, nullptr, 6) == Status::ok);
    CHECK(got.h == h);
    CHECK(got.c == h);
    CHECK(operation->run(serial_executor(), {nullptr, 4, 0, nullptr}, {}, nullptr, 6) == Status::ok);
    Recurrent::destroy(operation);
}

TEST_CASE("recurrent: a sample that is not a number leaves the others alone, and infinite ones saturate") {
    on_every_target([](const Kernels&) {
        Random random(7);
        for (const Cell cell : {Cell::lstm, Cell::gru}) {
            const Layer l = layer(cell, false, 5, 12, 1.0, ValueType::f32, true, random);
            Recurrent* operation = nullptr;
            REQUIRE(Recurrent::create(l.view(), &operation) == Status::ok);
            Floats x = numbers(3 * 5, random);
            x[7] = std::nanf("");
            Floats y(3 * 12), h(3 * 12), c(3 * 12);
            REQUIRE(operation->run(serial_executor(), {x.data(), 1, 3, nullptr}, {nullptr, nullptr, h.data(), c.data()},
                                   y.data(), 12) == Status::ok);
            for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 12 == 1));
            // Nor does it stay behind in this thread's memory.
            REQUIRE(operation->run(serial_executor(), {x.data() + 5, 1, 1, nullptr},
                                   {h.data() + 12, nullptr, h.data(), c.data()}, y.data(), 12) == Status::ok);
            compare(layer(cell, false, 4, 11, 0.3, ValueType::f32, true, random), equal(1, 1), false, 1, random);
            for (float& value : x) value = 3e38f;
            REQUIRE(operation->run(serial_executor(), {x.data(), 1, 1, nullptr}, {nullptr, nullptr, h.data(), c.data()},
                                   y.data(), 12) == Status::ok);
            Recurrent::destroy(operation);
        }
    });
}

TEST_CASE("recurrent: what does not fit together is refused") {
    Random random(8);
    const Layer l = layer(Cell::gru, false, 4, 6, 0.5, ValueType::f32, true, random);
    const Layer other = layer(Cell::lstm, false, 4, 6, 0.5, ValueType::f32, true, random);
    Recurrent* operation = nullptr;
    RecurrentWeights wrong = l.view();
    wrong.cell = Cell::lstm;
    CHECK(Recurrent::create(wrong, &operation) == Status::wrong_shape);
    wrong.cell = static_cast<Cell>(2);
    CHECK(Recurrent::create(wrong, &operation) == Status::unknown_cell);
    wrong = l.view();
    wrong.input = other.input.view();
    CHECK(Recurrent::create(wrong, &operation) == Status::wrong_shape);
    wrong = l.view();
    const Matrix halves(random, 18, 4, 0.5, ValueType::f16);
    wrong.input = halves.view();
    CHECK(Recurrent::create(wrong, &operation) == Status::mixed_types);
    wrong = l.view();
    wrong.recurrent.columns = 5;
    CHECK(Recurrent::create(wrong, &operation) != Status::ok);
    wrong = l.view();
    wrong.recurrent.row_begin.size = 3;
    CHECK(Recurrent::create(wrong, &operation) == Status::wrong_row_begin);
    CHECK(operation == nullptr);

    REQUIRE(Recurrent::create(l.view(), &operation) == Status::ok);
    Floats x(100), y(200), h(100);
    const Executor serial = serial_executor();
    const States states{nullptr, nullptr, h.data(), nullptr};
    const auto run = [&](const Sequences& in, const States& s, float* to, std::int64_t stride) {
        return operation->run(serial, in, s, to, stride);
    };
    CHECK(run({x.data(), 2, 2, nullptr}, states, y.data(), 6) == Status::ok);
    CHECK(run({x.data(), -1, 2, nullptr}, states, y.data(), 6) == Status::shape_out_of_range);
    CHECK(run({x.data(), 2, -1, nullptr}, states, y.data(), 6) == Status::shape_out_of_range);
    CHECK(run({x.data(), 2, 2, nullptr}, states, y.data(), 5) == Status::shape_out_of_range);
    constexpr std::int64_t large = std::int64_t{1} << 40;
    CHECK(run({x.data(), large, large, nullptr}, states, y.data(), 6) == Status::shape_out_of_range);
    CHECK(run({nullptr, 2, 2, nullptr}, states, y.data(), 6) == Status::null_pointer);
    CHECK(run({x.data(), 2, 2, nullptr}, states, nullptr, 6) == Status::null_pointer);
    CHECK(run({x.data(), 2, 2, nullptr}, {}, y.data(), 6) == Status::null_pointer);
    auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(x.data()) + 1);
    CHECK(run({odd, 2, 2, nullptr}, states, y.data(), 6) == Status::misaligned_pointer);
    for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{1, 2}, {2, 0}, {2, 3}, {3, 1}, {2, -1}}) {
        CHECK(run({x.data(), 2, 2, sizes.data()}, states, y.data(), 6) == Status::wrong_batch_sizes);
    }
    Recurrent::destroy(operation);
    REQUIRE(Recurrent::create(other.view(), &operation) == Status::ok);
    CHECK(run({x.data(), 2, 2, nullptr}, states, y.data(), 6) == Status::null_pointer);  // no room for c
    Recurrent::destroy(operation);
}

TEST_CASE("recurrent: one operation on two threads at once") {
    Random random(9);
    const Layer l = layer(Cell::lstm, false, 8, 24, 0.4, ValueType::f32, true, random);
    Recurrent* operation = nullptr;
    REQUIRE(Recurrent::create(l.view(), &operation) == Status::ok);
    const Floats x = numbers(6 * 2 * 8, random);
    const Floats zeros(2 * 24, 0.0f);
    const Result expected = reference(l, x, equal(6, 2), zeros, zeros, 24);
    std::atomic<int> wrong{0};
    const auto work = [&] {
        for (int i = 0; i < 20; ++i) {
            Result got{Floats(6 * 2 * 24), zeros, zeros};
            const Status status = operation->run(serial_executor(), {x.data(), 6, 2, nullptr},
                                                 {nullptr, nullptr, got.h.data(), got.c.data()}, got.y.data(), 24);
            if (status != Status::ok || !(distance(got.y, expected.y) < 1e-5)) ++wrong;
        }
    };
    std::thread second(work);
    work();
    second.join();
    CHECK(wrong == 0);
    Recurrent::destroy(operation);
}

}  // namespace isogrid::tests

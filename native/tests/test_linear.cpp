#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

#include "operations.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// A linear layer, its inputs, and what must come out.
struct Case {
    Weights weights;
    Epilogue epilogue;
    Numbers numbers;
    Floats x, bias, residual;
    Expected expected;

    Case(Random& random, Weights w, std::int64_t tokens, Epilogue e, Numbers n = Numbers::whole)
        : weights(std::move(w)),
          epilogue(e),
          numbers(n),
          x(floats(random, static_cast<std::size_t>(tokens * weights.columns), n)),
          bias(floats(random, chance(random, 0.5) ? static_cast<std::size_t>(weights.rows) : 0, n)),
          residual(floats(random, chance(random, 0.5) ? static_cast<std::size_t>(tokens * weights.rows) : 0, n)),
          expected(linear_reference(weights, x, bias, residual)) {}

    void expect() { expected = linear_reference(weights, x, bias, residual); }

    std::string check(Linear& linear, int threads) const {
        return difference(run(linear, weights, x, residual, threads), expected, epilogue, numbers);
    }
    std::string check(int threads, bool skip_zeros = false) const {
        const OwnedLinear linear = make_linear(weights, epilogue, bias, skip_zeros);
        return check(*linear, threads);
    }
};

}  // namespace

TEST_CASE("linear: from one token to more than any tile holds") {
    on_every_target([](const Kernels&) {
        Random random(1);
        const std::vector<Epilogue> all = epilogues();
        for (int tokens = 1; tokens <= 130; ++tokens) {
            CAPTURE(tokens);
            const Weights weights =
                random_weights(random, chance(random, 0.5) ? 37 : 40, 53, 0.2, one_of(random, value_types));
            const Case c(random, weights, tokens, all[static_cast<std::size_t>(tokens) % all.size()]);
            for (const int threads : {1, 3}) CHECK(c.check(threads) == "");
        }
    });
}

TEST_CASE("linear: any shape, density, type of value, epilogue and number of threads") {
    on_every_target([](const Kernels&) {
        Random random(2);
        for (int round = 0; round < 250; ++round) {
            const int rows = one_of(random, std::vector<int>{1, 2, 7, 8, 9, 33, 64, 100, 257, 700});
            const int columns = one_of(random, std::vector<int>{1, 3, 4, 8, 15, 64, 65, 130, 500, 1100});
            const int tokens = one_of(random, std::vector<int>{1, 1, 2, 3, 4, 8, 9, 16, 31, 40, 65, 100});
            const double density = one_of(random, std::vector<double>{0.0, 0.01, 0.05, 0.1, 0.5, 1.0});
            // Keeps the suite short.
            if (density * rows * columns * tokens > 1e6) continue;
            CAPTURE(round);
            const Case c(random, random_weights(random, rows, columns, density, one_of(random, value_types)), tokens,
                         one_of(random, epilogues()));
            CHECK(c.check(one_of(random, std::vector<int>{1, 2, 3, 8}), chance(random, 0.5)) == "");
        }
    });
}

TEST_CASE("linear: real numbers, within the tolerance") {
    on_every_target([](const Kernels&) {
        Random random(3);
        for (int round = 0; round < 60; ++round) {
            CAPTURE(round);
            const Weights weights = random_weights(random, between(random, 1, 70), between(random, 1, 400), 0.2,
                                                   one_of(random, value_types), Numbers::real);
            const Case c(random, weights, one_of(random, std::vector<int>{1, 2, 9, 33, 80}),
                         one_of(random, epilogues()), Numbers::real);
            CHECK(c.check(one_of(random, std::vector<int>{1, 3})) == "");
        }
    });
}

TEST_CASE("linear: one token with mostly zeros, with the layout for it") {
    on_every_target([](const Kernels&) {
        Random random(4);
        for (const double nonzero : {0.0, 0.05, 0.25, 0.35, 1.0}) {
            for (const int threads : {1, 3}) {
                for (const ValueType type : value_types) {
                    CAPTURE(nonzero);
                    CAPTURE(threads);
                    Case c(random, random_weights(random, 101, 90, 0.3, type), 1, one_of(random, epilogues()));
                    for (float& value : c.x) value = chance(random, nonzero) ? value : 0.0f;
                    c.expect();
                    CHECK(c.check(threads, true) == "");
                    CHECK(c.check(threads, false) == "");
                }
            }
        }
    });
}

TEST_CASE("linear: one token, more columns or rows than 16 bits count") {
    on_every_target([](const Kernels&) {
        Random random(5);
        for (const auto& [rows, columns] : {std::pair(9, 140'000), std::pair(140'000, 5)}) {
            const double density = rows < columns ? 0.002 : 0.1;
            Case c(random, random_weights(random, rows, columns, density), 1, {nullptr, Activation::relu, 0, 0});
            for (const bool mostly_zero : {false, true}) {
                CAPTURE(rows);
                CAPTURE(mostly_zero);
                if (mostly_zero) {
                    for (float& value : c.x) value = chance(random, 0.25) ? value : 0.0f;
                    c.x.front() = 1.0f;
                    c.expect();
                }
                for (const int threads : {1, 2}) CHECK(c.check(threads, true) == "");
            }
        }
    });
}

TEST_CASE("linear: a few tokens, in several panels and tasks, with rows alike in fours and without") {
    on_every_target([](const Kernels&) {
        Random random(11);
        for (int tokens = 2; tokens <= 9; ++tokens) {
            for (const ValueType type : value_types) {
                CAPTURE(tokens);
                CAPTURE(static_cast<int>(type));
                for (const int threads : {1, 3}) {
                    const Case long_rows(random, random_weights(random, 40, 700, 0.3, type), tokens,
                                         one_of(random, epilogues()));
                    CHECK(long_rows.check(threads) == "");
                    const Case many_rows(random, random_weights(random, 1201, 30, 0.2, type), tokens,
                                         one_of(random, epilogues()));
                    CHECK(many_rows.check(threads) == "");
                }
            }
        }
        const Weights wide = random_weights(random, 9, 140'000, 0.002);
        for (const int tokens : {2, 4, 8}) CHECK(Case(random, wide, tokens, {}).check(2) == "");
    });
}

TEST_CASE("linear: NaN and infinity reach the results that they belong to, and no others") {
    on_every_target([](const Kernels&) {
        Random random(6);
        for (int round = 0; round < 150; ++round) {
            const Epilogue e = one_of(random, std::vector<Epilogue>{{nullptr, Activation::none, 0, 0},
                                                                    {nullptr, Activation::relu, 0, 0},
                                                                    {nullptr, Activation::clip, -3, 6}});
            const int tokens = one_of(random, std::vector<int>{1, 1, 2, 5, 8, 9, 33, 70, 100});
            const double density = one_of(random, std::vector<double>{0.0, 0.03, 0.3});
            CAPTURE(round);
            Case c(random,
                   random_weights(random, between(random, 1, 40), between(random, 1, 60), density,
                                  one_of(random, value_types)),
                   tokens, e);
            const int threads = one_of(random, std::vector<int>{1, 3});
            const bool skip_zeros = chance(random, 0.5);
            if (skip_zeros) {
                for (float& value : c.x) value = chance(random, 0.2) ? value : 0.0f;
            }
            poison(random, c.x, 0.05);
            c.expect();
            CHECK(c.check(threads, skip_zeros) == "");

            // Where no weight meets them, they leave no trace at all.
            std::vector<bool> met(static_cast<std::size_t>(c.weights.columns), false);
            c.weights.each([&](auto, std::int32_t column, double) { met[static_cast<std::size_t>(column)] = true; });
            for (std::size_t i = 0; i < c.x.size(); ++i)
                c.x[i] = met[i % met.size()] ? number(random, Numbers::whole) : infinite;
            c.expect();
            for (const double sum : c.expected.sum) REQUIRE(std::isfinite(sum));
            CHECK(c.check(threads, skip_zeros) == "");
        }
    });
}

TEST_CASE("linear: one operation serves targets and numbers of tokens and threads in any order") {
    Random random(7);
    const Weights weights = random_weights(random, 90, 70, 0.2);
    const Floats bias = floats(random, 90);
    const Epilogue e{nullptr, Activation::relu, 0, 0};
    const OwnedLinear linear = make_linear(weights, e, bias, true);
    std::vector<int> order{1, 2, 20, 40, 64, 100, 1, 130, 8};
    for (int round = 0; round < 4; ++round) {
        on_every_target([&](const Kernels&) {
            for (const int tokens : order) {
                for (const int threads : {1, 2, 5}) {
                    Case c(random, weights, tokens, e);
                    c.bias = bias;
                    c.expect();
                    CAPTURE(tokens);
                    CAPTURE(threads);
                    CHECK(c.check(*linear, threads) == "");
                }
            }
        });
    }
}

TEST_CASE("linear: the operation keeps its own copy of the weights and the bias") {
    Random random(8);
    Weights weights = random_weights(random, 20, 30, 0.5);
    Floats bias = floats(random, 20);
    const Floats x = floats(random, 60);
    const Expected expected = linear_reference(weights, x, bias, {});
    const OwnedLinear linear = make_linear(weights, {}, bias);
    weights.f32.assign(weights.f32.size(), 0.0f);
    weights.column.assign(weights.column.size(), -1);
    bias.assign(bias.size(), not_a_number);
    CHECK(difference(run(*linear, weights, x), expected, {}, Numbers::whole) == "");
}

TEST_CASE("linear: what is refused") {
    Random random(9);
    Weights weights = random_weights(random, 4, 6, 0.5);
    Linear* made = nullptr;
    for (const int wrong : {-1, activation_count, std::numeric_limits<int>::max()}) {
        const Epilogue e{nullptr, static_cast<Activation>(wrong), 0, 0};
        CHECK(Linear::create(weights.view(), e, false, &made) == Status::unknown_activation);
    }
    ++weights.row_begin[4];
    CHECK(Linear::create(weights.view(), {}, false, &made) == Status::wrong_row_begin);
    --weights.row_begin[4];
    CHECK(made == nullptr);

    const OwnedLinear linear = make_linear(weights);
    const Executor one = serial_executor();
    Floats x(60);
    Floats y(40, 1.5f);
    float* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(x.data()) + 2);
    constexpr std::int64_t highest = std::numeric_limits<std::int64_t>::max();
    CHECK(linear->run(one, nullptr, 1, nullptr, y.data()) == Status::null_pointer);
    CHECK(linear->run(one, x.data(), 1, nullptr, nullptr) == Status::null_pointer);
    CHECK(linear->run(one, odd, 1, nullptr, y.data()) == Status::misaligned_pointer);
    CHECK(linear->run(one, x.data(), 1, nullptr, odd) == Status::misaligned_pointer);
    CHECK(linear->run(one, x.data(), 1, odd, y.data()) == Status::misaligned_pointer);
    for (const std::int64_t wrong : {std::int64_t{-1}, -highest - 1, highest, std::int64_t{1} << 48})
        CHECK(linear->run(one, x.data(), wrong, nullptr, y.data()) == Status::shape_out_of_range);
    for (const int threads : {0, -1}) {
        Executor none = one;
        none.threads = threads;
        CHECK(linear->run(none, x.data(), 1, nullptr, y.data()) == Status::shape_out_of_range);
    }
    CHECK(linear->run(one, nullptr, 0, nullptr, nullptr) == Status::ok);
    CHECK(y == Floats(40, 1.5f));
}

TEST_CASE("linear: a host may claim any number of threads") {
    Random random(10);
    for (const int tokens : {1, 3, 100}) {
        for (const bool skip_zeros : {false, true}) {
            Case c(random, random_weights(random, 70, 20, 0.3), tokens, {});
            if (skip_zeros) c.x.assign(c.x.size(), 0.0f);
            c.expect();
            const OwnedLinear linear = make_linear(c.weights, c.epilogue, c.bias, skip_zeros);
            Floats y(c.expected.sum.size(), not_a_number);
            Executor executor = serial_executor();
            executor.threads = std::numeric_limits<int>::max();
            REQUIRE(linear->run(executor, c.x.data(), tokens, data_or_null(c.residual), y.data()) == Status::ok);
            CHECK(difference(y, c.expected, c.epilogue, c.numbers) == "");
        }
    }
}

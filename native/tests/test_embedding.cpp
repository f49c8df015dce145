// Embedding tables: every row is exactly what is stored, on every target.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "hosts.hpp"
#include "isogrid/embedding.hpp"
#include "matrices.hpp"
#include "samples.hpp"

namespace isogrid::tests {
namespace {

// What the table must give, to the last bit: a code times its scale is rounded once.
Floats dense(const Weights& table) {
    Floats all(static_cast<std::size_t>(table.rows) * static_cast<std::size_t>(table.columns));
    table.each([&](std::int32_t row, std::int32_t column, double value) {
        all[static_cast<std::size_t>(row) * static_cast<std::size_t>(table.columns) +
            static_cast<std::size_t>(column)] = static_cast<float>(value);
    });
    return all;
}

void compare(const Embedding& operation, std::int32_t rows, std::int32_t columns, const Floats& expected,
             const Executor& executor, std::size_t count) {
    std::vector<std::int64_t> indices(count);
    for (std::size_t i = 0; i < count; ++i)
        indices[i] = static_cast<std::int64_t>(i * 7 % static_cast<std::size_t>(rows));
    const auto width = static_cast<std::size_t>(columns);
    Floats y(count * width + 1, 5.0f);
    REQUIRE(operation.run(executor, indices.data(), static_cast<std::int64_t>(count), y.data()) == Status::ok);
    int wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const float* right = expected.data() + static_cast<std::size_t>(indices[i]) * width;
        wrong += std::memcmp(y.data() + i * width, right, width * sizeof(float)) != 0 ? 1 : 0;
    }
    CHECK(wrong == 0);
    CHECK(y.back() == 5.0f);
}

}  // namespace

TEST_CASE("embedding: rows of a sparse table, of all values and many widths") {
    on_every_target([](const Kernels&) {
        Random random(1);
        Threads threads(2);
        for (const ValueType type : {ValueType::f32, ValueType::f16, ValueType::int8}) {
            for (const std::int32_t columns : {1, 3, 4, 7, 8, 9, 16, 31, 300}) {
                CAPTURE(static_cast<int>(type));
                CAPTURE(columns);
                const Weights t = random_weights(random, 12, columns, 0.4, type, Numbers::real);
                Embedding* operation = nullptr;
                REQUIRE(Embedding::create(t.view(), &operation) == Status::ok);
                compare(*operation, t.rows, t.columns, dense(t), serial_executor(), 25);
                compare(*operation, t.rows, t.columns, dense(t), threads.executor(), 500);
                Embedding::destroy(operation);
            }
        }
    });
}

TEST_CASE("embedding: columns that 16 bits do not tell apart, and a table without any weight") {
    Random random(2);
    for (const std::int32_t columns : {65536, 65537}) {
        const Weights t = random_weights(random, 4, columns, 0.9, ValueType::f32, Numbers::real);
        Embedding* operation = nullptr;
        REQUIRE(Embedding::create(t.view(), &operation) == Status::ok);
        compare(*operation, t.rows, t.columns, dense(t), serial_executor(), 5);
        Embedding::destroy(operation);
    }
    const Weights empty = random_weights(random, 1, 20, 0.0, ValueType::int8);
    Embedding* operation = nullptr;
    REQUIRE(Embedding::create(empty.view(), &operation) == Status::ok);
    compare(*operation, 1, 20, dense(empty), serial_executor(), 3);
    Embedding::destroy(operation);
}

TEST_CASE("embedding: rows of int8 codes") {
    on_every_target([](const Kernels&) {
        Random random(3);
        Threads threads(2);
        for (const std::int32_t columns : {1, 5, 8, 33}) {
            const std::int32_t rows = 9;
            std::vector<std::int8_t> codes;
            Floats scales, right;
            for (std::int32_t r = 0; r < rows; ++r) {
                scales.push_back(0.01f * static_cast<float>(r));
                for (std::int32_t c = 0; c < columns; ++c) {
                    codes.push_back(static_cast<std::int8_t>(between(random, -128, 127)));
                    right.push_back(static_cast<float>(codes.back()) * scales.back());
                }
            }
            Embedding* operation = nullptr;
            REQUIRE(Embedding::create(CodedRows{rows, columns, {codes.data(), codes.size()}, scales.data()},
                                      &operation) == Status::ok);
            compare(*operation, rows, columns, right, serial_executor(), 20);
            compare(*operation, rows, columns, right, threads.executor(), 2000);
            Embedding::destroy(operation);
        }
    });
}

TEST_CASE("embedding: what does not fit together is refused") {
    Random random(4);
    const Weights t = random_weights(random, 5, 6, 0.5);
    Embedding* operation = nullptr;
    SparseMatrix wrong = t.view();
    wrong.row_begin.size = 4;
    CHECK(Embedding::create(wrong, &operation) == Status::wrong_row_begin);
    const std::int8_t codes[6] = {};
    const float scales[2] = {};
    CHECK(Embedding::create(CodedRows{2, 3, {codes, 5}, scales}, &operation) == Status::wrong_shape);
    CHECK(Embedding::create(CodedRows{2, 3, {codes, 6}, nullptr}, &operation) == Status::wrong_scales);
    CHECK(Embedding::create(CodedRows{2, 3, {nullptr, 6}, scales}, &operation) == Status::null_pointer);
    CHECK(Embedding::create(CodedRows{0, 3, {codes, 0}, scales}, &operation) == Status::shape_out_of_range);
    CHECK(operation == nullptr);

    REQUIRE(Embedding::create(t.view(), &operation) == Status::ok);
    Floats y(12, 5.0f);
    const Executor serial = serial_executor();
    for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{5}, std::int64_t{1} << 40}) {
        const std::int64_t indices[] = {0, bad};
        CHECK(operation->run(serial, indices, 2, y.data()) == Status::index_out_of_range);
    }
    CHECK(y == Floats(12, 5.0f));
    const std::int64_t indices[] = {0, 4};
    CHECK(operation->run(serial, indices, -1, y.data()) == Status::shape_out_of_range);
    CHECK(operation->run(serial, nullptr, 2, y.data()) == Status::null_pointer);
    CHECK(operation->run(serial, indices, 2, nullptr) == Status::null_pointer);
    CHECK(operation->run(serial, nullptr, 0, nullptr) == Status::ok);
    CHECK(operation->run(serial, indices, std::int64_t{1} << 47, y.data()) == Status::shape_out_of_range);
    auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(y.data()) + 2);
    CHECK(operation->run(serial, indices, 2, odd) == Status::misaligned_pointer);
    Embedding::destroy(operation);
}

}  // namespace isogrid::tests

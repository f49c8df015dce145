#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "layout/blocks.hpp"
#include "layout/canonical.hpp"
#include "matrices.hpp"
#include "samples.hpp"

using namespace isogrid;
using namespace isogrid::tests;

TEST_CASE("canonical: the copy is the matrix, independent of the caller's arrays") {
    Random random(5);
    for (const ValueType type : value_types) {
        Weights weights = random_weights(random, 9, 11, 0.4, type, Numbers::real);
        const Weights before = weights;
        const Canonical canonical(weights.view());
        std::fill(weights.column.begin(), weights.column.end(), -1);
        std::fill(weights.f32.begin(), weights.f32.end(), 0.0f);
        std::fill(weights.f16.begin(), weights.f16.end(), std::uint16_t{0});
        std::fill(weights.int8.begin(), weights.int8.end(), std::int8_t{0});
        std::fill(weights.scales.begin(), weights.scales.end(), 0.0f);
        const SparseMatrix copy = canonical.view();
        CHECK(check(copy) == Status::ok);
        std::int64_t entry = 0;
        before.each([&](std::int32_t row, std::int32_t column, double value) {
            CHECK(copy.column.data[entry] == column);
            CHECK(static_cast<double>(value_at(copy, row, entry)) == doctest::Approx(value).epsilon(1e-7));
            ++entry;
        });
        CHECK(copy.column.size == static_cast<std::size_t>(entry));
    }
}

TEST_CASE("canonical: matrices that are refused") {
    const auto status_of = [](const auto& change) {
        Random random(6);
        Weights weights = random_weights(random, 4, 5, 1.0);
        SparseMatrix matrix = weights.view();
        change(weights, matrix);
        return check(matrix);
    };
    constexpr std::int32_t lowest = std::numeric_limits<std::int32_t>::min();
    constexpr std::int32_t highest = std::numeric_limits<std::int32_t>::max();
    CHECK(status_of([](Weights&, SparseMatrix&) {}) == Status::ok);
    for (const std::int32_t wrong : {0, -1, lowest, highest, max_matrix_side + 1}) {
        CHECK(status_of([=](Weights&, SparseMatrix& m) { m.rows = wrong; }) == Status::shape_out_of_range);
        CHECK(status_of([=](Weights&, SparseMatrix& m) { m.columns = wrong; }) == Status::shape_out_of_range);
    }
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.type = static_cast<ValueType>(3); }) == Status::unknown_type);
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.type = static_cast<ValueType>(-1); }) == Status::unknown_type);
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.type = ValueType::int8; }) == Status::wrong_scales);
    CHECK(status_of([](Weights& w, SparseMatrix& m) { m.scales = w.f32.data(); }) == Status::wrong_scales);
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.values = nullptr; }) == Status::null_pointer);
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.column.data = nullptr; }) == Status::null_pointer);

    // Entries 0 .. 19 in rows of five.
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.row_begin.data = nullptr; }) == Status::wrong_row_begin);
    CHECK(status_of([](Weights&, SparseMatrix& m) { --m.row_begin.size; }) == Status::wrong_row_begin);
    CHECK(status_of([](Weights&, SparseMatrix& m) { m.row_begin.size = 0; }) == Status::wrong_row_begin);
    CHECK(status_of([](Weights&, SparseMatrix& m) { --m.column.size; }) == Status::wrong_row_begin);
    const std::pair<std::size_t, std::int64_t> wrong_begins[] = {
        {0, 1}, {0, -1}, {1, 21}, {1, -1}, {2, 21}, {2, 4}, {4, 19}, {4, 21}, {2, std::int64_t{1} << 62}};
    for (const auto& [at, begin] : wrong_begins) {
        CAPTURE(at);
        CAPTURE(begin);
        CHECK(status_of([&, i = at, b = begin](Weights& w, SparseMatrix&) { w.row_begin[i] = b; }) ==
              Status::wrong_row_begin);
    }
    const std::pair<std::size_t, std::int32_t> wrong_columns[] = {{0, -1}, {4, 5},        {1, 0},
                                                                  {6, 0},  {19, highest}, {3, lowest}};
    for (const auto& [at, column] : wrong_columns) {
        CAPTURE(at);
        CAPTURE(column);
        CHECK(status_of([&, i = at, c = column](Weights& w, SparseMatrix&) { w.column[i] = c; }) ==
              Status::columns_not_ascending);
    }
}

TEST_CASE("canonical: a matrix without entries needs neither columns nor values") {
    const std::vector<std::int64_t> row_begin(5, 0);
    const float scales[] = {1.0f, 1.0f, 1.0f, 1.0f};
    CHECK(check({4, 3, {row_begin.data(), 5}, {nullptr, 0}, nullptr, ValueType::f32, nullptr}) == Status::ok);
    CHECK(check({4, 3, {row_begin.data(), 5}, {nullptr, 0}, nullptr, ValueType::int8, scales}) == Status::ok);
}

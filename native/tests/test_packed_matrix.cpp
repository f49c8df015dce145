#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "isogrid/embedding.hpp"
#include "isogrid/linear.hpp"
#include "packed.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

Status read(ByteList data, PackedMatrix* out = nullptr) {
    data.shrink_to_fit();
    PackedMatrix matrix;
    return PackedMatrix::read(view(std::as_const(data)), out == nullptr ? &matrix : out);
}

// Three rows, four columns: [0 2 0 -1], nothing, [0.5 0 0 0]. With the Rice parameter 1 the gaps 1, 1, 4 are the bits
// 11 11 0010.
const ByteList example{
    'i', 's',  'o',  'g',  'r', 'i', 'd', 1,  //
    0,   0,    0,    0,    3,   0,   0,   0,  // float32, Rice, 3 rows
    4,   0,    0,    0,    0,   0,   0,   0,  // 4 columns
    3,   0,    0,    0,    0,   0,   0,   0,  // 3 nonzeros
    1,   0x4f,                                // positions
    0,   0,    0,    0x40,                    // 2
    0,   0,    0x80, 0xbf,                    // -1
    0,   0,    0,    0x3f,                    // 0.5
};

// A sound matrix of each kind of values.
ByteList sound(ValueType type, Places places = Places::rice) {
    Random random(7);
    return packed(random_weights(random, 20, 30, 0.2, type), places);
}

ByteList with(ByteList data, std::size_t at, std::uint64_t number, int bytes) {
    replace(data, at, number, bytes);
    return data;
}

ByteList with_last(ByteList data, std::uint64_t number, int bytes) {
    return with(data, data.size() - static_cast<std::size_t>(bytes), number, bytes);
}

}  // namespace

TEST_CASE("packed: the bytes are those of the format, for ever") {
    PackedMatrix matrix;
    REQUIRE(read(example, &matrix) == Status::ok);
    const SparseMatrix m = matrix.view();
    CHECK(m.rows == 3);
    CHECK(m.columns == 4);
    CHECK(m.type == ValueType::f32);
    CHECK(m.scales == nullptr);
    CHECK(std::vector<std::int64_t>(m.row_begin.data, m.row_begin.data + m.row_begin.size) ==
          std::vector<std::int64_t>{0, 2, 2, 3});
    CHECK(std::vector<std::int32_t>(m.column.data, m.column.data + m.column.size) ==
          std::vector<std::int32_t>{1, 3, 0});
    const auto* const values = static_cast<const float*>(m.values);
    CHECK(Floats(values, values + 3) == Floats{2.0f, -1.0f, 0.5f});

    PackedHeader header{};
    REQUIRE(packed_header(view(example), &header) == Status::ok);
    CHECK(header.nonzeros == 3);
    CHECK(header.places == Places::rice);
}

TEST_CASE("packed: what is packed is read, whatever the values and positions") {
    Random random(1);
    for (const ValueType type : value_types) {
        for (const Places places : all_places) {
            for (const double density : {0.0, 0.05, 0.3, 1.0}) {
                const Weights weights = random_weights(random, between(random, 1, 60), between(random, 1, 90), density,
                                                       type, Numbers::whole);
                PackedMatrix matrix;
                REQUIRE(read(packed(weights, places), &matrix) == Status::ok);
                const SparseMatrix found = matrix.view();
                const SparseMatrix right = weights.view();
                REQUIRE(check(found) == Status::ok);
                CHECK(found.rows == right.rows);
                CHECK(found.columns == right.columns);
                CHECK(found.type == type);
                CHECK(std::equal(right.row_begin.data, right.row_begin.data + right.row_begin.size,
                                 found.row_begin.data, found.row_begin.data + found.row_begin.size));
                CHECK(std::equal(right.column.data, right.column.data + right.column.size, found.column.data,
                                 found.column.data + found.column.size));
                const std::size_t bytes = type == ValueType::f32 ? 4 : type == ValueType::f16 ? 2 : 1;
                CHECK((found.column.size == 0 ||
                       std::memcmp(found.values, right.values, found.column.size * bytes) == 0));
                for (std::int32_t r = 0; right.scales != nullptr && r < right.rows; ++r) {
                    CHECK(found.scales[r] == right.scales[r]);
                }
            }
        }
    }
}

TEST_CASE("packed: zeros that are stored are left out, negative ones too") {
    ByteList data = packed_start(1, 4, 1, ValueType::f32, Places::dense);
    for (const std::uint32_t bits : {0x00000000u, 0x80000000u, 0x3f800000u, 0x80000000u}) put(data, bits, 4);
    PackedMatrix matrix;
    REQUIRE(read(data, &matrix) == Status::ok);
    CHECK(matrix.view().column.size == 1);
    CHECK(matrix.view().column.data[0] == 2);

    data = packed_start(1, 3, 1, ValueType::f16, Places::dense);
    for (const std::uint32_t bits : {0x8000u, 0x3c00u, 0x0000u}) put(data, bits, 2);
    REQUIRE(read(data, &matrix) == Status::ok);
    CHECK(matrix.view().column.data[0] == 1);
}

TEST_CASE("packed: int8 values stored dense are a table too") {
    Random random(2);
    const Weights weights = random_weights(random, 30, 17, 0.8, ValueType::int8);
    const ByteList data = packed(weights, Places::dense);
    PackedTable table;
    REQUIRE(PackedTable::read(view(data), &table) == Status::ok);
    const CodedRows rows = table.view();
    CHECK(rows.rows == 30);
    CHECK(rows.columns == 17);
    CHECK(rows.codes.size == 30 * 17);
    weights.each([&](std::int32_t row, std::int32_t column, double value) {
        CHECK(static_cast<double>(rows.codes.data[row * 17 + column]) * static_cast<double>(rows.scales[row]) == value);
    });
    Embedding* embedding = nullptr;
    REQUIRE(Embedding::create(rows, &embedding) == Status::ok);
    Embedding::destroy(embedding);

    CHECK(PackedTable::read(view(packed(weights, Places::rice)), &table) == Status::not_a_table);
    CHECK(PackedTable::read(view(sound(ValueType::f32, Places::dense)), &table) == Status::not_a_table);
    CHECK(PackedTable::read({nullptr, 0}, &table) == Status::no_packed_header);
}

TEST_CASE("packed: a damaged header is refused") {
    const ByteList data = sound(ValueType::f32);
    CHECK(read({}) == Status::no_packed_header);
    CHECK(read(ByteList(data.begin(), data.begin() + 31)) == Status::no_packed_header);
    for (std::size_t i = 0; i < 7; ++i) CHECK(read(with(data, i, 'x', 1)) == Status::no_packed_header);
    CHECK(read(with(data, 7, 0, 1)) == Status::unknown_packed_version);
    CHECK(read(with(data, 7, 2, 1)) == Status::unknown_packed_version);
    CHECK(read(with(data, 8, 3, 1)) == Status::unknown_packing);
    CHECK(read(with(data, 9, 3, 1)) == Status::unknown_packing);
    for (const std::size_t i : {10, 11, 20, 21, 22, 23}) CHECK(read(with(data, i, 1, 1)) == Status::unknown_packing);
    for (const std::size_t side : {12, 16}) {
        CHECK(read(with(data, side, 0, 4)) == Status::shape_out_of_range);
        CHECK(read(with(data, side, (1u << 28) + 1, 4)) == Status::shape_out_of_range);
        CHECK(read(with(data, side, 0xffffffffu, 4)) == Status::shape_out_of_range);
    }
    CHECK(read(with(with(data, 12, 1u << 21, 4), 16, 1u << 20, 4)) == Status::shape_out_of_range);
    CHECK(read(with(data, 24, 20 * 30 + 1, 8)) == Status::count_out_of_range);
    CHECK(read(with(data, 24, ~std::uint64_t{0}, 8)) == Status::count_out_of_range);
}

TEST_CASE("packed: the length must be the one that the header says") {
    for (const ValueType type : value_types) {
        for (const Places places : all_places) {
            const ByteList data = sound(type, places);
            for (std::size_t length = 0; length < data.size(); ++length) {
                CHECK(read(ByteList(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(length))) != Status::ok);
            }
            ByteList longer = data;
            longer.push_back(0);
            CHECK(read(longer) != Status::ok);
        }
    }
    ByteList dense = sound(ValueType::f32, Places::dense);
    dense.push_back(0);
    CHECK(read(dense) == Status::packed_too_long);
    dense.resize(dense.size() - 2);
    CHECK(read(dense) == Status::packed_too_short);
    ByteList bitmap = sound(ValueType::f32, Places::bitmap);
    bitmap.push_back(0);
    CHECK(read(bitmap) == Status::wrong_length);
}

TEST_CASE("packed: numbers that may not be are refused") {
    const ByteList f32 = sound(ValueType::f32);
    for (const std::uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0xffffffffu}) {
        CHECK(read(with_last(f32, bits, 4)) == Status::value_not_finite);
        CHECK(read(with_last(sound(ValueType::f32, Places::dense), bits, 4)) == Status::value_not_finite);
    }
    CHECK(read(with_last(f32, 0x7f7fffffu, 4)) == Status::ok);
    CHECK(read(with_last(f32, 0x00000001u, 4)) == Status::ok);
    for (const std::uint32_t zero : {0x00000000u, 0x80000000u}) {
        CHECK(read(with_last(f32, zero, 4)) == Status::stored_zero);
    }
    const ByteList f16 = sound(ValueType::f16);
    for (const std::uint32_t bits : {0x7c00u, 0xfc00u, 0x7e00u, 0x7c01u}) {
        CHECK(read(with_last(f16, bits, 2)) == Status::value_not_finite);
    }
    CHECK(read(with_last(f16, 0x8000u, 2)) == Status::stored_zero);
    CHECK(read(with_last(f16, 0x7bffu, 2)) == Status::ok);

    const ByteList int8 = sound(ValueType::int8);
    CHECK(read(with_last(int8, 0x80u, 1)) == Status::wrong_code);
    CHECK(read(with_last(int8, 0x81u, 1)) == Status::ok);
    CHECK(read(with_last(int8, 0, 1)) == Status::stored_zero);
    CHECK(read(with_last(sound(ValueType::int8, Places::dense), 0x80u, 1)) == Status::wrong_code);
    for (const std::uint32_t scale : {0x000000u, 0x007fffu, 0x7f8000u, 0x7fc000u, 0x800000u, 0xbf8000u, 0xffffffu}) {
        CHECK(read(with(int8, packed_header_bytes + 3, scale, 3)) == Status::wrong_scale);
    }
    CHECK(read(with(int8, packed_header_bytes + 3, 0x008000u, 3)) == Status::ok);
    CHECK(read(with(int8, packed_header_bytes + 3, 0x7f7fffu, 3)) == Status::ok);
}

TEST_CASE("packed: another number of nonzeros is refused") {
    for (const ValueType type : value_types) {
        for (const Places places : all_places) {
            const ByteList data = sound(type, places);
            PackedHeader header{};
            REQUIRE(packed_header(view(data), &header) == Status::ok);
            const auto count = static_cast<std::uint64_t>(header.nonzeros);
            for (const std::uint64_t other : {std::uint64_t{0}, count - 1, count + 1, std::uint64_t{600}}) {
                CHECK(read(with(data, 24, other, 8)) != Status::ok);
            }
        }
    }
    PackedHeader header{};
    const ByteList dense = sound(ValueType::f32, Places::dense);
    REQUIRE(packed_header(view(dense), &header) == Status::ok);
    CHECK(read(with(dense, 24, static_cast<std::uint64_t>(header.nonzeros) + 1, 8)) == Status::wrong_nonzeros);
}

TEST_CASE("packed: a tiny file cannot ask for much memory") {
    ByteList data = packed_start(1u << 28, 4, 0, ValueType::f32, Places::rice);
    data.push_back(0);
    CHECK(read(data) == Status::too_many_empty_rows);
    CHECK(read(with(data, 12, 1u << 20, 4)) == Status::ok);
    CHECK(read(with(data, 12, (1u << 20) + 64, 4)) == Status::too_many_empty_rows);
    // With a byte for each 64 rows there may be more.
    ByteList enough = packed_start((1u << 20) + 64, 1, 0, ValueType::f32, Places::bitmap);
    enough.resize(enough.size() + ((1u << 20) + 64) / 8);
    CHECK(read(enough) == Status::ok);
    // A claim of 2^40 nonzeros in a few bytes.
    data = packed_start(1u << 20, 1u << 20, std::uint64_t{1} << 40, ValueType::int8, Places::dense);
    data.resize(data.size() + 100);
    CHECK(read(data) == Status::packed_too_short);
}

// Found by `isogrid_fuzz`: a line has the bytes, in hexadecimal, and what the reader must say of them.
TEST_CASE("packed: the corpus of damaged data is answered as ever") {
    std::ifstream corpus(ISOGRID_CORPUS);
    REQUIRE(corpus.good());
    std::set<std::string> answers;
    for (std::string line; std::getline(corpus, line);) {
        const std::size_t end = line.find(' ');
        REQUIRE(end != std::string::npos);
        ByteList data;
        for (std::size_t i = 0; i + 1 < end; i += 2) {
            data.push_back(static_cast<std::uint8_t>(std::stoul(line.substr(i, 2), nullptr, 16)));
        }
        CAPTURE(line);
        CHECK(message(read(data)) == line.substr(end + 1));
        CHECK(try_reading(data) == nullptr);
        answers.insert(line.substr(end + 1));
    }
    CHECK(answers.size() > 15);
}

TEST_CASE("packed: whatever damaged data are read as is a matrix") {
    Random random(11);
    int accepted = 0;
    for (int round = 0; round < 40'000; ++round) {
        ByteList data = random_packed(random);
        damage(data, random);
        bool read_anyway = false;
        const char* const wrong = try_reading(data, &read_anyway);
        if (wrong != nullptr) {
            CAPTURE(round);
            FAIL(std::string(wrong));
        }
        accepted += read_anyway ? 1 : 0;
    }
    CHECK(accepted > 500);
}

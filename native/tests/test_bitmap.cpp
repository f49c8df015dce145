#include <limits>
#include <utility>

#include "isogrid/bitmap.hpp"
#include "samples.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

ByteList encode(const Sample& sample) {
    std::uint64_t length = 0;
    REQUIRE(bitmap_plan(sample.size, &length) == Status::ok);
    ByteList bytes(length, 0xff);
    REQUIRE(bitmap_encode(view(sample.positions), sample.size, view(bytes)) == Status::ok);
    return bytes;
}

Status encode_status(const PositionList& positions, std::int64_t size, std::size_t length) {
    ByteList bytes(length);
    return bitmap_encode(view(positions), size, view(bytes));
}

// Copies the data to memory of exactly its length, so that the address sanitizer sees the first byte read too far.
Status decode(ByteList data, std::size_t count, std::int64_t size, PositionList* out = nullptr) {
    data.shrink_to_fit();
    PositionList positions(count);
    const Status status = bitmap_decode(view(std::as_const(data)), size, view(positions));
    if (out != nullptr) *out = positions;
    return status;
}

}  // namespace

TEST_CASE("bitmap: the bytes are those of the format, for ever") {
    CHECK(encode({{2, 3, 9}, 10}) == ByteList{0x0c, 0x02});
    CHECK(encode({{}, 0}) == ByteList{});
    CHECK(encode({{0, 7}, 8}) == ByteList{0x81});
}

TEST_CASE("bitmap: what is encoded is decoded") {
    for (const Sample& sample : samples()) {
        CAPTURE(sample.size);
        CAPTURE(sample.positions.size());
        PositionList decoded;
        REQUIRE(decode(encode(sample), sample.positions.size(), sample.size, &decoded) == Status::ok);
        CHECK(decoded == sample.positions);
    }
}

TEST_CASE("bitmap: positions and lengths that are refused") {
    CHECK(encode_status({-1}, 10, 2) == Status::positions_not_ascending);
    CHECK(encode_status({10}, 10, 2) == Status::positions_not_ascending);
    CHECK(encode_status({3, 3}, 10, 2) == Status::positions_not_ascending);
    CHECK(encode_status({4, 3}, 10, 2) == Status::positions_not_ascending);
    CHECK(encode_status({std::numeric_limits<std::int64_t>::max()}, 10, 2) == Status::positions_not_ascending);
    CHECK(encode_status({}, 10, 1) == Status::wrong_length);
    CHECK(encode_status({}, 10, 3) == Status::wrong_length);
    CHECK(encode_status({}, -1, 0) == Status::size_out_of_range);
    std::uint64_t length = 0;
    CHECK(bitmap_plan(-1, &length) == Status::size_out_of_range);
    CHECK(bitmap_plan(max_tensor_size + 1, &length) == Status::size_out_of_range);
    REQUIRE(bitmap_plan(max_tensor_size, &length) == Status::ok);
    CHECK(length == static_cast<std::uint64_t>(max_tensor_size) / 8);
}

TEST_CASE("bitmap: data that is refused") {
    CHECK(decode({0x01}, 1, 9) == Status::wrong_length);
    CHECK(decode({0x01, 0x00}, 1, 8) == Status::wrong_length);
    CHECK(decode({}, 0, 1) == Status::wrong_length);
    CHECK(decode({0x00}, 0, 0) == Status::wrong_length);
    CHECK(decode({0x07}, 2, 8) == Status::wrong_count);
    CHECK(decode({0x07}, 4, 8) == Status::wrong_count);
    CHECK(decode({0x08}, 1, 3) == Status::position_out_of_range);
    CHECK(decode({0x00, 0x80}, 1, 15) == Status::position_out_of_range);
    CHECK(decode({0x07}, 4, 3) == Status::count_out_of_range);
    CHECK(decode({}, 0, -1) == Status::size_out_of_range);
    CHECK(decode({}, 0, max_tensor_size + 1) == Status::size_out_of_range);
}

TEST_CASE("bitmap: a claimed count is checked before anything is allocated") {
    const ByteList data{0xff};
    CHECK(bitmap_check(view(data), 8, 8) == Status::ok);
    CHECK(bitmap_check(view(data), 9, 8) == Status::count_out_of_range);
    CHECK(bitmap_check(view(data), -1, 8) == Status::count_out_of_range);
    CHECK(bitmap_check(view(data), max_tensor_size, max_tensor_size) == Status::wrong_length);
    CHECK(bitmap_decode(view(data), 8, {nullptr, std::numeric_limits<std::size_t>::max()}) ==
          Status::count_out_of_range);
}

TEST_CASE("bitmap: random bytes are exactly the list of their bits, or are refused") {
    std::mt19937_64 random(17);
    for (int round = 0; round < 5000; ++round) {
        const auto size = static_cast<std::int64_t>(1 + random() % 200);
        ByteList data(static_cast<std::size_t>((size + 7) / 8));
        PositionList expected;
        bool padding_clear = true;
        for (std::size_t bit = 0; bit < data.size() * 8; ++bit) {
            if (random() % 8 != 0) continue;
            data[bit / 8] = static_cast<std::uint8_t>(data[bit / 8] | 1u << bit % 8);
            expected.push_back(static_cast<std::int64_t>(bit));
            padding_clear &= expected.back() < size;
        }
        PositionList decoded;
        const Status status = decode(data, expected.size(), size, &decoded);
        if (static_cast<std::int64_t>(expected.size()) > size) continue;
        CHECK(status == (padding_clear ? Status::ok : Status::position_out_of_range));
        if (padding_clear) CHECK(decoded == expected);
    }
}

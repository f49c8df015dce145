#include <algorithm>
#include <limits>
#include <utility>

#include "isogrid/rice.hpp"
#include "samples.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

constexpr std::int64_t huge = std::int64_t{1} << 40;

ByteList encode(const Sample& sample) {
    RicePlan plan{};
    REQUIRE(rice_plan(view(sample.positions), sample.size, &plan) == Status::ok);
    ByteList bytes(plan.bytes);
    REQUIRE(rice_encode(view(sample.positions), plan, view(bytes)) == Status::ok);
    return bytes;
}

Status plan_status(const PositionList& positions, std::int64_t size) {
    RicePlan plan{};
    return rice_plan(view(positions), size, &plan);
}

// Copies the data to memory of exactly its length, so that the address sanitizer sees the first byte read too far.
Status decode(ByteList data, std::size_t count, std::int64_t size, PositionList* out = nullptr) {
    data.shrink_to_fit();
    PositionList positions(count);
    const Status status = rice_decode(view(std::as_const(data)), size, view(positions));
    if (out != nullptr) *out = positions;
    return status;
}

// The format as its header states it, one bit at a time.
ByteList encode_bit_by_bit(const PositionList& positions, int parameter) {
    ByteList bytes{static_cast<std::uint8_t>(parameter)};
    int used = 8;
    const auto put = [&](std::uint64_t bit) {
        if (used == 8) {
            bytes.push_back(0);
            used = 0;
        }
        bytes.back() = static_cast<std::uint8_t>(bytes.back() | bit << used++);
    };
    std::int64_t before = -1;
    for (const std::int64_t position : positions) {
        const auto gap = static_cast<std::uint64_t>(position - before - 1);
        for (std::uint64_t zeros = gap >> parameter; zeros > 0; --zeros) put(0);
        put(1);
        for (int bit = 0; bit < parameter; ++bit) put(gap >> bit & 1);
        before = position;
    }
    return bytes;
}

}  // namespace

TEST_CASE("rice: the bytes are those of the format, for ever") {
    CHECK(encode({{2, 3, 9}, 10}) == ByteList{0x01, 0x8a, 0x01});
    CHECK(encode({{}, 0}) == ByteList{0x00});
    CHECK(encode({{0, 1, 2, 3, 4, 5, 6, 7}, 8}) == ByteList{0x00, 0xff});
    CHECK(encode({{huge - 1}, huge}) == ByteList{0x27, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x01});
}

TEST_CASE("rice: what is encoded is decoded, and equals the slow encoder with the best parameter") {
    for (const Sample& sample : samples()) {
        CAPTURE(sample.size);
        CAPTURE(sample.positions.size());
        const ByteList bytes = encode(sample);

        PositionList decoded;
        REQUIRE(decode(bytes, sample.positions.size(), sample.size, &decoded) == Status::ok);
        CHECK(decoded == sample.positions);

        CHECK(bytes == encode_bit_by_bit(sample.positions, bytes[0]));
        std::size_t fewest = std::numeric_limits<std::size_t>::max();
        for (int parameter = 0; parameter <= 20; ++parameter) {
            fewest = std::min(fewest, encode_bit_by_bit(sample.positions, parameter).size());
        }
        CHECK(bytes.size() == fewest);
    }
}

TEST_CASE("rice: every parameter is decoded") {
    const Sample sample = bernoulli(3000, 0.02, 7);
    for (int parameter = 0; parameter <= max_rice_parameter; ++parameter) {
        PositionList decoded;
        const ByteList bytes = encode_bit_by_bit(sample.positions, parameter);
        REQUIRE(decode(bytes, sample.positions.size(), sample.size, &decoded) == Status::ok);
        CHECK(decoded == sample.positions);
    }
}

TEST_CASE("rice: huge tensors with few positions") {
    std::mt19937_64 random(3);
    for (const std::int64_t size : {huge, max_tensor_size}) {
        PositionList positions{0, size - 1};
        for (int i = 0; i < 500; ++i)
            positions.push_back(std::uniform_int_distribution<std::int64_t>(0, size - 1)(random));
        // A cluster makes the best parameter small and the gaps around it long runs of zeros.
        for (int i = 0; i < 5000; ++i) positions.push_back(size / 2 + i);
        std::sort(positions.begin(), positions.end());
        positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
        PositionList decoded;
        REQUIRE(decode(encode({positions, size}), positions.size(), size, &decoded) == Status::ok);
        CHECK(decoded == positions);
    }
}

TEST_CASE("rice: unary runs longer than one machine word") {
    PositionList positions;
    for (std::int64_t i = 0; i < 4000; ++i) positions.push_back(i);
    for (const std::int64_t gap : {55, 56, 57, 63, 64, 65, 111, 112, 113, 1000})
        positions.push_back(positions.back() + 1 + gap);
    const Sample sample{positions, positions.back() + 1};
    const ByteList bytes = encode(sample);
    REQUIRE(bytes[0] == 0);
    PositionList decoded;
    REQUIRE(decode(bytes, positions.size(), sample.size, &decoded) == Status::ok);
    CHECK(decoded == positions);
}

TEST_CASE("rice: positions that are refused") {
    CHECK(plan_status({-1}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({10}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({0}, 0) == Status::positions_not_ascending);
    CHECK(plan_status({3, 3}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({4, 3}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({std::numeric_limits<std::int64_t>::min(), 3}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({3, std::numeric_limits<std::int64_t>::max()}, 10) == Status::positions_not_ascending);
    CHECK(plan_status({}, -1) == Status::size_out_of_range);
    CHECK(plan_status({}, max_tensor_size + 1) == Status::size_out_of_range);
}

TEST_CASE("rice: positions that change between planning and encoding never overrun the output") {
    const Sample sample = bernoulli(1000, 0.2, 5);
    RicePlan plan{};
    REQUIRE(rice_plan(view(sample.positions), sample.size, &plan) == Status::ok);
    const auto encode_changed = [&plan](const PositionList& changed) {
        ByteList bytes(plan.bytes);
        return rice_encode(view(changed), plan, view(bytes));
    };
    const auto largest = std::numeric_limits<std::int64_t>::max();
    for (const std::int64_t other : {std::int64_t{-1}, std::int64_t{0}, huge, largest, -largest - 1}) {
        PositionList changed = sample.positions;
        changed[changed.size() / 2] = other;
        CHECK(encode_changed(changed) == Status::positions_changed);
        changed.assign(changed.size(), other);
        CHECK(encode_changed(changed) == Status::positions_changed);
    }
    const RicePlan one_byte{0, 2};
    ByteList eight_bits(one_byte.bytes);
    CHECK(rice_encode(view(PositionList{0, 1, 2, 3, 4, 5, 6, 7}), one_byte, view(eight_bits)) == Status::ok);
    CHECK(rice_encode(view(PositionList{0, 1, 2, 3, 4, 5, 6, 8}), one_byte, view(eight_bits)) ==
          Status::positions_changed);

    // With k = 0 a repeated position is a quotient of 2^64 - 1.
    CHECK(rice_encode(view(PositionList{0, 1, 1, 3, 4, 5, 6, 7}), one_byte, view(eight_bits)) ==
          Status::positions_changed);

    CHECK(encode_changed({}) == Status::positions_changed);
    CHECK(encode_changed({0, 1, 2}) == Status::positions_changed);
    ByteList small(plan.bytes - 1);
    CHECK(rice_encode(view(sample.positions), plan, view(small)) == Status::positions_changed);
}

TEST_CASE("rice: data that is refused") {
    CHECK(decode({}, 0, 0) == Status::parameter_missing);
    CHECK(decode({49}, 0, 10) == Status::parameter_too_large);
    CHECK(decode({255, 0, 0}, 1, 10) == Status::parameter_too_large);
    CHECK(decode({0}, 1, 10) == Status::truncated);
    CHECK(decode({0, 0x00}, 1, 10) == Status::truncated);  // eight zeros, no one
    CHECK(decode({1, 0x80}, 1, 10) == Status::truncated);  // the one is the last bit, its remainder is missing
    CHECK(decode({0, 0x80}, 1, 7) == Status::position_out_of_range);  // gap 7 in a tensor of 7
    CHECK(decode({0, 0x03}, 2, 1) == Status::count_out_of_range);
    CHECK(decode({0, 0x03}, 1, 10) == Status::trailing_data);  // a second position in the padding
    CHECK(decode({0, 0x01, 0x00}, 1, 10) == Status::trailing_data);
    CHECK(decode({0, 0x00}, 0, 10) == Status::trailing_data);
    CHECK(decode({0}, 0, -1) == Status::size_out_of_range);
    CHECK(decode({0}, 0, max_tensor_size + 1) == Status::size_out_of_range);
}

TEST_CASE("rice: gaps that would overflow are refused") {
    // One hundred zeros before the one: with k = 48 the quotient alone is 100 * 2^48.
    ByteList zeros(13, 0x00);
    zeros[0] = 48;
    zeros.push_back(0x10);
    zeros.resize(zeros.size() + 6, 0xff);
    CHECK(decode(zeros, 1, max_tensor_size) == Status::position_out_of_range);

    // Many gaps, each inside the size, whose sum is not.
    const ByteList ones = encode_bit_by_bit({huge - 1, 2 * huge - 1, 3 * huge - 1}, 40);
    CHECK(decode(ones, 3, 3 * huge) == Status::ok);
    CHECK(decode(ones, 3, 3 * huge - 1) == Status::position_out_of_range);

    // A run of zeros so long that shifting the quotient would drop bits: 2^20 << 44 is 0 in 64 bits.
    ByteList run(1 + (1 << 17), 0x00);
    run[0] = 44;
    run.push_back(0x01);
    run.resize(run.size() + 6, 0x00);
    CHECK(decode(run, 1, max_tensor_size) == Status::position_out_of_range);
}

TEST_CASE("rice: a claimed count is checked before anything is allocated") {
    const ByteList data{3, 0xff, 0xff};
    CHECK(rice_check(view(data), 4, huge) == Status::ok);  // four positions of at least four bits
    CHECK(rice_check(view(data), 5, huge) == Status::truncated);
    CHECK(rice_check(view(data), huge, huge) == Status::truncated);
    CHECK(rice_check(view(data), max_tensor_size, max_tensor_size) == Status::truncated);
    CHECK(rice_check(view(data), -1, huge) == Status::count_out_of_range);
    CHECK(rice_check(view(data), 4, 3) == Status::count_out_of_range);
    CHECK(rice_decode(view(data), huge, {nullptr, std::numeric_limits<std::size_t>::max()}) ==
          Status::count_out_of_range);
}

TEST_CASE("rice: no shorter data, and no other count, is accepted") {
    const Sample sample = bernoulli(2000, 0.1, 11);
    const ByteList bytes = encode(sample);
    const std::size_t count = sample.positions.size();
    for (std::size_t length = 0; length < bytes.size(); ++length) {
        ByteList cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
        CHECK(decode(cut, count, sample.size) != Status::ok);
    }
    for (std::size_t other = 0; other <= 2 * count; ++other) {
        CHECK((decode(bytes, other, sample.size) == Status::ok) == (other == count));
    }
}

TEST_CASE("rice: whatever damaged data decodes to is a valid list of positions") {
    std::mt19937_64 random(13);
    const auto below = [&random](std::uint64_t limit) { return random() % limit; };
    int accepted = 0;
    for (int round = 0; round < 20'000; ++round) {
        const Sample sample = bernoulli(static_cast<std::int64_t>(1 + below(400)), 0.1, random());
        ByteList data = encode(sample);
        if (round % 4 == 0) {
            for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random());
            data[0] = static_cast<std::uint8_t>(below(max_rice_parameter + 1));
        } else {
            data[below(data.size())] ^= static_cast<std::uint8_t>(1u << below(8));
        }
        PositionList decoded;
        if (decode(data, sample.positions.size(), sample.size, &decoded) != Status::ok) continue;
        ++accepted;
        CHECK(plan_status(decoded, sample.size) == Status::ok);
        CHECK(encode_bit_by_bit(decoded, data[0]) == data);
    }
    CHECK(accepted > 100);
}

#include "isogrid/packed_matrix.hpp"

#include <bit>
#include <cstring>
#include <new>

#include "codec/bits.hpp"
#include "isogrid/bitmap.hpp"
#include "isogrid/rice.hpp"

namespace isogrid {
namespace {

constexpr std::size_t header_bytes = 32;
constexpr unsigned char magic[] = {'i', 's', 'o', 'g', 'r', 'i', 'd'};
constexpr unsigned char version = 1;
constexpr std::int64_t most_weights = std::int64_t{1} << 40;
// Rows cost memory even where they are empty. So many are free; more need a byte of data for each 64 of them, so that
// a tiny file cannot ask for gigabytes.
constexpr std::int64_t free_rows = 1 << 20;
constexpr std::int64_t rows_a_byte = 64;
constexpr std::size_t scale_bytes = 3;

std::size_t bytes_of(ValueType type) {
    return type == ValueType::f32 ? 4 : type == ValueType::f16 ? 2 : 1;
}

// Where everything lies.
struct Layout {
    PackedHeader header;
    Bytes scales;
    Bytes positions;
    Bytes values;
};

Status locate(Bytes data, Layout& out) noexcept {
    if (data.data == nullptr || data.size < header_bytes) return Status::no_packed_header;
    if (std::memcmp(data.data, magic, sizeof magic) != 0) return Status::no_packed_header;
    if (data.data[7] != version) return Status::unknown_packed_version;
    const auto number = [&](std::size_t at, std::size_t bytes) { return load_little_endian(data.data + at, bytes); };
    const std::uint64_t type = number(8, 1);
    const std::uint64_t places = number(9, 1);
    if (type > 2 || places > 2 || number(10, 2) != 0 || number(20, 4) != 0) return Status::unknown_packing;
    const std::uint64_t rows = number(12, 4);
    const std::uint64_t columns = number(16, 4);
    constexpr auto most = static_cast<std::uint64_t>(max_matrix_side);
    if (rows < 1 || columns < 1 || rows > most || columns > most) return Status::shape_out_of_range;
    const std::uint64_t size = rows * columns;
    if (size > static_cast<std::uint64_t>(most_weights)) return Status::shape_out_of_range;
    const std::uint64_t nonzeros = number(24, 8);
    if (nonzeros > size) return Status::count_out_of_range;

    PackedHeader& header = out.header;
    header = {static_cast<std::int32_t>(rows), static_cast<std::int32_t>(columns), ValueType::f32,
              static_cast<Places>(places), static_cast<std::int64_t>(nonzeros)};
    if (type == 1) header.type = ValueType::f16;
    if (type == 2) header.type = ValueType::int8;

    // None of these can overflow: at most 3 * 2^28 and 4 * 2^40 bytes.
    const std::uint64_t for_scales = header.type == ValueType::int8 ? rows * scale_bytes : 0;
    const std::uint64_t for_values = (header.places == Places::dense ? size : nonzeros) * bytes_of(header.type);
    const std::uint64_t rest = data.size - header_bytes;
    if (for_scales + for_values > rest) return Status::packed_too_short;
    const std::uint64_t for_positions = rest - for_scales - for_values;
    const auto section = [&](std::uint64_t at, std::uint64_t length) {
        return Bytes{data.data + header_bytes + at, static_cast<std::size_t>(length)};
    };
    out.scales = section(0, for_scales);
    out.positions = section(for_scales, for_positions);
    out.values = section(for_scales + for_positions, for_values);
    if (header.rows > free_rows && header.rows / rows_a_byte > static_cast<std::int64_t>(data.size)) {
        return Status::too_many_empty_rows;
    }
    switch (header.places) {
        case Places::rice:
            return rice_check(out.positions, header.nonzeros, static_cast<std::int64_t>(size));
        case Places::bitmap:
            return bitmap_check(out.positions, header.nonzeros, static_cast<std::int64_t>(size));
        case Places::dense:
            return for_positions == 0 ? Status::ok : Status::packed_too_long;
    }
    return Status::unknown_packing;
}

std::uint32_t scale_bits(const std::uint8_t* from) noexcept {
    return static_cast<std::uint32_t>(load_little_endian(from, scale_bytes)) << 8;
}

// Sixteen significant bits are all that three bytes have room for, so there is nothing to check about them.
Status check_scales(Bytes scales) noexcept {
    constexpr std::uint32_t smallest = 0x00800000;  // 2^-126
    constexpr std::uint32_t infinity = 0x7f800000;
    for (std::size_t i = 0; i < scales.size; i += scale_bytes) {
        const std::uint32_t bits = scale_bits(scales.data + i);
        if (bits < smallest || bits >= infinity) return Status::wrong_scale;
    }
    return Status::ok;
}

// Whether all values may be stored, and how many of them are not zero.
template <std::size_t bytes>
Status check_floats(Bytes values, std::int64_t& nonzeros) noexcept {
    constexpr std::uint64_t infinity = bytes == 4 ? 0x7f800000 : 0x7c00;
    constexpr std::uint64_t magnitude = bytes == 4 ? 0x7fffffff : 0x7fff;
    bool finite = true;
    std::int64_t zeros = 0;
    for (std::size_t i = 0; i < values.size; i += bytes) {
        const std::uint64_t size = load_little_endian(values.data + i, bytes) & magnitude;
        finite &= size < infinity;
        zeros += size == 0 ? 1 : 0;
    }
    nonzeros = static_cast<std::int64_t>(values.size / bytes) - zeros;
    return finite ? Status::ok : Status::value_not_finite;
}

Status check_codes(Bytes codes, std::int64_t& nonzeros) noexcept {
    bool accepted = true;
    std::int64_t zeros = 0;
    for (std::size_t i = 0; i < codes.size; ++i) {
        accepted &= codes.data[i] != 0x80;
        zeros += codes.data[i] == 0 ? 1 : 0;
    }
    nonzeros = static_cast<std::int64_t>(codes.size) - zeros;
    return accepted ? Status::ok : Status::wrong_code;
}

Status check_values(const Layout& layout) noexcept {
    std::int64_t nonzeros = 0;
    Status status = Status::ok;
    switch (layout.header.type) {
        case ValueType::f32:
            status = check_floats<4>(layout.values, nonzeros);
            break;
        case ValueType::f16:
            status = check_floats<2>(layout.values, nonzeros);
            break;
        case ValueType::int8:
            status = check_codes(layout.values, nonzeros);
            break;
    }
    if (status != Status::ok) return status;
    if (nonzeros == layout.header.nonzeros) return Status::ok;
    return layout.header.places == Places::dense ? Status::wrong_nonzeros : Status::stored_zero;
}

// Everything that can be checked without memory.
Status check_all(Bytes data, Layout& layout) noexcept {
    Status status = locate(data, layout);
    if (status == Status::ok) status = check_scales(layout.scales);
    return status == Status::ok ? check_values(layout) : status;
}

std::vector<float> read_scales(Bytes scales) {
    std::vector<float> out(scales.size / scale_bytes);
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = std::bit_cast<float>(scale_bits(scales.data + i * scale_bytes));
    }
    return out;
}

// Value `from` of the file as value `to` of this machine.
void copy_value(Bytes values, std::size_t from, std::size_t bytes, unsigned char* out, std::size_t to) noexcept {
    const std::uint8_t* const source = values.data + from * bytes;
    unsigned char* const target = out + to * bytes;
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(target, source, bytes);
    } else {
        for (std::size_t i = 0; i < bytes; ++i) target[i] = source[bytes - 1 - i];
    }
}

}  // namespace

Status packed_header(Bytes data, PackedHeader* out) noexcept {
    Layout layout{};
    const Status status = locate(data, layout);
    if (status == Status::ok) *out = layout.header;
    return status;
}

Status PackedMatrix::read(Bytes data, PackedMatrix* out) noexcept {
    Layout layout{};
    Status status = check_all(data, layout);
    if (status != Status::ok) return status;
    const PackedHeader& header = layout.header;
    const auto count = static_cast<std::size_t>(header.nonzeros);
    const std::size_t bytes = bytes_of(header.type);
    try {
        PackedMatrix& m = *out;
        m.rows_ = header.rows;
        m.columns_ = header.columns;
        m.type_ = header.type;
        m.scales_ = read_scales(layout.scales);
        m.column_.resize(count);
        m.values_.resize(count * bytes);
        m.row_begin_.assign(static_cast<std::size_t>(header.rows) + 1, 0);
        std::size_t entry = 0;
        if (header.places == Places::dense) {
            std::size_t place = 0;
            const std::uint64_t magnitude = (std::uint64_t{1} << (8 * bytes - 1)) - 1;
            for (std::size_t row = 0; row < static_cast<std::size_t>(header.rows); ++row) {
                for (std::int32_t column = 0; column < header.columns; ++column, ++place) {
                    // Without its highest bit: the sign of a float, and no code is -128.
                    const std::uint64_t bits = load_little_endian(layout.values.data + place * bytes, bytes);
                    if ((bits & magnitude) == 0) continue;
                    // The data may lie in a file that somebody changes meanwhile.
                    if (entry == count) return Status::wrong_nonzeros;
                    m.column_[entry] = column;
                    copy_value(layout.values, place, bytes, m.values_.data(), entry++);
                }
                m.row_begin_[row + 1] = static_cast<std::int64_t>(entry);
            }
            return Status::ok;
        }

        std::vector<std::int64_t> positions(count);
        const std::int64_t size = std::int64_t{header.rows} * header.columns;
        const MutablePositions places{positions.data(), count};
        status = header.places == Places::rice ? rice_decode(layout.positions, size, places)
                                               : bitmap_decode(layout.positions, size, places);
        if (status != Status::ok) return status;
        std::int64_t row_start = 0;
        for (std::size_t row = 0; row < static_cast<std::size_t>(header.rows); ++row, row_start += header.columns) {
            for (; entry < count && positions[entry] < row_start + header.columns; ++entry) {
                m.column_[entry] = static_cast<std::int32_t>(positions[entry] - row_start);
            }
            m.row_begin_[row + 1] = static_cast<std::int64_t>(entry);
        }
        for (std::size_t i = 0; i < count; ++i) copy_value(layout.values, i, bytes, m.values_.data(), i);
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

SparseMatrix PackedMatrix::view() const noexcept {
    return {rows_,          columns_, {row_begin_.data(), row_begin_.size()},    {column_.data(), column_.size()},
            values_.data(), type_,    scales_.empty() ? nullptr : scales_.data()};
}

Status PackedTable::read(Bytes data, PackedTable* out) noexcept {
    Layout layout{};
    const Status status = check_all(data, layout);
    if (status != Status::ok) return status;
    const PackedHeader& header = layout.header;
    if (header.places != Places::dense || header.type != ValueType::int8) return Status::not_a_table;
    try {
        out->rows_ = header.rows;
        out->columns_ = header.columns;
        out->codes_ = {reinterpret_cast<const std::int8_t*>(layout.values.data), layout.values.size};
        out->scales_ = read_scales(layout.scales);
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

CodedRows PackedTable::view() const noexcept {
    return {rows_, columns_, codes_, scales_.data()};
}

}  // namespace isogrid

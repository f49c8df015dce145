#include "layout/geometry.hpp"

#include <algorithm>

namespace isogrid {
namespace {

// Rounds towards minus infinity.
int floor_divide(int a, int b) {
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// One axis of the kernel: for each of its taps the phase (a remainder of the stride) and the shift within it.
struct Axis {
    std::vector<int> remainder;
    std::vector<int> shift;
};

Axis make_axis(int taps, int stride, int pad, int dilation) {
    Axis axis;
    for (int t = 0; t < taps; ++t) {
        const int place = t * dilation - pad;
        const int shift = floor_divide(place, stride);
        axis.shift.push_back(shift);
        axis.remainder.push_back(place - shift * stride);
    }
    return axis;
}

bool within(int value, int low, int high) {
    return low <= value && value <= high;
}

// The length of an output axis; 0 or less where the kernel does not fit.
std::int64_t output_length(int size, int pads, int taps, int stride, int dilation) {
    const std::int64_t room = std::int64_t{size} + pads - std::int64_t{dilation} * (taps - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

}  // namespace

Status make_geometry(const ConvolutionShape& s, Geometry& out, int lanes) {
    // Far beyond any network, and small enough for every product below to fit.
    constexpr int most = 1 << 20;
    if (!within(s.height, 1, most) || !within(s.width, 1, most) || !within(s.kernel_height, 1, 255) ||
        !within(s.kernel_width, 1, 255) || !within(s.stride_y, 1, 255) || !within(s.stride_x, 1, 255) ||
        !within(s.dilation_y, 1, 4096) || !within(s.dilation_x, 1, 4096) || !within(s.pad_top, 0, most) ||
        !within(s.pad_left, 0, most) || !within(s.pad_bottom, 0, most) || !within(s.pad_right, 0, most)) {
        return Status::shape_out_of_range;
    }
    // Segments number the floats of a plane.
    if (std::int64_t{s.height} * s.width > (1 << 30)) return Status::shape_out_of_range;
    const std::int64_t out_height =
        output_length(s.height, s.pad_top + s.pad_bottom, s.kernel_height, s.stride_y, s.dilation_y);
    const std::int64_t out_width =
        output_length(s.width, s.pad_left + s.pad_right, s.kernel_width, s.stride_x, s.dilation_x);
    if (out_height < 1 || out_width < 1) return Status::kernel_larger_than_image;

    const Axis rows = make_axis(s.kernel_height, s.stride_y, s.pad_top, s.dilation_y);
    Axis columns = make_axis(s.kernel_width, s.stride_x, s.pad_left, s.dilation_x);
    const bool aligned = lanes > 1;
    if (aligned) {
        for (std::size_t x = 0; x < columns.shift.size(); ++x) {
            columns.remainder[x] += columns.shift[x] * s.stride_x;
            columns.shift[x] = 0;
        }
    }

    // As wide as the outputs where planes are aligned. Otherwise wide enough that a tap which leaves a row at either
    // end meets zeros: the columns up to the rightmost one that is read, and behind the plane's own columns as many as
    // are read to the left of a row.
    const int leftmost = std::min(0, *std::min_element(columns.shift.begin(), columns.shift.end()));
    const int rightmost = std::max(0, *std::max_element(columns.shift.begin(), columns.shift.end()));
    const int plane_width = (s.width + s.stride_x - 1) / s.stride_x;
    const std::int64_t pitch =
        aligned ? round_up(out_width, lanes)
                : std::max<std::int64_t>(out_width + rightmost, std::int64_t{plane_width} - leftmost);
    const std::int64_t length = (out_height - 1) * pitch + out_width;
    if (length > (1 << 30) || pitch > (1 << 22)) return Status::shape_out_of_range;

    out = Geometry{};
    out.out_height = static_cast<int>(out_height);
    out.out_width = static_cast<int>(out_width);
    out.pitch = static_cast<int>(pitch);
    out.length = static_cast<int>(length);
    std::int64_t lowest = 0;
    std::int64_t highest = 0;
    for (int dy = 0; dy < s.kernel_height; ++dy) {
        for (int dx = 0; dx < s.kernel_width; ++dx) {
            const auto y = static_cast<std::size_t>(dy);
            const auto x = static_cast<std::size_t>(dx);
            const std::int64_t shift = rows.shift[y] * pitch + columns.shift[x];
            if (shift > (1 << 30) || shift < -(1 << 30)) return Status::shape_out_of_range;
            lowest = dy == 0 && dx == 0 ? shift : std::min(lowest, shift);
            highest = dy == 0 && dx == 0 ? shift : std::max(highest, shift);
            const int row = rows.remainder[y];
            const int column = columns.remainder[x];
            auto known = std::find_if(out.phases.begin(), out.phases.end(), [&](const Phase& phase) {
                return phase.first_row == row && phase.first_column == column;
            });
            if (known == out.phases.end()) {
                const int height = row < s.height ? (s.height - row + s.stride_y - 1) / s.stride_y : 0;
                const int width = column < s.width ? (s.width - column + s.stride_x - 1) / s.stride_x : 0;
                const int skip = column < 0 ? (-column + s.stride_x - 1) / s.stride_x : 0;
                out.phases.push_back({row, column, height, aligned ? std::min(width, out.out_width) : width, skip});
                known = out.phases.end() - 1;
            }
            out.tap_phase.push_back(static_cast<int>(known - out.phases.begin()));
            out.tap_shift.push_back(static_cast<int>(shift));
        }
    }
    if (highest - lowest > (1 << 30)) return Status::shape_out_of_range;
    out.first = static_cast<int>(lowest);
    out.reach = static_cast<int>(highest - lowest);
    for (int& shift : out.tap_shift) shift -= out.first;
    return Status::ok;
}

void add_segments(const Geometry& g, const Phase& phase, const ConvolutionShape& shape, int first, int length,
                  std::vector<Segment>& out) {
    int row = first >= 0 ? first / g.pitch : -((-first + g.pitch - 1) / g.pitch);
    int column = first - row * g.pitch;
    const auto add = [&](int from, int to, int count) {
        if (count <= 0) return;
        if (!out.empty() && to > 0 && out.back().to + out.back().count == to) {
            Segment& before = out.back();
            const bool nothing = from < 0 && before.from < 0;
            const bool onwards = shape.stride_x == 1 && before.from >= 0 && before.from + before.count == from;
            if (nothing || onwards) {
                before.count += count;
                return;
            }
        }
        out.push_back({from, to, count});
    };
    for (int done = 0; done < length; column = 0, ++row) {
        const int here = std::min(g.pitch - column, length - done);
        const bool inside = row >= 0 && row < phase.height;
        const int begin = inside ? std::clamp(phase.skip, column, column + here) : column + here;
        const int end = inside ? std::clamp(phase.width, begin, column + here) : begin;
        add(-1, done, begin - column);
        if (begin < end) {
            const int y = phase.first_row + row * shape.stride_y;
            add(y * shape.width + phase.first_column + begin * shape.stride_x, done + begin - column, end - begin);
        }
        add(-1, done + end - column, column + here - end);
        done += here;
    }
}

}  // namespace isogrid

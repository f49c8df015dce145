#include "isogrid/status.hpp"

namespace isogrid {

const char* message(Status status) noexcept {
    switch (status) {
        case Status::ok:
            return "no error";
        case Status::size_out_of_range:
            return "size must lie in [0, 2**48]";
        case Status::count_out_of_range:
            return "count must lie in [0, size]";
        case Status::positions_not_ascending:
            return "positions must be strictly ascending and lie in [0, size)";
        case Status::positions_changed:
            return "positions were changed while they were being encoded";
        case Status::parameter_missing:
            return "data is empty, its first byte must be the Rice parameter";
        case Status::parameter_too_large:
            return "the Rice parameter in the first byte must be at most 48";
        case Status::truncated:
            return "data ends before the last of the positions";
        case Status::trailing_data:
            return "data goes on after the last of the positions";
        case Status::position_out_of_range:
            return "data holds a position outside [0, size)";
        case Status::wrong_length:
            return "a bitmap must have exactly (size + 7) // 8 bytes";
        case Status::wrong_count:
            return "the bitmap's number of set bits is not count";
    }
    return "unknown status";
}

}  // namespace isogrid

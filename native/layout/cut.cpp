#include "layout/cut.hpp"

#include <algorithm>
#include <utility>

namespace isogrid {
namespace {

// Nanoseconds of a core, as in `best_tiling`: to copy a piece of a plane, and each of its floats, which with a stride
// are picked out of others.
constexpr double segment_cost = 2.5;
constexpr double float_cost = 0.06;
constexpr double strided_float_cost = 0.2;

// To pack a tile from the middle of the image, where none of it is padding.
double packing_cost(const ConvolutionShape& shape, const Geometry& g, int from, int window) {
    std::vector<Segment> segments;
    for (const Phase& phase : g.phases) add_segments(g, phase, shape, from, window, segments);
    return shape.channels *
           (segment_cost * static_cast<double>(segments.size()) +
            (shape.stride_x == 1 ? float_cost : strided_float_cost) * window * static_cast<double>(g.phases.size()));
}

// Sets everything of `cut` but its geometry, which is there, and returns the cost.
double cut_into_tiles(const ConvolutionShape& shape, const Product& product, int threads, int lanes, int max_vectors,
                      bool aligned, Cut& cut) {
    const Geometry& g = cut.geometry;
    const int phases = static_cast<int>(g.phases.size());
    const int all = (g.length + lanes - 1) / lanes;
    const TileShape tile{product.rows, shape.channels, phases, g.reach, product.nonzeros, product.quads, aligned};
    // Threads share out either the tiles, or the rows. With the rows each keeps its part of the weights in its own
    // cache, which pays where these are large; but each packs all tiles then, which only many nonzeros a channel pay
    // for.
    constexpr double large = 65536;
    constexpr double many = 32;
    const bool by_rows = product.nonzeros > large && product.nonzeros > many * threads * shape.channels;
    const bool can_share_rows = product.rows >= threads;
    double best = -1;
    for (int most = 2; most <= max_vectors; ++most) {
        const int tiles = (all + most - 1) / most;
        const int vectors = (all + tiles - 1) / tiles;
        const int window = round_up(vectors * lanes + g.reach, lanes);
        // Every thread as many tiles, or so many that it does not matter.
        const bool even = tiles % threads == 0 || tiles >= 4 * threads;
        const double busy = by_rows || even ? 1.0 : static_cast<double>(round_up(tiles, threads)) / tiles;
        const int parts = can_share_rows && (by_rows || busy > 1.25) ? threads : 1;
        const Tiling tiling = best_tiling(tile, vectors, lanes);
        const double packing = packing_cost(shape, g, g.first + tiles / 2 * vectors * lanes, window);
        const double cost = tiles * (tiling.cost * (can_share_rows ? std::min(busy, 1.25) : busy) + packing * parts);
        if (best < 0 || cost < best) {
            best = cost;
            cut.tiles = tiles;
            cut.parts = parts;
            cut.vectors = vectors;
            cut.window = window;
            cut.block_channels = tiling.block_channels;
        }
    }
    return best;
}

// Whether all of a channel's windows are within reach of an offset, with tiles of any width.
bool fits(const Geometry& g, int lanes, int max_vectors, int floats) {
    const std::int64_t window = std::int64_t{max_vectors + 1} * lanes + g.reach;
    return window * static_cast<std::int64_t>(g.phases.size()) <= floats;
}

}  // namespace

Status best_cut(const ConvolutionShape& shape, const Product& product, int threads, int lanes, int max_vectors,
                Cut& out) {
    const Status status = make_geometry(shape, out.geometry);
    if (status != Status::ok) return status;
    // Far beyond what 16-bit offsets reach, and small enough for every product below to fit.
    if (!fits(out.geometry, lanes, max_vectors, 1 << 30)) return Status::window_too_large;
    // One tap has no neighbours to be out of step with.
    const bool one_tap = out.geometry.tap_shift.size() == 1;
    const double cost = cut_into_tiles(shape, product, threads, lanes, max_vectors, one_tap, out);
    if (one_tap || product.quads) return Status::ok;
    Cut other{};
    constexpr int most_floats = 8192;
    if (make_geometry(shape, other.geometry, lanes) != Status::ok ||
        !fits(other.geometry, lanes, max_vectors, most_floats)) {
        return Status::ok;
    }
    if (cut_into_tiles(shape, product, threads, lanes, max_vectors, true, other) < cost) out = std::move(other);
    return Status::ok;
}

}  // namespace isogrid

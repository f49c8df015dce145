// The functions of the table that bring activations into tiles, of every target.
#include <doctest/doctest.h>

#include <algorithm>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

TEST_CASE("kernels: pack_tokens turns any number of tokens and features into a tile") {
    on_every_target([](const Kernels& k) {
        Random random(5);
        for (int padded = k.width; padded <= 3 * k.width; padded += k.width) {
            for (int tokens = 0; tokens <= padded; ++tokens) {
                for (int features = 0; features <= 2 * k.width + 3; ++features) {
                    CAPTURE(padded);
                    CAPTURE(tokens);
                    CAPTURE(features);
                    const int stride = features + between(random, 0, 3);
                    const int pitch = padded + between(random, 0, 2) * k.width;
                    // The last token ends where the memory does.
                    Floats x = floats(random, static_cast<std::size_t>(
                                                  std::max(0, tokens == 0 ? 0 : (tokens - 1) * stride + features)));
                    if (!x.empty())
                        x[static_cast<std::size_t>(between(random, 0, static_cast<int>(x.size()) - 1))] = not_a_number;
                    Floats right(static_cast<std::size_t>(features * pitch), untouched);
                    for (int f = 0; f < features; ++f) {
                        for (int t = 0; t < padded; ++t) {
                            right[static_cast<std::size_t>(f * pitch + t)] =
                                t < tokens ? x[static_cast<std::size_t>(t * stride + f)] : 0.0f;
                        }
                    }
                    Floats out(right.size(), untouched);
                    k.pack_tokens(x.data(), static_cast<std::size_t>(stride), tokens, features, out.data(), pitch,
                                  padded);
                    CHECK(differs(out, right) == "");
                }
            }
        }
    });
}

TEST_CASE("kernels: pack_planes cuts neighbouring planes alike") {
    on_every_target([](const Kernels& k) {
        Random random(7);
        for (int round = 0; round < 2000; ++round) {
            CAPTURE(round);
            const int step = between(random, 1, 4);
            const auto plane = static_cast<std::size_t>(between(random, 1, 400));
            const auto channels = static_cast<std::size_t>(between(random, 1, 3));
            std::vector<Segment> segments;
            int end = 0;
            while (chance(random, 0.9)) {
                const int most = (static_cast<int>(plane) - 1) / step + 1;
                const int count = std::min(most, between(random, 1, chance(random, 0.5) ? 12 : 70));
                // Often to the last element of the plane.
                const int last_from = static_cast<int>(plane) - 1 - (count - 1) * step;
                const int from = chance(random, 0.3) ? last_from : between(random, 0, last_from);
                segments.push_back({chance(random, 0.3) ? -1 : from, end, count});
                end += count + (chance(random, 0.2) ? 1 : 0);
            }
            const auto window = static_cast<std::size_t>(end + between(random, 0, 3));
            const float fill = one_of(random, std::vector<float>{0.0f, -infinite});
            const Floats planes = floats(random, channels * plane);
            Floats right(channels * window, untouched);
            for (std::size_t c = 0; c < channels; ++c) {
                for (const Segment& s : segments) {
                    for (int i = 0; i < s.count; ++i) {
                        right[c * window + static_cast<std::size_t>(s.to + i)] =
                            s.from < 0 ? fill : planes[c * plane + static_cast<std::size_t>(s.from + i * step)];
                    }
                }
            }
            Floats out(right.size(), untouched);
            k.pack_planes(planes.data(), plane, channels, segments.data(), static_cast<int>(segments.size()), step,
                          fill, out.data(), window);
            CHECK(differs(out, right) == "");
        }
    });
}

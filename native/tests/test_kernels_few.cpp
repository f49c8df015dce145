// The functions of the table for a few samples, of every target, against those for one.
#include <doctest/doctest.h>

#include <algorithm>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

std::vector<int> samples_of(const Kernels& k) {
    return k.width == 8 ? std::vector<int>{2, 4, 8} : std::vector<int>{2};
}

// Slices of 0 to 70 steps, more than are widened at a time, that do not begin at the first entry.
template <class Element, class Draw>
void check_few(const Kernels& k, decltype(Kernels::few_f32) few, decltype(Kernels::dot_f32) dot, const Draw& draw) {
    Random random(20);
    constexpr std::size_t columns = 65536;
    for (const int samples : samples_of(k)) {
        const auto side_by_side = static_cast<std::size_t>(samples);
        const Floats x = floats(random, columns * side_by_side);
        for (const bool quads : {false, true}) {
            for (const bool first : {false, true}) {
                CAPTURE(samples);
                CAPTURE(quads);
                CAPTURE(first);
                std::vector<Slice> slices;
                std::int64_t begin = 3;
                for (int steps = 0; steps <= 70; steps += between(random, 1, 7)) {
                    slices.push_back({begin, steps});
                    begin += steps + between(random, 0, 1);
                }
                begin = slices.back().begin + slices.back().steps;
                std::vector<Element> values(static_cast<std::size_t>(8 * begin));
                for (Element& value : values) value = draw(random);
                std::vector<std::uint16_t> column(values.size() / (quads ? 4 : 1));
                for (std::uint16_t& c : column) c = static_cast<std::uint16_t>(between(random, 0, columns - 1));
                column.back() = columns - 1;
                const SliceList list{slices.data(), static_cast<int>(slices.size()), column.data(), values.data(),
                                     quads};

                // A gap between the samples' results that nobody may touch.
                const std::size_t size = 8 * slices.size();
                const std::size_t pitch = size + 3;
                Floats out = floats(random, side_by_side * pitch);
                Floats right = out;
                for (std::size_t s = 0; s < side_by_side; ++s) {
                    Floats one(columns);
                    for (std::size_t c = 0; c < columns; ++c) one[c] = x[c * side_by_side + s];
                    dot(list, one.data(), right.data() + s * pitch, first);
                    if (first) std::fill_n(out.data() + s * pitch, size, not_a_number);
                }
                few(list, x.data(), samples, out.data(), pitch, first);
                CHECK(differs(out, right) == "");
            }
        }
    }
}

}  // namespace

TEST_CASE("kernels: products of a few samples are those of each of them, for each type of value") {
    on_every_target([](const Kernels& k) {
        const auto whole = [](Random& random) { return between(random, 1, 8) * (chance(random, 0.5) ? 1 : -1); };
        check_few<float>(k, k.few_f32, k.dot_f32, [&](Random& random) { return static_cast<float>(whole(random)); });
        check_few<std::uint16_t>(k, k.few_f16, k.dot_f16, [&](Random& random) { return whole_half(whole(random)); });
        check_few<std::int8_t>(k, k.few_int8, k.dot_int8,
                               [](Random& random) { return static_cast<std::int8_t>(between(random, -128, 127)); });
    });
}

TEST_CASE("kernels: activations of a few samples lie side by side, zeros where there is no sample") {
    on_every_target([](const Kernels& k) {
        Random random(21);
        for (const int samples : samples_of(k)) {
            for (int tokens = samples / 2 + 1; tokens <= samples; ++tokens) {
                for (int features = 1; features <= 19; ++features) {
                    CAPTURE(samples);
                    CAPTURE(tokens);
                    CAPTURE(features);
                    const auto stride = static_cast<std::size_t>(features + between(random, 0, 2));
                    // Not a float more than there must be.
                    const auto size =
                        static_cast<std::size_t>(tokens - 1) * stride + static_cast<std::size_t>(features);
                    const Floats x = floats(random, size);
                    Floats right;
                    for (int f = 0; f < features; ++f) {
                        for (int s = 0; s < samples; ++s) {
                            const std::size_t at = static_cast<std::size_t>(s) * stride + static_cast<std::size_t>(f);
                            right.push_back(s < tokens ? x[at] : 0.0f);
                        }
                    }
                    Floats out(right.size(), not_a_number);
                    k.pack_few(x.data(), stride, tokens, features, samples, out.data());
                    CHECK(differs(out, right) == "");
                }
            }
        }
    });
}

// One vector of this target, and the few operations on it that the compiler's vector types do not spell.
//
// Included by targets/*.cpp, inside the target's own anonymous namespace, after ISOGRID_WIDTH is set.

constexpr int width = ISOGRID_WIDTH;
// The longest ones, which rows of a tile are taken in.
constexpr int wide_width = ISOGRID_WIDE_WIDTH;

template <int N>
struct Lanes {
    typedef float Floats __attribute__((vector_size(N * 4)));
    typedef std::int32_t Ints __attribute__((vector_size(N * 4)));
    typedef std::uint32_t Bits __attribute__((vector_size(N * 4)));
    // As they lie in memory: at any address, whatever their type was declared to be.
    typedef float Loose __attribute__((vector_size(N * 4), aligned(4), may_alias));
};
using Vec = Lanes<width>::Floats;
using Ints = Lanes<width>::Ints;
using Wide = Lanes<wide_width>::Floats;

template <class V>
using LanesOf = Lanes<static_cast<int>(sizeof(V) / sizeof(float))>;

template <class V = Vec>
inline V load(const float* p) {
    return *reinterpret_cast<const typename LanesOf<V>::Loose*>(p);
}

template <class V>
inline void store(float* p, V v) {
    *reinterpret_cast<typename LanesOf<V>::Loose*>(p) = v;
}

// Four lanes, whatever the target's vectors have.
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4), may_alias));

inline Four four_at(const float* p) {
    return *reinterpret_cast<const LooseFour*>(p);
}

inline void put_four(float* p, Four v) {
    *reinterpret_cast<LooseFour*>(p) = v;
}

template <class V = Vec>
inline V all(float value) {
    return value - V{};
}

inline Ints all_ints(std::int32_t value) {
    return value - Ints{};
}

// Sums of bits, which wrap around as those of unsigned numbers do.
inline Ints add_bits(Ints a, Ints b) {
    using Bits = Lanes<width>::Bits;
    return reinterpret_cast<Ints>(reinterpret_cast<Bits>(a) + reinterpret_cast<Bits>(b));
}

// Where `mask` (all bits set or none) is set, `yes`, else `no`.
template <class V>
inline V choose(typename LanesOf<V>::Ints mask, V yes, V no) {
    return mask ? yes : no;
}

// The comparisons are false for NaN, so in each of these NaN comes out where NaN went in.
template <class V>
inline V at_least(V x, float low) {
    return choose(x < all<V>(low), all<V>(low), x);
}

template <class V>
inline V at_most(V x, float high) {
    return choose(x > all<V>(high), all<V>(high), x);
}

inline Vec magnitude(Vec x) {
    return reinterpret_cast<Vec>(reinterpret_cast<Ints>(x) & all_ints(0x7fffffff));
}

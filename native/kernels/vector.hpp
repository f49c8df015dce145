// One vector of this target, and the few operations on it that the compiler's vector types do not spell.
//
// Included by targets/*.cpp, inside the target's own anonymous namespace, after ISOGRID_WIDTH is set.

constexpr int width = ISOGRID_WIDTH;

typedef float Vec __attribute__((vector_size(ISOGRID_WIDTH * 4)));
typedef std::int32_t Ints __attribute__((vector_size(ISOGRID_WIDTH * 4)));
// As it lies in memory: at any address, whatever its type was declared to be.
typedef float Loose __attribute__((vector_size(ISOGRID_WIDTH * 4), aligned(4), may_alias));

inline Vec load(const float* p) {
    return *reinterpret_cast<const Loose*>(p);
}

inline void store(float* p, Vec v) {
    *reinterpret_cast<Loose*>(p) = v;
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

inline Vec all(float value) {
    return value - Vec{};
}

inline Ints all_ints(std::int32_t value) {
    return value - Ints{};
}

// Sums of bits, which wrap around as those of unsigned numbers do.
inline Ints add_bits(Ints a, Ints b) {
    typedef std::uint32_t Bits __attribute__((vector_size(ISOGRID_WIDTH * 4)));
    return reinterpret_cast<Ints>(reinterpret_cast<Bits>(a) + reinterpret_cast<Bits>(b));
}

// Where `mask` (all bits set or none) is set, `yes`, else `no`.
inline Vec choose(Ints mask, Vec yes, Vec no) {
    return reinterpret_cast<Vec>((mask & reinterpret_cast<Ints>(yes)) | (~mask & reinterpret_cast<Ints>(no)));
}

// The comparisons are false for NaN, so in each of these NaN comes out where NaN went in.
inline Vec at_least(Vec x, float low) {
    return choose(x < all(low), all(low), x);
}

inline Vec at_most(Vec x, float high) {
    return choose(x > all(high), all(high), x);
}

inline Vec magnitude(Vec x) {
    return reinterpret_cast<Vec>(reinterpret_cast<Ints>(x) & all_ints(0x7fffffff));
}

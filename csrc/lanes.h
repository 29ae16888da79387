// Vectors of doubles written with ordinary operators, and the switch that compiles a hot loop once for each x86-64 level
// with the vectors of that level. Header-only, no Python.
//
// Every operation acts on each lane by itself and is rounded once, so the width of the vectors changes no bit of any
// answer, as long as the caller fixes the order in which lanes are added up. A plain double is the vector of one lane,
// for compilers without vector types.
#ifndef RRISE_LANES_H
#define RRISE_LANES_H

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "rrise: build without -ffast-math and -ffinite-math-only; they delete the NaN checks a certificate rests on"
#endif

#if defined(__GNUC__)
#define RRISE_INLINE inline __attribute__((always_inline))
#else
#define RRISE_INLINE inline
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(RRISE_NO_CLONES)
#define RRISE_LEVELS 1
#endif

// RRISE_CLONES: compile the function for x86-64, v3 (AVX2) and v4 (AVX-512), the loader picks. Needs GCC and glibc's
// ifunc; elsewhere, or with RRISE_NO_CLONES defined, it means nothing and the results are the same.
//
// RRISE_DISPATCH(signature, body): the same for a body that names its vectors: V is Doubles<L> with the level's own L.
#if defined(RRISE_LEVELS)
#define RRISE_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"), unused))
#define RRISE_LEVEL(level, lanes, signature, ...)                  \
  __attribute__((target(level), unused)) static signature noexcept { \
    using V = ::rrise::Doubles<lanes>;                             \
    __VA_ARGS__                                                    \
  }
#define RRISE_DISPATCH(signature, ...)                   \
  RRISE_LEVEL("default", 2, signature, __VA_ARGS__)        \
  RRISE_LEVEL("arch=x86-64-v3", 4, signature, __VA_ARGS__) \
  RRISE_LEVEL("arch=x86-64-v4", 8, signature, __VA_ARGS__)
#else
#if defined(__GNUC__)
#define RRISE_CLONES __attribute__((unused))
#else
#define RRISE_CLONES
#endif
#if !defined(__GNUC__) || defined(RRISE_NO_VECTORS)
#define RRISE_LANES 1
#elif defined(__AVX512F__)
#define RRISE_LANES 8
#elif defined(__AVX2__)
#define RRISE_LANES 4
#else
#define RRISE_LANES 2
#endif
#define RRISE_DISPATCH(signature, ...)         \
  RRISE_CLONES static signature noexcept {     \
    using V = ::rrise::Doubles<RRISE_LANES>;   \
    __VA_ARGS__                                \
  }
#endif

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are handed to inlined functions only, so no calling convention is at stake. GCC says it at the end of the
// file, where a "pop" would already have taken this back.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace rrise {

// The vector types of L lanes. Lanes<L>::Of<T> holds L numbers of type T.
template <class T, std::size_t L>
struct Lanes {
#if defined(__GNUC__)
  typedef T Type __attribute__((vector_size(L * sizeof(T))));
#endif
};
template <class T>
struct Lanes<T, 1> {
  using Type = T;
};

template <std::size_t L>
using Doubles = typename Lanes<double, L>::Type;

template <class V>
constexpr std::size_t lanes_of = sizeof(V) / sizeof(double);

// The 64-bit patterns of V's lanes.
template <class V>
using BitsOf = typename Lanes<std::uint64_t, lanes_of<V>>::Type;

template <class V>
RRISE_INLINE BitsOf<V> bits_of(const V& x) noexcept {
  BitsOf<V> b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}

template <class V = double>
RRISE_INLINE V from_bits(const BitsOf<V>& b) noexcept {
  V x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}

// All lanes equal to x. (x + V{} would turn -0.0 into 0.0.)
template <class V>
RRISE_INLINE V all(double x) noexcept {
  return x - V{};
}

template <class V>
RRISE_INLINE V load(const double* p) noexcept {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// float32 widened, which is exact.
template <class V>
RRISE_INLINE V load(const float* p) noexcept {
  typename Lanes<float, lanes_of<V>>::Type x;
  std::memcpy(&x, p, sizeof x);
#if defined(__GNUC__)
  if constexpr (lanes_of<V> > 1) return __builtin_convertvector(x, V);
#endif
  if constexpr (lanes_of<V> == 1) return x;
}

template <class V>
RRISE_INLINE void store(double* p, const V& x) noexcept {
  std::memcpy(p, &x, sizeof x);
}

}  // namespace rrise

#endif  // RRISE_LANES_H

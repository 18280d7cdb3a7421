// What a game is. Rules are const functions of a small options object; what happened is a State value.
//
// A TurnGame has one player to act at a time; nature acts as player kChance with explicit outcomes. A State is
// trivially copyable: a copy is a memcpy, a tree stores states flat. Numbers follow OpenSpiel.
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>
#include <type_traits>

#if defined(__CUDACC__)
#define SPF_HD __host__ __device__
#else
#define SPF_HD
#endif

namespace spf {

using Player = int;
using Action = std::int64_t;  // small for enumerable actions; a game may pack a rich action into all 64 bits

inline constexpr Player kChance = -1;
inline constexpr Player kSimultaneous = -2;
inline constexpr Player kTerminal = -4;
inline constexpr Action kInvalidAction = -1;

}  // namespace spf

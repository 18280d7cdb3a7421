// What a game is. Rules are const functions of a small options object; what happened is a State value.
//
// A TurnGame has one player to act at a time; nature acts as player kChance with explicit outcomes. A State is
// trivially copyable: a copy is a memcpy, a tree stores states flat. Numbers follow OpenSpiel.
//
//     struct Coin {                                     // options are data members with defaults
//         int flips = 1;
//         static constexpr std::string_view kName = "coin";
//         struct State { ... };
//         SPF_HD State initial() const;
//         SPF_HD Player current_player(const State&) const;   // kTerminal when over, kChance when nature moves
//         SPF_HD ActionSet<kMaxActions> legal_actions(const State&) const;        // empty at chance and when over
//         SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State&) const;  // only at chance
//         SPF_HD void apply(State&, Action) const;            // trusts its caller; the batch has checked
//         SPF_HD float returns(const State&, Player) const;   // 0 until the game is over
//         std::string information_state(const State&, Player) const;
//     };
//     static_assert(TurnGame<Coin>);
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
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

SPF_HD inline int count_bits(std::uint64_t word) {
#if defined(__CUDA_ARCH__)
    return __popcll(word);
#elif defined(__x86_64__) && !defined(__POPCNT__)  // there the builtin is a call into a library
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
    return static_cast<int>((word * 0x0101010101010101u) >> 56);
#else
    return __builtin_popcountll(word);
#endif
}

SPF_HD inline int lowest_bit(std::uint64_t word) {  // word != 0
#if defined(__CUDA_ARCH__)
    return __ffsll(static_cast<long long>(word)) - 1;
#else
    return __builtin_ctzll(word);
#endif
}

SPF_HD inline int highest_bit(std::uint64_t word) {  // word != 0
#if defined(__CUDA_ARCH__)
    return 63 - __clzll(static_cast<long long>(word));
#else
    return 63 - __builtin_clzll(word);
#endif
}

// Nibble n of kNthBit[word] says where the n-th lowest bit of a word of nine bits is: a board of nine cells.
inline constexpr unsigned kTableBits = 9;
inline constexpr auto kNthBit = [] {
    std::array<std::uint64_t, 1u << kTableBits> table{};
    for (unsigned word = 0; word < table.size(); ++word) {
        unsigned n = 0;
        for (unsigned bit = 0; bit < kTableBits; ++bit) {
            if (((word >> bit) & 1u) != 0) table[word] |= std::uint64_t{bit} << (4 * n++);
        }
    }
    return table;
}();

// kBytesOfBits[byte]: a byte of 0 or 1 for every bit.
inline constexpr auto kBytesOfBits = [] {
    std::array<std::array<std::uint8_t, 8>, 256> table{};
    for (unsigned byte = 0; byte < table.size(); ++byte) {
        for (unsigned bit = 0; bit < 8; ++bit) table[byte][bit] = static_cast<std::uint8_t>((byte >> bit) & 1u);
    }
    return table;
}();

// The position of the index-th lowest bit of a word that has more than index. No branches on the index: a random one
// would mispredict them.
template <int Bits = 64>
SPF_HD inline int nth_bit(std::uint64_t word, int index) {
#if defined(__CUDA_ARCH__)
    for (; index > 0; --index) word &= word - 1;
    return lowest_bit(word);
#else
    const auto look_up = [](std::uint64_t bits, int n) { return static_cast<int>((kNthBit[bits] >> (4 * n)) & 15u); };
    if (Bits <= static_cast<int>(kTableBits) || word < kNthBit.size()) return look_up(word, index);
    constexpr std::uint64_t kBytes = 0x0101010101010101u;
    std::uint64_t counts = word - ((word >> 1) & 0x5555555555555555u);
    counts = (counts & 0x3333333333333333u) + ((counts >> 2) & 0x3333333333333333u);
    counts = ((counts + (counts >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * kBytes;  // byte i: bits in bytes 0 .. i
    const std::uint64_t wanted = static_cast<std::uint64_t>(index) * kBytes | 0x8080808080808080u;
    const std::uint64_t skipped = ((wanted - counts) >> 7) & kBytes;  // 1 in byte i if the bit lies beyond it
    const int shift = static_cast<int>((skipped * kBytes) >> 56) * 8;
    const int before = static_cast<int>(((counts << 8) >> shift) & 0xFFu);
    return shift + look_up((word >> shift) & 0xFFu, index - before);
#endif
}

// A set of enumerable actions 0..N-1, one bit each; iterates in ascending order.
template <int N>
struct ActionSet {
    static constexpr int kWords = (N + 63) / 64;
    std::uint64_t words[kWords] = {};

    SPF_HD void insert(Action a) { words[a >> 6] |= std::uint64_t{1} << (a & 63); }
    // Inserts first + i for every bit i.
    SPF_HD void insert_bits(Action first, std::uint64_t bits) {
        const int word = static_cast<int>(first >> 6), shift = static_cast<int>(first & 63);
        words[word] |= bits << shift;
        if (shift != 0 && word + 1 < kWords) words[word + 1] |= bits >> (64 - shift);
    }
    SPF_HD bool contains(Action a) const { return a >= 0 && a < N && ((words[a >> 6] >> (a & 63)) & 1) != 0; }
    SPF_HD int size() const {
        int total = 0;
        for (int w = 0; w < kWords; ++w) total += count_bits(words[w]);
        return total;
    }
    SPF_HD bool empty() const {
        for (int w = 0; w < kWords; ++w) {
            if (words[w] != 0) return false;
        }
        return true;
    }
    // The index-th smallest member; 0 <= index < size().
    SPF_HD Action nth(int index) const {
        int w = 0;
        for (; w < kWords - 1; ++w) {
            const int here = count_bits(words[w]);
            if (index < here) break;
            index -= here;
        }
        return w * 64 + nth_bit<N>(words[w], index);
    }

    // The words that hold the actions below count.
    static constexpr int words_for(int count) { return (count + 63) / 64; }
    // One byte of 0 or 1 for every action below count.
    SPF_HD void expand(int count, std::uint8_t* out) const {
#if defined(__CUDA_ARCH__)  // the table is the host's
        for (int a = 0; a < count; ++a) out[a] = static_cast<std::uint8_t>((words[a >> 6] >> (a & 63)) & 1u);
#else
        for (int first = 0; first < count; first += 8) {
            const auto& bytes = kBytesOfBits[(words[first >> 6] >> (first & 63)) & 0xFFu];
            if (first + 8 <= count) {
                std::memcpy(out + first, bytes.data(), 8);
            } else {
                for (int a = first; a < count; ++a) out[a] = bytes[static_cast<std::size_t>(a - first)];
            }
        }
#endif
    }

    struct Iterator {
        const ActionSet* set;
        int word;
        std::uint64_t rest;
        SPF_HD void settle() {
            while (rest == 0 && ++word < kWords) rest = set->words[word];
        }
        SPF_HD Action operator*() const { return word * 64 + lowest_bit(rest); }
        SPF_HD Iterator& operator++() {
            rest &= rest - 1;
            settle();
            return *this;
        }
        SPF_HD bool operator!=(const Iterator& other) const { return word != other.word || rest != other.rest; }
    };
    SPF_HD Iterator begin() const {
        Iterator it{this, 0, words[0]};
        it.settle();
        return it;
    }
    SPF_HD Iterator end() const { return {this, kWords, 0}; }

    bool operator==(const ActionSet&) const = default;
};

// What nature may do, with probabilities that sum to 1.
struct ChanceOutcome {
    Action action;
    double probability;
};

template <int N>
struct ChanceOutcomes {
    ChanceOutcome items[N > 0 ? N : 1];
    int count = 0;

    SPF_HD void push(Action action, double probability) { items[count++] = {action, probability}; }
    SPF_HD int size() const { return count; }
    SPF_HD const ChanceOutcome& operator[](int i) const { return items[i]; }
    SPF_HD const ChanceOutcome* begin() const { return items; }
    SPF_HD const ChanceOutcome* end() const { return items + count; }
};

// One option of a game: an integer in [low, high], or one of several words (then the value is the word's index).
template <class Game>
struct Option {
    std::string_view name;
    int Game::* member;
    int low, high;
    std::string_view help;
    std::string_view words = {};  // separated by single spaces; empty for a number
    int step = 1;                 // allowed values are low, low + step, ..., high
    bool told = true;             // do players read it? not what changes only how a result is paid
};

template <class G>
concept TurnGame =
    std::is_trivially_copyable_v<typename G::State> && std::copyable<G> &&
    requires(const G& game, typename G::State& state, const typename G::State& seen, Player player, Action action) {
        { G::kName } -> std::convertible_to<std::string_view>;
        { G::kPlayers } -> std::convertible_to<int>;     // of this many, or at most: then num_players() says how many
        { G::kMaxActions } -> std::convertible_to<int>;  // upper bound over all options
        { G::kMaxChance } -> std::convertible_to<int>;   // most outcomes of one chance node
        { G::kZeroSum } -> std::convertible_to<bool>;
        { G::kPerfectInformation } -> std::convertible_to<bool>;
        { G::options() };                             // std::array<Option<G>, n>
        { game.num_actions() } -> std::same_as<int>;  // enumerable actions under these options
        { game.max_plies() } -> std::same_as<int>;    // longest history, chance included
        { game.max_turns() } -> std::same_as<int>;    // longest history, players only
        { game.initial() } -> std::same_as<typename G::State>;
        { game.current_player(seen) } -> std::same_as<Player>;
        { game.legal_actions(seen) } -> std::same_as<ActionSet<G::kMaxActions>>;
        { game.chance_outcomes(seen) } -> std::same_as<ChanceOutcomes<G::kMaxChance>>;
        { game.apply(state, action) } -> std::same_as<void>;
        { game.returns(seen, player) } -> std::same_as<float>;
        { game.information_state(seen, player) } -> std::same_as<std::string>;
    };

// May the player to move do this? A game whose actions go beyond the enumerable ones brings its own is_legal.
template <TurnGame Game>
SPF_HD bool is_legal(const Game& game, const typename Game::State& state, Action action) {
    if constexpr (requires { game.is_legal(state, action); }) {
        return game.is_legal(state, action);
    } else {
        return game.legal_actions(state).contains(action);
    }
}

template <TurnGame Game>
SPF_HD bool is_chance_outcome(const Game& game, const typename Game::State& state, Action action) {
    for (const ChanceOutcome& outcome : game.chance_outcomes(state)) {
        if (outcome.action == action) return true;
    }
    return false;
}

template <TurnGame Game>
SPF_HD int num_players(const Game& game) {
    if constexpr (requires { game.num_players(); }) {
        return game.num_players();
    } else {
        return Game::kPlayers;
    }
}

// Games in which players may talk: what was said travels beside the actions, never inside a State.
template <class Game>
inline constexpr bool kHasSpeech = requires { requires Game::kSpeech; };

}  // namespace spf

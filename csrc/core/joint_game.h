// What a game is in which all players act at once. Rules are const functions of a small options object, as for a
// TurnGame; a tick takes one move per player. Chance is drawn inside: initial and tick get a stream of their own, so a
// game is a function of its key and its moves.
//
//     struct Race {                                     // options are data members with defaults
//         int laps = 3;
//         static constexpr std::string_view kName = "race";
//         static constexpr int kPlayers = 2, kMaxActions = 3;
//         struct State { ... };
//         SPF_HD State initial(Rng) const;
//         SPF_HD bool is_over(const State&) const;
//         SPF_HD ActionSet<kMaxActions> legal_actions(const State&, Player) const;  // empty when over, else never
//         SPF_HD void tick(State&, const Action* moves, Rng) const;                 // moves[player]; trusts its caller
//         SPF_HD float returns(const State&, Player) const;                         // 0 until the game is over
//         std::string information_state(const State&, Player) const;
//     };
//     static_assert(JointGame<Race>);
//
// A game of motion has kControls instead of actions: that many numbers per player and tick, each in -1 .. 1, and
// tick(State&, const float* controls, Rng) gets them player by player. It says is_sound(const State&), which decides
// whether the bytes of a snapshot are a state, because histories of such games are too long to keep.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/game.h"
#include "core/rng.h"

namespace spf {

// Numbers per player and tick of a game of motion, 0 for a game with actions.
template <class G>
inline constexpr int kControlsOf = [] {
    if constexpr (requires { G::kControls; }) {
        return int{G::kControls};
    } else {
        return 0;
    }
}();

// One entry of a move, and how many of them one player gives.
template <class G>
using MoveNumber = std::conditional_t<(kControlsOf<G> > 0), float, Action>;
template <class G>
inline constexpr int kMoveWidth = kControlsOf<G> > 0 ? kControlsOf<G> : 1;

template <class G>
concept JointRules = std::is_trivially_copyable_v<typename G::State> && std::copyable<G> &&
                     requires(const G& game, typename G::State& state, const typename G::State& seen, Player player,
                              const MoveNumber<G>* moves, Rng rng) {
                         { G::kName } -> std::convertible_to<std::string_view>;
                         { G::kPlayers } -> std::convertible_to<int>;
                         { G::kZeroSum } -> std::convertible_to<bool>;
                         { G::kPerfectInformation } -> std::convertible_to<bool>;
                         { G::options() };                           // std::array<Option<G>, n>
                         { game.max_ticks() } -> std::same_as<int>;  // longest game
                         { game.initial(rng) } -> std::same_as<typename G::State>;
                         { game.is_over(seen) } -> std::same_as<bool>;
                         { game.tick(state, moves, rng) } -> std::same_as<void>;
                         { game.returns(seen, player) } -> std::same_as<float>;
                     };

template <class G>
concept ActionRules = requires(const G& game, const typename G::State& seen, Player player) {
    { G::kMaxActions } -> std::convertible_to<int>;  // upper bound over all options
    { game.num_actions() } -> std::same_as<int>;     // of one player under these options
    { game.legal_actions(seen, player) } -> std::same_as<ActionSet<G::kMaxActions>>;
    { game.information_state(seen, player) } -> std::same_as<std::string>;
};

template <class G>
concept MotionRules = kControlsOf<G> > 0 && requires(const G& game, const typename G::State& seen) {
    { game.is_sound(seen) } -> std::same_as<bool>;
};

template <class G>
concept JointGame = JointRules<G> && (ActionRules<G> || MotionRules<G>);

template <JointGame Game>
constexpr int num_players(const Game&) {
    return Game::kPlayers;
}

// One seat of a joint game, seen as a game of its own in which only this player ever moves. What reads and writes words
// for one player at a time works on it as on a TurnGame.
template <JointGame Game>
struct Seat {
    using State = typename Game::State;
    Game game;
    Player player = 0;

    Player current_player(const State& s) const { return game.is_over(s) ? kTerminal : player; }
    auto legal_actions(const State& s) const { return game.legal_actions(s, player); }
};

// One player to move at a time: a TurnGame or a Seat.
template <class G>
concept Seated = requires(const G& game, const typename G::State& seen) {
    { game.current_player(seen) } -> std::same_as<Player>;
    game.legal_actions(seen);
};

}  // namespace spf

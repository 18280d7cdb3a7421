// Nim: players in turn take objects from one pile. Whoever takes the last object wins, or loses in the misere game.
//
// Action (take - 1) * piles + pile takes that many from that pile, as in OpenSpiel.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"

namespace spf {

struct Nim {
    int piles = 0;   // index into kStarts
    int misere = 0;  // 1: the last object loses

    static constexpr std::string_view kName = "nim";
    static constexpr int kMostPiles = 4, kLargestPile = 9;
    static constexpr std::string_view kStartWords = "3;4;5 1;2;3 5;7;9 1;3;5;7";
    static constexpr std::uint8_t kStarts[4][kMostPiles] = {{3, 4, 5, 0}, {1, 2, 3, 0}, {5, 7, 9, 0}, {1, 3, 5, 7}};
    static constexpr int kPlayers = 2, kMaxActions = 28, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr auto options() {
        return std::array{
            Option<Nim>{"piles", &Nim::piles, 0, 3, "objects per pile at the start", kStartWords},
            Option<Nim>{"misere", &Nim::misere, 0, 1, "yes: whoever takes the last object loses", "no yes"}};
    }

    // A pile of k objects is the k actions that take from it, so the legal actions are the state itself.
    struct State {
        std::uint32_t takes = 0;
        std::uint32_t turn = 0;
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_piles() const { return kStarts[piles][3] == 0 ? 3 : 4; }
    SPF_HD int largest() const { return kStarts[piles][num_piles() - 1]; }
    SPF_HD int num_actions() const { return num_piles() * largest(); }
    SPF_HD int max_plies() const {
        int objects = 0;
        for (int pile = 0; pile < num_piles(); ++pile) objects += kStarts[piles][pile];
        return objects;
    }
    SPF_HD int max_turns() const { return max_plies(); }

    SPF_HD State initial() const {
        State s;
        for (int pile = 0; pile < num_piles(); ++pile) {
            for (int take = 0; take < kStarts[piles][pile]; ++take) s.takes |= 1u << (take * num_piles() + pile);
        }
        return s;
    }
    SPF_HD Player current_player(const State& s) const { return s.takes == 0 ? kTerminal : next(s); }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const { return {{s.takes}}; }
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State&) const { return {}; }
    SPF_HD void apply(State& s, Action action) const {
        const std::uint32_t pile = all_of(pile_of(action)), own = s.takes & pile;
        s.takes = (s.takes ^ own) | ((own >> (taken(action) * num_piles())) & pile);
        ++s.turn;
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.takes != 0) return 0.0f;
        return (next(s) == player) == (misere == 1) ? 1.0f : -1.0f;
    }

    // Who is to move and the piles: all there is to know.
    std::string information_state(const State& s, Player) const {
        std::string key = "(" + std::to_string(next(s)) + "):";
        for (int pile = 0; pile < num_piles(); ++pile) key += " " + std::to_string(objects(s, pile));
        return key;
    }

    // OpenSpiel's observation, one-hot throughout: who is to move, the number of piles, the objects of every pile.
    std::array<int, 1> tensor_shape() const { return {2 + num_piles() + 1 + num_piles() * (largest() + 1)}; }
    void observation_tensor(const State& s, Player, float* out) const {
        for (int i = 0; i < tensor_shape()[0]; ++i) out[i] = 0.0f;
        out[next(s)] = 1.0f;
        out += 2;
        if (s.takes == 0) out[0] = 1.0f;  // as it marks the end
        out[num_piles()] = 1.0f;
        out += num_piles() + 1;
        for (int pile = 0; pile < num_piles(); ++pile, out += largest() + 1) out[objects(s, pile)] = 1.0f;
    }

    SPF_HD int objects(const State& s, int pile) const { return count_bits(s.takes & all_of(pile)); }
    SPF_HD int pile_of(Action action) const {  // both divisions by constants
        const auto a = static_cast<unsigned>(action);
        return static_cast<int>(num_piles() == 3 ? a % 3 : a % 4);
    }
    SPF_HD int taken(Action action) const {
        const auto a = static_cast<unsigned>(action);
        return static_cast<int>(num_piles() == 3 ? a / 3 : a / 4) + 1;
    }

  private:
    SPF_HD static Player next(const State& s) { return static_cast<Player>(s.turn % 2); }
    SPF_HD std::uint32_t all_of(int pile) const {  // the actions of one pile, whatever its size
        return (num_piles() == 3 ? 0x49249249u : 0x11111111u) << pile;
    }
};
static_assert(TurnGame<Nim>);

}  // namespace spf

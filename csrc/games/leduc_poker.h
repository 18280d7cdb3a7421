// Leduc poker (Southey et al. 2005), numbered as in OpenSpiel: six cards, two each of J, Q, K (card / 2 is the rank).
// An ante of one chip, a private card each, a round of betting, a public card, a second round. Raises are 2 chips in
// the first round and 4 in the second, two per round at most; player 0 begins both. A pair with the public card wins,
// else the higher rank; equal ranks split.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"

namespace spf {

struct LeducPoker {
    static constexpr std::string_view kName = "leduc_poker";
    static constexpr int kPlayers = 2, kMaxActions = 3, kCards = 6, kMaxChance = kCards;
    static constexpr int kRounds = 2, kMaxRaises = 2, kMaxMoves = 4;  // of one round: call, raise, raise, call
    static constexpr Action kFold = 0, kCall = 1, kRaise = 2;         // to call nothing is to check
    static constexpr bool kZeroSum = true, kPerfectInformation = false;
    static constexpr std::array<Option<LeducPoker>, 0> options() { return {}; }

    struct State {
        std::int8_t to_move = kChance;
        std::int8_t card[2] = {-1, -1}, board = -1;  // -1 until dealt
        std::uint8_t round = 0;                      // kRounds when both are over
        std::uint8_t raises = 0;                     // in this round
        std::int8_t folded = -1;                     // the player who did
        std::uint8_t chips[2] = {1, 1};              // put in
        std::uint8_t count[kRounds] = {0, 0};        // moves by round
        std::uint8_t log[kRounds] = {0, 0};          // the moves, two bits each
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return 3; }
    SPF_HD int max_plies() const { return 3 + kRounds * kMaxMoves; }
    SPF_HD int max_turns() const { return kRounds * kMaxMoves; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const { return s.to_move; }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        const Player player = s.to_move;
        if (player < 0) return {};
        const unsigned fold = s.chips[player] < s.chips[1 - player] ? 1u : 0u;
        const unsigned raise = s.raises < kMaxRaises ? 4u : 0u;
        return {{fold | 2u | raise}};
    }
    // A card for player 0, one for player 1, and after the first round the public one.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (s.to_move != kChance) return outcomes;
        const ActionSet<kCards> left = deck(s);
        for (const Action card : left) outcomes.push(card, 1.0 / left.size());
        return outcomes;
    }
    SPF_HD Action sample_chance(const State& s, Rng rng) const { return pick(deck(s), rng); }

    SPF_HD void apply(State& s, Action action) const {
        const Player player = s.to_move;
        if (player == kChance) {
            (s.card[0] < 0 ? s.card[0] : s.card[1] < 0 ? s.card[1] : s.board) = static_cast<std::int8_t>(action);
            if (s.card[1] >= 0) s.to_move = 0;
            return;
        }
        const int at = s.count[s.round]++;
        s.log[s.round] = static_cast<std::uint8_t>(s.log[s.round] | (action << (2 * at)));
        if (action == kFold) {
            s.folded = s.to_move;
            s.to_move = kTerminal;
            return;
        }
        const int raised = action == kRaise ? raise_chips(s.round) : 0;
        s.chips[player] = static_cast<std::uint8_t>(s.chips[1 - player] + raised);
        s.raises = static_cast<std::uint8_t>(s.raises + (raised > 0));
        s.to_move = static_cast<std::int8_t>(1 - player);
        if (raised > 0 || at == 0) return;
        s.to_move = static_cast<std::int8_t>(++s.round == kRounds ? kTerminal : kChance);
        s.raises = 0;
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.to_move != kTerminal) return 0.0f;
        if (s.folded >= 0) return static_cast<float>(s.folded == player ? -s.chips[player] : s.chips[s.folded]);
        const int lead = strength(s, player) - strength(s, 1 - player);
        return static_cast<float>(lead > 0 ? s.chips[1 - player] : lead < 0 ? -s.chips[player] : 0);
    }

    // The own card and the moves (f, c, r) of the first round; after it '/', the public card and those of the second.
    std::string information_state(const State& s, Player player) const {
        std::string key;
        if (s.card[player] >= 0) key += static_cast<char>('0' + s.card[player]);
        for (int round = 0; round < kRounds; ++round) {
            if (round == 1 && s.board < 0) break;
            if (round == 1) (key += '/') += static_cast<char>('0' + s.board);
            for (int i = 0; i < s.count[round]; ++i) key += "fcr"[move(s, round, i)];
        }
        return key;
    }

    // OpenSpiel's observation: player, own card, public card, chips put in by each.
    std::array<int, 1> tensor_shape() const { return {4 + 2 * kCards}; }
    void observation_tensor(const State& s, Player player, float* out) const {
        for (int i = 0; i < 4 + 2 * kCards; ++i) out[i] = 0.0f;
        out[player] = 1.0f;
        if (s.card[player] >= 0) out[2 + s.card[player]] = 1.0f;
        if (s.board >= 0) out[2 + kCards + s.board] = 1.0f;
        for (Player p = 0; p < 2; ++p) out[2 + 2 * kCards + p] = s.chips[p];
    }

    SPF_HD State resample(const State& s, Player observer, Rng& rng) const {
        State world = s;
        std::int8_t& hidden = world.card[1 - observer];
        if (hidden < 0 || s.round == kRounds) return world;  // not dealt yet, or shown
        hidden = -1;
        hidden = static_cast<std::int8_t>(pick(deck(world), rng));
        return world;
    }
    void retell(std::span<Action> history, const State& world, Player) const {
        for (std::size_t p = 0; p < 2 && p < history.size(); ++p) history[p] = world.card[p];
    }

    SPF_HD static int rank(int card) { return card / 2; }
    SPF_HD static int raise_chips(int round) { return round == 0 ? 2 : 4; }
    SPF_HD static Action move(const State& s, int round, int i) { return (s.log[round] >> (2 * i)) & 3; }

  private:
    SPF_HD static ActionSet<kCards> deck(const State& s) {
        std::uint64_t dealt = 0;
        for (const int card : {s.card[0], s.card[1], s.board}) {
            if (card >= 0) dealt |= std::uint64_t{1} << card;
        }
        return {{((std::uint64_t{1} << kCards) - 1) & ~dealt}};
    }
    SPF_HD static Action pick(const ActionSet<kCards>& cards, Rng& rng) {
        return cards.nth(static_cast<int>(rng.below(static_cast<std::uint32_t>(cards.size()))));
    }
    SPF_HD static int strength(const State& s, Player player) {
        const int own = rank(s.card[player]);
        return own == rank(s.board) ? 3 + own : own;
    }
};
static_assert(TurnGame<LeducPoker> && Resamples<LeducPoker>);

}  // namespace spf

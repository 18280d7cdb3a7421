// What a player of Hanabi sees (as a key and as an array) and may believe. Included by hanabi.h.
#pragma once

#include "games/hanabi.h"

namespace spf {

// As in the Hanabi Learning Environment this is what lies on the table now, not the whole history (so exact solvers
// refuse the game): hints live on in what is known of each card, and of past moves the last one of every other player
// is told.
inline std::string Hanabi::information_state(const State& s, Player player) const {
    std::string key = "t" + std::to_string(s.turn) + " f";
    for (int color = 0; color < colors; ++color) key += static_cast<char>('0' + s.fireworks[color]);
    key += " i" + std::to_string(s.info) + " l" + std::to_string(s.life) + " d" + std::to_string(s.deck_size) + " x";
    for (int number = 0; number < colors * ranks; ++number) {
        key += static_cast<char>('0' + discarded(s, card_of(number)));
    }
    for (int ahead = 0; ahead < players; ++ahead) {
        const Hand& seen = s.hands[seat(player + ahead)];
        for (int slot = 0; slot < seen.count; ++slot) {
            key += slot == 0 ? " h" : ",";
            if (ahead > 0) key += std::to_string(number_of(seen.card[slot])) + ":";
            key += std::to_string(seen.known[slot]);
        }
        const Move& move = s.last[seat(player + ahead)];
        if (ahead == 0 || move.action == Move::kNone) continue;
        key += " m" + std::to_string(move.action);
        if (move.action >= first_color()) {
            key += "=" + std::to_string(move.touched);
        } else {
            key += "=" + std::to_string(number_of(move.card)) + (move.scored ? "s" : "") + (move.token ? "t" : "");
        }
    }
    return key;
}

inline std::array<int, 1> Hanabi::tensor_shape() const {
    const int cards = colors * ranks, slots = players * hand_size();
    const int hands = (players - 1) * hand_size() * cards + players;
    const int board = deck_cards() - slots + cards + info_tokens + life_tokens;
    const int last_move = 2 * players + 4 + colors + ranks + 2 * hand_size() + cards + 2;
    return {hands + board + deck_cards() + last_move + slots * (cards + colors + ranks)};
}

inline void Hanabi::observation_tensor(const State& s, Player player, float* out) const {
    const int cards = colors * ranks;
    const auto flag = [&](bool set) { *out++ = set ? 1.0f : 0.0f; };
    const auto one_of = [&](int n, int value) {
        for (int i = 0; i < n; ++i) flag(i == value);
    };
    const auto first_of = [&](int n, int count) {
        for (int i = 0; i < n; ++i) flag(i < count);
    };
    for (int ahead = 1; ahead < players; ++ahead) {
        const Hand& seen = s.hands[seat(player + ahead)];
        for (int slot = 0; slot < hand_size(); ++slot) {
            one_of(cards, slot < seen.count ? static_cast<int>(number_of(seen.card[slot])) : -1);
        }
    }
    for (int ahead = 0; ahead < players; ++ahead) flag(s.hands[seat(player + ahead)].count < hand_size());

    first_of(deck_cards() - players * hand_size(), s.deck_size);
    for (int color = 0; color < colors; ++color) one_of(ranks, s.fireworks[color] - 1);
    first_of(info_tokens, s.info);
    first_of(life_tokens, s.life);
    for (int number = 0; number < cards; ++number) {
        first_of(copies(number % ranks), discarded(s, card_of(number)));
    }

    const int mover = seat(s.turn + players - 1);  // who moved last
    const Move& move = s.last[mover];
    const bool any = move.action != Move::kNone, reveals = any && move.action >= first_color();
    const bool plays = any && !reveals && move.action >= hand_size();
    const Hint told = reveals ? hint(move.action) : Hint{0, -1, false};
    one_of(players, any ? seat(mover + players - player) : -1);
    one_of(4, !any ? -1 : reveals ? (told.is_color ? 2 : 3) : plays ? 0 : 1);
    one_of(players, reveals ? (mover + told.ahead + players - player) % players : -1);
    one_of(colors, reveals && told.is_color ? told.value : -1);
    one_of(ranks, reveals && !told.is_color ? told.value : -1);
    for (int slot = 0; slot < hand_size(); ++slot) flag(((move.touched >> slot) & 1) != 0);
    one_of(hand_size(), any && !reveals ? move.action % hand_size() : -1);
    one_of(cards, any && !reveals ? static_cast<int>(number_of(move.card)) : -1);
    flag(plays && move.scored);
    flag(plays && move.token);

    for (int ahead = 0; ahead < players; ++ahead) {
        const Hand& seen = s.hands[seat(player + ahead)];
        for (int slot = 0; slot < hand_size(); ++slot) {
            const unsigned known = slot < seen.count ? seen.known[slot] : 0u;
            for (int number = 0; number < cards; ++number) flag(may_be(known, card_of(number)));
            for (int color = 0; color < colors; ++color)
                flag((known & kColorTold) != 0 && ((known >> color) & 1u) != 0);
            for (int rank = 0; rank < ranks; ++rank)
                flag((known & kRankTold) != 0 && ((known >> (kRankShift + static_cast<unsigned>(rank))) & 1u) != 0);
        }
    }
}

// Every way to put cards that nobody showed the observer into its hand, within what it was told, is as likely: each
// slot takes one of the single cards it may be, and if two take the same one, all is drawn again.
SPF_HD inline Hanabi::State Hanabi::resample(const State& s, Player observer, Rng& rng) const {
    const Hand& own = s.hands[observer];
    std::uint64_t unseen[2] = {s.deck[0], s.deck[1]};
    for (int slot = 0; slot < own.count; ++slot) {
        const auto bit = std::uint64_t{1} << own.card[slot];
        unseen[1] ^= bit & unseen[0];
        unseen[0] ^= bit;
    }
    State world = s;
    std::uint64_t taken[3] = {0, 0, 0};  // of the single cards: one where the low bit is set, two where the high bit is
    for (int slot = 0; slot < own.count; ++slot) {
        const std::uint64_t fits = cards_within(own.known[slot]);
        const ActionSet<64> ones{{unseen[0] & fits}}, twos{{unseen[1] & fits}};
        const int n = static_cast<int>(rng.below(static_cast<std::uint32_t>(ones.size() + 2 * twos.size())));
        const int second = n - ones.size();
        const int card = static_cast<int>(second < 0 ? ones.nth(n) : twos.nth(second / 2));
        std::uint64_t& copies_taken = taken[second < 0 ? 0 : 1 + second % 2];
        const auto bit = std::uint64_t{1} << card;
        if ((copies_taken & bit) != 0) {
            taken[0] = taken[1] = taken[2] = 0;
            slot = -1;
            continue;
        }
        copies_taken |= bit;
        world.hands[observer].card[slot] = static_cast<std::uint8_t>(card);
    }
    world.deck[0] = unseen[0];
    world.deck[1] = unseen[1];
    for (int slot = 0; slot < own.count; ++slot) remove_from_deck(world.deck, world.hands[observer].card[slot]);
    return world;
}

// Follows the observer's cards through the history to the deals that brought those it still holds.
inline void Hanabi::retell(std::span<Action> history, const State& world, Player observer) const {
    std::size_t dealt_at[kMaxHand] = {};
    int count = 0;
    State s = initial();
    for (std::size_t ply = 0; ply < history.size(); ++ply) {
        const Action action = history[ply];
        if (s.to_move == kChance && s.drawing == observer) {
            dealt_at[count++] = ply;
        } else if (s.to_move == observer && action < first_color()) {
            --count;
            for (int i = static_cast<int>(action) % hand_size(); i < count; ++i) dealt_at[i] = dealt_at[i + 1];
        }
        apply(s, action);
    }
    for (int slot = 0; slot < count; ++slot) history[dealt_at[slot]] = number_of(world.hands[observer].card[slot]);
}

static_assert(TurnGame<Hanabi> && Resamples<Hanabi>);

}  // namespace spf

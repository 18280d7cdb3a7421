// Negotiation: two players trade goods they value differently; after ten turns the larger gain in own worth wins.
//
// resources = 2: Wood and Gold, ten each, values mirrored; talk alone is a move (SPIRAL's first rules). resources = 5:
// goods and values are drawn at random, unseen by the other player; every turn must answer or offer (its second rules).
// resources = 8: the same with eight goods; SPIRAL's paper only mentions it, so the three new goods (Fish, Stone and
// Silver, of base value 8, 20 and 30) are our choice, and so is that a good stands on one side of an offer only.
//
// An action is an answer to the open offer, or an offer, or an accepting answer with a new offer. Answers and offers of
// 1..3 of one good for 1..3 of another are numbered 0 .. num_actions()-1; all others are packed into the bits of one
// action (see pack). Each move has exactly one number.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"

namespace spf {

struct Negotiation {
    int resources = 2;

    static constexpr std::string_view kName = "negotiation";
    static constexpr int kPlayers = 2, kMaxResources = 8, kTurns = 10, kMenuAmount = 3;
    static constexpr int kMaxActions = 2 + kMaxResources * (kMaxResources - 1) * kMenuAmount * kMenuAmount;
    static constexpr int kMaxChance = 21, kMaxAmount = 63;
    static constexpr Action kAccept = 0, kDeny = 1, kFirstTrade = 2;
    static constexpr bool kZeroSum = true, kPerfectInformation = false, kSpeech = true;
    static constexpr auto options() {
        return std::array{
            Option<Negotiation>{"resources",
                                &Negotiation::resources,
                                2,
                                kMaxResources,
                                "2: fixed goods, talk alone is a move; 5 or 8: random goods, act every turn",
                                {},
                                3}};
    }

    enum class Answer : std::uint8_t { kNone, kAccept, kDeny };
    struct Goods {
        std::uint8_t amount[kMaxResources] = {};
        bool operator==(const Goods&) const = default;
        SPF_HD bool empty() const {
            for (const std::uint8_t n : amount) {
                if (n != 0) return false;
            }
            return true;
        }
        SPF_HD bool covers(const Goods& other) const {
            for (int r = 0; r < kMaxResources; ++r) {
                if (amount[r] < other.amount[r]) return false;
            }
            return true;
        }
    };
    struct Move {  // neither an answer nor an offer: talk alone
        Answer answer = Answer::kNone;
        Goods give, want;  // both empty, or both not
        bool operator==(const Move&) const = default;
        SPF_HD bool offers() const { return !give.empty(); }
    };

    struct State {
        Goods held[2];
        std::uint8_t value[2][kMaxResources] = {};
        std::int16_t worth_at_start[2] = {0, 0};
        std::uint8_t dealt = 0;     // numbers drawn by nature
        std::uint8_t turn = 0;      // turns played
        std::int8_t proposer = -1;  // of the open offer
        Goods give, want;           // the open offer, as its proposer sees it
        Action log[kTurns] = {};
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return 2 + resources * (resources - 1) * kMenuAmount * kMenuAmount; }
    SPF_HD int draws() const { return resources == 2 ? 0 : 4 * resources; }
    SPF_HD int max_plies() const { return draws() + kTurns; }
    SPF_HD int max_turns() const { return kTurns; }

    SPF_HD State initial() const {
        State s;
        if (resources != 2) return s;
        for (Player p = 0; p < 2; ++p) {
            for (int r = 0; r < 2; ++r) {
                s.held[p].amount[r] = 10;
                s.value[p][r] = r == p ? 5 : 15;
            }
            s.worth_at_start[p] = worth(s, p);
        }
        return s;
    }
    SPF_HD Player current_player(const State& s) const {
        if (s.dealt < draws()) return kChance;
        return s.turn == kTurns ? kTerminal : s.turn % 2;
    }

    // Nature draws the amounts of player 0, those of player 1, then the values of both; the action is the number.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (current_player(s) != kChance) return outcomes;
        const Range range = range_of(s.dealt);
        for (int n = range.low; n <= range.high; ++n) outcomes.push(n, 1.0 / (range.high - range.low + 1));
        return outcomes;
    }

    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        ActionSet<kMaxActions> legal;
        const Player player = current_player(s);
        if (player < 0) return legal;
        if (s.proposer == 1 - player) {
            if (s.held[player].covers(s.want)) legal.insert(kAccept);
            legal.insert(kDeny);
        }
        constexpr std::uint64_t kUpTo[kMenuAmount + 1] = {0, 0007, 0077, 0777};  // trades that give 1..n
        Action trade = kFirstTrade;                                              // in the order of menu_number
        for (int give = 0; give < resources; ++give) {
            const int most = s.held[player].amount[give];
            const std::uint64_t trades = kUpTo[most < kMenuAmount ? most : kMenuAmount];
            for (int other = 0; other < resources - 1; ++other, trade += kMenuAmount * kMenuAmount) {
                legal.insert_bits(trade, trades);
            }
        }
        return legal;
    }
    // Beyond the enumerable ones: larger and mixed offers, an answer with a new offer, and talk where it is a move.
    SPF_HD bool is_legal(const State& s, Action action) const {
        const Player player = current_player(s);
        if (player < 0 || action < 0) return false;
        const Move move = unpack(action);
        if (pack(move) != action || move.answer > Answer::kDeny) return false;
        if (move.offers() == move.want.empty()) return false;
        if (move.answer == Answer::kDeny && move.offers()) return false;  // an offer denies the open one by itself
        if (move.answer == Answer::kNone && !move.offers()) return resources == 2;
        Goods held = s.held[player];
        if (move.answer != Answer::kNone) {
            if (s.proposer != 1 - player) return false;
            if (move.answer == Answer::kAccept && !held.covers(s.want)) return false;
            if (move.answer == Answer::kAccept) exchange(held, s.want, s.give);
        }
        return held.covers(move.give);
    }

    SPF_HD void apply(State& s, Action action) const {
        const Player player = current_player(s);
        if (player == kChance) {
            deal(s, static_cast<std::uint8_t>(action));
            return;
        }
        const Move move = unpack(action);
        if (move.answer == Answer::kAccept) {
            exchange(s.held[player], s.want, s.give);
            exchange(s.held[1 - player], s.give, s.want);
        }
        if (move.answer != Answer::kNone || move.offers()) s.proposer = -1;
        if (s.proposer < 0) s.give = s.want = Goods{};
        if (move.offers()) {
            s.proposer = static_cast<std::int8_t>(player);
            s.give = move.give;
            s.want = move.want;
        }
        s.log[s.turn++] = action;
    }

    SPF_HD float returns(const State& s, Player player) const {
        if (current_player(s) != kTerminal) return 0.0f;
        const int lead = gain(s, player) - gain(s, 1 - player);
        return lead > 0 ? 1.0f : lead < 0 ? -1.0f : 0.0f;
    }

    // Own goods and values, then every move so far.
    std::string information_state(const State& s, Player player) const {
        std::string key;
        for (int r = 0; r < resources; ++r) {
            if (r > 0) key += ',';
            key += std::to_string(s.held[player].amount[r]) + "x" + std::to_string(s.value[player][r]);
        }
        for (int t = 0; t < s.turn; ++t) (key += ';') += std::to_string(s.log[t]);
        return key;
    }

    // Player, turn, own goods and values; the open offer (own, other's) with what is given and wanted; then of every
    // turn so far whether it accepts, denies, offers, and what is given and wanted.
    std::array<int, 1> tensor_shape() const { return {4 + kTurns + 4 * resources + kTurns * (3 + 2 * resources)}; }
    void observation_tensor(const State& s, Player player, float* out) const {
        const auto flag = [&](bool set) { *out++ = set ? 1.0f : 0.0f; };
        const auto amounts = [&](const std::uint8_t* list) {
            for (int r = 0; r < resources; ++r) *out++ = list[r];
        };
        for (Player p = 0; p < 2; ++p) flag(p == player);
        for (int turn = 0; turn < kTurns; ++turn) flag(turn == s.turn);
        amounts(s.held[player].amount);
        amounts(s.value[player]);
        flag(s.proposer == player);
        flag(s.proposer == 1 - player);
        amounts(s.give.amount);
        amounts(s.want.amount);
        for (int turn = 0; turn < kTurns; ++turn) {
            const Move move = turn < s.turn ? unpack(s.log[turn]) : Move{};
            flag(move.answer == Answer::kAccept);
            flag(move.answer == Answer::kDeny);
            flag(move.offers());
            amounts(move.give.amount);
            amounts(move.want.amount);
        }
    }

    // The other player may have begun with anything that covers what it has given and offered since.
    SPF_HD State resample(const State& s, Player observer, Rng& rng) const {
        State world = s;
        const Player other = 1 - observer;
        const Trades past = trades(s, other);
        for (int draw = 0; draw < s.dealt; ++draw) {
            const int block = draw / resources, r = draw % resources;
            if (block % 2 != other) continue;
            Range range = range_of(draw);
            if (block < 2 && past.least[r] > range.low) range.low = past.least[r];
            const int n =
                range.low + static_cast<int>(rng.below(static_cast<std::uint32_t>(range.high - range.low + 1)));
            const int shift = block < 2 ? past.net[r] : 0;
            (block < 2 ? world.held[other].amount[r] : world.value[other][r]) = static_cast<std::uint8_t>(n + shift);
        }
        if (s.dealt == draws() && s.dealt > 0) {
            int gained = 0;
            for (int r = 0; r < kMaxResources; ++r) gained += past.net[r] * world.value[other][r];
            world.worth_at_start[other] = static_cast<std::int16_t>(worth(world, other) - gained);
        }
        return world;
    }
    void retell(std::span<Action> history, const State& world, Player observer) const {
        const Player other = 1 - observer;
        const Trades past = trades(world, other);
        for (int draw = 0; draw < world.dealt; ++draw) {
            const int block = draw / resources, r = draw % resources;
            if (block % 2 != other) continue;
            history[static_cast<std::size_t>(draw)] =
                block < 2 ? world.held[other].amount[r] - past.net[r] : world.value[other][r];
        }
    }

    // ---- moves and numbers ----
    // Bit 62 marks a packed move; below it stands the answer (2 bits). Then for two or five goods what is wanted and
    // what is given, 6 bits each; for eight what is given less what is wanted, 7 bits each, 64 for nothing.
    SPF_HD Action pack(const Move& move) const {
        if (!move.offers()) {
            if (move.answer == Answer::kAccept) return kAccept;
            if (move.answer == Answer::kDeny) return kDeny;
        }
        const Action menu = menu_number(move);
        if (menu != kInvalidAction) return menu;
        std::uint64_t bits = (std::uint64_t{1} << 62) | (static_cast<std::uint64_t>(move.answer) << 60);
        for (int r = 0; r < resources; ++r) {
            const std::uint64_t give = move.give.amount[r], want = move.want.amount[r];
            bits |= resources == 8 ? (64 + give - want) << (7 * r) : (give << (6 * r)) | (want << (30 + 6 * r));
        }
        return static_cast<Action>(bits);
    }
    // Eight goods: may these be the two sides of one offer?
    SPF_HD bool is_one_sided(const Move& move) const {
        for (int r = 0; resources == 8 && r < resources; ++r) {
            if (move.give.amount[r] != 0 && move.want.amount[r] != 0) return false;
        }
        return true;
    }
    SPF_HD Move unpack(Action action) const {
        Move move;
        if (action == kAccept || action == kDeny) {
            move.answer = action == kAccept ? Answer::kAccept : Answer::kDeny;
        } else if (action < num_actions()) {
            const int trade = static_cast<int>(action - kFirstTrade);
            const int pair = trade / (kMenuAmount * kMenuAmount), amounts = trade % (kMenuAmount * kMenuAmount);
            const int give = pair / (resources - 1), other = pair % (resources - 1);
            move.give.amount[give] = static_cast<std::uint8_t>(amounts / kMenuAmount + 1);
            move.want.amount[other + (other >= give ? 1 : 0)] = static_cast<std::uint8_t>(amounts % kMenuAmount + 1);
        } else {
            const auto bits = static_cast<std::uint64_t>(action);
            move.answer = static_cast<Answer>((bits >> 60) & 3u);
            for (int r = 0; r < resources; ++r) {
                if (resources == 8) {
                    int less = static_cast<int>((bits >> (7 * r)) & 127u) - 64;
                    if (less < -kMaxAmount) less = -kMaxAmount;  // nothing packs to that
                    (less > 0 ? move.give : move.want).amount[r] = static_cast<std::uint8_t>(less > 0 ? less : -less);
                } else {
                    move.give.amount[r] = static_cast<std::uint8_t>((bits >> (6 * r)) & 63u);
                    move.want.amount[r] = static_cast<std::uint8_t>((bits >> (30 + 6 * r)) & 63u);
                }
            }
        }
        return move;
    }

    SPF_HD int gain(const State& s, Player player) const { return worth(s, player) - s.worth_at_start[player]; }
    SPF_HD static void exchange(Goods& held, const Goods& lost, const Goods& won) {
        for (int r = 0; r < kMaxResources; ++r) {
            held.amount[r] = static_cast<std::uint8_t>(held.amount[r] - lost.amount[r] + won.amount[r]);
        }
    }

  private:
    struct Range {
        int low, high;
    };
    // Nature's n-th number: an amount, or a value within a fifth of the base value and within 5..40.
    SPF_HD Range range_of(int draw) const {
        if (draw < 2 * resources) return {5, 25};
        const int five[5] = {5, 10, 15, 25, 40}, eight[8] = {5, 8, 10, 15, 20, 25, 30, 40};
        const int good = draw % resources, middle = resources == 5 ? five[good] : eight[good];
        const int spread = middle / 5;
        return {middle - spread < 5 ? 5 : middle - spread, middle + spread > 40 ? 40 : middle + spread};
    }
    // What trades brought a player so far, and the least it must have begun with to make its moves.
    struct Trades {
        int net[kMaxResources] = {}, least[kMaxResources] = {};
    };
    SPF_HD Trades trades(const State& s, Player player) const {
        Trades past;
        Move open;
        for (int turn = 0; turn < s.turn; ++turn) {
            const Move move = unpack(s.log[turn]);
            const bool own = turn % 2 == player;
            const auto gives = [&](const Goods& goods) {
                for (int r = 0; r < kMaxResources; ++r) {
                    const int needed = goods.amount[r] - past.net[r];
                    if (own && needed > past.least[r]) past.least[r] = needed;
                }
            };
            if (move.answer == Answer::kAccept) {
                gives(open.want);
                const Goods& lost = own ? open.want : open.give;
                const Goods& won = own ? open.give : open.want;
                for (int r = 0; r < kMaxResources; ++r) past.net[r] += won.amount[r] - lost.amount[r];
            }
            if (!move.offers()) continue;
            gives(move.give);
            open = move;
        }
        return past;
    }
    SPF_HD static std::int16_t worth(const State& s, Player player) {
        int total = 0;
        for (int r = 0; r < kMaxResources; ++r) total += s.held[player].amount[r] * s.value[player][r];
        return static_cast<std::int16_t>(total);
    }
    SPF_HD void deal(State& s, std::uint8_t number) const {
        const int r = s.dealt % resources, block = s.dealt / resources;
        (block < 2 ? s.held[block].amount[r] : s.value[block - 2][r]) = number;
        if (++s.dealt < draws()) return;
        for (Player p = 0; p < 2; ++p) s.worth_at_start[p] = worth(s, p);
    }
    // The number of an offer of 1..3 of one good for 1..3 of another without an answer, or kInvalidAction.
    SPF_HD Action menu_number(const Move& move) const {
        if (move.answer != Answer::kNone) return kInvalidAction;
        int give = -1, want = -1;
        for (int r = 0; r < kMaxResources; ++r) {
            if (move.give.amount[r] > kMenuAmount || move.want.amount[r] > kMenuAmount) return kInvalidAction;
            if (move.give.amount[r] != 0) {
                if (give >= 0) return kInvalidAction;
                give = r;
            }
            if (move.want.amount[r] != 0) {
                if (want >= 0) return kInvalidAction;
                want = r;
            }
        }
        if (give < 0 || want < 0 || give == want) return kInvalidAction;
        const int pair = give * (resources - 1) + want - (want > give ? 1 : 0);
        const int amounts = (move.give.amount[give] - 1) * kMenuAmount + move.want.amount[want] - 1;
        return kFirstTrade + pair * kMenuAmount * kMenuAmount + amounts;
    }
};
static_assert(TurnGame<Negotiation> && Resamples<Negotiation>);

}  // namespace spf

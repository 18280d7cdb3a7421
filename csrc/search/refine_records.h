// What a search by refinement is made of: its options, what it waits for, its nodes and votes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace spf {

enum class RefineOrder { kBreadth, kDepth };

struct RefineOptions {
    RefineOrder order = RefineOrder::kBreadth;
    std::int64_t branch = 3, keep = 2, depth = 3;
    std::int64_t judgements = 5;       // votes on one response
    std::int64_t judge_attempts = 3;   // of all votes, where they are tied
    std::int64_t refine_attempts = 9;  // of one refinement, where it cannot be read
    double accept = 0.5;               // a value above it ends the search

    // Throws std::invalid_argument that names what is out of range.
    void check() const {
        const auto at_least_one = [](const char* name, std::int64_t value) {
            if (value < 1)
                throw std::invalid_argument(std::string(name) + " must be at least 1, got " + std::to_string(value));
        };
        at_least_one("branch", branch);
        at_least_one("keep", keep);
        at_least_one("depth", depth);
        at_least_one("judgements", judgements);
        at_least_one("judge_attempts", judge_attempts);
        at_least_one("refine_attempts", refine_attempts);
        if (!(accept >= 0.0 && accept <= 1.0)) throw std::invalid_argument("accept must be from 0 to 1");
        // The numbers of paths must be distinct.
        bool too_large = branch >= kMostPaths;
        std::int64_t paths = 1;
        for (std::int64_t d = 0; branch > 1 && d <= depth && !too_large; ++d) {
            too_large = paths > kMostPaths / (branch + 1);
            paths *= too_large ? 0 : branch + 1;
        }
        if (too_large) {
            throw std::invalid_argument("branch and depth: a tree of that many paths is too large; lower one of them");
        }
    }

  private:
    static constexpr std::int64_t kMostPaths = std::int64_t{1} << 40;
};

inline constexpr std::int32_t kNoNode = -1;
inline constexpr std::int64_t kUnread = -1;  // a refinement or a verdict that cannot be read

// What a tree waits for: `count` refinements of `node`, for its branches from `branch` on, or `count` verdicts on the
// response of number `text`. `number` and `attempt` name its random draws: they do not depend on what else is asked.
struct RefineWant {
    std::int32_t node = kNoNode;  // of a judgement: none
    std::int64_t text = 0, branch = 0, count = 0, attempt = 0, number = 0;

    bool is_judgement() const { return node == kNoNode; }
};

struct RefineNode {
    std::int32_t parent = kNoNode;
    std::int32_t depth = 0;
    std::int64_t branch = 0;
    std::int64_t text = 0;
    std::int64_t number = 0;  // of the path: the root is 0, child b of node n is n * branch + b + 1
    double value = 0.0;       // the share of yes among the verdicts; 0 of the root
};

// The vote on one response, remembered for whoever writes it again.
struct Vote {
    enum class State { kOpen, kDecided, kTied } state = State::kOpen;
    std::int64_t attempt = 0, yes = 0, no = 0;
    std::int64_t kept = 0;  // the first verdict of the majority

    double value() const { return static_cast<double>(yes) / static_cast<double>(yes + no); }
    bool open() const { return state == State::kOpen; }

    void count(std::span<const std::int64_t> verdicts, std::int64_t most_attempts) {
        yes = std::count(verdicts.begin(), verdicts.end(), 1);
        no = std::count(verdicts.begin(), verdicts.end(), 0);
        ++attempt;
        if (yes != no) {
            state = State::kDecided;
            kept = std::find(verdicts.begin(), verdicts.end(), yes > no ? 1 : 0) - verdicts.begin();
        } else if (attempt == most_attempts) {
            state = State::kTied;
        }
    }
};

// What a tree has asked for: calls it waited for, requests of a search that asks for one thing after another, samples.
struct RefineCost {
    std::int64_t rounds = 0, requests = 0, samples = 0;
};

}  // namespace spf

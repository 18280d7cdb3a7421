// Search by refinement (SPaR, Cheng et al. 2024): a tree of responses, each rewritten from a critique of its parent and
// valued by a vote of judges. It says what it waits for and takes the answers; it knows no policy, and of texts their
// numbers only: the first response is text 0, and equal texts have equal numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "search/refine_records.h"

namespace spf {

class RefineTree {
  public:
    // judged: the critique of the first response is known; else its vote comes first, and may accept it as it is.
    RefineTree(const RefineOptions& options, bool judged) : options_(options), nodes_(1), votes_(1) {
        options_.check();
        if (judged) expand({0});
    }

    bool over() const { return over_; }
    bool accepted() const { return accepted_; }
    std::int32_t final_node() const { return final_; }  // kNoNode where the first response's vote was tied
    const std::vector<RefineNode>& nodes() const { return nodes_; }
    const std::vector<Vote>& votes() const { return votes_; }  // by the number of the text
    const RefineCost& cost() const { return cost_; }

    // What it waits for now: a phase of its search, which begins when the one before is answered. Empty when it is
    // over.
    std::vector<RefineWant> wanted() const {
        std::vector<RefineWant> wants;
        if (over_) return wants;
        if (slots_.empty()) wants.push_back(verdicts_on(0));
        for (std::size_t s = 0; s < slots_.size(); ++s) {
            const Slot& slot = slots_[s];
            const std::int64_t parent = nodes_[static_cast<std::size_t>(slot.parent)].number;
            RefineWant want{slot.parent, nodes_[static_cast<std::size_t>(slot.parent)].text, slot.branch, 1};
            if (slot.state != Slot::State::kUnwritten) continue;
            if (slot.attempt > 0) {
                want.attempt = slot.attempt;
                want.number = child_number(parent, slot.branch);
            } else if (slot.branch == 0) {  // the first attempts of all branches are samples of one ask
                want.count = options_.branch;
                want.number = parent;
            } else {
                continue;
            }
            wants.push_back(want);
        }
        for (std::size_t s = 0; s < slots_.size(); ++s) {
            if (waits_for_vote(slots_[s]) && first_to_wait(s)) wants.push_back(verdicts_on(slots_[s].text));
        }
        return wants;
    }

    // One number per sample of `wanted`, in order: of a refinement that of its text, of a verdict 1 for yes and 0 for
    // no, kUnread for what cannot be read. Is the search over now?
    bool answer(std::span<const std::int64_t> answers) {
        const std::vector<RefineWant> wants = wanted();
        check_answers(wants, answers);
        if (over_) return true;
        for (const RefineWant& want : wants) {
            const auto count = static_cast<std::size_t>(want.count);
            take(want, answers.first(count));
            answers = answers.subspan(count);
        }
        ++cost_.rounds;
        advance();
        return over_;
    }

  private:
    // A child in the making.
    struct Slot {
        enum class State { kUnwritten, kWritten, kFailed } state = State::kUnwritten;
        std::int32_t parent = 0;
        std::int64_t branch = 0, attempt = 0, text = 0;
    };

    const Vote& vote_on(std::int64_t text) const { return votes_[static_cast<std::size_t>(text)]; }
    bool waits_for_vote(const Slot& slot) const {
        return slot.state == Slot::State::kWritten && vote_on(slot.text).open();
    }
    std::int64_t child_number(std::int64_t parent, std::int64_t branch) const {
        return parent * options_.branch + branch + 1;
    }

    bool first_to_wait(std::size_t s) const {
        return std::none_of(slots_.begin(), slots_.begin() + static_cast<std::ptrdiff_t>(s), [&](const Slot& other) {
            return other.state == Slot::State::kWritten && other.text == slots_[s].text;
        });
    }
    RefineWant verdicts_on(std::int64_t text) const {
        return {kNoNode, text, 0, options_.judgements, vote_on(text).attempt};
    }
    Slot& slot_of(std::int32_t node, std::int64_t branch) {
        return *std::find_if(slots_.begin(), slots_.end(),
                             [&](const Slot& slot) { return slot.parent == node && slot.branch == branch; });
    }

    // A phase brings at most as many new texts as it has samples.
    void check_answers(const std::vector<RefineWant>& wants, std::span<const std::int64_t> answers) const {
        std::size_t samples = 0;
        for (const RefineWant& want : wants) samples += static_cast<std::size_t>(want.count);
        if (answers.size() != samples) {
            throw std::invalid_argument("answer: " + std::to_string(samples) + " numbers are wanted, got " +
                                        std::to_string(answers.size()));
        }
        std::size_t start = 0;
        for (const RefineWant& want : wants) {
            const std::int64_t most =
                want.is_judgement() ? 1 : static_cast<std::int64_t>(votes_.size() + answers.size()) - 1;
            for (const std::int64_t number : answers.subspan(start, static_cast<std::size_t>(want.count))) {
                if (number < kUnread || number > most) {
                    throw std::invalid_argument("answer: must be from -1 to " + std::to_string(most) + ", got " +
                                                std::to_string(number));
                }
            }
            start += static_cast<std::size_t>(want.count);
        }
    }

    void take(const RefineWant& want, std::span<const std::int64_t> answers) {
        cost_.requests += want.is_judgement() ? 1 : want.count;
        cost_.samples += want.count;
        if (want.is_judgement())
            return votes_[static_cast<std::size_t>(want.text)].count(answers, options_.judge_attempts);
        for (std::size_t i = 0; i < answers.size(); ++i) {
            Slot& slot = slot_of(want.node, want.branch + static_cast<std::int64_t>(i));
            ++slot.attempt;
            if (answers[i] != kUnread) {
                slot.text = answers[i];
                slot.state = Slot::State::kWritten;
                if (slot.text >= static_cast<std::int64_t>(votes_.size()))
                    votes_.resize(static_cast<std::size_t>(slot.text) + 1);
            } else if (slot.attempt == options_.refine_attempts) {
                slot.state = Slot::State::kFailed;
            }
        }
    }

    // To the next phase that waits for something, or to the end.
    void advance() {
        if (slots_.empty()) return open();
        for (const Slot& slot : slots_) {
            if (slot.state == Slot::State::kUnwritten || waits_for_vote(slot)) return;
        }
        settle();
    }

    // The vote on the first response, which nobody has criticised yet.
    void open() {
        const Vote& vote = vote_on(0);
        if (vote.open()) return;
        if (vote.state == Vote::State::kTied) return finish(kNoNode, false);
        if (vote.value() > options_.accept) return finish(0, true);
        expand({0});
    }

    void expand(const std::vector<std::int32_t>& parents) {
        slots_.clear();
        for (const std::int32_t parent : parents) {
            for (std::int64_t b = 0; b < options_.branch; ++b) slots_.push_back({.parent = parent, .branch = b});
        }
    }

    // All children are there: accept the best, or go on below the best.
    void settle() {
        std::vector<std::int32_t> ranked;
        for (const Slot& slot : slots_) {
            if (slot.state == Slot::State::kFailed || vote_on(slot.text).state == Vote::State::kTied) continue;
            const RefineNode& parent = nodes_[static_cast<std::size_t>(slot.parent)];
            ranked.push_back(static_cast<std::int32_t>(nodes_.size()));
            nodes_.push_back({slot.parent, parent.depth + 1, slot.branch, slot.text,
                              child_number(parent.number, slot.branch), vote_on(slot.text).value()});
        }
        const auto value = [&](std::int32_t node) { return nodes_[static_cast<std::size_t>(node)].value; };
        std::stable_sort(ranked.begin(), ranked.end(), [&](auto a, auto b) { return value(a) > value(b); });
        if (!ranked.empty() && value(ranked[0]) > options_.accept) return finish(ranked[0], true);
        ranked.resize(std::min(ranked.size(), static_cast<std::size_t>(options_.keep)));
        go_on(ranked);
    }

    void go_on(const std::vector<std::int32_t>& kept) {
        const bool deeper = !kept.empty() && nodes_[static_cast<std::size_t>(kept[0])].depth < options_.depth;
        if (options_.order == RefineOrder::kBreadth) {
            if (deeper) return expand(kept);
        } else {
            if (deeper) stack_.insert(stack_.end(), kept.rbegin(), kept.rend());
            if (!stack_.empty()) {
                const std::int32_t next = stack_.back();
                stack_.pop_back();
                return expand({next});
            }
        }
        finish(best(), false);
    }

    // Of the nodes of the highest value the last one in a walk that visits parents before children.
    std::int32_t best() const {
        std::vector<std::vector<std::int32_t>> children(nodes_.size());
        for (std::size_t n = 1; n < nodes_.size(); ++n) {
            children[static_cast<std::size_t>(nodes_[n].parent)].push_back(static_cast<std::int32_t>(n));
        }
        std::int32_t found = 0;
        std::vector<std::int32_t> walk{0};
        while (!walk.empty()) {
            const auto node = static_cast<std::size_t>(walk.back());
            walk.pop_back();
            if (nodes_[node].value >= nodes_[static_cast<std::size_t>(found)].value)
                found = static_cast<std::int32_t>(node);
            walk.insert(walk.end(), children[node].rbegin(), children[node].rend());
        }
        return found;
    }

    void finish(std::int32_t node, bool accepted) {
        final_ = node;
        accepted_ = accepted;
        over_ = true;
        slots_.clear();
    }

    RefineOptions options_;
    std::vector<RefineNode> nodes_;
    std::vector<Vote> votes_;
    std::vector<Slot> slots_;          // the children of what is being expanded, in the order of generation
    std::vector<std::int32_t> stack_;  // depth first: what is still to be expanded, next one last
    RefineCost cost_;
    std::int32_t final_ = kNoNode;
    bool over_ = false, accepted_ = false;
};

}  // namespace spf

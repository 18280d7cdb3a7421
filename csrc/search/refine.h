// Many trees that search by refinement: one round asks for whatever any of them waits for, however deep it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "search/refine_tree.h"

namespace spf {

class RefineForest {
  public:
    RefineForest(const RefineOptions& options, std::span<const bool> judged) : options_(options) {
        check(options);
        trees_.reserve(judged.size());
        for (const bool known : judged) trees_.emplace_back(options_, known);
        for (std::size_t t = 0; t < trees_.size(); ++t) running_.push_back(static_cast<std::int64_t>(t));
    }
    RefineForest(const RefineForest&) = delete;  // its trees point to its options
    RefineForest& operator=(const RefineForest&) = delete;

    std::int64_t size() const { return static_cast<std::int64_t>(trees_.size()); }
    const RefineTree& tree(std::int64_t number) const { return trees_[checked(number)]; }

    // What all trees wait for; the same again until it is answered.
    const std::vector<RefineWant>& select() {
        if (wanted_.empty()) {
            for (const std::int64_t t : running_) trees_[static_cast<std::size_t>(t)].wants(t, wanted_);
        }
        return wanted_;
    }

    // One number per sample of the last `select`, in order: see RefineTree::take. Gives the trees that are over.
    std::vector<std::int64_t> answer(std::span<const std::int64_t> answers) {
        select();
        check_answers(answers);
        std::size_t start = 0;
        for (const RefineWant& want : wanted_) {
            const auto count = static_cast<std::size_t>(want.count);
            RefineTree& tree = trees_[static_cast<std::size_t>(want.tree)];
            if (!tree.over()) tree.take(want, answers.subspan(start, count));
            start += count;
        }
        wanted_.clear();
        std::vector<std::int64_t> over;
        for (const std::int64_t t : running_) {
            RefineTree& tree = trees_[static_cast<std::size_t>(t)];
            if (tree.over()) continue;  // closed
            tree.advance();
            if (tree.over()) over.push_back(t);
        }
        std::erase_if(running_, [&](std::int64_t t) { return trees_[static_cast<std::size_t>(t)].over(); });
        return over;
    }

    // Gives a tree up: it is asked nothing more, and what is said for it now is not heard.
    void close(std::int64_t number) { trees_[checked(number)].close(); }

  private:
    static void check(const RefineOptions& o) {
        const auto at_least_one = [](const char* name, std::int64_t value) {
            if (value < 1)
                throw std::invalid_argument(std::string(name) + " must be at least 1, got " + std::to_string(value));
        };
        at_least_one("branch", o.branch);
        at_least_one("keep", o.keep);
        at_least_one("depth", o.depth);
        at_least_one("judgements", o.judgements);
        at_least_one("judge_attempts", o.judge_attempts);
        at_least_one("refine_attempts", o.refine_attempts);
        if (!(o.accept >= 0.0 && o.accept <= 1.0)) throw std::invalid_argument("accept must be from 0 to 1");
        // The numbers of paths must be distinct.
        bool too_large = o.branch >= kMostPaths;
        std::int64_t paths = 1;
        for (std::int64_t d = 0; o.branch > 1 && d <= o.depth && !too_large; ++d) {
            too_large = paths > kMostPaths / (o.branch + 1);
            paths *= too_large ? 0 : o.branch + 1;
        }
        if (too_large) {
            throw std::invalid_argument("branch and depth: a tree of that many paths is too large; lower one of them");
        }
    }

    std::size_t checked(std::int64_t number) const {
        if (number < 0 || number >= size()) {
            throw std::invalid_argument("tree must be from 0 to " + std::to_string(size() - 1) + ", got " +
                                        std::to_string(number));
        }
        return static_cast<std::size_t>(number);
    }

    // A round brings at most as many new texts as it has samples.
    void check_answers(std::span<const std::int64_t> answers) const {
        std::size_t wanted = 0;
        for (const RefineWant& want : wanted_) wanted += static_cast<std::size_t>(want.count);
        if (answers.size() != wanted) {
            throw std::invalid_argument("answer: " + std::to_string(wanted) + " numbers are wanted, got " +
                                        std::to_string(answers.size()));
        }
        std::size_t start = 0;
        for (const RefineWant& want : wanted_) {
            const RefineTree& tree = trees_[static_cast<std::size_t>(want.tree)];
            const std::int64_t most =
                want.is_judgement() ? 1 : static_cast<std::int64_t>(tree.votes().size() + answers.size()) - 1;
            for (const std::int64_t number : answers.subspan(start, static_cast<std::size_t>(want.count))) {
                if (number < kUnread || number > most) {
                    throw std::invalid_argument("answer: must be from -1 to " + std::to_string(most) + ", got " +
                                                std::to_string(number));
                }
            }
            start += static_cast<std::size_t>(want.count);
        }
    }

    static constexpr std::int64_t kMostPaths = std::int64_t{1} << 40;

    RefineOptions options_;
    std::vector<RefineTree> trees_;
    std::vector<std::int64_t> running_;
    std::vector<RefineWant> wanted_;
};

}  // namespace spf

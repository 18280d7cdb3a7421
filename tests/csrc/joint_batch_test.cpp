// Oracle: the contract of JointBatch, for a game of motion of which we know everything: two gliders on a line, pushed
// by one control each and by a gust that is the same for both.
#include "core/joint_batch.h"

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "joint.h"

namespace {

struct Gliders {
    int ticks = 30;
    static constexpr std::string_view kName = "gliders";
    static constexpr int kPlayers = 2, kControls = 1;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr std::array<spf::Option<Gliders>, 0> options() { return {}; }

    struct State {
        float place[2] = {0, 0};
        float gust = 0;
        std::int32_t tick = 0;
    };
    int max_ticks() const { return ticks; }
    State initial(spf::Rng rng) const {
        const auto gust = static_cast<float>(rng.uniform());
        return {{gust, gust}, gust, 0};
    }
    bool is_over(const State& s) const { return s.tick == ticks; }
    void tick(State& s, const float* controls, spf::Rng rng) const {
        s.gust = static_cast<float>(rng.uniform());
        for (int p = 0; p < 2; ++p) s.place[p] += controls[p] + s.gust;
        ++s.tick;
    }
    float returns(const State& s, spf::Player player) const {
        if (!is_over(s) || s.place[0] == s.place[1]) return 0.0f;
        return (s.place[0] > s.place[1]) == (player == 0) ? 1.0f : -1.0f;
    }
    bool is_sound(const State& s) const {
        return std::isfinite(s.place[0]) && std::isfinite(s.place[1]) && s.tick >= 0 && s.tick <= ticks;
    }
};
static_assert(spf::JointGame<Gliders>);

// The faster control wins whatever the gusts, and the gusts are those of the streams.
void controls_reach_their_player() {
    const Gliders game;
    spf::JointBatch<Gliders> batch(game, 2, {.seed = 5});
    for (int tick = 0; tick < game.ticks; ++tick) {
        const std::vector<float> controls{1.0f, -1.0f, 0.25f, 0.5f};
        batch.step(controls, std::nullopt);
    }
    CHECK(batch.terminated()[0] && batch.terminated()[1]);
    CHECK(batch.returns()[0] == 1.0f && batch.returns()[1] == -1.0f);
    CHECK(batch.returns()[2] == -1.0f && batch.returns()[3] == 1.0f);
    CHECK(batch.history(0).empty());
    for (const float bad : {1.5f, -2.0f, std::nanf(""), INFINITY}) {
        batch.reset(std::nullopt, std::nullopt, 1);
        const std::string before = batch.snapshot("x");
        const std::vector<float> controls{0.0f, 0.0f, 0.0f, bad};
        CHECK_THROWS(batch.step(controls, std::nullopt));
        CHECK(batch.snapshot("x") == before);
    }
}

// A snapshot whose checksum is right but whose state the game calls impossible.
void unsound_states_are_refused() {
    const Gliders game{.ticks = 3};
    spf::JointBatch<Gliders> batch(game, 1, {});
    for (const Gliders::State& state : {Gliders::State{{NAN, 0}, 0, 0}, Gliders::State{{0, 0}, 0, 4}}) {
        spf::ByteWriter out;
        out.text("x");
        out.number(std::int64_t{1});
        out.number(std::uint64_t{0});
        out.number(std::uint64_t{0});
        out.number(std::uint32_t{1});
        out.number(std::uint32_t{0});
        out.text({reinterpret_cast<const char*>(&state), sizeof state});
        out.number(std::uint8_t{0});
        out.number(0.0f);
        out.number(0.0f);
        const std::string forged = out.finish();
        CHECK_THROWS(batch.restore(forged, "x"));
    }
}

}  // namespace

int main() {
    joint::is_sound(Gliders{});
    controls_reach_their_player();
    unsound_states_are_refused();
}

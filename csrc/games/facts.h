// The deck of truth_and_deception: pairs of a true and a false statement about the same thing, of much the same form
// and length, so that nothing but knowledge tells them apart.
#pragma once

#include <iterator>
#include <string_view>

namespace spf {

struct FactPair {
    std::string_view truth, lie;
};

inline constexpr FactPair kFacts[] = {
    // nature
    {"Sound travels faster in water than in air.", "Sound travels faster in air than in water."},
    {"Ice is less dense than liquid water.", "Ice is denser than liquid water."},
    {"Water boils at a lower temperature on a high mountain than at the seaside.",
     "Water boils at a higher temperature on a high mountain than at the seaside."},
    {"Light from the Sun reaches the Earth after about eight minutes.",
     "Light from the Sun reaches the Earth after about eight seconds."},
    {"Light travels about 300,000 kilometres per second in empty space.",
     "Light travels about 30,000 kilometres per second in empty space."},
    {"Nitrogen is the most common gas in the air.", "Oxygen is the most common gas in the air."},
    {"About a fifth of the air is oxygen.", "About half of the air is oxygen."},
    {"A magnet attracts iron.", "A magnet attracts copper."},
    {"Diamonds are made of carbon.", "Diamonds are made of silicon."},
    {"The chemical symbol of gold is Au.", "The chemical symbol of gold is Ag."},
    {"Hydrogen is the lightest chemical element.", "Helium is the lightest chemical element."},
    {"Table salt is sodium chloride.", "Table salt is calcium carbonate."},
    {"Bronze is made mainly of copper and tin.", "Bronze is made mainly of iron and zinc."},
    {"Another name of vitamin C is ascorbic acid.", "Another name of vitamin C is citric acid."},
    {"Seismographs record earthquakes.", "Barometers record earthquakes."},
    // the sky
    {"Mercury is the planet closest to the Sun.", "Venus is the planet closest to the Sun."},
    {"Jupiter is the largest planet of the Solar System.", "Saturn is the largest planet of the Solar System."},
    {"Mars has two known moons.", "Mars has no known moon at all."},
    {"The Moon circles the Earth about once a month.", "The Moon circles the Earth about once a week."},
    {"The rings of Saturn are mostly ice.", "The rings of Saturn are mostly iron."},
    {"Neil Armstrong was the first person on the Moon.", "Yuri Gagarin was the first person on the Moon."},
    // living things
    {"Bats are mammals.", "Bats are birds."},
    {"Sharks are fish.", "Dolphins are fish."},
    {"Frogs are amphibians.", "Frogs are reptiles."},
    {"Spiders have eight legs.", "Spiders have six legs."},
    {"Whales breathe with lungs.", "Whales breathe with gills."},
    {"An octopus has three hearts.", "An octopus has a single heart."},
    {"Koalas live mostly on eucalyptus leaves.", "Koalas live mostly on bamboo shoots."},
    {"Polar bears live in the Arctic.", "Polar bears live in the Antarctic."},
    {"Emus are birds that cannot fly.", "Swans are birds that cannot fly."},
    {"Honey bees live in colonies with a queen.", "Honey bees live alone, each in its own nest."},
    {"To a botanist a tomato is a fruit.", "To a botanist a carrot is a fruit."},
    {"Sunflowers belong to the same family as daisies.", "Sunflowers belong to the same family as roses."},
    {"Black tea is made from leaves.", "Coffee is made from leaves."},
    {"The gas that plants use up in photosynthesis is carbon dioxide.",
     "The gas that plants use up in photosynthesis is nitrogen."},
    {"The human heart has four chambers.", "The human heart has three chambers."},
    {"The longest human bone is in the thigh.", "The longest human bone is in the upper arm."},
    {"Insulin lowers the sugar in the blood.", "Insulin raises the sugar in the blood."},
    {"DNA usually has the shape of a double helix.", "DNA usually has the shape of a triple helix."},
    {"A full set of adult human teeth has 32 of them.", "A full set of adult human teeth has 24 of them."},
    // places
    {"Canberra is the capital of Australia.", "Melbourne is the capital of Australia."},
    {"Ottawa is the capital of Canada.", "Toronto is the capital of Canada."},
    {"Tokyo is today the capital of Japan.", "Kyoto is today the capital of Japan."},
    {"Ankara is the capital of Turkey.", "Istanbul is the capital of Turkey."},
    {"Rome lies on the river Tiber.", "Rome lies on the river Danube."},
    {"Most people in Brazil speak Portuguese.", "Most people in Brazil speak Spanish."},
    {"The Pacific is the largest ocean.", "The Atlantic is the largest ocean."},
    {"The Amazon flows into the Atlantic.", "The Amazon flows into the Pacific."},
    {"The Nile flows into the Mediterranean Sea.", "The Nile flows into the Red Sea."},
    {"The equator runs through Kenya.", "The equator runs through Egypt."},
    {"Finland has a border with Russia.", "Finland has a border with Denmark."},
    {"Machu Picchu lies in Peru.", "Machu Picchu lies in Mexico."},
    {"Mount Everest stands on the border of Nepal and China.",
     "Mount Everest stands on the border of Nepal and India."},
    {"Iceland is an island in the Atlantic.", "Madagascar is an island in the Atlantic."},
    {"Wild cacti grow mostly in the Americas.", "Wild cacti grow mostly in Australia."},
    // people and their works
    {"Leonardo da Vinci painted the Mona Lisa.", "Michelangelo Buonarroti painted the Mona Lisa."},
    {"William Shakespeare wrote Romeo and Juliet.", "Charles Dickens wrote Romeo and Juliet."},
    {"Beethoven finished nine symphonies.", "Beethoven finished twelve symphonies."},
    {"The Second World War ended in 1945.", "The Second World War ended in 1918."},
    {"The Eiffel Tower was finished in the nineteenth century.",
     "The Eiffel Tower was finished in the twentieth century."},
    {"The trumpet is a brass instrument.", "The clarinet is a brass instrument."},
    {"A modern concert piano has 88 keys.", "A modern concert piano has 64 keys."},
    {"In chess bishops move along diagonals.", "In chess rooks move along diagonals."},
    {"A side starts a game of chess with sixteen pieces.", "A side starts a game of chess with seventeen pieces."},
    // numbers
    {"Seven is a prime number.", "Nine is a prime number."},
    {"The square root of 144 is 12.", "The square root of 144 is 14."},
    {"An octagon has eight sides.", "An octagon has ten sides."},
    {"Half of a quarter is an eighth.", "Half of a quarter is a sixth."},
    {"The numbers from one to ten add up to 55.", "The numbers from one to ten add up to 50."},
    {"The binary number 101 is five.", "The binary number 101 is six."},
    {"The angles of a triangle in the plane add up to 180 degrees.",
     "The angles of a triangle in the plane add up to 360 degrees."},
    {"A leap year has 366 days.", "A leap year has 364 days."},
    {"A byte has eight bits.", "A byte has sixteen bits."},
    {"The number pi is a little more than three.", "The number pi is a little less than three."},
};
inline constexpr int kFactPairs = static_cast<int>(std::size(kFacts));

// Of a pair the statement that comes first in the alphabet (0) or the other (1): a name that tells nothing about truth.
constexpr std::string_view statement(int pair, int which) {
    const FactPair& facts = kFacts[pair];
    return (which == 0) == (facts.truth < facts.lie) ? facts.truth : facts.lie;
}
constexpr bool is_true(int pair, int which) { return statement(pair, which) == kFacts[pair].truth; }

}  // namespace spf

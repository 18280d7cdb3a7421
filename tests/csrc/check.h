// The smallest test framework that says where and why.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                \
        }                                                                                \
    } while (false)

#define CHECK_THROWS(statement)                                                                 \
    do {                                                                                        \
        bool thrown = false;                                                                    \
        try {                                                                                   \
            statement;                                                                          \
        } catch (const std::invalid_argument&) {                                                \
            thrown = true;                                                                      \
        }                                                                                       \
        if (!thrown) {                                                                          \
            std::fprintf(stderr, "%s:%d: did not throw: %s\n", __FILE__, __LINE__, #statement); \
            std::exit(1);                                                                       \
        }                                                                                       \
    } while (false)

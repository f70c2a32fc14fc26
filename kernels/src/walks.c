/* Ensembles of decision trees, scored by walking down each tree.
 *
 * For shallow trees, and those of so many leaves that tables would not stay in the caches. A walk waits for memory
 * at each step, so eight rows go down a tree at once, side by side, and no step branches; nodes are small and lie
 * tree by tree, so that one tree stays in the cache while all rows go through it.
 */
#include <stdint.h>

#include "export.h"

/* A node sends a row to `child[0]` where its value is not above the threshold, and where it is missing if
 * MISSING_LEFT is set in `feature`. A child >= 0 is a node of the same tree, ~child a leaf. */
#define NODE(NAME, TEST)                                                                                          \
    typedef struct {                                                                                              \
        TEST threshold;                                                                                           \
        uint32_t feature;                                                                                         \
        int32_t child[2];                                                                                         \
    } NAME;

NODE(node_f4, float)
NODE(node_f8, double)

#define MISSING_SHIFT 31
#define FEATURE (((uint32_t)1 << MISSING_SHIFT) - 1)

/* One step of one row, `at` the node that it is at; at a leaf it stays. The comparison is false for NaN. */
#define STEP(NODES, TEST, at, x)                                                                                  \
    {                                                                                                             \
        const NODES *node = tree + (at < 0 ? 0 : at);                                                             \
        TEST value = x[node->feature & FEATURE];                                                                  \
        int left = value <= node->threshold;                                                                      \
        if (missing)                                                                                              \
            left |= (value != value) & (int)(node->feature >> MISSING_SHIFT);                                     \
        int32_t next = node->child[!left];                                                                        \
        at = at < 0 ? at : next;                                                                                  \
    }

/* Scores: out[(group + w) * rows + i] += number w of `width` of the leaf that row i ends in, tree by tree.
 *
 * `x` has the rows one after the other, `features` numbers each; `missing` says whether NaN is among them, which
 * costs a quarter more (compiled for each, as a constant). The group of tree t, the first of the sums that
 * it adds to, is `groups[t]`; its nodes are first[t] to first[t + 1], and it has one leaf more than nodes. */
#define WALK(NAME, NODES, TEST, VALUE)                                                                            \
    static inline __attribute__((always_inline)) void NAME##_where(                                               \
        const int missing, const TEST *restrict x, int64_t rows, int64_t features, int32_t trees,                 \
        const int32_t *restrict groups, const int64_t *restrict first, const NODES *restrict nodes,               \
        const VALUE *restrict leaves, int32_t width, VALUE *restrict out) {                                       \
        for (int32_t t = 0; t < trees; t++) {                                                                     \
            const NODES *restrict tree = nodes + first[t];                                                        \
            const VALUE *restrict values = leaves + (first[t] + t) * width;                                       \
            VALUE *restrict sums = out + groups[t] * rows;                                                        \
            const int32_t root = first[t] < first[t + 1] ? 0 : ~0;                                                \
            int64_t i = 0;                                                                                        \
            for (; i + 8 <= rows; i += 8) {                                                                       \
                const TEST *xa = x + i * features, *xb = xa + features, *xc = xb + features;                      \
                const TEST *xd = xc + features, *xe = xd + features, *xf = xe + features;                         \
                const TEST *xg = xf + features, *xh = xg + features;                                              \
                int32_t a = root, b = root, c = root, d = root, e = root, f = root, g = root, h = root;           \
                while ((a & b & c & d & e & f & g & h) >= 0) {                                                    \
                    STEP(NODES, TEST, a, xa)                                                                      \
                    STEP(NODES, TEST, b, xb)                                                                      \
                    STEP(NODES, TEST, c, xc)                                                                      \
                    STEP(NODES, TEST, d, xd)                                                                      \
                    STEP(NODES, TEST, e, xe)                                                                      \
                    STEP(NODES, TEST, f, xf)                                                                      \
                    STEP(NODES, TEST, g, xg)                                                                      \
                    STEP(NODES, TEST, h, xh)                                                                      \
                }                                                                                                 \
                const int32_t ends[8] = {a, b, c, d, e, f, g, h};                                                 \
                for (int32_t w = 0; w < width; w++)                                                               \
                    for (int k = 0; k < 8; k++)                                                                   \
                        sums[w * rows + i + k] += values[(int64_t)~ends[k] * width + w];                          \
            }                                                                                                     \
            for (; i < rows; i++) {                                                                               \
                const TEST *xa = x + i * features;                                                                \
                int32_t a = root;                                                                                 \
                while (a >= 0)                                                                                    \
                    STEP(NODES, TEST, a, xa)                                                                      \
                for (int32_t w = 0; w < width; w++)                                                               \
                    sums[w * rows + i] += values[(int64_t)~a * width + w];                                        \
            }                                                                                                     \
        }                                                                                                         \
    }                                                                                                             \
    EXPORT void NAME(int32_t missing, const TEST *x, int64_t rows, int64_t features, int32_t trees,               \
                     const int32_t *groups, const int64_t *first, const NODES *nodes, const VALUE *leaves,        \
                     int32_t width, VALUE *out) {                                                                 \
        if (missing)                                                                                              \
            NAME##_where(1, x, rows, features, trees, groups, first, nodes, leaves, width, out);                  \
        else                                                                                                      \
            NAME##_where(0, x, rows, features, trees, groups, first, nodes, leaves, width, out);                  \
    }

WALK(tidemill_walk_f4_f4, node_f4, float, float)
WALK(tidemill_walk_f4_f8, node_f4, float, double)
WALK(tidemill_walk_f8_f4, node_f8, double, float)
WALK(tidemill_walk_f8_f8, node_f8, double, double)

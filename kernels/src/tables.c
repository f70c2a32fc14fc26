/* Ensembles of decision trees, scored by tables.
 *
 * The method is QuickScorer (Lucchese et al., SIGIR 2015) with tables in place of comparisons: each value is
 * ranked once among the breaks of its feature, and tables of each tree say by rank which leaves can still be
 * reached. The lowest bit that all tables of a tree leave is the leaf that a walk ends in.
 *
 * A tree tests a feature at a few of its breaks only, so several features share a table: how many of those
 * breaks each value has passed makes one number of all of them, for many rows by one instruction, and then
 * one look tells of all these features what a look each would.
 *
 * Plain C with no word of Python: it is loaded by ctypes, which releases the interpreter's lock. Sums are
 * taken tree by tree, in the order and the type that the libraries take them in.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "export.h"

#define ABI 5
/* Rows that are ranked, and rows that go through a tree, at a time: what they need stays in the caches. */
#define RANK_ROWS 512
#define TREE_ROWS 1024
/* Tables that are looked up side by side. */
#define TOGETHER 4

EXPORT int32_t tidemill_abi(void) { return ABI; }

/* Ranks: out[i] = how many breaks are less than x[i]; `missing` where the value is NaN.
 *
 * `breaks` ascend and are padded with infinity to `steps` doublings, 2^steps - 1 of them. */
#define RANK(NAME, VALUE, BREAK, OUT)                                                                             \
    CLONES EXPORT void NAME(const VALUE *restrict x, int64_t rows, const BREAK *restrict breaks, int32_t steps,   \
                            int32_t missing, OUT *restrict out) {                                                 \
        BREAK value[RANK_ROWS];                                                                                   \
        int32_t rank[RANK_ROWS];                                                                                  \
        for (int64_t start = 0; start < rows; start += RANK_ROWS) {                                               \
            int count = rows - start < RANK_ROWS ? (int)(rows - start) : RANK_ROWS;                               \
            for (int i = 0; i < count; i++) {                                                                     \
                value[i] = (BREAK)x[start + i];                                                                   \
                rank[i] = 0;                                                                                      \
            }                                                                                                     \
            for (int32_t step = (int32_t)1 << (steps - 1); step; step >>= 1)                                      \
                for (int i = 0; i < count; i++)                                                                   \
                    rank[i] += breaks[rank[i] + step - 1] < value[i] ? step : 0;                                  \
            for (int i = 0; i < count; i++)                                                                       \
                out[start + i] = (OUT)(value[i] != value[i] ? missing : rank[i]);                                 \
        }                                                                                                         \
    }

RANK(tidemill_rank_f8_u1, double, double, uint8_t)
RANK(tidemill_rank_f8_u2, double, double, uint16_t)
RANK(tidemill_rank_f4_u1, float, float, uint8_t)
RANK(tidemill_rank_f4_u2, float, float, uint16_t)

/* index[i] += weight for each of `count` steps that rank[i] has reached. */
#define CLIMB(NAME, RANK)                                                                                         \
    CLONES static void NAME(RANK *restrict index, const RANK *restrict rank, int rows, const RANK *restrict steps, \
                            int64_t count, RANK weight) {                                                         \
        for (; count >= 4; count -= 4, steps += 4) {                                                              \
            const RANK a = steps[0], b = steps[1], c = steps[2], d = steps[3];                                    \
            for (int i = 0; i < rows; i++)                                                                        \
                index[i] += (RANK)((rank[i] >= a ? weight : 0) + (rank[i] >= b ? weight : 0) +                    \
                                   (rank[i] >= c ? weight : 0) + (rank[i] >= d ? weight : 0));                    \
        }                                                                                                         \
        for (; count >= 2; count -= 2, steps += 2) {                                                              \
            const RANK a = steps[0], b = steps[1];                                                                \
            for (int i = 0; i < rows; i++)                                                                        \
                index[i] += (RANK)((rank[i] >= a ? weight : 0) + (rank[i] >= b ? weight : 0));                    \
        }                                                                                                         \
        if (count)                                                                                                \
            for (int i = 0; i < rows; i++)                                                                        \
                index[i] += rank[i] >= steps[0] ? weight : 0;                                                     \
    }

CLIMB(climb_u1, uint8_t)
CLIMB(climb_u2, uint16_t)

/* mask[i] becomes what one to four tables say; or what it was as well, if it was anything. */
#define EACH_ROW(SAID)                                                                                            \
    if (first)                                                                                                    \
        for (int i = 0; i < count; i++)                                                                           \
            mask[i] = SAID;                                                                                       \
    else                                                                                                          \
        for (int i = 0; i < count; i++)                                                                           \
            mask[i] &= SAID;

/* Scores: out[(group + w) * rows + i] += number w of `width` of the leaf that row i ends in, tree by tree.
 *
 * The group of tree t, the first of the sums that it adds to, is `groups[t]`. Its tables are lookups[t] to
 * lookups[t + 1]. Table q has for each word of 64 leaves `sizes[q]` masks, words one after the other, from
 * `places[q]` of `tables` on. Which mask it is for a row is the sum of the weights of all steps that the row has
 * reached: the steps of test k, ranks of `features[k]` (features * stride), are first_step[k] to first_step[k + 1], and the
 * tests of the table tests[q] to tests[q + 1]. A weight of 0 says that it is the rank itself. */
#define SCORE(NAME, CLIMBED, RANK, VALUE)                                                                         \
    EXPORT void NAME(const RANK *restrict ranked, int64_t rows, int64_t stride, int32_t trees,                     \
                     const int32_t *restrict groups, const int64_t *restrict lookups,                             \
                     const int64_t *restrict places, const int32_t *restrict sizes, const int64_t *restrict tests, \
                     const int32_t *restrict features, const RANK *restrict weights,                              \
                     const int64_t *restrict first_step, const RANK *restrict steps,                              \
                     const uint64_t *restrict tables, const int64_t *restrict first_leaf,                         \
                     const int32_t *restrict words, const VALUE *restrict leaves, int32_t width,                  \
                     VALUE *restrict out) {                                                                       \
        uint64_t mask[TREE_ROWS];                                                                                 \
        RANK climbed[TOGETHER][TREE_ROWS];                                                                        \
        int32_t leaf[TREE_ROWS];                                                                                  \
        for (int64_t start = 0; start < rows; start += TREE_ROWS) {                                               \
            int count = rows - start < TREE_ROWS ? (int)(rows - start) : TREE_ROWS;                               \
            const RANK *here = ranked + start;                                                                    \
            for (int32_t t = 0; t < trees; t++) {                                                                 \
                VALUE *restrict sums = out + groups[t] * rows + start;                                            \
                const VALUE *restrict values = leaves + first_leaf[t] * width;                                    \
                for (int32_t word = 0; word < words[t]; word++) {                                                 \
                    int first = 1, n;                                                                             \
                    for (int64_t q = lookups[t]; q < lookups[t + 1]; q += n, first = 0) {                         \
                        const RANK *at[TOGETHER] = {0};                                                           \
                        const uint64_t *said[TOGETHER] = {0};                                                     \
                        n = lookups[t + 1] - q < TOGETHER ? (int)(lookups[t + 1] - q) : TOGETHER;                 \
                        for (int j = 0; j < n; j++) {                                                             \
                            int64_t k = tests[q + j];                                                             \
                            said[j] = tables + places[q + j] + (int64_t)word * sizes[q + j];                      \
                            if (!weights[k]) {                                                                    \
                                at[j] = here + features[k] * stride;                                              \
                                continue;                                                                         \
                            }                                                                                     \
                            memset(climbed[j], 0, (size_t)count * sizeof(RANK));                                  \
                            for (; k < tests[q + j + 1]; k++)                                                     \
                                CLIMBED(climbed[j], here + features[k] * stride, count, steps + first_step[k],    \
                                        first_step[k + 1] - first_step[k], weights[k]);                           \
                            at[j] = climbed[j];                                                                   \
                        }                                                                                         \
                        const RANK *a = at[0], *b = at[1], *c = at[2], *d = at[3];                                \
                        const uint64_t *ta = said[0], *tb = said[1], *tc = said[2], *td = said[3];                \
                        if (n == 4) {                                                                             \
                            EACH_ROW((ta[a[i]] & tb[b[i]]) & (tc[c[i]] & td[d[i]]))                               \
                        } else if (n == 3) {                                                                      \
                            EACH_ROW((ta[a[i]] & tb[b[i]]) & tc[c[i]])                                            \
                        } else if (n == 2) {                                                                      \
                            EACH_ROW(ta[a[i]] & tb[b[i]])                                                         \
                        } else {                                                                                  \
                            EACH_ROW(ta[a[i]])                                                                    \
                        }                                                                                         \
                    }                                                                                             \
                    if (first)                                                                                    \
                        memset(mask, 0xff, (size_t)count * sizeof(uint64_t));                                     \
                    if (words[t] == 1 && width == 1) {                                                            \
                        for (int i = 0; i < count; i++)                                                           \
                            sums[i] += values[__builtin_ctzll(mask[i])];                                          \
                    } else if (word == 0) {                                                                       \
                        for (int i = 0; i < count; i++)                                                           \
                            leaf[i] = mask[i] ? __builtin_ctzll(mask[i]) : -1;                                    \
                    } else {                                                                                      \
                        for (int i = 0; i < count; i++)                                                           \
                            if (leaf[i] < 0 && mask[i])                                                           \
                                leaf[i] = 64 * word + __builtin_ctzll(mask[i]);                                   \
                    }                                                                                             \
                }                                                                                                 \
                if (words[t] > 1 || width > 1)                                                                    \
                    for (int32_t w = 0; w < width; w++)                                                           \
                        for (int i = 0; i < count; i++)                                                           \
                            sums[w * rows + i] += values[(int64_t)leaf[i] * width + w];                           \
            }                                                                                                     \
        }                                                                                                         \
    }

SCORE(tidemill_score_u1_f8, climb_u1, uint8_t, double)
SCORE(tidemill_score_u2_f8, climb_u2, uint16_t, double)
SCORE(tidemill_score_u1_f4, climb_u1, uint8_t, float)
SCORE(tidemill_score_u2_f4, climb_u2, uint16_t, float)

/* The tables that tests share: table q, of tests[q] to tests[q + 1], is written from `places[q]` of `tables` on, for
 * each of `words[q]` words. Test k tells apart `counts[k]` stretches of ranks, of which the masks stand from `from[k]`
 * of `masks` on, words one after the other; a table has one for each combination, the first test counting fastest. */
EXPORT void tidemill_join(int64_t lookups, const int64_t *restrict tests, const int32_t *restrict counts,
                          const int64_t *restrict from, const uint64_t *restrict masks, const int32_t *restrict words,
                          const int64_t *restrict places, const int32_t *restrict sizes, uint64_t *restrict tables) {
    for (int64_t q = 0; q < lookups; q++)
        for (int32_t word = 0; word < words[q]; word++) {
            uint64_t *table = tables + places[q] + (int64_t)word * sizes[q];
            for (int32_t index = 0; index < sizes[q]; index++) {
                uint64_t mask = ~(uint64_t)0;
                int32_t rest = index;
                for (int64_t k = tests[q]; k < tests[q + 1]; k++) {
                    mask &= masks[from[k] + (int64_t)word * counts[k] + rest % counts[k]];
                    rest /= counts[k];
                }
                table[index] = mask;
            }
        }
}

/* The tables of one tree, and the order of its leaves from left to right.
 *
 * A child >= 0 is a node, ~child a leaf; node 0 is the root. `answers` has for each node, from `rows[node]` on, for
 * each rank of its feature whether it sends that rank to the left. `places` says by feature where its table
 * begins in `tables`, `words` masks for each rank, all bits set. `stack` has room for 4 * (nodes + 1) numbers.
 * Returns how many leaves were reached; leaves and nodes that are none stop it: then it returns -1. */
EXPORT int32_t tidemill_tables(int32_t nodes, const int32_t *restrict feature, const int32_t *restrict left,
                               const int32_t *restrict right, const uint8_t *restrict answers,
                               const int64_t *restrict rows, const int64_t *restrict places,
                               const int32_t *restrict ranks, int32_t words, int64_t stride,
                               uint64_t *restrict tables, int32_t *restrict order, int32_t *restrict stack) {
    int32_t top = 0, count = 0, met = 0;
    stack[top++] = nodes ? 0 : ~0;
    stack[top++] = -1;
    while (top) {
        int32_t begin = stack[--top], node = stack[--top];
        if (node < 0) {
            if (~node > nodes || count > nodes)
                return -1;
            order[count++] = ~node;
        } else if (begin < 0) {
            /* Met before its left subtree: come back when that is done. */
            if (node >= nodes || ++met > nodes)
                return -1;
            stack[top++] = node, stack[top++] = count;
            stack[top++] = left[node], stack[top++] = -1;
        } else {
            const uint8_t *goes_left = answers + rows[node];
            uint64_t *table = tables + places[feature[node]];
            int32_t width = ranks[feature[node]];
            for (int32_t word = begin / 64; word < words && word * 64 < count; word++) {
                int32_t low = begin > 64 * word ? begin - 64 * word : 0;
                int32_t high = count < 64 * (word + 1) ? count - 64 * word : 64;
                uint64_t at_left = (high - low == 64 ? ~(uint64_t)0 : (((uint64_t)1 << (high - low)) - 1) << low);
                uint64_t *masks = table + word * stride;
                for (int32_t rank = 0; rank < width; rank++)
                    if (!goes_left[rank])
                        masks[rank] &= ~at_left;
            }
            stack[top++] = right[node], stack[top++] = -1;
        }
    }
    return count;
}

/* What follows the sums. `exp` is that of the C library, as the models' libraries call it, so that the last bit is
 * theirs as well. */
EXPORT void tidemill_logistic(double *restrict scores, int64_t count, double slope) {
    for (int64_t i = 0; i < count; i++)
        scores[i] = 1.0 / (1.0 + exp(-slope * scores[i]));
}

/* The same in 32 bits, as XGBoost takes it: with a floor of 1e-16, and no power that would overflow. */
EXPORT void tidemill_logistic_f4(float *restrict scores, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float power = -scores[i] < 88.7f ? -scores[i] : 88.7f;
        scores[i] = 1.0f / (expf(power) + 1.0f + 1e-16f);
    }
}

EXPORT void tidemill_log_f4(float *restrict values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        values[i] = logf(values[i]);
}

EXPORT void tidemill_exp_f4(float *restrict scores, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        scores[i] = expf(scores[i]);
}

/* Of `groups` sums for each row: shares of each row, in 32 bits but for their sum. */
EXPORT void tidemill_softmax_f4(const float *restrict scores, int64_t rows, int32_t groups, float *restrict out) {
    for (int64_t i = 0; i < rows; i++) {
        float most = scores[i];
        double sum = 0.0;
        for (int32_t g = 1; g < groups; g++)
            most = scores[g * rows + i] > most ? scores[g * rows + i] : most;
        for (int32_t g = 0; g < groups; g++) {
            out[i * groups + g] = expf(scores[g * rows + i] - most);
            sum += out[i * groups + g];
        }
        for (int32_t g = 0; g < groups; g++)
            out[i * groups + g] /= (float)sum;
    }
}

EXPORT void tidemill_exp(double *restrict scores, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        scores[i] = exp(scores[i]);
}

EXPORT void tidemill_log1p_exp(double *restrict scores, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        scores[i] = log1p(exp(scores[i]));
}

/* Of `groups` sums for each of `rows` rows, one group after the other: shares of each row, one row after the other. */
EXPORT void tidemill_softmax(const double *restrict scores, int64_t rows, int32_t groups, double *restrict out) {
    for (int64_t i = 0; i < rows; i++) {
        double most = scores[i], sum = 0.0;
        for (int32_t g = 1; g < groups; g++)
            most = scores[g * rows + i] > most ? scores[g * rows + i] : most;
        for (int32_t g = 0; g < groups; g++) {
            out[i * groups + g] = exp(scores[g * rows + i] - most);
            sum += out[i * groups + g];
        }
        for (int32_t g = 0; g < groups; g++)
            out[i * groups + g] /= sum;
    }
}

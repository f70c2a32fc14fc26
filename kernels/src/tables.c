/* Ensembles of decision trees, scored by tables.
 *
 * The method is QuickScorer (Lucchese et al., SIGIR 2015) with tables in place of comparisons: each value is
 * ranked once among the breaks of its feature, and a table of each (tree, feature) says by rank which leaves
 * can still be reached. The lowest bit that all tables of a tree leave is the leaf that a walk ends in.
 *
 * Plain C with no word of Python: it is loaded by ctypes, which releases the interpreter's lock. Sums are
 * taken tree by tree, in the order and the type that the libraries take them in.
 */
#include <math.h>
#include <stdint.h>

#include "export.h"

#define ABI 4
/* Rows that are ranked, and rows that go through a tree, at a time: what they need stays in the caches. */
#define RANK_ROWS 512
#define TREE_ROWS 2048

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

/* Scores: out[(group + w) * rows + i] += number w of `width` of the leaf that row i ends in, tree by tree.
 *
 * The group of tree t, the first of the sums that it adds to, is `groups[t]`. Its tables are pairs[t] to pairs[t + 1]: `features` says of which
 * feature's ranks (features * stride), `places` where in `tables` the table begins. A table has for each word
 * of 64 leaves one mask for each rank of the feature (`ranks`), words one after the other. */
#define SCORE(NAME, RANK, VALUE)                                                                                  \
    EXPORT void NAME(const RANK *restrict ranked, int64_t rows, int64_t stride, int32_t trees,                     \
                     const int32_t *restrict groups, const int64_t *restrict pairs,                               \
                     const int32_t *restrict features,                                                            \
                     const int64_t *restrict places, const int32_t *restrict ranks,                               \
                     const uint64_t *restrict tables, const int64_t *restrict first_leaf,                         \
                     const int32_t *restrict words, const VALUE *restrict leaves, int32_t width,                  \
                     VALUE *restrict out) {                                                                       \
        uint64_t mask[TREE_ROWS];                                                                                 \
        int32_t leaf[TREE_ROWS];                                                                                  \
        for (int64_t start = 0; start < rows; start += TREE_ROWS) {                                               \
            int count = rows - start < TREE_ROWS ? (int)(rows - start) : TREE_ROWS;                               \
            const RANK *here = ranked + start;                                                                    \
            for (int32_t t = 0; t < trees; t++) {                                                                 \
                VALUE *restrict sums = out + groups[t] * rows + start;                                            \
                const VALUE *restrict values = leaves + first_leaf[t] * width;                                    \
                for (int32_t word = 0; word < words[t]; word++) {                                                 \
                    int64_t p = pairs[t], end = pairs[t + 1];                                                     \
                    for (int i = 0; i < count; i++)                                                               \
                        mask[i] = ~(uint64_t)0;                                                                   \
                    for (; p + 4 <= end; p += 4) {                                                                \
                        const RANK *a = here + features[p] * stride, *b = here + features[p + 1] * stride;        \
                        const RANK *c = here + features[p + 2] * stride, *d = here + features[p + 3] * stride;    \
                        const uint64_t *ta = tables + places[p] + (int64_t)word * ranks[p];                       \
                        const uint64_t *tb = tables + places[p + 1] + (int64_t)word * ranks[p + 1];               \
                        const uint64_t *tc = tables + places[p + 2] + (int64_t)word * ranks[p + 2];               \
                        const uint64_t *td = tables + places[p + 3] + (int64_t)word * ranks[p + 3];               \
                        for (int i = 0; i < count; i++)                                                           \
                            mask[i] &= (ta[a[i]] & tb[b[i]]) & (tc[c[i]] & td[d[i]]);                             \
                    }                                                                                             \
                    for (; p < end; p++) {                                                                        \
                        const RANK *a = here + features[p] * stride;                                              \
                        const uint64_t *ta = tables + places[p] + (int64_t)word * ranks[p];                       \
                        for (int i = 0; i < count; i++)                                                           \
                            mask[i] &= ta[a[i]];                                                                  \
                    }                                                                                             \
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

SCORE(tidemill_score_u1_f8, uint8_t, double)
SCORE(tidemill_score_u2_f8, uint16_t, double)
SCORE(tidemill_score_u1_f4, uint8_t, float)
SCORE(tidemill_score_u2_f4, uint16_t, float)

/* The tables of one tree, and the order of its leaves from left to right.
 *
 * A child >= 0 is a node, ~child a leaf; node 0 is the root. `answers` has for each node, from `rows[node]` on, for
 * each rank of its feature whether it sends that rank to the left. `places` says by feature where its table
 * begins in `tables`, `words` masks for each rank, all bits set. `stack` has room for 4 * (nodes + 1) numbers.
 * Returns how many leaves were reached; leaves and nodes that are none stop it: then it returns -1. */
EXPORT int32_t tidemill_tables(int32_t nodes, const int32_t *restrict feature, const int32_t *restrict left,
                               const int32_t *restrict right, const uint8_t *restrict answers,
                               const int64_t *restrict rows, const int64_t *restrict places,
                               const int32_t *restrict ranks, int32_t words, uint64_t *restrict tables,
                               int32_t *restrict order, int32_t *restrict stack) {
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
                uint64_t *masks = table + (int64_t)word * width;
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

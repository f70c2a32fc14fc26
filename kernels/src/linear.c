/* Sums of what the columns of a row add: linear models without their matrix.
 *
 * Each number goes through steps and is multiplied by a weight for each sum; each code of a category adds what a
 * table says of it. Steps are those of `tidemill.kernels.linear`, term by term in its order, so the sums are its
 * bits as well: nothing is contracted, nothing regrouped.
 */
#include <math.h>
#include <stdint.h>

#include "export.h"

/* Rows whose totals are kept at a time, and how many totals: they stay in the caches. */
#define TILE_ROWS 1024
#define TILE_TOTALS 4096
#define LANES 32

enum { F8, I1, U1, I2, U2, I4, U4, I8, U8 };
enum { SUBTRACT, ADD, MULTIPLY, DIVIDE, AT_LEAST, AT_MOST, FILL, IS_MISSING, STEPS };
enum { INFINITE = 1, STRAY = 2, MALFORMED = -1 };

/* Values of a type, and of each row a bit that says whether there is one, from bit `first` on; NULL: all are there. */
typedef struct {
    const void *values;
    const uint8_t *valid;
    int64_t first;
    int64_t type;
} Column;

/* Steps `step` up to that of the next term, on the numbers of a column. */
typedef struct {
    int32_t column;
    int32_t step;
} Term;

/* What each place of a column adds: `added` is (sums, places); the last place is for what is missing. */
typedef struct {
    Column column;
    const double *added;
    int64_t places;
} Table;

#define INLINE static inline __attribute__((always_inline))

/* For each of `count` rows from `start` on that has no value. */
#define EACH_MISSING(COLUMN, START, COUNT, ROW, DO)                                                               \
    if ((COLUMN)->valid)                                                                                          \
        for (int ROW = 0; ROW < (COUNT);) {                                                                       \
            int64_t bit = (COLUMN)->first + (START) + ROW;                                                        \
            uint8_t bits = (COLUMN)->valid[bit >> 3];                                                             \
            if (bits == 0xFF) {                                                                                   \
                ROW += 8 - (int)(bit & 7);                                                                        \
                continue;                                                                                         \
            }                                                                                                     \
            if (!(bits >> (bit & 7) & 1))                                                                         \
                DO;                                                                                               \
            ROW++;                                                                                                \
        }

#define AS_DOUBLES(TYPE)                                                                                          \
    for (int i = 0; i < count; i++)                                                                               \
        value[i] = (double)((const TYPE *)column->values)[start + i];                                             \
    break

/* INFINITE if a number is. */
INLINE int infinite(const double *restrict value, int count) {
    int found = 0;
    for (int i = 0; i < count; i++)
        found |= fabs(value[i]) == INFINITY;
    return found ? INFINITE : 0;
}

/* Numbers of a column, NaN where there is none. */
INLINE void numbers(const Column *column, int64_t start, int count, double *restrict value) {
    switch (column->type) {
    case F8: AS_DOUBLES(double);
    case I4: AS_DOUBLES(int32_t);
    case U4: AS_DOUBLES(uint32_t);
    case I8: AS_DOUBLES(int64_t);
    }
    EACH_MISSING(column, start, count, row, value[row] = NAN)
}

#define EACH_VALUE(EXPRESSION)                                                                                    \
    for (int i = 0; i < count; i++) {                                                                             \
        double x = value[i];                                                                                      \
        value[i] = (EXPRESSION);                                                                                  \
    }                                                                                                             \
    break

INLINE void step(int32_t operation, double operand, int count, double *restrict value) {
    switch (operation) {
    case SUBTRACT: EACH_VALUE(x - operand);
    case ADD: EACH_VALUE(x + operand);
    case MULTIPLY: EACH_VALUE(x * operand);
    case DIVIDE: EACH_VALUE(x / operand);
    /* What is missing stays so. */
    case AT_LEAST: EACH_VALUE(x < operand ? operand : x);
    case AT_MOST: EACH_VALUE(x > operand ? operand : x);
    case FILL: EACH_VALUE(x != x ? operand : x);
    case IS_MISSING: EACH_VALUE(x != x ? 1.0 : 0.0);
    }
}

/* The largest absolute value that is a number, or `least`. Lanes are independent, so that they are compared at once. */
INLINE double largest_of(const double *restrict value, int count, double least) {
    double most[LANES] = {0};
    const double *restrict here = value, *end = value + count;
    for (; end - here >= LANES; here += LANES)
        for (int lane = 0; lane < LANES; lane++)
            most[lane] = fabs(here[lane]) > most[lane] ? fabs(here[lane]) : most[lane];
    for (int lane = 0; lane < LANES; lane++)
        least = most[lane] > least ? most[lane] : least;
    for (; here < end; here++)
        least = fabs(*here) > least ? fabs(*here) : least;
    return least;
}

#define AS_PLACES(TYPE)                                                                                           \
    for (int i = 0; i < count; i++) {                                                                             \
        uint64_t found = (uint64_t)((const TYPE *)column->values)[start + i];                                     \
        place[i] = found < places ? (int32_t)found : -1;                                                          \
    }                                                                                                             \
    break

/* Places of a table's rows, each within it; whether one was not. */
INLINE int places_of(const Table *table, int64_t start, int count, int32_t *restrict place) {
    const Column *column = &table->column;
    const uint64_t places = (uint64_t)table->places;
    const int32_t last = (int32_t)(places - 1);
    switch (column->type) {
    case I1: AS_PLACES(int8_t);
    case U1: AS_PLACES(uint8_t);
    case I2: AS_PLACES(int16_t);
    case U2: AS_PLACES(uint16_t);
    case I4: AS_PLACES(int32_t);
    case U4: AS_PLACES(uint32_t);
    case I8: AS_PLACES(int64_t);
    case U8: AS_PLACES(uint64_t);
    }
    EACH_MISSING(column, start, count, row, place[row] = last)
    int32_t stray = 0;
    for (int i = 0; i < count; i++) {
        stray |= place[i];
        place[i] = place[i] < 0 ? last : place[i];
    }
    return stray < 0 ? STRAY : 0;
}

static int well_formed(int32_t columns, const Column *column, int32_t terms, const Term *term,
                       const int32_t *operations, int32_t tables, const Table *table) {
    for (int32_t c = 0; c < columns; c++) {
        const int64_t type = column[c].type;
        if (type != F8 && type != I4 && type != U4 && type != I8)
            return 0;
    }
    for (int32_t t = 0; t < terms; t++) {
        if (term[t].column < 0 || term[t].column >= columns || term[t].step < 0 || term[t + 1].step < term[t].step)
            return 0;
        for (int32_t s = term[t].step; s < term[t + 1].step; s++)
            if (operations[s] < 0 || operations[s] >= STEPS)
                return 0;
    }
    for (int32_t t = 0; t < tables; t++)
        if (table[t].column.type < I1 || table[t].column.type > U8 || table[t].places < 1 ||
            table[t].places > INT32_MAX)
            return 0;
    return columns >= 0 && terms >= 0 && tables >= 0;
}

/* Sums of rows, (sums, rows): `start` of each sum, then each term's value times its weights, (terms, sums), then what
 * tables say. `largest` becomes the largest absolute value of each term that is a number. `terms` has one more, which
 * says where the steps end.
 *
 * Returns INFINITE and STRAY, if an infinite number was met, or a place that a table has not: the sums then mean
 * nothing. MALFORMED, before anything is read, for a description that is none. */
CLONES EXPORT int32_t tidemill_linear(int64_t rows, int32_t sums, const double *restrict start, int32_t columns,
                                      const Column *restrict column, int32_t terms, const Term *restrict term,
                                      const int32_t *restrict operations, const double *restrict operands,
                                      const double *restrict weights, int32_t tables, const Table *restrict table,
                                      double *restrict out, double *restrict largest) {
    double value[TILE_ROWS];
    int32_t place[TILE_ROWS];
    int met = 0;
    if (rows < 0 || sums < 1 || !well_formed(columns, column, terms, term, operations, tables, table))
        return MALFORMED;
    for (int32_t t = 0; t < terms; t++)
        largest[t] = 0.0;
    int64_t tile = TILE_TOTALS / sums < TILE_ROWS ? TILE_TOTALS / sums : TILE_ROWS;
    tile = tile < 64 ? 64 : tile;
    for (int64_t begin = 0; begin < rows; begin += tile) {
        const int count = rows - begin < tile ? (int)(rows - begin) : (int)tile;
        for (int32_t s = 0; s < sums; s++)
            for (int i = 0; i < count; i++)
                out[s * rows + begin + i] = start[s];
        for (int32_t t = 0; t < terms; t++) {
            numbers(&column[term[t].column], begin, count, value);
            met |= infinite(value, count);
            for (int32_t s = term[t].step; s < term[t + 1].step; s++) {
                /* Later steps may hide it, but no library takes it. */
                if (operations[s] >= AT_LEAST)
                    met |= infinite(value, count);
                step(operations[s], operands[s], count, value);
            }
            largest[t] = largest_of(value, count, largest[t]);
            for (int32_t s = 0; s < sums; s++) {
                const double weight = weights[(int64_t)t * sums + s];
                double *restrict total = out + s * rows + begin;
                for (int i = 0; i < count; i++)
                    total[i] += value[i] * weight;
            }
        }
        for (int32_t t = 0; t < tables; t++) {
            met |= places_of(&table[t], begin, count, place);
            for (int32_t s = 0; s < sums; s++) {
                const double *restrict added = table[t].added + s * table[t].places;
                double *restrict total = out + s * rows + begin;
                for (int i = 0; i < count; i++)
                    total[i] += added[place[i]];
            }
        }
    }
    return met;
}

/* Records of delimited text (CSV), read without a detour.
 *
 * A field ends at a delimiter, a record at LF, CRLF or CR. A quote opens a field only as its first byte, and closes it
 * at the next one that is not doubled; `quote` is -1 if there is none. What is not plain stops a call: the caller looks
 * at that record in its own, slower way. Behind `length` stands a line's beginning, or a zero byte as behind Python's
 * bytes, so that a numeral always ends.
 */
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "export.h"
#include "numerals.h"

/* The first delimiter, LF or CR from p on, or `end`. */
static inline const uint8_t *plain_end(const uint8_t *p, const uint8_t *end, uint8_t delimiter) {
#if defined(__SSE2__)
    const __m128i comma = _mm_set1_epi8((char)delimiter), feed = _mm_set1_epi8('\n'), ret = _mm_set1_epi8('\r');
    for (; end - p >= 16; p += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)p);
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(bytes, comma),
                                     _mm_or_si128(_mm_cmpeq_epi8(bytes, feed), _mm_cmpeq_epi8(bytes, ret)));
        unsigned mask = (unsigned)_mm_movemask_epi8(found);
        if (mask)
            return p + __builtin_ctz(mask);
    }
#endif
    while (p < end && *p != delimiter && *p != '\n' && *p != '\r')
        p++;
    return p;
}

/* Behind the quote that closes the one before p, or NULL; `doubled` counts the doubled ones between. */
static inline const uint8_t *quoted_end(const uint8_t *p, const uint8_t *end, uint8_t quote, int64_t *doubled) {
    for (;;) {
        p = memchr(p, quote, (size_t)(end - p));
        if (!p)
            return NULL;
        p++;
        if (p == end || *p != quote)
            return p;
        p++, ++*doubled;
    }
}

/* Behind the line end that stands at p. */
static inline const uint8_t *line_end(const uint8_t *p) {
    return p + (p[0] == '\r' && p[1] == '\n' ? 2 : 1);
}

#if defined(__SSE2__)
/* Where in 64 bytes a byte stands, as bits. */
static inline uint64_t places(const __m128i bytes[4], uint8_t wanted) {
    const __m128i each = _mm_set1_epi8((char)wanted);
    uint64_t found = 0;
    for (int i = 3; i >= 0; i--)
        found = found << 16 | (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes[i], each));
    return found;
}

/* Records by counting: line feeds are outside quotes behind an even number of them. That holds while no quote opens but
 * behind a border. Returns the bytes of whole records, or -1 if one does, or lines end in another way. What is behind
 * the last 64 bytes is left. */
static int64_t cut_by_counting(const uint8_t *data, int64_t length, uint8_t delimiter, int32_t quote, int64_t *records,
                               int64_t *blank) {
    uint64_t inside = 0, before_border = 1, before_feed = 1;
    int64_t whole = 0, count = 0, empty = 0;
    for (int64_t at = 0; at + 64 <= length; at += 64) {
        __m128i bytes[4];
        for (int i = 0; i < 4; i++)
            bytes[i] = _mm_loadu_si128((const __m128i *)(data + at + 16 * i));
        uint64_t feeds = places(bytes, '\n');
        if (places(bytes, '\r'))
            return -1;
        uint64_t quotes = quote < 0 ? 0 : places(bytes, (uint8_t)quote), outside = feeds;
        if (quotes | inside) {
            /* Bit i: whether byte i is behind an opening quote, the quote itself included. */
            uint64_t open = quotes;
            for (int step = 1; step < 64; step *= 2)
                open ^= open << step;
            open ^= inside;
            uint64_t border = feeds | quotes | places(bytes, delimiter);
            if (quotes & open & ~(border << 1 | before_border))
                return -1;
            inside = (uint64_t)((int64_t)open >> 63);
            outside &= ~open;
        }
        /* What stands before a quote matters only where one follows. */
        uint8_t last = data[at + 63];
        before_border = last == '\n' || last == delimiter || last == quote;
        count += __builtin_popcountll(outside);
        empty += __builtin_popcountll(outside & (outside << 1 | before_feed));
        before_feed = outside >> 63;
        if (outside)
            whole = at + 64 - __builtin_clzll(outside);
    }
    *records = count, *blank = empty;
    return whole;
}
#endif

/* Returns how many bytes the whole records at the beginning of `data` have; `records` says how many they are,
 * empty lines not counted unless `keep_empty`. `final` says that nothing follows. */
EXPORT int64_t tidemill_delimited_cut(const uint8_t *data, int64_t length, uint8_t delimiter, int32_t quote,
                                      int32_t keep_empty, int32_t final, int64_t *records) {
    const uint8_t *p = data, *end = data + length, *begin = data;
    int64_t count = 0, doubled = 0;
#if defined(__SSE2__)
    int64_t counted, blank, whole = cut_by_counting(data, length, delimiter, quote, &counted, &blank);
    if (whole > 0) {
        count = keep_empty ? counted : counted - blank;
        begin = p = data + whole;
    }
#endif
    while (p < end) {
        const uint8_t *record = p;
        for (;;) {
            if (p < end && *p == quote && quote >= 0) {
                p = quoted_end(p + 1, end, (uint8_t)quote, &doubled);
                if (!p)
                    goto done;
                /* The closing quote may be the first of two. */
                if (p == end && !final)
                    goto done;
            }
            p = plain_end(p, end, delimiter);
            if (p == end || *p != delimiter)
                break;
            p++;
        }
        if (p == end ? !final : !final && *p == '\r' && p + 1 == end)
            break;
        count += keep_empty || p > record;
        begin = p = p == end ? end : line_end(p);
    }
done:
    *records = count;
    return begin - data;
}

enum { SKIPPED, FLOAT64, FLOAT32, INT64, INT32, TEXT };

typedef struct {
    int32_t kind;
    int32_t has_non_ascii;
    int64_t nulls;
    void *values;   /* numbers by row, or the bytes of texts */
    uint8_t *valid; /* by row */
    int32_t *ends;  /* of texts: offsets, one more than rows */
} column;

typedef struct {
    const uint8_t *text; /* one after the other */
    const int32_t *ends; /* one more than `count` */
    int32_t count;
    int32_t numeric; /* whether one of them could be read as a number */
} missing_values;

static inline int is_missing(const uint8_t *p, const uint8_t *stop, const missing_values *missing) {
    for (int32_t i = 0; i < missing->count; i++) {
        int64_t length = missing->ends[i + 1] - missing->ends[i];
        if (length == stop - p && !memcmp(p, missing->text + missing->ends[i], (size_t)length))
            return 1;
    }
    return 0;
}

static inline int store_number(column *c, int64_t row, const uint8_t *p, const uint8_t *stop, const numeral *n) {
    if (c->kind == FLOAT64)
        return numeral_double(p, stop, n, (double *)c->values + row);
    if (c->kind == FLOAT32)
        return numeral_float(n, (float *)c->values + row);
    if (!n->whole || !n->exact || n->digits > (uint64_t)999999999999999999)
        return 0;
    int64_t whole = n->negative ? -(int64_t)n->digits : (int64_t)n->digits;
    if (c->kind == INT64)
        ((int64_t *)c->values)[row] = whole;
    else if (whole < INT32_MIN || whole > INT32_MAX)
        return 0;
    else
        ((int32_t *)c->values)[row] = (int32_t)whole;
    return 1;
}

static inline void store_null(column *c, int64_t row) {
    if (c->kind == TEXT)
        c->ends[row + 1] = c->ends[row];
    else if (c->kind == FLOAT64 || c->kind == INT64)
        ((int64_t *)c->values)[row] = 0;
    else
        ((int32_t *)c->values)[row] = 0;
    c->valid[row] = 0;
}

static inline void store_text(column *c, int64_t row, const uint8_t *p, const uint8_t *stop, int64_t doubled) {
    uint8_t *out = (uint8_t *)c->values + c->ends[row], seen = 0;
    int64_t length = stop - p;
    if (!doubled) {
        for (int64_t i = 0; i < length; i++)
            out[i] = p[i], seen |= p[i];
    } else {
        /* The one that closes; inside, each is the first of two. */
        uint8_t quote = *stop;
        length = 0;
        for (; p < stop; p++) {
            out[length++] = *p, seen |= *p;
            p += *p == quote;
        }
    }
    c->ends[row + 1] = c->ends[row] + (int32_t)length;
    c->has_non_ascii |= seen >= 128;
}

/* Reads at most `rows` records of `fields` fields into `columns`, one for each field. Returns how many it read: fewer
 * if the next is not plain. `taken` is how many bytes they have. */
EXPORT int64_t tidemill_delimited_read(const uint8_t *data, int64_t length, uint8_t delimiter, int32_t quote,
                                       int32_t keep_empty, int32_t fields, column *columns,
                                       const missing_values *missing, int64_t rows, int64_t *taken) {
    const uint8_t *p = data, *end = data + length, *begin = data;
    int64_t row = 0;
    while (p < end && row < rows) {
        if (!keep_empty && (*p == '\n' || *p == '\r')) {
            begin = p = line_end(p);
            continue;
        }
        int32_t field = 0;
        for (;; field++) {
            const uint8_t *from, *stop;
            int64_t doubled = 0;
            int quoted = 0;
            numeral n;
            if (field == fields)
                goto done;
            column *c = columns + field;
            if (*p == quote && p < end) {
                quoted = 1;
                from = p + 1;
                p = quoted_end(from, end, (uint8_t)quote, &doubled);
                if (!p || (p < end && *p != delimiter && *p != '\n' && *p != '\r'))
                    goto done;
                stop = p - 1;
            } else if (c->kind == SKIPPED || c->kind == TEXT) {
                from = p;
                stop = p = plain_end(p, end, delimiter);
            } else {
                /* Most fields are numbers: then their end is found by reading them. */
                from = p;
                stop = numeral_at(p, &n);
                if (stop && (stop >= end || *stop == delimiter || *stop == '\n' || *stop == '\r') && stop <= end &&
                    !missing->numeric && store_number(c, row, from, stop, &n)) {
                    c->valid[row] = 1;
                    p = stop;
                    goto stored;
                }
                stop = p = plain_end(p, end, delimiter);
            }
            if (c->kind == SKIPPED)
                goto stored;
            if (!quoted && from == stop)
                store_null(c, row);
            else if (c->kind == TEXT) {
                store_text(c, row, from, stop, doubled);
                c->valid[row] = 1;
            } else if (doubled)
                goto done;
            else if (is_missing(from, stop, missing))
                store_null(c, row);
            else if (numeral_at(from, &n) == stop && store_number(c, row, from, stop, &n))
                c->valid[row] = 1;
            else
                goto done;
        stored:
            if (p >= end || *p != delimiter)
                break;
            p++;
        }
        if (field + 1 != fields)
            goto done;
        begin = p = p >= end ? end : line_end(p);
        row++;
    }
done:
    for (int32_t i = 0; i < fields; i++) {
        column *c = columns + i;
        c->nulls = 0;
        if (c->kind != SKIPPED)
            for (int64_t r = 0; r < row; r++)
                c->nulls += !c->valid[r];
    }
    *taken = begin - data;
    return row;
}

#define IS_NULL 1
#define IS_INT64 2
#define IS_FLOAT64 4
#define IS_OTHER 8

/* Of a field that ends at `stop` and whose numeral ends at `end`; 0 if that is not all of it, or a strange number. */
static inline uint8_t kind_of(const uint8_t *end, const uint8_t *stop, const numeral *n) {
    if (end != stop || !n->exact || n->digits > (uint64_t)999999999999999999 || n->power < -280 || n->power > 280)
        return 0;
    return n->whole ? IS_INT64 : IS_FLOAT64;
}

/* What the values of each field are, in `kinds`: the sum of what was met. Returns the number of records, or -1 if one
 * of them is not plain. */
EXPORT int64_t tidemill_delimited_kinds(const uint8_t *data, int64_t length, uint8_t delimiter, int32_t quote,
                                        int32_t keep_empty, int32_t fields, const missing_values *missing,
                                        uint8_t *kinds) {
    const uint8_t *p = data, *end = data + length;
    int64_t row = 0;
    while (p < end) {
        if (!keep_empty && (*p == '\n' || *p == '\r')) {
            p = line_end(p);
            continue;
        }
        int32_t field = 0;
        for (;; field++) {
            const uint8_t *from = p, *stop;
            int64_t doubled = 0;
            numeral n;
            if (field == fields)
                return -1;
            uint8_t kind = 0;
            if (*p == quote && p < end) {
                from = p + 1;
                p = quoted_end(from, end, (uint8_t)quote, &doubled);
                if (!p || (p < end && *p != delimiter && *p != '\n' && *p != '\r'))
                    return -1;
                stop = p - 1;
                kind = stop == from ? IS_OTHER : kind_of(numeral_at(from, &n), stop, &n);
            } else {
                stop = kinds[field] & IS_OTHER ? NULL : numeral_at(p, &n);
                if (stop && (stop >= end || *stop == delimiter || *stop == '\n' || *stop == '\r'))
                    kind = kind_of(stop, p = stop, &n);
                else {
                    stop = p = plain_end(p, end, delimiter);
                    kind = stop == from ? IS_NULL : 0;
                }
            }
            if (!kind)
                kind = is_missing(from, stop, missing) ? IS_NULL : IS_OTHER;
            kinds[field] |= kind;
            if (p >= end || *p != delimiter)
                break;
            p++;
        }
        if (field + 1 != fields)
            return -1;
        p = p >= end ? end : line_end(p);
        row++;
    }
    return row;
}

/* Decimal numerals to numbers, correctly rounded.
 *
 * Only plain ones: an optional minus, digits with an optional point, an optional exponent. What is none, or would be
 * infinite or lose digits at the lower end, is left to the caller.
 */
#ifndef TIDEMILL_NUMERALS_H
#define TIDEMILL_NUMERALS_H

#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t digits;
    int32_t power;
    uint8_t negative, whole, exact;
} numeral;

/* Reads a numeral of text that ends with a byte that is no digit. Returns where it ends, or NULL if there is none;
 * `whole` says that it has neither point nor exponent, `exact` that all digits are in `digits`. */
static inline const uint8_t *numeral_at(const uint8_t *p, numeral *n) {
    uint64_t digits = 0;
    unsigned digit;
    n->negative = *p == '-';
    p += n->negative;
    const uint8_t *first = p;
    while ((digit = (unsigned)*p - '0') <= 9)
        digits = digits * 10 + digit, p++;
    int64_t count = p - first;
    n->whole = 1;
    n->power = 0;
    if (*p == '.') {
        const uint8_t *point = ++p;
        while ((digit = (unsigned)*p - '0') <= 9)
            digits = digits * 10 + digit, p++;
        if (p - point > 400)
            return NULL;
        count += p - point;
        n->power = -(int32_t)(p - point);
        n->whole = 0;
    }
    if (!count)
        return NULL;
    if (count > 19) {
        /* Zeros at the beginning count for nothing. */
        while (count && (*first == '0' || *first == '.'))
            count -= *first++ == '0';
    }
    n->exact = count <= 19;
    n->digits = digits;
    if ((*p | 32) == 'e') {
        p++;
        int below = *p == '-';
        p += below || *p == '+';
        int32_t power = 0;
        const uint8_t *begin = p;
        while ((digit = (unsigned)*p - '0') <= 9) {
            if (p - begin == 4)
                return NULL;
            power = power * 10 + (int32_t)digit, p++;
        }
        if (p == begin)
            return NULL;
        n->power += below ? -power : power;
        n->whole = 0;
    }
    return p;
}

static const double NUMERAL_TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

#define NUMERAL_FIVES 27 /* the highest power of five below 2^64 */
static const uint64_t NUMERAL_FIVE[NUMERAL_FIVES + 1] = {
    1u, 5u, 25u, 125u, 625u, 3125u, 15625u, 78125u, 390625u, 1953125u, 9765625u, 48828125u, 244140625u, 1220703125u,
    6103515625u, 30517578125u, 152587890625u, 762939453125u, 3814697265625u, 19073486328125u, 95367431640625u,
    476837158203125u, 2384185791015625u, 11920928955078125u, 59604644775390625u, 298023223876953125u,
    1490116119384765625u, 7450580596923828125u};

/* High 64 bits of a number and whether anything is below them -> the number, rounded to `bits` bits, times 2^power. */
static inline double numeral_rounded(uint64_t high, int rest, int32_t power, int bits) {
    int32_t lead = __builtin_clzll(high);
    int32_t below = 64 - lead - bits;
    if (below > 0) {
        uint64_t cut = high & (((uint64_t)1 << below) - 1), half = (uint64_t)1 << (below - 1);
        high >>= below;
        high += cut > half || (cut == half && (rest || (high & 1)));
        power += below;
    }
    uint64_t scale = (uint64_t)(power + 1023) << 52;
    double factor;
    memcpy(&factor, &scale, sizeof factor);
    return (double)high * factor;
}

/* |n| for powers of ten from -27 to 27, rounded once to `bits` bits: quotient or product of whole numbers of 128 bits. */
static inline double numeral_by_integers(const numeral *n, int bits) {
    int32_t lead = __builtin_clzll(n->digits);
    uint64_t top = n->digits << lead;
    if (n->power < 0) {
        int32_t k = -n->power, shift = __builtin_clzll(NUMERAL_FIVE[k]);
        uint64_t divisor = NUMERAL_FIVE[k] << shift, quotient, rest;
        /* top < 2 * divisor, so the quotient of top * 2^63 has at most 64 bits. */
#if defined(__x86_64__)
        __asm__("divq %4" : "=a"(quotient), "=d"(rest) : "0"(top << 63), "1"(top >> 1), "r"(divisor) : "cc");
#else
        unsigned __int128 dividend = (unsigned __int128)top << 63;
        quotient = (uint64_t)(dividend / divisor);
        rest = (uint64_t)(dividend % divisor);
#endif
        return numeral_rounded(quotient, rest != 0, shift - lead - k - 63, bits);
    }
    unsigned __int128 product = (unsigned __int128)top * NUMERAL_FIVE[n->power];
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    if (!high)
        return numeral_rounded(low, 0, n->power - lead, bits);
    int32_t up = __builtin_clzll(high);
    if (up) {
        high = high << up | low >> (64 - up);
        low <<= up;
    }
    return numeral_rounded(high, low != 0, n->power - lead + 64 - up, bits);
}

/* The number that [begin, stop), read as `n`, is; 0 if it is for others to say. */
static inline int numeral_double(const uint8_t *begin, const uint8_t *stop, const numeral *n, double *out) {
    double value;
    if (n->exact && !n->digits)
        value = 0.0;
    else if (n->exact && n->digits <= (uint64_t)1 << 53 && n->power >= -22 && n->power <= 22)
        value = n->power < 0 ? (double)n->digits / NUMERAL_TENS[-n->power] : (double)n->digits * NUMERAL_TENS[n->power];
    else if (n->exact && n->power >= -NUMERAL_FIVES && n->power <= NUMERAL_FIVES)
        value = numeral_by_integers(n, 53);
    else {
        char text[64], *end;
        size_t length = (size_t)(stop - begin);
        if (length >= sizeof text)
            return 0;
        memcpy(text, begin, length);
        text[length] = 0;
        value = strtod(text, &end);
        value = value < 0 ? -value : value;
        if (end != text + length || !(value >= DBL_MIN && value <= DBL_MAX))
            return 0;
    }
    *out = n->negative ? -value : value;
    return 1;
}

static inline int numeral_float(const numeral *n, float *out) {
    double value = 0.0;
    if (!n->exact || n->power < -NUMERAL_FIVES || n->power > NUMERAL_FIVES)
        return 0;
    if (n->digits)
        value = numeral_by_integers(n, 24);
    if (value > (double)FLT_MAX)
        return 0;
    *out = (float)(n->negative ? -value : value);
    return 1;
}

#endif

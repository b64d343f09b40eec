/* Content-defined cuts: buzhash and Rabin-Karp rolling hashes over 64 bytes (format reference 6.3).
 *
 * A cut at length p needs the hash of the 64 bytes before p only, and none is allowed below the minimum. So a search starts
 * rolling 64 bytes before the first length that may be cut, whatever came before, and keeps nothing between calls.
 *
 * Rolling is one dependent step after another, while a core could do several at once: blocks of four stretches are rolled
 * side by side, each primed with its own window, only to learn whether the block holds a cut. The rare block that does is
 * searched again in order. Processors that look up 64 bytes at once need no rolling (`wide_block`): half the time. */
#include "native.h"

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define BUZHASH_WIDE 1
#include <immintrin.h>
#endif

#define WINDOW 64
#define STRETCH 2048
#define BLOCK (4 * STRETCH)

/* What a search is about: the first and last length that may be cut, over data that starts at the chunk's start. */
typedef struct {
    const uint8_t *data;
    Py_ssize_t first, last;
    uint64_t mask;
    bool portably; /* without instructions that only some processors have */
} search;

static const uint32_t BUZHASH[256] = {
    0x07fcfd52, 0x5f3f164f, 0x6695721d, 0x7b4d7c03, 0x49c6e2d1, 0x0d1d68d8, 0x7916001e, 0x22c4d294,
    0x392907a0, 0x189deb99, 0xf3875d04, 0x95e94627, 0xba517936, 0x83c471d4, 0x7cb3ad0b, 0xa42655d9,
    0x7c4e0b68, 0xd4491d1b, 0x25632186, 0xa9d78d73, 0x169c1121, 0xbb158644, 0xb68e6a3f, 0x759805f5,
    0x2cdf5b8a, 0x57d29245, 0xc5d6d268, 0x6b83d0e2, 0x7674cb74, 0xb068d9db, 0xbb9457d8, 0xa15d523b,
    0x794209ff, 0x9da1d7eb, 0x5a25e0cb, 0xf840ec4b, 0x36d4ff9b, 0xf4a5ee3b, 0x5ad145f4, 0xf6740304,
    0x3f71f8cb, 0x91018d7c, 0xfccae224, 0xb186b51f, 0x7d9e8fbc, 0x93f93f33, 0xf63a5b6f, 0x19476c36,
    0xbc897d06, 0x169873f5, 0x724c7af1, 0x581eeb39, 0x2257bb7d, 0x6f269a28, 0xbe8e9981, 0x7039374b,
    0x25416fed, 0xded7e411, 0x6678e7aa, 0x244fcd36, 0x56aa6b86, 0xde4561ad, 0x3e99b0a8, 0xbed80a3a,
    0xe58348b0, 0xaf63e58d, 0x406aec9d, 0xc233f007, 0xa5ead0bd, 0x050143a6, 0x738b6829, 0x3699caf3,
    0x967cd710, 0x06f665a6, 0x25fd3d7f, 0x0fd6e479, 0x26fbf29b, 0x16de4c35, 0x2bf3394b, 0x4af864ba,
    0x1cb9e6c6, 0x41439089, 0x69a39144, 0xc34f182d, 0x421657ff, 0xf9fc6568, 0x8b02c917, 0x6c9c64b7,
    0x83d17909, 0xea3d4ca5, 0xaf635d47, 0x7fc78769, 0xbe14186f, 0x3539b1ea, 0xe9174548, 0xc051e18a,
    0x07b73658, 0x29ec300c, 0xa250bf34, 0xa7ed5d97, 0xfe3dea79, 0xb8b352f7, 0xc9b344e9, 0x8e5f0475,
    0x1941e52a, 0x2694763d, 0x6b40eabc, 0x8485d68b, 0x336eacca, 0x4399a363, 0x67149b9c, 0xae10a901,
    0x5a5ffefb, 0x563b26de, 0x6f00f02b, 0x9f06397d, 0x545836c4, 0x31d6416b, 0x12f4128d, 0x752f33ff,
    0x4a305605, 0x0c8dc214, 0x72521a90, 0x8eb3e4a1, 0x83efc6c6, 0x090ec04f, 0xc1540864, 0xec2c8aaa,
    0x70ab53ba, 0x38d3b494, 0x878d4063, 0xa317ae3f, 0x3cb62f07, 0xf360412c, 0x4ffbf3a9, 0x22d554b4,
    0x3f190476, 0x0796a710, 0xf5c353cf, 0x04f59bb7, 0x2d230176, 0xe2d6a9ce, 0x3f1d7427, 0xafd915bb,
    0xb01aa47d, 0xcde2c269, 0x7417bf38, 0x1e094f9a, 0x55ece0ea, 0xcb94539b, 0x13d346b5, 0x54e0c0c1,
    0x6db30e37, 0xdc02b390, 0xa6e222f5, 0xe2f8c1fe, 0x2e166bdf, 0x67588a74, 0x21898f34, 0x4c330f1d,
    0x19af53ba, 0x70658b94, 0x133c9673, 0x4efeeadd, 0x0f212551, 0x070f0914, 0x6f241c57, 0xf13e41b7,
    0x3be70cb0, 0xf4b6f47f, 0x20f31127, 0x6551cb89, 0x289cbd2c, 0x8946f23d, 0x40a79c3b, 0x03c6d982,
    0x0365790c, 0x0cf52517, 0x0bb131e8, 0x3da5475c, 0x139efcca, 0xbcd44eb4, 0xa54af747, 0xb73c32ed,
    0x9f6c47ac, 0xe8ba8f22, 0x54043a66, 0x3b0a7f20, 0xb4926431, 0xe17c02d5, 0x8f0d2558, 0x014fbff2,
    0x7f803594, 0x79b76fbe, 0x33fe2656, 0x792c8ee8, 0x6b41292d, 0xfdff9c32, 0x82093298, 0x59483870,
    0xb2d5a113, 0x2dd96e5a, 0x5b8e56a9, 0xebd9dda9, 0x04f9ce92, 0xcb440950, 0xa67e52b1, 0x49f6d261,
    0x92417fc3, 0x1c3b6bd9, 0xb027b7e0, 0x1f765a41, 0x44c9ab40, 0x45d99121, 0xfd7a84af, 0x99b75788,
    0xe3abff4a, 0xa88aa67f, 0x736e41cc, 0x9cbcbe5e, 0x7b3ccebc, 0xe1b7fa93, 0x315ae6af, 0x9cced2e2,
    0x19ea0f2f, 0xa9770722, 0x84a6bfdc, 0x88f03f07, 0xa44a03a4, 0x27a6b885, 0xb580c8ba, 0x018153da,
    0xb648e604, 0x51180278, 0x893a310f, 0x728f5f4c, 0x37f5198b, 0x3cc0ea9b, 0xe39d02db, 0x13883142,
    0xca599392, 0xc12d154e, 0xc176163d, 0x5c92e2b8, 0xf9f95ede, 0xb802bdfc, 0x8a928585, 0xdca6e10b,
    0x887953e8, 0x48b9e962, 0xe533e9a3, 0x5e0ce6e5, 0x1dba77ae, 0xc8214b8a, 0x53b428d7, 0x4cf20a65,};

static inline uint32_t buz_step(uint32_t h, uint8_t leaving, uint8_t entering) {
    return ((h << 1) | (h >> 31)) ^ (BUZHASH[leaving] ^ BUZHASH[entering]);
}

static uint32_t buz_window(const uint8_t *end) {
    uint32_t h = 0;
    for (const uint8_t *at = end - WINDOW; at < end; at++) h = ((h << 1) | (h >> 31)) ^ BUZHASH[*at];
    return h;
}

/* Whether one of the BLOCK lengths from `at` on may be cut. */
static bool buz_block(const uint8_t *at, uint32_t mask) {
    const uint8_t *p0 = at, *p1 = p0 + STRETCH, *p2 = p1 + STRETCH, *p3 = p2 + STRETCH;
    uint32_t h0 = buz_window(p0), h1 = buz_window(p1), h2 = buz_window(p2), h3 = buz_window(p3);
    for (Py_ssize_t i = 0;; i++) {
        if (!(h0 & mask) || !(h1 & mask) || !(h2 & mask) || !(h3 & mask)) return true;
        if (i == STRETCH - 1) return false;
        h0 = buz_step(h0, p0[i - WINDOW], p0[i]);
        h1 = buz_step(h1, p1[i - WINDOW], p1[i]);
        h2 = buz_step(h2, p2[i - WINDOW], p2[i]);
        h3 = buz_step(h3, p3[i - WINDOW], p3[i]);
    }
}

#ifdef BUZHASH_WIDE
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vbmi")))
#define LOOKED_UP 64
#define ROTATED_AND_ADDED(sum, before, n) \
    _mm512_xor_si512(sum, _mm512_rol_epi32(_mm512_alignr_epi32(sum, before, 16 - (n)), n))

static uint8_t planes[4][256]; /* the bytes of BUZHASH, lowest first */

/* Sums over the last 1, 2, 4 ... bytes at the sixteen positions before: the hash over 64 is two over 32, and so on. */
typedef struct {
    __m512i over_1, over_2, over_4, over_8, over_16, over_32, over_32_before;
} sums;

/* The hashes at sixteen positions whose bytes have these values. */
WIDE static inline __m512i next_hashes(sums *s, __m512i over_1) {
    __m512i over_2 = ROTATED_AND_ADDED(over_1, s->over_1, 1);
    __m512i over_4 = ROTATED_AND_ADDED(over_2, s->over_2, 2);
    __m512i over_8 = ROTATED_AND_ADDED(over_4, s->over_4, 4);
    __m512i over_16 = ROTATED_AND_ADDED(over_8, s->over_8, 8);
    __m512i over_32 = _mm512_xor_si512(over_16, _mm512_rol_epi32(s->over_16, 16));
    __m512i over_64 = _mm512_xor_si512(over_32, s->over_32_before); /* rotated by the 32 bits of a hash: as it was */
    *s = (sums){over_1, over_2, over_4, over_8, over_16, over_32, s->over_32};
    return over_64;
}

/* One byte of the value of each of 64 bytes. */
WIDE static inline __m512i look_up(const uint8_t *plane, __m512i bytes, __mmask64 high, __mmask64 odd) {
    const __m512i *quarters = (const __m512i *)plane;
    __m512i found = _mm512_permutexvar_epi8(bytes, _mm512_loadu_si512(quarters));
    found = _mm512_mask_permutexvar_epi8(found, odd & ~high, bytes, _mm512_loadu_si512(quarters + 1));
    found = _mm512_mask_permutexvar_epi8(found, high & ~odd, bytes, _mm512_loadu_si512(quarters + 2));
    return _mm512_mask_permutexvar_epi8(found, high & odd, bytes, _mm512_loadu_si512(quarters + 3));
}

/* The values of the 64 bytes from `at` on, in four times sixteen. */
WIDE static inline void look_up_all(const uint8_t *at, __m512i values[4]) {
    /* Four at a time, so that the two steps that interleave the planes leave them in order. */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(at));
    __mmask64 high = _mm512_movepi8_mask(bytes), odd = _mm512_movepi8_mask(_mm512_slli_epi16(bytes, 1));
    __m512i p0 = look_up(planes[0], bytes, high, odd), p1 = look_up(planes[1], bytes, high, odd);
    __m512i p2 = look_up(planes[2], bytes, high, odd), p3 = look_up(planes[3], bytes, high, odd);
    __m512i low01 = _mm512_unpacklo_epi8(p0, p1), high01 = _mm512_unpackhi_epi8(p0, p1);
    __m512i low23 = _mm512_unpacklo_epi8(p2, p3), high23 = _mm512_unpackhi_epi8(p2, p3);
    values[0] = _mm512_unpacklo_epi16(low01, low23), values[1] = _mm512_unpackhi_epi16(low01, low23);
    values[2] = _mm512_unpacklo_epi16(high01, high23), values[3] = _mm512_unpackhi_epi16(high01, high23);
}

/* As `buz_block`, and true also for a cut at the length after the last. */
WIDE static bool wide_block(const uint8_t *at, uint32_t mask) {
    const __m512i masks = _mm512_set1_epi32((int)mask);
    __m512i values[4];
    sums s = {0};
    look_up_all(at - WINDOW, values);
    for (int i = 0; i < 4; i++) next_hashes(&s, values[i]);
    if (!(buz_window(at) & mask)) return true;
    for (Py_ssize_t i = 0; i < BLOCK; i += LOOKED_UP) {
        look_up_all(at + i, values);
        __mmask16 cuts = 0;
        for (int k = 0; k < 4; k++) cuts |= _mm512_testn_epi32_mask(next_hashes(&s, values[k]), masks);
        if (cuts) return true;
    }
    return false;
}

static bool has_wide(void) { return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi"); }
#endif

/* The first cut among the lengths from `at` to `last`, or 0. */
static Py_ssize_t buz_in_order(const uint8_t *data, Py_ssize_t at, Py_ssize_t last, uint32_t mask) {
    for (uint32_t h = buz_window(data + at); h & mask; at++) {
        if (at == last) return 0;
        h = buz_step(h, data[at - WINDOW], data[at]);
    }
    return at;
}

static Py_ssize_t buz_search(const search *s) {
    const uint32_t mask = (uint32_t)s->mask;
    bool (*holds_cut)(const uint8_t *, uint32_t) = buz_block;
#ifdef BUZHASH_WIDE
    if (!s->portably && has_wide()) holds_cut = wide_block;
#endif
    Py_ssize_t at = s->first;
    while (s->last - at >= BLOCK && !holds_cut(s->data + at, mask)) at += BLOCK;
    return buz_in_order(s->data, at, s->last, mask);
}

/* Rabin-Karp: residues modulo an irreducible polynomial of degree 53. */
#define POLYNOMIAL 0x2e3e3e4a305605ULL
#define DEGREE 53

static uint64_t rabin_out[256], rabin_mod[256];

static uint64_t residue(uint64_t value) {
    for (int bit = 63; bit >= DEGREE; bit--)
        if (value >> bit & 1) value ^= POLYNOMIAL << (bit - DEGREE);
    return value;
}

void split_prepare(void) {
#ifdef BUZHASH_WIDE
    for (int b = 0; b < 256; b++)
        for (int i = 0; i < 4; i++) planes[i][b] = (uint8_t)(BUZHASH[b] >> (8 * i));
#endif
    for (unsigned b = 0; b < 256; b++) {
        uint64_t out = b;
        for (int i = 0; i < WINDOW - 1; i++) out = residue(out << 8);
        rabin_out[b] = out;
        rabin_mod[b] = residue((uint64_t)b << DEGREE) | (uint64_t)b << DEGREE;
    }
}

static inline uint64_t rabin_append(uint64_t v, uint8_t entering) {
    return (v << 8 | entering) ^ rabin_mod[v >> (DEGREE - 8) & 255];
}

static inline uint64_t rabin_step(uint64_t v, uint8_t leaving, uint8_t entering) {
    return rabin_append(v ^ rabin_out[leaving], entering);
}

static uint64_t rabin_window(const uint8_t *end) {
    uint64_t v = 0;
    for (const uint8_t *at = end - WINDOW; at < end; at++) v = rabin_append(v, *at);
    return v;
}

static bool rabin_block(const uint8_t *at, uint64_t mask) {
    const uint8_t *p0 = at, *p1 = p0 + STRETCH, *p2 = p1 + STRETCH, *p3 = p2 + STRETCH;
    uint64_t v0 = rabin_window(p0), v1 = rabin_window(p1), v2 = rabin_window(p2), v3 = rabin_window(p3);
    for (Py_ssize_t i = 0;; i++) {
        if (!(v0 & mask) || !(v1 & mask) || !(v2 & mask) || !(v3 & mask)) return true;
        if (i == STRETCH - 1) return false;
        v0 = rabin_step(v0, p0[i - WINDOW], p0[i]);
        v1 = rabin_step(v1, p1[i - WINDOW], p1[i]);
        v2 = rabin_step(v2, p2[i - WINDOW], p2[i]);
        v3 = rabin_step(v3, p3[i - WINDOW], p3[i]);
    }
}

static Py_ssize_t rabin_in_order(const uint8_t *data, Py_ssize_t at, Py_ssize_t last, uint64_t mask) {
    for (uint64_t v = rabin_window(data + at); v & mask; at++) {
        if (at == last) return 0;
        v = rabin_step(v, data[at - WINDOW], data[at]);
    }
    return at;
}

static Py_ssize_t rabin_search(const search *s) {
    Py_ssize_t at = s->first;
    while (s->last - at >= BLOCK && !rabin_block(s->data + at, s->mask)) at += BLOCK;
    return rabin_in_order(s->data, at, s->last, s->mask);
}

static PyObject *find_cut(PyObject *args, Py_ssize_t (*search_for)(const search *)) {
    Py_buffer buffer;
    Py_ssize_t length, scanned, minimum, maximum, found = 0;
    unsigned long long mask;
    int portably = 0;
    if (!PyArg_ParseTuple(args, "y*nnnnK|p", &buffer, &length, &scanned, &minimum, &maximum, &mask, &portably)) return NULL;
    if (length < 0 || length > buffer.len || scanned < 0 || minimum < WINDOW || maximum < minimum ||
        mask > UINT32_MAX) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "lengths do not fit together");
        return NULL;
    }
    search s = {.data = buffer.buf, .mask = mask, .portably = portably};
    s.first = scanned < minimum ? minimum : scanned + 1;
    s.last = length < maximum ? length : maximum;
    Py_BEGIN_ALLOW_THREADS
    if (s.first <= s.last) found = search_for(&s);
    Py_END_ALLOW_THREADS
    if (found == 0 && length >= maximum) found = maximum;
    PyBuffer_Release(&buffer);
    return PyLong_FromSsize_t(found);
}

static PyObject *buzhash_cut(PyObject *module, PyObject *args) {
    (void)module;
    return find_cut(args, buz_search);
}

static PyObject *rabin_karp_cut(PyObject *module, PyObject *args) {
    (void)module;
    return find_cut(args, rabin_search);
}

PyMethodDef split_methods[] = {
    {"buzhash_cut", buzhash_cut, METH_VARARGS, NULL},
    {"rabin_karp_cut", rabin_karp_cut, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

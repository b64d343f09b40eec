/* Keyed BLAKE2b (RFC 7693) on AVX2. The default hash of a repository touches every byte that is backed up or restored;
 * the interpreter's own implementation is portable C and takes about a fifth longer. Where the processor has no AVX2, or the
 * compiler cannot target it, `blake2b_supported` says so and the caller uses hashlib. */
#include "native.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_AVX2_TARGET 1
#include <immintrin.h>
#endif

enum { BLOCK = 128, MAX_KEY = 64, MAX_DIGEST = 64, RELEASE_LOCK_FROM = 4096 };

#ifdef HAVE_AVX2_TARGET

static const uint64_t IV[8] = {
    0x6a09e667f3bcc908ULL, 0xbb67ae8584caa73bULL, 0x3c6ef372fe94f82bULL, 0xa54ff53a5f1d36f1ULL,
    0x510e527fade682d1ULL, 0x9b05688c2b3e6c1fULL, 0x1f83d9abfb41bd6bULL, 0x5be0cd19137e2179ULL,
};

#define ROTATE_32(x) _mm256_shuffle_epi32((x), _MM_SHUFFLE(2, 3, 0, 1))
#define ROTATE_24(x) _mm256_shuffle_epi8((x), by_24)
#define ROTATE_16(x) _mm256_shuffle_epi8((x), by_16)
#define ROTATE_63(x) _mm256_or_si256(_mm256_srli_epi64((x), 63), _mm256_add_epi64((x), (x)))
#define WORDS(w, x, y, z) _mm256_set_epi64x((int64_t)m[z], (int64_t)m[y], (int64_t)m[x], (int64_t)m[w])

#define HALF(first, second)                                         \
    do {                                                            \
        a = _mm256_add_epi64(_mm256_add_epi64(a, first), b);        \
        d = ROTATE_32(_mm256_xor_si256(d, a));                      \
        c = _mm256_add_epi64(c, d);                                 \
        b = ROTATE_24(_mm256_xor_si256(b, c));                      \
        a = _mm256_add_epi64(_mm256_add_epi64(a, second), b);       \
        d = ROTATE_16(_mm256_xor_si256(d, a));                      \
        c = _mm256_add_epi64(c, d);                                 \
        b = ROTATE_63(_mm256_xor_si256(b, c));                      \
    } while (0)

#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15)   \
    do {                                                                              \
        HALF(WORDS(s0, s2, s4, s6), WORDS(s1, s3, s5, s7));                           \
        a = _mm256_permute4x64_epi64(a, _MM_SHUFFLE(2, 1, 0, 3));                     \
        d = _mm256_permute4x64_epi64(d, _MM_SHUFFLE(1, 0, 3, 2));                     \
        c = _mm256_permute4x64_epi64(c, _MM_SHUFFLE(0, 3, 2, 1));                     \
        HALF(WORDS(s14, s8, s10, s12), WORDS(s15, s9, s11, s13));                     \
        a = _mm256_permute4x64_epi64(a, _MM_SHUFFLE(0, 3, 2, 1));                     \
        d = _mm256_permute4x64_epi64(d, _MM_SHUFFLE(1, 0, 3, 2));                     \
        c = _mm256_permute4x64_epi64(c, _MM_SHUFFLE(2, 1, 0, 3));                     \
    } while (0)

/* `count` whole blocks; `total` is the number of bytes hashed before the first of them. */
__attribute__((target("avx2"))) static void compress(uint64_t h[8], const uint8_t *data, size_t count,
                                                     uint64_t total, size_t last_length, int last) {
    const __m256i by_24 = _mm256_setr_epi8(3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 3, 4, 5, 6, 7, 0, 1,
                                           2, 11, 12, 13, 14, 15, 8, 9, 10);
    const __m256i by_16 = _mm256_setr_epi8(2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 2, 3, 4, 5, 6, 7, 0,
                                           1, 10, 11, 12, 13, 14, 15, 8, 9);
    __m256i low = _mm256_loadu_si256((const __m256i *)h), high = _mm256_loadu_si256((const __m256i *)(h + 4));
    const __m256i iv_low = _mm256_loadu_si256((const __m256i *)IV);
    const __m256i iv_high = _mm256_loadu_si256((const __m256i *)(IV + 4));
    for (size_t n = 0; n < count; n++, data += BLOCK) {
        int final = last && n + 1 == count;
        uint64_t m[16];
        memcpy(m, data, BLOCK);
        total += final ? last_length : BLOCK;
        __m256i a = low, b = high, c = iv_low;
        __m256i d = _mm256_xor_si256(iv_high, _mm256_set_epi64x(0, final ? -1 : 0, 0, (int64_t)total));
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
        ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
        ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
        ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
        ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
        ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
        ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
        ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
        ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
        low = _mm256_xor_si256(low, _mm256_xor_si256(a, c));
        high = _mm256_xor_si256(high, _mm256_xor_si256(b, d));
    }
    _mm256_storeu_si256((__m256i *)h, low);
    _mm256_storeu_si256((__m256i *)(h + 4), high);
}

static void hash(const uint8_t *key, size_t key_length, size_t digest_length, const uint8_t *data, size_t length,
                 uint8_t *digest) {
    uint64_t h[8];
    uint64_t total = 0;
    memcpy(h, IV, sizeof h);
    h[0] ^= 0x01010000ULL ^ ((uint64_t)key_length << 8) ^ digest_length;
    uint8_t block[BLOCK];
    if (key_length) {
        memset(block, 0, BLOCK);
        memcpy(block, key, key_length);
        compress(h, block, 1, 0, BLOCK, length == 0);
        total = BLOCK;
    }
    if (length || !key_length) {
        size_t whole = length ? (length - 1) / BLOCK : 0, rest = length - whole * BLOCK;
        compress(h, data, whole, total, 0, 0);
        memset(block, 0, BLOCK);
        if (rest) memcpy(block, data + whole * BLOCK, rest);
        compress(h, block, 1, total + whole * BLOCK, rest, 1);
    }
    memcpy(digest, h, digest_length);
}

static int supported(void) { return __builtin_cpu_supports("avx2"); }

#else

static int supported(void) { return 0; }
static void hash(const uint8_t *key, size_t key_length, size_t digest_length, const uint8_t *data, size_t length,
                 uint8_t *digest) {
    (void)key, (void)key_length, (void)data, (void)length;
    memset(digest, 0, digest_length);
}

#endif

static PyObject *blake2b_supported(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(supported());
}

static PyObject *blake2b(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data, key;
    Py_ssize_t digest_length;
    if (!PyArg_ParseTuple(args, "y*y*n:blake2b", &data, &key, &digest_length)) return NULL;
    PyObject *result = NULL;
    if (!supported()) {
        PyErr_SetString(PyExc_RuntimeError, "this processor has no AVX2");
    } else if (digest_length < 1 || digest_length > MAX_DIGEST || key.len > MAX_KEY) {
        PyErr_SetString(PyExc_ValueError, "digest and key have at most 64 bytes");
    } else {
        uint8_t digest[MAX_DIGEST];
        if (data.len >= RELEASE_LOCK_FROM) {
            Py_BEGIN_ALLOW_THREADS
            hash(key.buf, (size_t)key.len, (size_t)digest_length, data.buf, (size_t)data.len, digest);
            Py_END_ALLOW_THREADS
        } else {
            hash(key.buf, (size_t)key.len, (size_t)digest_length, data.buf, (size_t)data.len, digest);
        }
        result = PyBytes_FromStringAndSize((const char *)digest, digest_length);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&key);
    return result;
}

PyMethodDef hash_methods[] = {
    {"blake2b_supported", blake2b_supported, METH_NOARGS, "Whether `blake2b` can run on this processor."},
    {"blake2b", blake2b, METH_VARARGS, "blake2b(data, key, digest_size) -> bytes"},
    {NULL, NULL, 0, NULL},
};

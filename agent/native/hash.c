/* Keyed BLAKE2b (RFC 7693) on AVX2. The default hash of a repository touches every byte that is backed up or restored;
 * the interpreter's own implementation is portable C and takes about a fifth longer. Where the processor has no AVX2, or the
 * compiler cannot target it, `blake2b_supported` says so and the caller uses hashlib.
 * One message is a chain of additions, each waiting for the one before; several at once fill the processor
 * (hash_lanes.c). */
#include "hash.h"

#include <string.h>

enum { RELEASE_LOCK_FROM = 4096 };

#ifdef BLAKE2B_AVX2

const uint64_t BLAKE2B_IV[8] = {
    0x6a09e667f3bcc908ULL, 0xbb67ae8584caa73bULL, 0x3c6ef372fe94f82bULL, 0xa54ff53a5f1d36f1ULL,
    0x510e527fade682d1ULL, 0x9b05688c2b3e6c1fULL, 0x1f83d9abfb41bd6bULL, 0x5be0cd19137e2179ULL,
};

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

__attribute__((target("avx2"))) static void compress(uint64_t h[8], const uint8_t *data, size_t count,
                                                     uint64_t total, size_t last_length, int last) {
    BLAKE2B_ROTATIONS;
    __m256i low = _mm256_loadu_si256((const __m256i *)h), high = _mm256_loadu_si256((const __m256i *)(h + 4));
    const __m256i iv_low = _mm256_loadu_si256((const __m256i *)BLAKE2B_IV);
    const __m256i iv_high = _mm256_loadu_si256((const __m256i *)(BLAKE2B_IV + 4));
    for (size_t n = 0; n < count; n++, data += BLAKE2B_BLOCK) {
        int final = last && n + 1 == count;
        uint64_t m[16];
        memcpy(m, data, BLAKE2B_BLOCK);
        total += final ? last_length : BLAKE2B_BLOCK;
        __m256i a = low, b = high, c = iv_low;
        __m256i d = _mm256_xor_si256(iv_high, _mm256_set_epi64x(0, final ? -1 : 0, 0, (int64_t)total));
        BLAKE2B_ROUNDS(ROUND);
        low = _mm256_xor_si256(low, _mm256_xor_si256(a, c));
        high = _mm256_xor_si256(high, _mm256_xor_si256(b, d));
    }
    _mm256_storeu_si256((__m256i *)h, low);
    _mm256_storeu_si256((__m256i *)(h + 4), high);
}

uint64_t blake2b_begin(uint64_t h[8], const Blake2bKey *key, int is_empty) {
    memcpy(h, BLAKE2B_IV, sizeof BLAKE2B_IV);
    h[0] ^= 0x01010000ULL ^ ((uint64_t)key->length << 8) ^ key->digest_length;
    if (!key->length) return 0;
    uint8_t block[BLAKE2B_BLOCK] = {0};
    memcpy(block, key->data, key->length);
    compress(h, block, 1, 0, BLAKE2B_BLOCK, is_empty);
    return BLAKE2B_BLOCK;
}

void blake2b_end(uint64_t h[8], const Blake2bKey *key, const Blake2bMessage *message, size_t done, uint64_t total) {
    const uint8_t *data = message->data + done;
    size_t left = message->length - done, whole = left ? (left - 1) / BLAKE2B_BLOCK : 0;
    size_t rest = left - whole * BLAKE2B_BLOCK;
    if (message->length || !key->length) {
        compress(h, data, whole, total, 0, 0);
        uint8_t block[BLAKE2B_BLOCK] = {0};
        if (rest) memcpy(block, data + whole * BLAKE2B_BLOCK, rest);
        compress(h, block, 1, total + whole * BLAKE2B_BLOCK, rest, 1);
    }
    memcpy(message->digest, h, key->digest_length);
}

static void hash(const Blake2bKey *key, const Blake2bMessage *message) {
    uint64_t h[8];
    uint64_t total = blake2b_begin(h, key, message->length == 0);
    blake2b_end(h, key, message, 0, total);
}

static int supported(void) { return __builtin_cpu_supports("avx2"); }

#else

static int supported(void) { return 0; }
static void hash(const Blake2bKey *key, const Blake2bMessage *message) {
    memset(message->digest, 0, key->digest_length);
}
void blake2b_lanes(const Blake2bKey *key, const Blake2bMessage *messages, size_t count) {
    for (size_t i = 0; i < count; i++) hash(key, messages + i);
}

#endif

static PyObject *blake2b_supported(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(supported());
}

/* False, with an exception, when there can be no such hash here. */
static int read_key(Py_buffer *buffer, Py_ssize_t digest_length, Blake2bKey *key) {
    if (!supported()) {
        PyErr_SetString(PyExc_RuntimeError, "this processor has no AVX2");
        return 0;
    }
    if (digest_length < 1 || digest_length > BLAKE2B_MAX_DIGEST || buffer->len > BLAKE2B_MAX_KEY) {
        PyErr_SetString(PyExc_ValueError, "digest and key have at most 64 bytes");
        return 0;
    }
    *key = (Blake2bKey){buffer->buf, (size_t)buffer->len, (size_t)digest_length};
    return 1;
}

static PyObject *blake2b(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data, key_buffer;
    Py_ssize_t digest_length;
    if (!PyArg_ParseTuple(args, "y*y*n:blake2b", &data, &key_buffer, &digest_length)) return NULL;
    PyObject *result = NULL;
    Blake2bKey key;
    if (read_key(&key_buffer, digest_length, &key)) {
        uint8_t digest[BLAKE2B_MAX_DIGEST];
        Blake2bMessage message = {data.buf, (size_t)data.len, digest};
        if (data.len >= RELEASE_LOCK_FROM) {
            Py_BEGIN_ALLOW_THREADS
            hash(&key, &message);
            Py_END_ALLOW_THREADS
        } else {
            hash(&key, &message);
        }
        result = PyBytes_FromStringAndSize((const char *)digest, digest_length);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&key_buffer);
    return result;
}

/* A list with the digests of `count` buffers; NULL with an exception. */
static PyObject *hash_buffers(const Blake2bKey *key, const Py_buffer *buffers, Py_ssize_t count) {
    PyObject *result = PyList_New(count);
    Blake2bMessage *messages = PyMem_Calloc((size_t)count + 1, sizeof *messages);
    if (messages == NULL) PyErr_NoMemory();
    size_t total = 0;
    for (Py_ssize_t i = 0; result != NULL && messages != NULL && i < count; i++) {
        PyObject *digest = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)key->digest_length);
        if (digest == NULL) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, i, digest);
        messages[i] = (Blake2bMessage){buffers[i].buf, (size_t)buffers[i].len, (uint8_t *)PyBytes_AS_STRING(digest)};
        total += messages[i].length;
    }
    if (messages == NULL) Py_CLEAR(result);
    if (result != NULL && total >= RELEASE_LOCK_FROM) {
        Py_BEGIN_ALLOW_THREADS
        blake2b_lanes(key, messages, (size_t)count);
        Py_END_ALLOW_THREADS
    } else if (result != NULL) {
        blake2b_lanes(key, messages, (size_t)count);
    }
    PyMem_Free(messages);
    return result;
}

static PyObject *blake2b_many(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *given;
    Py_buffer key_buffer;
    Py_ssize_t digest_length;
    if (!PyArg_ParseTuple(args, "Oy*n:blake2b_many", &given, &key_buffer, &digest_length)) return NULL;
    PyObject *result = NULL, *items = NULL;
    Py_buffer *buffers = NULL;
    Py_ssize_t held = 0, count = 0;
    Blake2bKey key;
    if (!read_key(&key_buffer, digest_length, &key)) goto done;
    items = PySequence_Fast(given, "the data to hash is a sequence of buffers");
    if (items == NULL) goto done;
    count = PySequence_Fast_GET_SIZE(items);
    buffers = PyMem_Calloc((size_t)count + 1, sizeof *buffers);
    if (buffers == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    while (held < count) {
        if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(items, held), buffers + held, PyBUF_SIMPLE) < 0) goto done;
        held++;
    }
    result = hash_buffers(&key, buffers, count);
done:
    while (held) PyBuffer_Release(buffers + --held);
    PyMem_Free(buffers);
    Py_XDECREF(items);
    PyBuffer_Release(&key_buffer);
    return result;
}

PyMethodDef hash_methods[] = {
    {"blake2b_supported", blake2b_supported, METH_NOARGS, "Whether `blake2b` can run on this processor."},
    {"blake2b", blake2b, METH_VARARGS, "blake2b(data, key, digest_size) -> bytes"},
    {"blake2b_many", blake2b_many, METH_VARARGS, "blake2b_many(buffers, key, digest_size) -> list of bytes"},
    {NULL, NULL, 0, NULL},
};

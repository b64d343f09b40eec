/* ROMix of scrypt (RFC 7914 §5) with less memory. The password key of every repository costs 128 * N * r bytes, 64 MiB,
 * in the usual form, which is more than anything else in a small command needs. Here only every `stride`-th of the N
 * blocks is kept and those between are computed again when they are asked for: with a stride of eight an eighth of the
 * memory and, on average, 2.75 times the work. The vectors below win most of that back, pages of 2 MiB and asking for
 * a kept block as soon as it is known the rest: they are read in no order, so that the processor cannot guess.
 *
 * A block is kept with the words of each 64 bytes in the order 5 * i mod 16, so that a vector holds a diagonal and a
 * double round of Salsa20 is two passes over four vectors. */
#include "native.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

typedef uint32_t Vector __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))

enum { WORDS = 16, VECTORS = 4, MAX_R = 64, MAX_STRIDE = 64, CACHE_LINE = 64, LARGE_PAGE = 2 << 20 };

#define ROTATED(v, by) (((v) << (by)) | ((v) >> (32 - (by))))
#if defined(__clang__)
#define LANES(v, a, b, c, d) __builtin_shufflevector((v), (v), a, b, c, d)
#else
#define LANES(v, a, b, c, d) __builtin_shuffle((v), (Vector){a, b, c, d})
#endif

#define QUARTERS(a, b, c, d)          \
    do {                              \
        (b) ^= ROTATED((a) + (d), 7);  \
        (c) ^= ROTATED((b) + (a), 9);  \
        (d) ^= ROTATED((c) + (b), 13); \
        (a) ^= ROTATED((d) + (c), 18); \
    } while (0)

INLINE void salsa20_8(Vector x[VECTORS]) {
    Vector a = x[0], b = x[1], c = x[2], d = x[3];
    for (int i = 0; i < 4; i++) {
        QUARTERS(a, b, c, d);
        b = LANES(b, 3, 0, 1, 2), c = LANES(c, 2, 3, 0, 1), d = LANES(d, 1, 2, 3, 0);
        QUARTERS(a, d, c, b);
        b = LANES(b, 1, 2, 3, 0), c = LANES(c, 2, 3, 0, 1), d = LANES(d, 3, 0, 1, 2);
    }
    x[0] += a, x[1] += b, x[2] += c, x[3] += d;
}

/* BlockMix (§4) of `from`, combined with `with` where that is not NULL, into `to`. */
INLINE void block_mix(const Vector *from, const Vector *with, Vector *to, size_t r) {
    Vector x[VECTORS];
    const size_t last = (2 * r - 1) * VECTORS;
    for (int k = 0; k < VECTORS; k++) x[k] = with ? from[last + k] ^ with[last + k] : from[last + k];
    for (size_t i = 0; i < 2 * r; i++) {
        const Vector *in = from + i * VECTORS;
        for (int k = 0; k < VECTORS; k++) x[k] ^= with ? in[k] ^ with[i * VECTORS + k] : in[k];
        salsa20_8(x);
        memcpy(to + (i / 2 + (i & 1) * r) * VECTORS, x, sizeof x);
    }
}

/* `kept` holds ceil(n / stride) blocks, `scratch` three. `block` is in the order of the vectors. */
INLINE void mix(Vector *block, size_t n, size_t r, size_t stride, Vector *kept, Vector *scratch) {
    const size_t length = 2 * r * VECTORS, size = length * sizeof(Vector);
    Vector *x = block, *y = scratch, *again = scratch + length, *more = scratch + 2 * length;
    for (size_t i = 0; i < n; i++) {
        if (i % stride == 0) memcpy(kept + i / stride * length, x, size);
        block_mix(x, NULL, y, r);
        Vector *swap = x;
        x = y, y = swap;
    }
    for (size_t i = 0; i < n; i++) {
        size_t j = x[(2 * r - 1) * VECTORS][0] & (n - 1);
        const Vector *v = kept + j / stride * length;
        for (size_t k = 0; k < size; k += CACHE_LINE) __builtin_prefetch((const char *)v + k);
        for (size_t k = 0; k < j % stride; k++) {
            Vector *to = v == again ? more : again;
            block_mix(v, NULL, to, r);
            v = to;
        }
        block_mix(x, v, y, r);
        Vector *swap = x;
        x = y, y = swap;
    }
    if (x != block) memcpy(block, x, size);
}

static void mix_portably(Vector *block, size_t n, size_t r, size_t stride, Vector *kept, Vector *scratch) {
    mix(block, n, r, stride, kept, scratch);
}

#if defined(__x86_64__)
/* Words are rotated by one instruction here; without, by three. */
__attribute__((target("avx512vl"))) static void mix_rotating(Vector *block, size_t n, size_t r, size_t stride,
                                                             Vector *kept, Vector *scratch) {
    mix(block, n, r, stride, kept, scratch);
}
#endif

static void reorder(const uint8_t *from, uint8_t *to, size_t blocks, int into_vectors) {
    for (size_t b = 0; b < blocks; b++) {
        for (size_t i = 0; i < WORDS; i++) {
            size_t plain = (b * WORDS + i * 5 % WORDS) * 4, diagonal = (b * WORDS + i) * 4;
            uint32_t word;
            if (into_vectors) {
                const uint8_t *p = from + plain;
                word = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
                memcpy(to + diagonal, &word, 4);
            } else {
                memcpy(&word, from + diagonal, 4);
                uint8_t *p = to + plain;
                p[0] = (uint8_t)word, p[1] = (uint8_t)(word >> 8), p[2] = (uint8_t)(word >> 16), p[3] = (uint8_t)(word >> 24);
            }
        }
    }
}

/* Large pages where there is enough for one, and the system has them. */
static Vector *allocate(size_t size) {
    size_t unit = size < LARGE_PAGE ? CACHE_LINE : LARGE_PAGE;
    size = (size + unit - 1) / unit * unit;
    Vector *memory = aligned_alloc(unit, size);
#ifdef MADV_HUGEPAGE
    if (memory && unit == LARGE_PAGE) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

static PyObject *scrypt_romix(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer block;
    Py_ssize_t n, stride;
    int portably = 0;
    if (!PyArg_ParseTuple(args, "y*nn|p:scrypt_romix", &block, &n, &stride, &portably)) return NULL;
    PyObject *result = NULL;
    size_t size = (size_t)block.len, r = size / 128;
    if (size % 128 || r < 1 || r > MAX_R || n < 2 || (n & (n - 1)) || n > 1 << 24 || stride < 1 || stride > MAX_STRIDE) {
        PyErr_SetString(PyExc_ValueError, "the block is 128 * r bytes, n a power of two, the stride 1 to 64");
    } else {
        size_t kept = ((size_t)n + (size_t)stride - 1) / (size_t)stride;
        Vector *memory = allocate(size * kept), *blocks = allocate(size * 4);
        result = memory && blocks ? PyBytes_FromStringAndSize(NULL, block.len) : PyErr_NoMemory();
        if (result) {
            uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
            void (*fastest)(Vector *, size_t, size_t, size_t, Vector *, Vector *) = mix_portably;
#if defined(__x86_64__)
            if (!portably && __builtin_cpu_supports("avx512vl")) fastest = mix_rotating;
#endif
            Py_BEGIN_ALLOW_THREADS
            reorder(block.buf, (uint8_t *)blocks, 2 * r, 1);
            fastest(blocks, (size_t)n, r, (size_t)stride, memory, blocks + size / sizeof(Vector));
            reorder((const uint8_t *)blocks, out, 2 * r, 0);
            Py_END_ALLOW_THREADS
        }
        free(memory);
        free(blocks);
    }
    PyBuffer_Release(&block);
    return result;
}

PyMethodDef scrypt_methods[] = {
    {"scrypt_romix", scrypt_romix, METH_VARARGS, "scrypt_romix(block, n, stride, portably=False) -> bytes"},
    {NULL, NULL, 0, NULL},
};

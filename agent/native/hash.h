/* BLAKE2b as its two files share it: one message (hash.c), several in lanes (hash_lanes.c). */
#ifndef LIGHTERAGE_HASH_H
#define LIGHTERAGE_HASH_H

#include "native.h"

#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define BLAKE2B_AVX2 1

#include <immintrin.h>

/* Of four words of 64 bits to the right; the two shuffles are those that BLAKE2B_ROTATIONS declares. */
#define ROTATE_32(x) _mm256_shuffle_epi32((x), _MM_SHUFFLE(2, 3, 0, 1))
#define ROTATE_24(x) _mm256_shuffle_epi8((x), by_24)
#define ROTATE_16(x) _mm256_shuffle_epi8((x), by_16)
#define ROTATE_63(x) _mm256_or_si256(_mm256_srli_epi64((x), 63), _mm256_add_epi64((x), (x)))
#define BLAKE2B_ROTATIONS                                                                                             \
    const __m256i by_24 = _mm256_setr_epi8(3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 3, 4, 5, 6, 7, 0, 1, \
                                           2, 11, 12, 13, 14, 15, 8, 9, 10);                                          \
    const __m256i by_16 = _mm256_setr_epi8(2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 2, 3, 4, 5, 6, 7, 0, \
                                           1, 10, 11, 12, 13, 14, 15, 8, 9)

/* What the rounds take of the message, for a macro of sixteen numbers. */
#define BLAKE2B_ROUNDS(ROUND) \
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); \
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3); \
    ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4); \
    ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8); \
    ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13); \
    ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9); \
    ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11); \
    ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10); \
    ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5); \
    ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0); \
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); \
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
#endif

enum { BLAKE2B_BLOCK = 128, BLAKE2B_MAX_KEY = 64, BLAKE2B_MAX_DIGEST = 64 };

typedef struct {
    const uint8_t *data;
    size_t length, digest_length;
} Blake2bKey;

typedef struct {
    const uint8_t *data;
    size_t length;
    uint8_t *digest;
} Blake2bMessage;

extern const uint64_t BLAKE2B_IV[8];

/* The state after the key; how many bytes that was. */
uint64_t blake2b_begin(uint64_t h[8], const Blake2bKey *key, int is_empty);

/* The digest, of a message of which `done` bytes, whole blocks, are in the state and `total` bytes with the key. */
void blake2b_end(uint64_t h[8], const Blake2bKey *key, const Blake2bMessage *message, size_t done, uint64_t total);

/* The digests of all of them. */
void blake2b_lanes(const Blake2bKey *key, const Blake2bMessage *messages, size_t count);

#endif

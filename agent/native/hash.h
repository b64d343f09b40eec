/* BLAKE2b as its two files share it: one message (hash.c), several in lanes (hash_lanes.c). */
#ifndef LIGHTERAGE_HASH_H
#define LIGHTERAGE_HASH_H

#include "native.h"

#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define BLAKE2B_AVX2 1
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

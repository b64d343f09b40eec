/* The row of a content, as rows.c keeps it and build.c makes an index of it. */
#ifndef LIGHTERAGE_ROWS_H
#define LIGHTERAGE_ROWS_H
#include "native.h"

#include <stdint.h>

#define MAX_KEY 65 /* prefix and the longest digest */

typedef struct {
    uint32_t pack; /* number within the session */
    uint32_t offset, packed, original, compression;
    uint32_t time[2]; /* unix seconds, low half first: records need no more than four bytes of alignment */
    uint8_t key[];
} row;

/* Sorted index rows of `rows`, which are put in order, with the tables that they refer to; see RowTable.index in
 * _native.pyi. The interpreter lock is released meanwhile: nobody may write to the rows. */
PyObject *build_index(const row **rows, uint32_t count, size_t key_size);

#endif

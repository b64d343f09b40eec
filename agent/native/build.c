/* Index rows of version 2 (§4.6) for contents that were just written: sorted, packs and formats numbered in the order of
 * their first use, so that the bytes are those that agent.repository.index_build gives for the same entries. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "rows.h"

#include <stdlib.h>
#include <string.h>

#define MAX_VALUE 19
#define MAX_FORMATS 255
#define MAX_PACKS (1u << 24)
#define SHORT_PACKS (1u << 16)
#define MAX_OFFSET ((1u << 30) - 1)
#define MAX_LENGTH ((1u << 28) - 1)
#define SHORT_LENGTH (1u << 24)

static int by_key(const void *a, const void *b, void *key_size) {
    return memcmp((*(const row *const *)a)->key, (*(const row *const *)b)->key, *(const size_t *)key_size);
}

static void big_endian(uint8_t *out, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) out[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

typedef struct {
    uint32_t *numbers;            /* new number + 1 by old number */
    uint32_t *order;              /* old number by new number */
    uint32_t count;
    uint32_t formats[MAX_FORMATS]; /* compression ids */
    uint32_t format_count;
    int value_size;
} tables;

/* Makes room for the numbers of packs; sets ValueError where a row cannot be stored, as one without a place. */
static int prepare(const row *const *rows, uint32_t count, tables *t) {
    uint32_t highest = 0;
    for (uint32_t i = 0; i < count; i++) {
        const row *r = rows[i];
        if (r->pack >= MAX_PACKS || r->offset > MAX_OFFSET || r->packed > MAX_LENGTH || r->original > MAX_LENGTH ||
            r->time[1]) {
            PyErr_SetString(PyExc_ValueError, "a content has no place, or one that an index cannot hold");
            return 0;
        }
        if (r->pack > highest) highest = r->pack;
    }
    t->numbers = calloc((size_t)highest + 1, sizeof *t->numbers);
    t->order = calloc((size_t)highest + 1, sizeof *t->order);
    if (t->numbers != NULL && t->order != NULL) return 1;
    PyErr_NoMemory();
    return 0;
}

/* Numbers packs and formats; 0 when there are too many formats. */
static int number(const row *const *rows, uint32_t count, tables *t) {
    int wide = 0;
    for (uint32_t i = 0; i < count; i++) {
        const row *r = rows[i];
        if (!t->numbers[r->pack]) {
            t->order[t->count] = r->pack;
            t->numbers[r->pack] = ++t->count;
        }
        uint32_t f = 0;
        while (f < t->format_count && t->formats[f] != r->compression) f++;
        if (f == t->format_count) {
            if (f == MAX_FORMATS) return 0;
            t->formats[t->format_count++] = r->compression;
        }
        wide |= r->packed >= SHORT_LENGTH || r->original >= SHORT_LENGTH;
    }
    t->value_size = wide ? 19 : t->count > SHORT_PACKS ? 18 : t->format_count > 1 ? 17 : 16;
    return 1;
}

static void encode(const row *const *rows, uint32_t count, size_t key_size, const tables *t, uint8_t *out) {
    for (uint32_t i = 0; i < count; i++) {
        const row *r = rows[i];
        uint8_t value[MAX_VALUE];
        uint32_t pack = t->numbers[r->pack] - 1, f = 0;
        while (t->formats[f] != r->compression) f++;
        big_endian(value, r->time[0], 4);
        big_endian(value + 4, r->offset, 4);
        big_endian(value + 8, r->original & 0xffffff, 3);
        big_endian(value + 11, r->packed & 0xffffff, 3);
        big_endian(value + 14, pack & 0xffff, 2);
        value[16] = (uint8_t)f;
        value[17] = (uint8_t)(pack >> 16);
        value[18] = (uint8_t)(r->original >> 24 << 4 | r->packed >> 24);
        memcpy(out, r->key, key_size);
        memcpy(out + key_size, value, (size_t)t->value_size);
        out += key_size + (size_t)t->value_size;
    }
}

static PyObject *numbers_list(const uint32_t *values, uint32_t count) {
    PyObject *list = PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLong(values[i]);
        if (value == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, value);
    }
    return list;
}

PyObject *build_index(const row **rows, uint32_t count, size_t key_size) {
    PyObject *entries = NULL, *packs = NULL, *formats = NULL, *result = NULL;
    tables t = {0};
    if (!prepare(rows, count, &t)) goto done;
    int fits;
    Py_BEGIN_ALLOW_THREADS
    qsort_r(rows, count, sizeof *rows, by_key, &key_size);
    fits = number(rows, count, &t);
    Py_END_ALLOW_THREADS
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "more compressions than an index can hold");
        goto done;
    }
    entries = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * (key_size + (size_t)t.value_size)));
    packs = numbers_list(t.order, t.count);
    formats = numbers_list(t.formats, t.format_count);
    if (entries == NULL || packs == NULL || formats == NULL) goto done;
    Py_BEGIN_ALLOW_THREADS
    encode(rows, count, key_size, &t, (uint8_t *)PyBytes_AS_STRING(entries));
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("(OniOO)", entries, (Py_ssize_t)key_size, t.value_size, packs, formats);
done:
    Py_XDECREF(entries);
    Py_XDECREF(packs);
    Py_XDECREF(formats);
    free(t.numbers);
    free(t.order);
    return result;
}

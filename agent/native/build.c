/* Index rows of version 2 (§4.6) for contents that were just written: sorted, packs and formats numbered in the order of
 * their first use, so that the bytes are those that agent.repository.index_build gives for the same entries. */
#include "native.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROW 28          /* agent.repository.index_rows.ROW: five 32-bit words and one of 64 bits, little-endian */
#define MAX_VALUE 19
#define MAX_FORMATS 255
#define MAX_PACKS (1u << 24)
#define SHORT_PACKS (1u << 16)
#define MAX_OFFSET ((1u << 30) - 1)
#define MAX_LENGTH ((1u << 28) - 1)
#define SHORT_LENGTH (1u << 24)
#define MAX_KEY 33

typedef struct {
    uint8_t key[MAX_KEY + 3];
    uint32_t pack, offset, packed, original, compression, time;
} row;

static uint32_t word(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int by_key(const void *a, const void *b) {
    return memcmp(((const row *)a)->key, ((const row *)b)->key, MAX_KEY);
}

/* Copies one content's row; sets ValueError where it cannot be stored. */
static int take(row *out, PyObject *key, PyObject *value, Py_ssize_t key_size) {
    if (value == NULL || !PyBytes_Check(key) || !PyBytes_Check(value) || PyBytes_GET_SIZE(key) != key_size ||
        PyBytes_GET_SIZE(value) != ROW) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a content has no row, or one of another size");
        return 0;
    }
    memset(out->key, 0, sizeof out->key);
    memcpy(out->key, PyBytes_AS_STRING(key), (size_t)key_size);
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(value);
    out->pack = word(at);
    out->offset = word(at + 4);
    out->packed = word(at + 8);
    out->original = word(at + 12);
    out->compression = word(at + 16);
    out->time = word(at + 20);
    if (out->pack >= MAX_PACKS || out->offset > MAX_OFFSET || out->packed > MAX_LENGTH || out->original > MAX_LENGTH ||
        word(at + 24)) {
        PyErr_SetString(PyExc_ValueError, "a row holds a value that an index cannot hold");
        return 0;
    }
    return 1;
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

/* Numbers packs and formats; 0 when there are too many formats. */
static int number(const row *rows, Py_ssize_t count, tables *t) {
    int wide = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const row *r = rows + i;
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

static void encode(const row *rows, Py_ssize_t count, Py_ssize_t key_size, const tables *t, uint8_t *out) {
    for (Py_ssize_t i = 0; i < count; i++) {
        const row *r = rows + i;
        uint8_t value[MAX_VALUE];
        uint32_t pack = t->numbers[r->pack] - 1, f = 0;
        while (t->formats[f] != r->compression) f++;
        big_endian(value, r->time, 4);
        big_endian(value + 4, r->offset, 4);
        big_endian(value + 8, r->original & 0xffffff, 3);
        big_endian(value + 11, r->packed & 0xffffff, 3);
        big_endian(value + 14, pack & 0xffff, 2);
        value[16] = (uint8_t)f;
        value[17] = (uint8_t)(pack >> 16);
        value[18] = (uint8_t)(r->original >> 24 << 4 | r->packed >> 24);
        memcpy(out, r->key, (size_t)key_size);
        memcpy(out + key_size, value, (size_t)t->value_size);
        out += key_size + t->value_size;
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

static PyObject *index_rows(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *places, *contents, *entries = NULL, *packs = NULL, *formats = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &places, &PyList_Type, &contents)) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(contents);
    Py_ssize_t key_size = count && PyBytes_Check(PyList_GET_ITEM(contents, 0)) ? PyBytes_GET_SIZE(PyList_GET_ITEM(contents, 0)) : 0;
    if (key_size < 2 || key_size > MAX_KEY) {
        PyErr_SetString(PyExc_ValueError, "no contents, or ids of a size that no index holds");
        return NULL;
    }
    tables t = {0};
    uint32_t highest = 0;
    row *rows = malloc((size_t)count * sizeof *rows);
    if (rows == NULL) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *key = PyList_GET_ITEM(contents, i);
        if (!take(rows + i, key, PyDict_GetItemWithError(places, key), key_size)) goto done;
        if (rows[i].pack > highest) highest = rows[i].pack;
    }
    t.numbers = calloc((size_t)highest + 1, sizeof *t.numbers);
    t.order = calloc((size_t)highest + 1, sizeof *t.order);
    if (t.numbers == NULL || t.order == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    int fits;
    Py_BEGIN_ALLOW_THREADS
    qsort(rows, (size_t)count, sizeof *rows, by_key);
    fits = number(rows, count, &t);
    Py_END_ALLOW_THREADS
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "more compressions than an index can hold");
        goto done;
    }
    entries = PyBytes_FromStringAndSize(NULL, count * (key_size + t.value_size));
    packs = numbers_list(t.order, t.count);
    formats = numbers_list(t.formats, t.format_count);
    if (entries == NULL || packs == NULL || formats == NULL) goto done;
    Py_BEGIN_ALLOW_THREADS
    encode(rows, count, key_size, &t, (uint8_t *)PyBytes_AS_STRING(entries));
    Py_END_ALLOW_THREADS
    result = PyTuple_Pack(3, entries, packs, formats);
done:
    Py_XDECREF(entries);
    Py_XDECREF(packs);
    Py_XDECREF(formats);
    free(t.numbers);
    free(t.order);
    free(rows);
    return result;
}

PyMethodDef build_methods[] = {
    {"index_rows", index_rows, METH_VARARGS, "Rows of an index from places in packs; see _native.pyi."},
    {NULL, NULL, 0, NULL},
};

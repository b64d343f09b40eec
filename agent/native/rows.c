/* The rows of contents that are being written, and which contents have one. As objects of Python each would take four
 * times the room.
 *
 * Rows lie in blocks and never move. A row is written when its content is claimed and once more when the content has
 * its place, both with the interpreter lock held, and never again. So an index of rows that have their places is built
 * without that lock (build.c) while others are added; the blocks and slots themselves are for holders of it alone. */
#include "rows.h"

#include <string.h>

#define BLOCK_ROWS 1024u
#define FIRST_SLOTS 64u
#define MAX_ROWS (1u << 30)
#define NOWHERE UINT32_MAX /* the pack of a row without a place */
#define ALL NOWHERE        /* in place of a pack: rows of any */
#define COLUMNS 4

typedef struct {
    PyObject_HEAD
    size_t key_size, stride; /* 0 before the first claim */
    uint32_t count;
    uint32_t slot_count; /* a power of two, or 0 */
    uint32_t *slots;     /* number of a row + 1, or 0; a row is in the first free slot from that of its hash on */
    uint8_t **blocks;
    size_t block_count;
} Table;

static PyTypeObject TableType;

static row *row_at(const Table *t, uint32_t number) {
    return (row *)(t->blocks[number / BLOCK_ROWS] + number % BLOCK_ROWS * t->stride);
}

/* Keys are a prefix and a digest; all of it is mixed in, so that keys of any other kind do as well. */
static uint32_t hash_key(const uint8_t *key, size_t size) {
    uint64_t hash = *key++;
    for (size_t left = size - 1, length; left; left -= length, key += length) {
        uint64_t part = 0;
        length = left < sizeof part ? left : sizeof part;
        memcpy(&part, key, length);
        hash ^= part;
        hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return (uint32_t)hash;
}

/* The slot of this key, or the one where it would go. There is a free one. */
static uint32_t *slot_of(const Table *t, const uint8_t *key) {
    for (uint32_t i = hash_key(key, t->key_size);; i++) {
        uint32_t *slot = t->slots + (i & (t->slot_count - 1));
        if (!*slot || !memcmp(row_at(t, *slot - 1)->key, key, t->key_size)) return slot;
    }
}

static int has(const Table *t, PyObject *content) {
    return t->count && PyBytes_Check(content) && (size_t)PyBytes_GET_SIZE(content) == t->key_size &&
           *slot_of(t, (const uint8_t *)PyBytes_AS_STRING(content));
}

static int resize_slots(Table *t, uint32_t slot_count) {
    uint32_t *slots = PyMem_RawCalloc(slot_count, sizeof *slots);
    if (slots == NULL) return 0;
    PyMem_RawFree(t->slots);
    t->slots = slots;
    t->slot_count = slot_count;
    for (uint32_t number = 0; number < t->count; number++) *slot_of(t, row_at(t, number)->key) = number + 1;
    return 1;
}

static int add_block(Table *t) {
    uint8_t *block = PyMem_RawMalloc(BLOCK_ROWS * t->stride);
    uint8_t **blocks = PyMem_RawRealloc(t->blocks, (t->block_count + 1) * sizeof *blocks);
    if (blocks != NULL) t->blocks = blocks;
    if (blocks == NULL || block == NULL) {
        PyMem_RawFree(block);
        return 0;
    }
    blocks[t->block_count++] = block;
    return 1;
}

/* Room for so many rows in all; sets an error when there is none. */
static int reserve(Table *t, size_t rows) {
    if (rows > MAX_ROWS) {
        PyErr_SetString(PyExc_ValueError, "more contents than a table can hold");
        return 0;
    }
    uint32_t slot_count = t->slot_count ? t->slot_count : FIRST_SLOTS;
    while (rows > slot_count / 3 * 2) slot_count *= 2;
    int done = slot_count == t->slot_count || resize_slots(t, slot_count);
    while (done && t->block_count * BLOCK_ROWS < rows) done = add_block(t);
    if (!done) PyErr_NoMemory();
    return done;
}

/* Takes the size of keys from the first ones; sets ValueError when not all have it. */
static int check_keys(Table *t, PyObject *contents) {
    Py_ssize_t count = PySequence_Fast_GET_SIZE(contents);
    size_t size = t->key_size;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *content = PySequence_Fast_GET_ITEM(contents, i);
        size_t given = PyBytes_Check(content) ? (size_t)PyBytes_GET_SIZE(content) : 0;
        if (!size) size = given;
        if (given != size || given < 2 || given > MAX_KEY) {
            PyErr_Format(PyExc_ValueError, "contents have 2 to %d bytes, all the same", MAX_KEY);
            return 0;
        }
    }
    t->key_size = size;
    t->stride = (sizeof(row) + size + _Alignof(row) - 1) / _Alignof(row) * _Alignof(row);
    return 1;
}

/* Forgets the newest rows until so many are left: a slot that was taken last stops no search for another. */
static void forget(Table *t, uint32_t count) {
    for (; t->count > count; t->count--) *slot_of(t, row_at(t, t->count - 1)->key) = 0;
}

/* Adds a content for which there is room, unless it is here or in one of `others`; whether it did. */
static int add(Table *t, PyObject *content, PyObject *others) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(others); i++)
        if (has((Table *)PySequence_Fast_GET_ITEM(others, i), content)) return 0;
    const uint8_t *key = (const uint8_t *)PyBytes_AS_STRING(content);
    uint32_t *slot = slot_of(t, key);
    if (*slot) return 0;
    row *r = row_at(t, t->count);
    r->pack = NOWHERE;
    memcpy(r->key, key, t->key_size);
    *slot = ++t->count;
    return 1;
}

static int are_tables(PyObject *others) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(others); i++)
        if (!Py_IS_TYPE(PySequence_Fast_GET_ITEM(others, i), &TableType)) {
            PyErr_SetString(PyExc_TypeError, "others are tables");
            return 0;
        }
    return 1;
}

/* From `check_keys` on nothing makes an object that takes part in garbage collection, which may run other threads. */
static PyObject *table_claim(PyObject *self, PyObject *args) {
    Table *t = (Table *)self;
    PyObject *contents, *others, *fresh = NULL;
    if (!PyArg_ParseTuple(args, "OO", &contents, &others)) return NULL;
    contents = PySequence_Fast(contents, "contents are a sequence");
    others = contents == NULL ? NULL : PySequence_Fast(others, "others are a sequence");
    if (others != NULL && are_tables(others)) fresh = PyList_New(0);
    if (fresh == NULL) goto done;
    uint32_t before = t->count;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(contents);
    int added = check_keys(t, contents) && reserve(t, before + (size_t)count);
    for (Py_ssize_t i = 0; added && i < count; i++) {
        if (!add(t, PySequence_Fast_GET_ITEM(contents, i), others)) continue;
        PyObject *position = PyLong_FromSsize_t(i);
        added = position != NULL && PyList_Append(fresh, position) == 0;
        Py_XDECREF(position);
    }
    if (!added) {
        forget(t, before);
        Py_CLEAR(fresh);
    }
done:
    Py_XDECREF(others);
    Py_XDECREF(contents);
    return fresh;
}

/* ValueError beyond 64 bits and below 0. */
static int long_word(PyObject *value, uint32_t *out) {
    unsigned long long number = PyLong_AsUnsignedLongLong(value);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_SetString(PyExc_ValueError, "a number is negative or beyond 64 bits");
        return 0;
    }
    out[0] = (uint32_t)number;
    out[1] = (uint32_t)(number >> 32);
    return 1;
}

/* A converter for PyArg_ParseTuple. */
static int word(PyObject *value, void *out) {
    uint32_t halves[2];
    if (!long_word(value, halves)) return 0;
    if (halves[1]) {
        PyErr_SetString(PyExc_ValueError, "a number is beyond 32 bits");
        return 0;
    }
    *(uint32_t *)out = halves[0];
    return 1;
}

/* The places but for the pack, which is what makes them valid. */
static int fill(Table *t, uint32_t first, uint64_t offset, Py_ssize_t count, PyObject *const *columns) {
    for (Py_ssize_t i = 0; i < count; i++) {
        row *r = row_at(t, first + (uint32_t)i);
        if (r->pack != NOWHERE) {
            PyErr_SetString(PyExc_ValueError, "a content has its place already");
            return 0;
        }
        if (!word(PySequence_Fast_GET_ITEM(columns[0], i), &r->packed) ||
            !word(PySequence_Fast_GET_ITEM(columns[1], i), &r->original) ||
            !word(PySequence_Fast_GET_ITEM(columns[2], i), &r->compression) ||
            !long_word(PySequence_Fast_GET_ITEM(columns[3], i), r->time))
            return 0;
        if (offset > UINT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "an offset is beyond 32 bits");
            return 0;
        }
        r->offset = (uint32_t)offset;
        offset += r->packed;
    }
    return 1;
}

static PyObject *table_place(PyObject *self, PyObject *args) {
    Table *t = (Table *)self;
    uint32_t first, pack, offset;
    PyObject *given[COLUMNS], *columns[COLUMNS] = {NULL}, *result = NULL;
    if (!PyArg_ParseTuple(args, "O&O&O&OOOO", word, &first, word, &pack, word, &offset, &given[0], &given[1], &given[2],
                          &given[3]))
        return NULL;
    for (int i = 0; i < COLUMNS; i++) {
        columns[i] = PySequence_Fast(given[i], "the columns are sequences");
        if (columns[i] == NULL) goto done;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(columns[0]);
    int fits = pack != NOWHERE && first <= t->count && count <= t->count - first;
    for (int i = 1; i < COLUMNS; i++) fits &= PySequence_Fast_GET_SIZE(columns[i]) == count;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the places are not of so many claimed contents");
        goto done;
    }
    if (!fill(t, first, offset, count, columns)) goto done;
    for (Py_ssize_t i = 0; i < count; i++) row_at(t, first + (uint32_t)i)->pack = pack;
    result = Py_NewRef(Py_None);
done:
    for (int i = 0; i < COLUMNS; i++) Py_XDECREF(columns[i]);
    return result;
}

/* The argument that chooses rows: the number of a pack, or nothing for all. */
static int parse_choice(PyObject *args, uint32_t *pack) {
    PyObject *given = Py_None;
    *pack = ALL;
    return PyArg_ParseTuple(args, "|O", &given) && (given == Py_None || word(given, pack));
}

/* The first row from `number` on that is chosen; the count when there is none. */
static uint32_t next_row(const Table *t, uint32_t number, uint32_t pack) {
    while (number < t->count && pack != ALL && row_at(t, number)->pack != pack) number++;
    return number;
}

static PyObject *table_select(PyObject *self, PyObject *args) {
    Table *t = (Table *)self;
    uint32_t pack;
    if (!parse_choice(args, &pack)) return NULL;
    PyObject *numbers = PyList_New(0);
    for (uint32_t n = next_row(t, 0, pack); numbers != NULL && n < t->count; n = next_row(t, n + 1, pack)) {
        PyObject *number = PyLong_FromUnsignedLong(n);
        if (number == NULL || PyList_Append(numbers, number) < 0) Py_CLEAR(numbers);
        Py_XDECREF(number);
    }
    return numbers;
}

static PyObject *table_index(PyObject *self, PyObject *args) {
    Table *t = (Table *)self;
    uint32_t pack, count = 0;
    if (!parse_choice(args, &pack)) return NULL;
    for (uint32_t n = next_row(t, 0, pack); n < t->count; n = next_row(t, n + 1, pack)) count++;
    if (!count) {
        PyErr_SetString(PyExc_ValueError, "it would be empty");
        return NULL;
    }
    const row **rows = PyMem_RawMalloc(count * sizeof *rows);
    if (rows == NULL) return PyErr_NoMemory();
    count = 0;
    for (uint32_t n = next_row(t, 0, pack); n < t->count; n = next_row(t, n + 1, pack)) rows[count++] = row_at(t, n);
    PyObject *result = build_index(rows, count, t->key_size);
    PyMem_RawFree(rows);
    return result;
}

static PyObject *table_row(PyObject *self, PyObject *argument) {
    Table *t = (Table *)self;
    uint32_t number;
    if (!word(argument, &number)) return NULL;
    const row *r = number < t->count ? row_at(t, number) : NULL;
    if (r == NULL || r->pack == NOWHERE) {
        PyErr_SetString(PyExc_ValueError, "there is no such row, or it has no place yet");
        return NULL;
    }
    return Py_BuildValue("(y#IIIIIK)", r->key, (Py_ssize_t)t->key_size, r->pack, r->offset, r->packed, r->original,
                         r->compression, r->time[0] | (unsigned long long)r->time[1] << 32);
}

static Py_ssize_t table_length(PyObject *self) {
    return ((Table *)self)->count;
}

static int table_contains(PyObject *self, PyObject *content) {
    return has((Table *)self, content);
}

static void table_dealloc(PyObject *self) {
    Table *t = (Table *)self;
    for (size_t i = 0; i < t->block_count; i++) PyMem_RawFree(t->blocks[i]);
    PyMem_RawFree(t->blocks);
    PyMem_RawFree(t->slots);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef table_methods[] = {
    {"claim", table_claim, METH_VARARGS, "Add those contents that are new."},
    {"place", table_place, METH_VARARGS, "Say where claimed contents are."},
    {"select", table_select, METH_VARARGS, "The numbers of rows."},
    {"row", table_row, METH_O, "One row."},
    {"index", table_index, METH_VARARGS, "Rows of an index."},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods table_sequence = {.sq_length = table_length, .sq_contains = table_contains};

static PyTypeObject TableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent._native.RowTable",
    .tp_doc = "Where contents that are being written lie.",
    .tp_basicsize = sizeof(Table),
    .tp_new = PyType_GenericNew,
    .tp_dealloc = table_dealloc,
    .tp_methods = table_methods,
    .tp_as_sequence = &table_sequence,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int rows_add_types(PyObject *m) {
    return PyModule_AddType(m, &TableType);
}

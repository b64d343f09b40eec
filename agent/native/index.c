/* Search in sorted index keys: entries of a fixed stride, each with its key first. The entries come from blobs and may be
 * anything: a search looks at most once per bit of the count, and never outside the buffer. */
#include "native.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *entries;
    Py_ssize_t stride, key_size, count;
} table;

/* Position of `key`, or -1. Of several equal keys any may be found. */
static Py_ssize_t position(const table *t, const uint8_t *key) {
    Py_ssize_t low = 0, high = t->count;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        int order = memcmp(t->entries + middle * t->stride, key, (size_t)t->key_size);
        if (order == 0) return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* Whether `count` entries from `base` on lie inside the buffer; sets ValueError where not. */
static int fits(const Py_buffer *buffer, Py_ssize_t base, const table *t) {
    if (t->key_size > 0 && t->stride >= t->key_size && t->count >= 0 && base >= 0 && base <= buffer->len &&
        t->count <= (buffer->len - base) / t->stride)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the entries do not lie inside the buffer");
    return 0;
}

static PyObject *find_key(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffer, key;
    Py_ssize_t base;
    table t;
    if (!PyArg_ParseTuple(args, "y*nnnny*", &buffer, &base, &t.stride, &t.key_size, &t.count, &key)) return NULL;
    PyObject *result = NULL;
    if (fits(&buffer, base, &t)) {
        t.entries = (const uint8_t *)buffer.buf + base;
        result = PyLong_FromSsize_t(key.len == t.key_size ? position(&t, key.buf) : -1);
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *find_keys(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffer, keys;
    Py_ssize_t base;
    table t;
    if (!PyArg_ParseTuple(args, "y*nnnny*", &buffer, &base, &t.stride, &t.key_size, &t.count, &keys)) return NULL;
    PyObject *result = NULL;
    if (!fits(&buffer, base, &t)) goto done;
    if (keys.len % t.key_size != 0) {
        PyErr_SetString(PyExc_ValueError, "the keys are not a whole number of keys");
        goto done;
    }
    Py_ssize_t wanted = keys.len / t.key_size;
    if (wanted > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(int64_t)) {
        PyErr_NoMemory();
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, wanted * (Py_ssize_t)sizeof(int64_t));
    if (result == NULL) goto done;
    t.entries = (const uint8_t *)buffer.buf + base;
    char *out = PyBytes_AS_STRING(result);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < wanted; i++) {
        int64_t found = position(&t, (const uint8_t *)keys.buf + i * t.key_size);
        memcpy(out + i * (Py_ssize_t)sizeof found, &found, sizeof found);
    }
    Py_END_ALLOW_THREADS
done:
    PyBuffer_Release(&keys);
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *first_unsorted(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffer;
    Py_ssize_t base;
    table t;
    if (!PyArg_ParseTuple(args, "y*nnnn", &buffer, &base, &t.stride, &t.key_size, &t.count)) return NULL;
    PyObject *result = NULL;
    if (fits(&buffer, base, &t)) {
        t.entries = (const uint8_t *)buffer.buf + base;
        Py_ssize_t found = -1;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 1; i < t.count && found < 0; i++) {
            const uint8_t *entry = t.entries + i * t.stride;
            if (memcmp(entry - t.stride, entry, (size_t)t.key_size) >= 0) found = i;
        }
        Py_END_ALLOW_THREADS
        result = PyLong_FromSsize_t(found);
    }
    PyBuffer_Release(&buffer);
    return result;
}

PyMethodDef index_methods[] = {
    {"find_key", find_key, METH_VARARGS, NULL},
    {"find_keys", find_keys, METH_VARARGS, NULL},
    {"first_unsorted", first_unsorted, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Finding values in JSON without decoding them: the elements of a list as slices, runs of unchanged entries. */
#include "native.h"

#include <string.h>

#define MAX_DEPTH 512
#define INCOMPLETE (-1)
#define MALFORMED (-2)

static int is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* Position after the string that starts at `i`. */
static Py_ssize_t skip_string(const char *s, Py_ssize_t i, Py_ssize_t length) {
    for (i++; i < length; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"') return i + 1;
        if (c < 0x20) return MALFORMED;
        if (c == '\\') i++;
    }
    return INCOMPLETE;
}

/* Position after the value that starts at `i` (no space before it). Brackets have to match; what stands between
 * them is left to the decoder. A number or literal at the end of the data counts as incomplete. */
static Py_ssize_t skip_value(const char *s, Py_ssize_t i, Py_ssize_t length) {
    char open[MAX_DEPTH];
    int depth = 0;
    while (i < length) {
        char c = s[i];
        if (c == '"') {
            i = skip_string(s, i, length);
            if (i < 0) return i;
        } else if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH) return MALFORMED;
            open[depth++] = c;
            i++;
            continue;
        } else if (c == '}' || c == ']') {
            if (depth == 0 || open[--depth] != (c == '}' ? '{' : '[')) return MALFORMED;
            i++;
        } else if (c == ',' || c == ':' || is_space(c)) {
            if (depth == 0) return MALFORMED;
            i++;
            continue;
        } else if ((unsigned char)c < 0x20 || c == 0x7f) {
            return MALFORMED;
        } else {
            while (i < length && s[i] != ',' && s[i] != ':' && s[i] != '}' && s[i] != ']' && !is_space(s[i])) {
                if (s[i] == '"' || s[i] == '{' || s[i] == '[') return MALFORMED;
                i++;
            }
            if (i == length) return INCOMPLETE;
        }
        if (depth == 0) return i;
    }
    return INCOMPLETE;
}

static PyObject *malformed(Py_ssize_t position) {
    PyErr_Format(PyExc_ValueError, "malformed JSON near byte %zd", position);
    return NULL;
}

static PyObject *scan_value(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data;
    Py_ssize_t start;
    if (!PyArg_ParseTuple(args, "y*n", &data, &start)) return NULL;
    Py_ssize_t end = start < 0 || start > data.len ? MALFORMED : skip_value(data.buf, start, data.len);
    PyBuffer_Release(&data);
    if (end == MALFORMED) return malformed(start);
    return PyLong_FromSsize_t(end);
}

enum { FIRST = 0, REQUIRED = 1, AFTER = 2, CLOSED = 3 };

static PyObject *split_elements(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data;
    Py_ssize_t i;
    int state;
    if (!PyArg_ParseTuple(args, "y*ni", &data, &i, &state)) return NULL;
    const char *s = data.buf;
    Py_ssize_t length = data.len;
    PyObject *found = NULL, *result = NULL;
    if (i < 0 || i > length || state < FIRST || state > AFTER) {
        PyErr_SetString(PyExc_ValueError, "start or state out of range");
        goto done;
    }
    found = PyList_New(0);
    if (found == NULL) goto done;
    for (;;) {
        while (i < length && is_space(s[i])) i++;
        if (i == length) break;
        if (s[i] == ']') {
            if (state == REQUIRED) {
                malformed(i);
                goto done;
            }
            i++;
            state = CLOSED;
            break;
        }
        if (state == AFTER) {
            if (s[i] != ',') {
                malformed(i);
                goto done;
            }
            i++;
            state = REQUIRED;
            continue;
        }
        Py_ssize_t end = skip_value(s, i, length);
        if (end == MALFORMED) {
            malformed(i);
            goto done;
        }
        if (end == INCOMPLETE) break;
        PyObject *element = PyBytes_FromStringAndSize(s + i, end - i);
        if (element == NULL) goto done;
        int failed = PyList_Append(found, element);
        Py_DECREF(element);
        if (failed < 0) goto done;
        i = end;
        state = AFTER;
    }
    result = Py_BuildValue("Oni", found, i, state);
done:
    Py_XDECREF(found);
    PyBuffer_Release(&data);
    return result;
}

/* True when `raw` is `prefix`, an object id and the end of the object, and nothing else. */
static int is_unchanged(PyObject *raw, PyObject *prefix) {
    if (!PyBytes_Check(raw) || !PyBytes_Check(prefix)) return 0;
    Py_ssize_t have = PyBytes_GET_SIZE(raw), want = PyBytes_GET_SIZE(prefix);
    const char *s = PyBytes_AS_STRING(raw);
    if (have < want + 3 || memcmp(s, PyBytes_AS_STRING(prefix), (size_t)want) != 0) return 0;
    if (s[have - 2] != '"' || s[have - 1] != '}') return 0;
    for (Py_ssize_t i = want; i < have - 2; i++) {
        char c = s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) return 0;
    }
    return 1;
}

static PyObject *unchanged_run(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *prefixes, *raws;
    Py_ssize_t i, j, n = 0;
    if (!PyArg_ParseTuple(args, "O!nO!n", &PyList_Type, &prefixes, &i, &PyList_Type, &raws, &j)) return NULL;
    if (i < 0 || j < 0) {
        PyErr_SetString(PyExc_ValueError, "negative start");
        return NULL;
    }
    while (i + n < PyList_GET_SIZE(prefixes) && j + n < PyList_GET_SIZE(raws) &&
           is_unchanged(PyList_GET_ITEM(raws, j + n), PyList_GET_ITEM(prefixes, i + n))) {
        n++;
    }
    return PyLong_FromSsize_t(n);
}

PyMethodDef scan_methods[] = {
    {"scan_value", scan_value, METH_VARARGS, NULL},
    {"split_elements", split_elements, METH_VARARGS, NULL},
    {"unchanged_run", unchanged_run, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

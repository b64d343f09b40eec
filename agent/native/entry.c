/* Directory entries as JSON: encoded as Go's encoder does. `scan.c` is the other direction. */
#include "attributes.h"
#include <stdint.h>
#include <string.h>

/* ---- a growing byte buffer ---- */

typedef struct {
    char *data;
    size_t used, size;
} Buffer;

static int reserve(Buffer *b, size_t more) {
    if (b->size - b->used >= more) return 0;
    size_t size = b->size ? b->size : 256;
    while (size - b->used < more) size *= 2;
    char *data = PyMem_RawRealloc(b->data, size);
    if (data == NULL) return -1;
    b->data = data;
    b->size = size;
    return 0;
}

static void put(Buffer *b, const char *text, size_t length) {
    memcpy(b->data + b->used, text, length);
    b->used += length;
}

#define PUT(b, literal) put(b, literal, sizeof(literal) - 1)

static void put_unsigned(Buffer *b, uint64_t value) {
    char digits[20];
    size_t n = sizeof digits;
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    put(b, digits + n, sizeof digits - n);
}

static void put_signed(Buffer *b, int64_t value) {
    if (value < 0) {
        PUT(b, "-");
        put_unsigned(b, (uint64_t)0 - (uint64_t)value);
    } else {
        put_unsigned(b, (uint64_t)value);
    }
}

/* ---- strings: Go's HTML-safe escaping, one six-character escape for each byte that is not UTF-8 ---- */

/* Length of the valid UTF-8 sequence at `s`, or 0. */
static size_t utf8_length(const unsigned char *s, size_t left) {
    unsigned char c = s[0];
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    if (c < 0xe0) return left >= 2 && (s[1] & 0xc0) == 0x80 ? 2 : 0;
    if (left < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80) {
        return 0;
    }
    if (c < 0xf0) {
        if (c == 0xe0 && s[1] < 0xa0) return 0;
        if (c == 0xed && s[1] > 0x9f) return 0;
        return 3;
    }
    if (left < 4 || (s[3] & 0xc0) != 0x80) return 0;
    if (c == 0xf0 && s[1] < 0x90) return 0;
    if (c == 0xf4 && s[1] > 0x8f) return 0;
    return 4;
}

/* At most six bytes come out for each that goes in; the caller has reserved them, and two for the quotes. */
static void put_string(Buffer *b, const unsigned char *s, size_t length) {
    static const char hex[] = "0123456789abcdef";
    PUT(b, "\"");
    size_t i = 0;
    while (i < length) {
        unsigned char c = s[i];
        if (c < 0x80) {
            i++;
            if (c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&') {
                b->data[b->used++] = (char)c;
                continue;
            }
            switch (c) {
            case '"': PUT(b, "\\\""); break;
            case '\\': PUT(b, "\\\\"); break;
            case '\b': PUT(b, "\\b"); break;
            case '\f': PUT(b, "\\f"); break;
            case '\n': PUT(b, "\\n"); break;
            case '\r': PUT(b, "\\r"); break;
            case '\t': PUT(b, "\\t"); break;
            default:
                PUT(b, "\\u00");
                b->data[b->used++] = hex[c >> 4];
                b->data[b->used++] = hex[c & 15];
            }
            continue;
        }
        size_t n = utf8_length(s + i, length - i);
        if (n == 0) {
            PUT(b, "\\ufffd");
            i++;
        } else if (n == 3 && c == 0xe2 && s[i + 1] == 0x80 && (s[i + 2] & 0xfe) == 0xa8) {
            PUT(b, "\\u202");
            b->data[b->used++] = s[i + 2] == 0xa8 ? '8' : '9';
            i += 3;
        } else {
            put(b, (const char *)s + i, n);
            i += n;
        }
    }
    PUT(b, "\"");
}

/* ---- times ---- */

static void put_digits(Buffer *b, uint32_t value, int width) {
    char digits[10];
    for (int i = width - 1; i >= 0; i--) {
        digits[i] = (char)('0' + value % 10);
        value /= 10;
    }
    put(b, digits, (size_t)width);
}

/* RFC 3339 with nanoseconds, UTC, trailing zeros of the fraction dropped; any int64 count of nanoseconds. */
static void put_time(Buffer *b, int64_t ns) {
    int64_t seconds = ns / 1000000000, fraction = ns % 1000000000;
    if (fraction < 0) {
        fraction += 1000000000;
        seconds--;
    }
    int64_t days = seconds / 86400, second = seconds % 86400;
    if (second < 0) {
        second += 86400;
        days--;
    }
    /* Days to civil date, proleptic Gregorian, years counted from March. */
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    uint32_t doe = (uint32_t)(z - era * 146097);
    uint32_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint32_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    uint32_t mp = (5 * doy + 2) / 153;
    uint32_t day = doy - (153 * mp + 2) / 5 + 1;
    uint32_t month = mp < 10 ? mp + 3 : mp - 9;
    int64_t year = (int64_t)yoe + era * 400 + (month <= 2);
    put_digits(b, (uint32_t)year, 4);
    PUT(b, "-");
    put_digits(b, month, 2);
    PUT(b, "-");
    put_digits(b, day, 2);
    PUT(b, "T");
    put_digits(b, (uint32_t)(second / 3600), 2);
    PUT(b, ":");
    put_digits(b, (uint32_t)(second / 60 % 60), 2);
    PUT(b, ":");
    put_digits(b, (uint32_t)(second % 60), 2);
    if (fraction) {
        PUT(b, ".");
        int width = 9;
        while (fraction % 10 == 0) {
            fraction /= 10;
            width--;
        }
        put_digits(b, (uint32_t)fraction, width);
    }
    PUT(b, "Z");
}

/* ---- entries ---- */

/* What a directory entry says before its object id; see `Attributes` in agent/volumes/attributes.py. */
typedef struct {
    char type;
    uint32_t mode, uid, gid;
    int64_t size, mtime;
} Stat;

#define ENTRY_OVERHEAD 256

static void put_prefix(Buffer *b, const unsigned char *name, size_t length, const Stat *st) {
    PUT(b, "{");
    if (length) {
        PUT(b, "\"name\":");
        put_string(b, name, length);
        PUT(b, ",");
    }
    PUT(b, "\"type\":\"");
    b->data[b->used++] = st->type;
    PUT(b, "\"");
    if (st->mode) {
        char digits[12];
        size_t n = sizeof digits;
        uint32_t mode = st->mode;
        do {
            digits[--n] = (char)('0' + (mode & 7));
            mode >>= 3;
        } while (mode);
        digits[--n] = '0';
        PUT(b, ",\"mode\":\"");
        put(b, digits + n, sizeof digits - n);
        PUT(b, "\"");
    }
    if (st->size) {
        PUT(b, ",\"size\":");
        put_signed(b, st->size);
    }
    if (st->mtime) {
        PUT(b, ",\"mtime\":\"");
        put_time(b, st->mtime);
        PUT(b, "\"");
    }
    if (st->uid) {
        PUT(b, ",\"uid\":");
        put_unsigned(b, st->uid);
    }
    if (st->gid) {
        PUT(b, ",\"gid\":");
        put_unsigned(b, st->gid);
    }
    PUT(b, ",\"obj\":\"");
}

static PyObject *entry_prefix(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer name;
    Stat st;
    char type;
    unsigned long mode, uid, gid;
    long long size, mtime;
    if (!PyArg_ParseTuple(args, "y*ckLLkk", &name, &type, &mode, &size, &mtime, &uid, &gid)) return NULL;
    if (type < 0 || mode > UINT32_MAX || uid > UINT32_MAX || gid > UINT32_MAX) {
        PyBuffer_Release(&name);
        PyErr_SetString(PyExc_ValueError, "type, mode, uid or gid out of range");
        return NULL;
    }
    st = (Stat){type, (uint32_t)mode, (uint32_t)uid, (uint32_t)gid, size, mtime};
    Buffer b = {0};
    if (reserve(&b, (size_t)name.len * 6 + ENTRY_OVERHEAD) < 0) {
        PyBuffer_Release(&name);
        return PyErr_NoMemory();
    }
    put_prefix(&b, name.buf, (size_t)name.len, &st);
    PyBuffer_Release(&name);
    PyObject *result = PyBytes_FromStringAndSize(b.data, (Py_ssize_t)b.used);
    PyMem_RawFree(b.data);
    return result;
}

#define POSIX_TYPE 0170000
#define GO_SETUID (1u << 23)
#define GO_SETGID (1u << 22)
#define GO_STICKY (1u << 20)

static uint32_t go_mode(uint64_t posix) {
    return (uint32_t)(posix & 0777) | (posix & 04000 ? GO_SETUID : 0) | (posix & 02000 ? GO_SETGID : 0) |
           (posix & 01000 ? GO_STICKY : 0);
}

/* What a directory entry needs of an `Attributes`. */
static int take_stat(PyObject *object, Stat *st) {
    const struct attributes *values = attributes_values(object);
    if (values == NULL) return -1;
    uint32_t kind = values->mode & POSIX_TYPE;
    st->type = kind == 0040000 ? 'd' : kind == 0120000 ? 's' : 'f';
    st->mode = go_mode(values->mode);
    st->size = st->type == 'd' ? 0 : values->size;
    st->mtime = values->mtime_ns;
    st->uid = values->uid;
    st->gid = values->gid;
    return 0;
}

static PyObject *entry_prefixes(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *names, *stats, *result = NULL;
    Buffer b = {0};
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &names, &stats)) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(names);
    stats = PySequence_Tuple(stats);
    if (stats == NULL) return NULL;
    if (PyTuple_GET_SIZE(stats) != count) {
        PyErr_SetString(PyExc_ValueError, "not as many attributes as names");
        goto done;
    }
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        char *name;
        Py_ssize_t length;
        Stat st;
        PyObject *item = NULL;
        if (PyList_GET_SIZE(names) != count) {
            PyErr_SetString(PyExc_RuntimeError, "the list of names changed meanwhile");
        } else if (PyBytes_AsStringAndSize(PyList_GET_ITEM(names, i), &name, &length) == 0) {
            b.used = 0;
            if (reserve(&b, (size_t)length * 6 + ENTRY_OVERHEAD) < 0) {
                PyErr_NoMemory();
            } else if (take_stat(PyTuple_GET_ITEM(stats, i), &st) == 0) {
                put_prefix(&b, (unsigned char *)name, (size_t)length, &st);
                item = PyBytes_FromStringAndSize(b.data, (Py_ssize_t)b.used);
            }
        }
        if (item == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, item);
    }
done:
    Py_DECREF(stats);
    PyMem_RawFree(b.data);
    return result;
}

static PyObject *quote_string(PyObject *self, PyObject *arg) {
    (void)self;
    Py_buffer text;
    if (PyObject_GetBuffer(arg, &text, PyBUF_SIMPLE) < 0) return NULL;
    Buffer b = {0};
    if (reserve(&b, (size_t)text.len * 6 + 2) < 0) {
        PyBuffer_Release(&text);
        return PyErr_NoMemory();
    }
    put_string(&b, text.buf, (size_t)text.len);
    PyBuffer_Release(&text);
    PyObject *result = PyBytes_FromStringAndSize(b.data, (Py_ssize_t)b.used);
    PyMem_RawFree(b.data);
    return result;
}

static PyObject *format_time(PyObject *self, PyObject *arg) {
    (void)self;
    long long ns = PyLong_AsLongLong(arg);
    if (ns == -1 && PyErr_Occurred()) return NULL;
    char text[64];
    Buffer b = {text, 0, sizeof text};
    put_time(&b, ns);
    return PyBytes_FromStringAndSize(b.data, (Py_ssize_t)b.used);
}

PyMethodDef entry_methods[] = {
    {"entry_prefix", entry_prefix, METH_VARARGS, NULL},
    {"entry_prefixes", entry_prefixes, METH_VARARGS, NULL},
    {"quote_string", quote_string, METH_O, NULL},
    {"format_time", format_time, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* Directories looked at ahead of a walk: their names in Kopia's order with what lstat says, found without the interpreter
 * lock and kept as plain bytes until the walk asks. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tree.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

struct record {
    struct attributes found;
    int32_t error;
    uint32_t name_at, name_length;
};

struct survey {
    int complete;
    uint64_t dev, ino;
    int64_t when_ns;
    struct record *records;
    Py_ssize_t count, room;
    char *names;
    size_t names_length, names_room;
};

static void forget(struct survey *s) {
    free(s->records);
    free(s->names);
    memset(s, 0, sizeof *s);
}

static int add(struct survey *s, int fd, const char *name, size_t length) {
    if (s->count == s->room) {
        Py_ssize_t room = s->room ? s->room * 2 : 64;
        struct record *larger = realloc(s->records, (size_t)room * sizeof *larger);
        if (larger == NULL) return 0;
        s->records = larger;
        s->room = room;
    }
    if (s->names_length + length + 1 > s->names_room) {
        size_t room = (s->names_room + length + 1) * 2;
        char *larger = room > UINT32_MAX ? NULL : realloc(s->names, room);
        if (larger == NULL) return 0;
        s->names = larger;
        s->names_room = room;
    }
    struct stat st;
    memset(&st, 0, sizeof st);
    int error = fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
    s->records[s->count++] = (struct record){
        .found = attributes_of_stat(&st),
        .error = error,
        .name_at = (uint32_t)s->names_length,
        .name_length = (uint32_t)length,
    };
    memcpy(s->names + s->names_length, name, length + 1);
    s->names_length += length + 1;
    return 1;
}

/* Directories first, then the rest, each by raw bytes (kopia-format §14.13). */
static int in_order(const void *left, const void *right, void *names) {
    const struct record *a = left, *b = right;
    int directories = S_ISDIR(b->found.mode) - S_ISDIR(a->found.mode);
    return directories ? directories : strcmp((char *)names + a->name_at, (char *)names + b->name_at);
}

/* A directory that changes while it is listed may name an entry twice. */
static void put_in_order(struct survey *s) {
    Py_ssize_t kept = 0;
    if (s->count) qsort_r(s->records, (size_t)s->count, sizeof *s->records, in_order, s->names);
    for (Py_ssize_t i = 0; i < s->count; i++)
        if (!kept || strcmp(s->names + s->records[kept - 1].name_at, s->names + s->records[i].name_at) != 0)
            s->records[kept++] = s->records[i];
    s->count = kept;
}

/* All of one directory, unless it has more than `most` names, is a link or on another file system, or time is up. */
static void look_into(struct survey *s, int dir_fd, dev_t dev, const char *name, Py_ssize_t most, char *buffer,
                      const volatile char *stop) {
    struct stat own;
    struct timespec now;
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    long got = -1;
    if (fstat(fd, &own) == 0 && own.st_dev == dev && clock_gettime(CLOCK_MONOTONIC, &now) == 0) {
        s->dev = own.st_dev;
        s->ino = own.st_ino;
        s->when_ns = now.tv_sec * NS_PER_SECOND + now.tv_nsec;
        while ((got = next_names(fd, buffer)) > 0) {
            for (long at = 0; at < got;) {
                struct kernel_dirent *entry = (struct kernel_dirent *)(buffer + at);
                at += entry->reclen;
                size_t length = strlen(entry->name);
                if (entry_name_error(entry->name, (Py_ssize_t)length)) continue;
                if (s->count == most || *stop || !add(s, fd, entry->name, length)) goto out;
            }
        }
    }
    s->complete = got == 0;
    if (s->complete) put_in_order(s);
out:
    close(fd);
}

static PyObject *packed_survey(const struct survey *s) {
    size_t records = (size_t)s->count * sizeof *s->records;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(records + s->names_length));
    if (data == NULL) return NULL;
    if (s->count) {
        memcpy(PyBytes_AS_STRING(data), s->records, records);
        memcpy(PyBytes_AS_STRING(data) + records, s->names, s->names_length);
    }
    return Py_BuildValue("KKLnN", (unsigned long long)s->dev, (unsigned long long)s->ino, (long long)s->when_ns, s->count,
                         data);
}

/* Converter of PyArg_ParseTuple for the flag that ends a call early: its first byte is looked at again and again. */
static int stop_flag(PyObject *object, void *out) {
    Py_buffer *flag = out;
    if (object == NULL) {
        PyBuffer_Release(flag);
        return 1;
    }
    if (PyObject_GetBuffer(object, flag, PyBUF_SIMPLE) < 0) return 0;
    if (flag->len >= 1) return Py_CLEANUP_SUPPORTED;
    PyBuffer_Release(flag);
    PyErr_SetString(PyExc_ValueError, "the flag that stops it is one byte");
    return 0;
}

static PyObject *survey(PyObject *self, PyObject *args) {
    (void)self;
    int dir_fd;
    PyObject *names, *keep;
    Py_ssize_t most;
    Py_buffer stop;
    if (!PyArg_ParseTuple(args, "iOnO&", &dir_fd, &names, &most, stop_flag, &stop)) return NULL;
    PyObject *result = NULL;
    char *buffer = malloc(LIST_BYTES);
    Py_ssize_t count = 0, done = 0;
    struct looked_up *items = NULL;
    struct survey *surveys = NULL;
    if (buffer == NULL)
        PyErr_NoMemory();
    else if ((items = take_names(names, &keep, &count)) != NULL &&
             (surveys = calloc(count ? (size_t)count : 1, sizeof *surveys)) == NULL)
        PyErr_NoMemory();
    if (surveys != NULL) {
        const volatile char *stopped = stop.buf;
        struct stat own;
        Py_BEGIN_ALLOW_THREADS
        int known = fstat(dir_fd, &own) == 0;
        for (Py_ssize_t left = most; done < count && left > 0 && !*stopped; done++) {
            struct survey *s = &surveys[done];
            if (known && !items[done].error) look_into(s, dir_fd, own.st_dev, items[done].name, left, buffer, stopped);
            Py_ssize_t seen = s->count;
            int next_time = !s->complete && seen == left && left < most;
            if (!s->complete) forget(s);
            if (next_time) break;
            left -= seen + 1;
        }
        Py_END_ALLOW_THREADS
        result = PyList_New(done);
        for (Py_ssize_t i = 0; i < done; i++) {
            PyObject *item = NULL;
            if (result != NULL) item = surveys[i].complete ? packed_survey(&surveys[i]) : Py_NewRef(Py_None);
            forget(&surveys[i]);
            if (item == NULL)
                Py_CLEAR(result);
            else
                PyList_SET_ITEM(result, i, item);
        }
    }
    free(surveys);
    if (items != NULL) release(items, count, keep);
    free(buffer);
    PyBuffer_Release(&stop);
    return result;
}

static PyObject *surveyed(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t count;
    PyObject *data;
    if (!PyArg_ParseTuple(args, "nS", &count, &data)) return NULL;
    const struct record *records = (const struct record *)PyBytes_AS_STRING(data);
    if (count < 0 || count > PyBytes_GET_SIZE(data) / (Py_ssize_t)sizeof *records) {
        PyErr_SetString(PyExc_ValueError, "there are not so many records");
        return NULL;
    }
    const char *names = (const char *)(records + count);
    size_t names_length = (size_t)PyBytes_GET_SIZE(data) - (size_t)count * sizeof *records;
    PyObject *fields[] = {PyList_New(count), PyList_New(count)};
    for (Py_ssize_t i = 0; fields[0] != NULL && fields[1] != NULL && i < count; i++) {
        const struct record *r = &records[i];
        PyObject *name = NULL, *status = NULL;
        if ((size_t)r->name_at + r->name_length > names_length)
            PyErr_SetString(PyExc_ValueError, "a name is cut short");
        else if ((name = PyBytes_FromStringAndSize(names + r->name_at, r->name_length)) != NULL)
            status = r->error ? PyLong_FromLong(r->error) : attributes_new(&r->found);
        if (status == NULL) {
            Py_XDECREF(name);
            Py_CLEAR(fields[0]);
        } else {
            PyList_SET_ITEM(fields[0], i, name);
            PyList_SET_ITEM(fields[1], i, status);
        }
    }
    return packed(fields, 2);
}

static PyObject *warm(PyObject *self, PyObject *args) {
    (void)self;
    int dir_fd;
    PyObject *names, *keep;
    Py_ssize_t count;
    Py_buffer stop;
    if (!PyArg_ParseTuple(args, "iOO&", &dir_fd, &names, stop_flag, &stop)) return NULL;
    struct looked_up *items = take_names(names, &keep, &count);
    if (items != NULL) {
        const volatile char *stopped = stop.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count && !*stopped; i++)
            if (!items[i].error) (void)fstatat(dir_fd, items[i].name, &items[i].st, AT_SYMLINK_NOFOLLOW);
        Py_END_ALLOW_THREADS
        release(items, count, keep);
    }
    PyBuffer_Release(&stop);
    return items == NULL ? NULL : Py_NewRef(Py_None);
}

PyMethodDef tree_survey_methods[] = {
    {"survey", survey, METH_VARARGS, "Names and attributes of all that is in some directories."},
    {"surveyed", surveyed, METH_VARARGS, "What a survey of one directory found."},
    {"warm", warm, METH_VARARGS, "Bring the attributes of names into the kernel's caches."},
    {NULL, NULL, 0, NULL},
};

/* Many small files at once: list, stat, read. `tree_write.c` is the other direction.
 *
 * Every function takes a directory descriptor and raw names. A name is one component: anything else (empty, ".", "..",
 * with '/' or NUL) is EINVAL for that item, so no call leaves the directory. The arguments are turned into C records
 * first, the system calls of the whole batch run without the interpreter lock, the results are built afterwards. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#ifndef RWF_NOWAIT /* as the kernel has it; the headers of wheels are older */
#define RWF_NOWAIT 8
#endif

#define READ_START 512
#define LINK_START 256
#define LINK_LIMIT (1024 * 1024)

PyObject *packed(PyObject **fields, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (tuple != NULL && fields[i] != NULL) {
            PyTuple_SET_ITEM(tuple, i, fields[i]);
        } else {
            Py_XDECREF(fields[i]);
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

static PyObject *list_names(PyObject *self, PyObject *args) {
    (void)self;
    int fd;
    if (!PyArg_ParseTuple(args, "i", &fd)) return NULL;
    char *buffer = malloc(LIST_BYTES);
    if (buffer == NULL) return PyErr_NoMemory();
    PyObject *result = PyList_New(0);
    while (result != NULL && PyList_GET_SIZE(result) == 0) {
        long got;
        Py_BEGIN_ALLOW_THREADS
        got = next_names(fd, buffer);
        Py_END_ALLOW_THREADS
        if (got < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_CLEAR(result);
            break;
        }
        if (got == 0) break;
        for (long at = 0; at < got;) {
            struct kernel_dirent *entry = (struct kernel_dirent *)(buffer + at);
            at += entry->reclen;
            size_t length = strlen(entry->name);
            if (entry_name_error(entry->name, length)) continue;
            PyObject *fields[] = {PyBytes_FromStringAndSize(entry->name, (Py_ssize_t)length), PyLong_FromLong(entry->type)};
            PyObject *item = packed(fields, 2);
            if (item == NULL || PyList_Append(result, item) < 0) {
                Py_XDECREF(item);
                Py_CLEAR(result);
                break;
            }
            Py_DECREF(item);
        }
    }
    free(buffer);
    return result;
}

struct looked_up *take_names(PyObject *names, PyObject **keep, Py_ssize_t *count) {
    *keep = PySequence_Tuple(names);
    if (*keep == NULL) return NULL;
    *count = PyTuple_GET_SIZE(*keep);
    struct looked_up *items = calloc(*count ? *count : 1, sizeof *items);
    if (items == NULL) {
        Py_CLEAR(*keep);
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        char *name;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(*keep, i), &name, &length) < 0) {
            free(items);
            Py_CLEAR(*keep);
            return NULL;
        }
        items[i].name = name;
        items[i].error = entry_name_error(name, length);
        items[i].fd = -1;
    }
    return items;
}

void release(struct looked_up *items, Py_ssize_t count, PyObject *keep) {
    for (Py_ssize_t i = 0; i < count; i++) free(items[i].data);
    free(items);
    Py_DECREF(keep);
}

static PyObject *stat_many(PyObject *self, PyObject *args) {
    (void)self;
    int fd;
    PyObject *names, *keep;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "iO", &fd, &names)) return NULL;
    struct looked_up *items = take_names(names, &keep, &count);
    if (items == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++) {
        if (items[i].error) continue;
        int status;
        do status = fstatat(fd, items[i].name, &items[i].st, AT_SYMLINK_NOFOLLOW);
        while (status < 0 && errno == EINTR);
        if (status < 0) items[i].error = errno;
    }
    Py_END_ALLOW_THREADS
    PyObject *result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *item = items[i].error ? PyLong_FromLong(items[i].error) : status_object(&items[i].st);
        if (item == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, item);
    }
    release(items, count, keep);
    return result;
}

static PyObject *file_system_magic(PyObject *self, PyObject *args) {
    (void)self;
    int fd, failed;
    struct statfs found;
    if (!PyArg_ParseTuple(args, "i", &fd)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    do failed = fstatfs(fd, &found);
    while (failed && errno == EINTR);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromUnsignedLong((uint32_t)found.f_type);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static int open_to_read(int dir_fd, const char *name, int *no_atime) {
    int fd;
    for (;;) {
        fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | *no_atime);
        if (fd >= 0 || (errno != EINTR && !(errno == EPERM && *no_atime))) return fd;
        if (errno == EPERM) *no_atime = 0;
    }
}

/* Opens the file and makes room for it and one byte more, which tells its end; one that has more than `allowed` bytes is
 * too_large. */
static int begin(int dir_fd, struct looked_up *item, size_t allowed, int *no_atime) {
    item->fd = open_to_read(dir_fd, item->name, no_atime);
    if (item->fd < 0 || fstat(item->fd, &item->st) < 0) return errno;
    if (S_ISDIR(item->st.st_mode)) return EISDIR;
    if (!S_ISREG(item->st.st_mode)) return ESTALE;
    size_t size = (size_t)item->st.st_size;
    item->too_large = size > allowed;
    if (item->too_large) return 0;
    item->capacity = size < READ_START ? READ_START : size + 1;
    item->capacity = least(item->capacity, allowed + 1);
    item->data = malloc(item->capacity);
    return item->data == NULL ? ENOMEM : 0;
}

/* Reads on to the end of the file; one that turns out to have more than `allowed` bytes is too_large. */
static int read_to_end(struct looked_up *item, size_t allowed, int *flags) {
    for (;;) {
        if (item->length == item->capacity) {
            item->too_large = item->capacity > allowed;
            if (item->too_large) return 0;
            char *larger = realloc(item->data, allowed + 1);
            if (larger == NULL) return ENOMEM;
            item->data = larger;
            item->capacity = allowed + 1;
        }
        ssize_t got = transfer(SYS_preadv2, item->fd, item->data + item->length, item->capacity - item->length, flags);
        if (got < 0) return errno;
        if (got == 0) break;
        item->length += (size_t)got;
    }
    item->too_large = item->length > allowed;
    return 0;
}

/* Asks for all these files before the first is waited for: one after the other, each would cost the disk's latency and a
 * switch to another task. Flags that keep data out of the page cache must be those of the call that asks for it; without
 * them it stays there anyway. What this does not bring, for whatever reason, `read_to_end` does. */
static void read_ahead(struct looked_up *items, Py_ssize_t count, int flags) {
    for (Py_ssize_t i = 0; i < count; i++) {
        struct looked_up *item = &items[i];
        if (item->data == NULL || item->st.st_size == 0) continue;
        struct iovec vector = {item->data, item->capacity};
        ssize_t got = flags ? syscall(SYS_preadv2, item->fd, &vector, 1, -1L, -1L, flags | RWF_NOWAIT) : -1;
        if (got > 0)
            item->length = (size_t)got;
        else if (got < 0 && !(flags && errno == EAGAIN))
            posix_fadvise(item->fd, 0, item->st.st_size, POSIX_FADV_WILLNEED);
    }
}

static PyObject *read_many(PyObject *self, PyObject *args) {
    (void)self;
    int dir_fd;
    PyObject *names, *keep;
    Py_ssize_t count, limit, total, at_once;
    int flags;
    if (!PyArg_ParseTuple(args, "iOnnin", &dir_fd, &names, &limit, &total, &flags, &at_once)) return NULL;
    if (limit < 0 || total < 0 || limit > PY_SSIZE_T_MAX / 2 || at_once < 1) {
        PyErr_SetString(PyExc_ValueError, "limits are not negative and fit in memory, and one file at a time is the least");
        return NULL;
    }
    struct looked_up *items = take_names(names, &keep, &count);
    if (items == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    int no_atime = O_NOATIME;
    size_t left = (size_t)total;
    for (Py_ssize_t start = 0, n; start < count; start += n) {
        struct looked_up *some = items + start;
        n = count - start < at_once ? count - start : at_once;
        for (Py_ssize_t i = 0; i < n; i++) {
            struct looked_up *item = &some[i];
            if (item->error) continue;
            item->error = begin(dir_fd, item, least(left, (size_t)limit), &no_atime);
            if (item->data != NULL) left -= (size_t)item->st.st_size;
        }
        read_ahead(some, n, flags);
        for (Py_ssize_t i = 0; i < n; i++) {
            struct looked_up *item = &some[i];
            if (item->data != NULL) {
                left += (size_t)item->st.st_size;
                item->error = read_to_end(item, least(left, (size_t)limit), &flags);
                if (item->too_large || item->error) item->length = 0;
                left -= item->length;
            }
            if (item->fd >= 0) close(item->fd);
        }
    }
    Py_END_ALLOW_THREADS
    PyObject *result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        struct looked_up *item = &items[i];
        PyObject *value;
        if (item->error)
            value = PyLong_FromLong(item->error);
        else if (item->too_large)
            value = Py_BuildValue("(NO)", status_object(&item->st), Py_None);
        else {
            PyObject *fields[] = {status_object(&item->st), PyBytes_FromStringAndSize(item->data, (Py_ssize_t)item->length)};
            value = packed(fields, 2);
        }
        free(item->data);
        item->data = NULL;
        if (value == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, value);
    }
    release(items, count, keep);
    return result;
}

static PyObject *readlink_many(PyObject *self, PyObject *args) {
    (void)self;
    int dir_fd;
    PyObject *names, *keep;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "iO", &dir_fd, &names)) return NULL;
    struct looked_up *items = take_names(names, &keep, &count);
    if (items == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++) {
        struct looked_up *item = &items[i];
        for (size_t capacity = LINK_START; !item->error; capacity *= 4) {
            char *larger = capacity > LINK_LIMIT ? NULL : realloc(item->data, capacity);
            if (larger == NULL) {
                item->error = capacity > LINK_LIMIT ? ENAMETOOLONG : ENOMEM;
                break;
            }
            item->data = larger;
            ssize_t got = readlinkat(dir_fd, item->name, item->data, capacity);
            if (got < 0) {
                item->error = errno;
            } else if ((size_t)got < capacity) {
                item->length = (size_t)got;
                break;
            }
        }
    }
    Py_END_ALLOW_THREADS
    PyObject *result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *item = items[i].error ? PyLong_FromLong(items[i].error)
                                        : PyBytes_FromStringAndSize(items[i].data, (Py_ssize_t)items[i].length);
        if (item == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, item);
    }
    release(items, count, keep);
    return result;
}

PyMethodDef tree_read_methods[] = {
    {"list_names", list_names, METH_VARARGS, "The next bounded batch of names of an open directory."},
    {"file_system_magic", file_system_magic, METH_VARARGS, "The type of the file system of an open file."},
    {"stat_many", stat_many, METH_VARARGS, "lstat of many names of a directory."},
    {"read_many", read_many, METH_VARARGS, "Whole small files of a directory."},
    {"readlink_many", readlink_many, METH_VARARGS, "Targets of many symbolic links of a directory."},
    {NULL, NULL, 0, NULL},
};

/* Many small files at once: list, stat, read, create.
 *
 * Every function takes a directory descriptor and raw names. A name is one component: anything else (empty, ".", "..",
 * with '/' or NUL) is EINVAL for that item, so no call leaves the directory. The arguments are turned into C records
 * first, the system calls of the whole batch run without the interpreter lock, the results are built afterwards. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "native.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIST_BYTES (128 * 1024)
#define READ_START 512
#define LINK_START 256
#define LINK_LIMIT (1024 * 1024)
#define NS_PER_SECOND 1000000000LL

enum { APPLY_OWNER = 1, APPLY_MODE = 2, APPLY_TIMES = 4, REPLACE = 8 };

struct kernel_dirent {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

static int entry_name_error(const char *name, Py_ssize_t length) {
    if (length == 0 || memchr(name, '/', length) != NULL || memchr(name, 0, length) != NULL) return EINVAL;
    if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))) return EINVAL;
    return 0;
}

static PyObject *stat_tuple(const struct stat *st) {
    long long mtime = (long long)st->st_mtim.tv_sec * NS_PER_SECOND + st->st_mtim.tv_nsec;
    return Py_BuildValue("(ILLIIKKKK)", (unsigned)st->st_mode, (long long)st->st_size, mtime, (unsigned)st->st_uid,
                         (unsigned)st->st_gid, (unsigned long long)st->st_dev, (unsigned long long)st->st_ino,
                         (unsigned long long)st->st_nlink, (unsigned long long)st->st_rdev);
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
        do got = syscall(SYS_getdents64, fd, buffer, LIST_BYTES);
        while (got < 0 && errno == EINTR);
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
            PyObject *item = Py_BuildValue("(y#B)", entry->name, (Py_ssize_t)length, entry->type);
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

struct looked_up {
    const char *name;
    int error;
    int too_large;
    struct stat st;
    char *data;
    size_t length;
};

/* Records for a sequence of names; `*keep` holds the names alive until release(). */
static struct looked_up *take_names(PyObject *names, PyObject **keep, Py_ssize_t *count) {
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
    }
    return items;
}

static void release(struct looked_up *items, Py_ssize_t count, PyObject *keep) {
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
        PyObject *item = items[i].error ? PyLong_FromLong(items[i].error) : stat_tuple(&items[i].st);
        if (item == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, item);
    }
    release(items, count, keep);
    return result;
}

/* Reads to the end of the file, at most `limit` bytes; longer files leave too_large set and no data. */
static int read_whole(int fd, struct looked_up *item, size_t limit) {
    size_t capacity = (size_t)item->st.st_size < READ_START ? READ_START : (size_t)item->st.st_size + 1;
    if (item->st.st_size > 0 && (size_t)item->st.st_size > limit) {
        item->too_large = 1;
        return 0;
    }
    if (capacity > limit + 1) capacity = limit + 1;
    char *data = malloc(capacity);
    if (data == NULL) return ENOMEM;
    size_t length = 0;
    for (;;) {
        if (length == capacity) {
            if (capacity > limit) {
                free(data);
                item->too_large = 1;
                return 0;
            }
            capacity = limit + 1;
            char *larger = realloc(data, capacity);
            if (larger == NULL) {
                free(data);
                return ENOMEM;
            }
            data = larger;
        }
        ssize_t got = read(fd, data + length, capacity - length);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int error = errno;
            free(data);
            return error;
        }
        if (got == 0) break;
        length += (size_t)got;
    }
    item->data = data;
    item->length = length;
    return 0;
}

static int open_to_read(int dir_fd, const char *name, int *no_atime) {
    int fd;
    for (;;) {
        fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | *no_atime);
        if (fd >= 0 || (errno != EINTR && !(errno == EPERM && *no_atime))) return fd;
        if (errno == EPERM) *no_atime = 0;
    }
}

static PyObject *read_many(PyObject *self, PyObject *args) {
    (void)self;
    int dir_fd;
    PyObject *names, *keep;
    Py_ssize_t count, limit, total;
    if (!PyArg_ParseTuple(args, "iOnn", &dir_fd, &names, &limit, &total)) return NULL;
    if (limit < 0 || total < 0 || limit > PY_SSIZE_T_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "limits are not negative and fit in memory");
        return NULL;
    }
    struct looked_up *items = take_names(names, &keep, &count);
    if (items == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    int no_atime = O_NOATIME;
    size_t left = (size_t)total;
    for (Py_ssize_t i = 0; i < count; i++) {
        struct looked_up *item = &items[i];
        if (item->error) continue;
        int fd = open_to_read(dir_fd, item->name, &no_atime);
        if (fd < 0) {
            item->error = errno;
            continue;
        }
        if (fstat(fd, &item->st) < 0)
            item->error = errno;
        else if (S_ISDIR(item->st.st_mode))
            item->error = EISDIR;
        else if (!S_ISREG(item->st.st_mode))
            item->error = ESTALE;
        else
            item->error = read_whole(fd, item, left < (size_t)limit ? left : (size_t)limit);
        left -= item->length;
        close(fd);
    }
    Py_END_ALLOW_THREADS
    PyObject *result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        struct looked_up *item = &items[i];
        PyObject *value;
        if (item->error)
            value = PyLong_FromLong(item->error);
        else if (item->too_large)
            value = Py_BuildValue("(NO)", stat_tuple(&item->st), Py_None);
        else
            value = Py_BuildValue("(Ny#)", stat_tuple(&item->st), item->data, (Py_ssize_t)item->length);
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

struct created {
    const char *name;
    Py_buffer data;
    unsigned mode, uid, gid;
    long long mtime_ns;
    int outcome; /* 0; an errno: nothing is there; minus an errno: there, but some metadata could not be applied */
};

static void both_times(long long ns, struct timespec times[2]) {
    long long seconds = ns / NS_PER_SECOND, rest = ns % NS_PER_SECOND;
    if (rest < 0) {
        rest += NS_PER_SECOND;
        seconds--;
    }
    times[0].tv_sec = times[1].tv_sec = (time_t)seconds;
    times[0].tv_nsec = times[1].tv_nsec = (long)rest;
}

static int write_all(int fd, const char *data, size_t length) {
    while (length > 0) {
        ssize_t put = write(fd, data, length);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        if (put == 0) return ENOSPC;
        data += put;
        length -= (size_t)put;
    }
    return 0;
}

static int create_file(int dir_fd, const struct created *item, int flags) {
    int fd, replaced = 0;
    for (;;) {
        fd = openat(dir_fd, item->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                    flags & APPLY_MODE ? 0600 : 0666);
        if (fd >= 0) break;
        if (errno == EINTR) continue;
        if (errno != EEXIST || !(flags & REPLACE) || replaced++ > 3) return errno;
        if (unlinkat(dir_fd, item->name, 0) < 0 && errno != ENOENT) return errno;
    }
    int error = write_all(fd, item->data.buf, (size_t)item->data.len);
    int denied = 0;
    unsigned mode = item->mode & 07777;
    if (!error && (flags & APPLY_OWNER) && fchown(fd, item->uid, item->gid) < 0) {
        denied = errno;
        mode &= 01777; /* set-id bits belong to the stored owner, not to whoever restores */
    }
    if (!error && (flags & APPLY_MODE) && fchmod(fd, mode) < 0 && !denied) denied = errno;
    if (!error && (flags & APPLY_TIMES)) {
        struct timespec times[2];
        both_times(item->mtime_ns, times);
        if (futimens(fd, times) < 0 && !denied) denied = errno;
    }
    if (close(fd) < 0 && errno != EINTR && !error) error = errno;
    if (error) {
        unlinkat(dir_fd, item->name, 0);
        return error;
    }
    return -denied;
}

static int create_symlink(int dir_fd, const struct created *item, int flags) {
    if (item->data.len == 0 || memchr(item->data.buf, 0, (size_t)item->data.len) != NULL) return EINVAL;
    char *target = malloc((size_t)item->data.len + 1);
    if (target == NULL) return ENOMEM;
    memcpy(target, item->data.buf, (size_t)item->data.len);
    target[item->data.len] = 0;
    int error = 0;
    for (int replaced = 0;;) {
        if (symlinkat(target, dir_fd, item->name) == 0) break;
        error = errno;
        if (error == EEXIST && (flags & REPLACE) && replaced++ <= 3) {
            error = 0;
            if (unlinkat(dir_fd, item->name, 0) == 0 || errno == ENOENT) continue;
            error = errno;
        }
        break;
    }
    free(target);
    if (error) return error;
    if (!(flags & (APPLY_OWNER | APPLY_TIMES))) return 0;
    /* By descriptor, so that a link swapped for another file in between is never given away. */
    int fd = openat(dir_fd, item->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0) return -errno;
    int denied = 0;
    if (fstat(fd, &st) < 0 || !S_ISLNK(st.st_mode)) {
        denied = ESTALE;
    } else {
        if ((flags & APPLY_OWNER) && fchownat(fd, "", item->uid, item->gid, AT_EMPTY_PATH) < 0) denied = errno;
        if (flags & APPLY_TIMES) {
            struct timespec times[2];
            both_times(item->mtime_ns, times);
            if (utimensat(fd, "", times, AT_EMPTY_PATH) < 0 &&
                utimensat(dir_fd, item->name, times, AT_SYMLINK_NOFOLLOW) < 0 && !denied)
                denied = errno;
        }
    }
    close(fd);
    return -denied;
}

static PyObject *create_all(PyObject *args, int (*create)(int, const struct created *, int)) {
    int dir_fd, flags;
    PyObject *given;
    if (!PyArg_ParseTuple(args, "iOi", &dir_fd, &given, &flags)) return NULL;
    PyObject *keep = PySequence_Tuple(given), *result = NULL;
    if (keep == NULL) return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(keep), taken = 0;
    struct created *items = calloc(count ? count : 1, sizeof *items);
    if (items == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (; taken < count; taken++) {
        struct created *item = &items[taken];
        PyObject *tuple = PyTuple_GET_ITEM(keep, taken), *name;
        if (!PyTuple_Check(tuple)) {
            PyErr_SetString(PyExc_TypeError, "an item is a tuple (name, data, mode, uid, gid, mtime_ns)");
            goto done;
        }
        if (!PyArg_ParseTuple(tuple, "Sy*IIIL", &name, &item->data, &item->mode, &item->uid, &item->gid,
                              &item->mtime_ns))
            goto done;
        item->name = PyBytes_AS_STRING(name);
        item->outcome = entry_name_error(item->name, PyBytes_GET_SIZE(name));
    }
    Py_BEGIN_ALLOW_THREADS
    int full = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (items[i].outcome) continue;
        items[i].outcome = full ? full : create(dir_fd, &items[i], flags);
        if (items[i].outcome == ENOSPC || items[i].outcome == EDQUOT) full = items[i].outcome;
    }
    Py_END_ALLOW_THREADS
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *value = PyLong_FromLong(items[i].outcome);
        if (value == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, value);
    }
done:
    for (Py_ssize_t i = 0; i < taken; i++) PyBuffer_Release(&items[i].data);
    free(items);
    Py_DECREF(keep);
    return result;
}

static PyObject *create_many(PyObject *self, PyObject *args) {
    (void)self;
    return create_all(args, create_file);
}

static PyObject *symlink_many(PyObject *self, PyObject *args) {
    (void)self;
    return create_all(args, create_symlink);
}

static int is_zero(const char *data, size_t length) {
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

static PyObject *data_runs(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data;
    Py_ssize_t block;
    if (!PyArg_ParseTuple(args, "y*n", &data, &block)) return NULL;
    PyObject *result = NULL;
    if (block <= 0) {
        PyErr_SetString(PyExc_ValueError, "a block has at least one byte");
        goto done;
    }
    result = PyList_New(0);
    Py_ssize_t start = -1, at = 0;
    while (result != NULL && (at < data.len || start >= 0)) {
        int boundary;
        Py_BEGIN_ALLOW_THREADS
        for (boundary = 0; !boundary;) {
            Py_ssize_t length = data.len - at < block ? data.len - at : block;
            int zero = is_zero((const char *)data.buf + at, (size_t)length); /* the end counts as zeros */
            if (zero == (start >= 0) || at >= data.len) boundary = 1;
            else at += length;
        }
        Py_END_ALLOW_THREADS
        if (start < 0) {
            start = at < data.len ? at : -1;
            continue;
        }
        PyObject *run = Py_BuildValue("(nn)", start, at - start);
        if (run == NULL || PyList_Append(result, run) < 0) Py_CLEAR(result);
        Py_XDECREF(run);
        start = -1;
    }
done:
    PyBuffer_Release(&data);
    return result;
}

static PyObject *allocate(PyObject *self, PyObject *args) {
    (void)self;
    int fd, mode, status;
    long long offset, length;
    if (!PyArg_ParseTuple(args, "iiLL", &fd, &mode, &offset, &length)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    do status = fallocate(fd, mode, offset, length);
    while (status < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    if (status < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *sync_filesystem(PyObject *self, PyObject *args) {
    (void)self;
    int fd, status;
    if (!PyArg_ParseTuple(args, "i", &fd)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = syncfs(fd);
    Py_END_ALLOW_THREADS
    if (status < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyMethodDef tree_methods[] = {
    {"list_names", list_names, METH_VARARGS, "The next bounded batch of names of an open directory."},
    {"stat_many", stat_many, METH_VARARGS, "lstat of many names of a directory."},
    {"read_many", read_many, METH_VARARGS, "Whole small files of a directory."},
    {"readlink_many", readlink_many, METH_VARARGS, "Targets of many symbolic links of a directory."},
    {"create_many", create_many, METH_VARARGS, "Create small files with their metadata."},
    {"symlink_many", symlink_many, METH_VARARGS, "Create symbolic links with their metadata."},
    {"data_runs", data_runs, METH_VARARGS, "Where a buffer is not zero, in whole blocks."},
    {"allocate", allocate, METH_VARARGS, "fallocate(2)."},
    {"sync_filesystem", sync_filesystem, METH_VARARGS, "syncfs(2)."},
    {NULL, NULL, 0, NULL},
};

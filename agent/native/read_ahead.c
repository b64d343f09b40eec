/* Modules into the page cache before they are imported: threads that nobody waits for open what lies in some folders
 * and tell the kernel to read it. They allocate nothing, so that the allocator makes no arenas for them, and take no
 * part in anything else of the process. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "native.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LARGEST (16 << 20) /* of what commands import, no file has more that is loaded */
#define PARTS 4 /* threads that share a folder */
#define MAX_THREADS 64
#define LISTING (16 << 10)
#define STACK (128 << 10)

/* What the threads share, one mapping; the last of them gives it back. */
typedef struct {
    size_t size;
    unsigned items; /* PARTS of each folder */
    atomic_uint next, running;
    size_t starts[]; /* of the names, from the beginning of the mapping */
} work;

struct entry { /* linux_dirent64 */
    uint64_t ino;
    int64_t next;
    unsigned short length;
    unsigned char type;
    char name[];
};

static int ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && !strcmp(name + n - m, end);
}

/* How much of a library is loaded; 0 where that is not known. Half of what wheels bring is symbols for debuggers, which
 * follow in the file. */
static off_t loaded(int fd) {
    struct {
        Elf64_Ehdr head;
        char rest[4096 - sizeof(Elf64_Ehdr)];
    } first;
    uint64_t end = 0;
    if (pread(fd, &first, sizeof first, 0) != sizeof first || memcmp(first.head.e_ident, ELFMAG, SELFMAG) ||
        first.head.e_ident[EI_CLASS] != ELFCLASS64 || first.head.e_phentsize != sizeof(Elf64_Phdr))
        return 0; /* all of it */
    uint64_t at = first.head.e_phoff;
    for (unsigned i = 0; i < first.head.e_phnum && at <= sizeof first - sizeof(Elf64_Phdr); i++, at += sizeof(Elf64_Phdr)) {
        Elf64_Phdr segment;
        memcpy(&segment, (const char *)&first + at, sizeof segment);
        uint64_t to = segment.p_offset + segment.p_filesz;
        if (segment.p_type == PT_LOAD && to > end) end = to;
    }
    return end > INT64_MAX ? 0 : (off_t)end;
}

static void look_at(int folder, const char *name) {
    if (ends_with(name, ".py")) {
        struct stat ignored;
        (void)fstatat(folder, name, &ignored, 0); /* an import compares its time with that of its bytecode */
        return;
    }
    int bytecode = ends_with(name, ".pyc") && !strstr(name, ".opt-"), library = ends_with(name, ".so");
    if (!bytecode && !library && !ends_with(name, ".json") && !ends_with(name, ".json.gz")) return;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    off_t length = library ? loaded(fd) : 0; /* 0 is all of it */
    if (length <= LARGEST) (void)posix_fadvise(fd, 0, length, POSIX_FADV_WILLNEED);
    (void)close(fd);
}

/* Every PARTS-th entry of a folder. */
static void look_into(int at, const char *path, unsigned part) {
    _Alignas(struct entry) char listing[LISTING];
    int folder = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long got;
    unsigned number = 0;
    if (folder < 0) return;
    while ((got = syscall(SYS_getdents64, folder, listing, sizeof listing)) > 0)
        for (long offset = 0; offset < got;) {
            const struct entry *e = (const struct entry *)(listing + offset);
            if (e->type != DT_DIR && number++ % PARTS == part) look_at(folder, e->name);
            offset += e->length;
        }
    if (at == AT_FDCWD) look_into(folder, "__pycache__", part);
    (void)close(folder);
}

static void *reader(void *shared) {
    work *w = shared;
    size_t size = w->size;
    unsigned item;
    while ((item = atomic_fetch_add(&w->next, 1)) < w->items)
        look_into(AT_FDCWD, (const char *)w + w->starts[item / PARTS], item % PARTS);
    if (atomic_fetch_sub(&w->running, 1) == 1) (void)munmap(w, size);
    return NULL;
}

/* Starts up to `threads`; gives the work back when there are none. */
static void start(work *w, unsigned threads) {
    pthread_attr_t attributes;
    sigset_t all, before;
    size_t size = w->size; /* the work may be gone once the last thread has started */
    unsigned missing = threads;
    atomic_store(&w->running, threads);
    if (!pthread_attr_init(&attributes)) {
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        (void)pthread_attr_setstacksize(&attributes, STACK);
        (void)sigfillset(&all); /* signals are for threads that can answer them */
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        pthread_t ignored;
        while (missing && !pthread_create(&ignored, &attributes, reader, w)) missing--;
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attributes);
    }
    if (missing && atomic_fetch_sub(&w->running, missing) == missing) (void)munmap(w, size);
}

static PyObject *read_ahead(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *given;
    unsigned threads;
    if (!PyArg_ParseTuple(args, "OI", &given, &threads)) return NULL;
    if (!threads || threads > MAX_THREADS) return PyErr_Format(PyExc_ValueError, "1 to %d threads", MAX_THREADS);
    PyObject *folders = PySequence_Fast(given, "folders are a sequence of bytes");
    if (folders == NULL) return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(folders);
    size_t size = sizeof(work) + (size_t)count * sizeof(size_t);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *folder = PySequence_Fast_GET_ITEM(folders, i);
        if (!PyBytes_Check(folder)) {
            Py_DECREF(folders);
            return PyErr_Format(PyExc_TypeError, "folder %zd is no bytes", i);
        }
        size += (size_t)PyBytes_GET_SIZE(folder) + 1;
    }
    work *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w != MAP_FAILED) {
        size_t at = sizeof(work) + (size_t)count * sizeof(size_t);
        w->size = size;
        w->items = (unsigned)count * PARTS;
        for (Py_ssize_t i = 0; i < count; i++) {
            PyObject *folder = PySequence_Fast_GET_ITEM(folders, i);
            size_t length = (size_t)PyBytes_GET_SIZE(folder) + 1;
            memcpy((char *)w + at, PyBytes_AS_STRING(folder), length);
            w->starts[i] = at;
            at += length;
        }
        start(w, threads);
    }
    Py_DECREF(folders);
    Py_RETURN_NONE;
}

PyMethodDef read_ahead_methods[] = {
    {"read_ahead", read_ahead, METH_VARARGS, "Have modules in folders read into the page cache."},
    {NULL, NULL, 0, NULL},
};

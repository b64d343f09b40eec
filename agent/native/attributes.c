/* The type `Attributes`; see attributes.h. */
#include "attributes.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    struct attributes values;
} Attributes;

static PyTypeObject AttributesType;

struct attributes attributes_of_stat(const struct stat *st) {
    return (struct attributes){
        .size = st->st_size,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * NS_PER_SECOND + st->st_mtim.tv_nsec,
        .dev = st->st_dev,
        .ino = st->st_ino,
        .nlink = st->st_nlink,
        .rdev = st->st_rdev,
        .mode = st->st_mode,
        .uid = st->st_uid,
        .gid = st->st_gid,
    };
}

PyObject *attributes_new(const struct attributes *values) {
    Attributes *self = PyObject_New(Attributes, &AttributesType);
    if (self != NULL) self->values = *values;
    return (PyObject *)self;
}

const struct attributes *attributes_values(PyObject *object) {
    if (Py_IS_TYPE(object, &AttributesType)) return &((Attributes *)object)->values;
    PyErr_Format(PyExc_TypeError, "Attributes are needed, not %.100s", Py_TYPE(object)->tp_name);
    return NULL;
}

static PyObject *attributes_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)type;
    static char *names[] = {"mode", "size", "mtime_ns", "uid", "gid", "dev", "ino", "nlink", "rdev", NULL};
    unsigned int mode, uid, gid;
    long long size, mtime_ns;
    unsigned long long dev = 0, ino = 0, nlink = 1, rdev = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ILLII|KKKK", names, &mode, &size, &mtime_ns, &uid, &gid, &dev, &ino,
                                     &nlink, &rdev))
        return NULL;
    struct attributes values = {size, mtime_ns, dev, ino, nlink, rdev, mode, uid, gid, 0};
    return attributes_new(&values);
}

static PyObject *attributes_compare(PyObject *a, PyObject *b, int how) {
    if ((how != Py_EQ && how != Py_NE) || !Py_IS_TYPE(b, &AttributesType)) Py_RETURN_NOTIMPLEMENTED;
    int same = memcmp(&((Attributes *)a)->values, &((Attributes *)b)->values, sizeof(struct attributes)) == 0;
    return PyBool_FromLong(same == (how == Py_EQ));
}

static PyObject *attributes_repr(PyObject *self) {
    const struct attributes *v = &((Attributes *)self)->values;
    char mode[16];
    PyOS_snprintf(mode, sizeof mode, "0o%o", v->mode);
    return PyUnicode_FromFormat("Attributes(mode=%s, size=%lld, mtime_ns=%lld, uid=%u, gid=%u, dev=%llu, ino=%llu, "
                                "nlink=%llu, rdev=%llu)",
                                mode, (long long)v->size, (long long)v->mtime_ns, v->uid, v->gid,
                                (unsigned long long)v->dev, (unsigned long long)v->ino, (unsigned long long)v->nlink,
                                (unsigned long long)v->rdev);
}

static PyObject *is_of_type(PyObject *self, void *type) {
    return PyBool_FromLong((((Attributes *)self)->values.mode & S_IFMT) == (mode_t)(uintptr_t)type);
}

#define FIELD(name, type, text) {#name, type, offsetof(Attributes, values.name), READONLY, text}

static PyMemberDef attributes_members[] = {
    FIELD(mode, T_UINT, "st_mode, with its type."),
    FIELD(size, T_LONGLONG, "Bytes."),
    FIELD(mtime_ns, T_LONGLONG, "Nanoseconds since 1970."),
    FIELD(uid, T_UINT, NULL),
    FIELD(gid, T_UINT, NULL),
    FIELD(dev, T_ULONGLONG, NULL),
    FIELD(ino, T_ULONGLONG, NULL),
    FIELD(nlink, T_ULONGLONG, NULL),
    FIELD(rdev, T_ULONGLONG, NULL),
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef attributes_fields[] = {
    {"is_directory", is_of_type, NULL, "Whether this is a directory.", (void *)(uintptr_t)S_IFDIR},
    {"is_file", is_of_type, NULL, "Whether this is a regular file.", (void *)(uintptr_t)S_IFREG},
    {"is_symlink", is_of_type, NULL, "Whether this is a symbolic link.", (void *)(uintptr_t)S_IFLNK},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject AttributesType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent._native.Attributes",
    .tp_doc = "lstat of one entry.",
    .tp_basicsize = sizeof(Attributes),
    .tp_new = attributes_make,
    .tp_richcompare = attributes_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_repr = attributes_repr,
    .tp_members = attributes_members,
    .tp_getset = attributes_fields,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int attributes_add_type(PyObject *m) { return PyModule_AddType(m, &AttributesType); }
